"""RoPE in a config.json: stated in three places, two spellings; nothing is overruled in silence."""

from typing import Any

import pytest

from models.errors import ModelError
from models.loading.hf_rope import rope_fields

LINEAR = {"rope_type": "linear", "factor": 2.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
CONTEXT = {"max_position_embeddings": 128}


def read(**values: Any) -> tuple[float, dict[str, Any] | None]:
    """What is read of a config with these fields."""
    return rope_fields(CONTEXT | values, "a model")


def test_one_statement_is_taken_from_wherever_it_stands() -> None:
    assert read() == (10000.0, None)
    assert read(rope_theta=5e5) == (5e5, None)
    assert read(rope_parameters={"rope_theta": 5e5}) == (5e5, None)
    assert read(rope_theta=5e5, rope_scaling={"type": "linear", "factor": 2.0}) == (
        5e5,
        LINEAR,
    )
    assert read(rope_parameters=LINEAR | {"rope_theta": 5e5}) == (5e5, LINEAR)
    assert read(rope_parameters=YARN | {"finetuned": True, "beta_fast": None}) == (
        1e4,
        YARN,
    )


def test_rope_scaling_counts_beside_plain_rope_parameters() -> None:
    plain = {"rope_type": "default", "rope_theta": 10000.0}
    assert read(rope_parameters=plain, rope_scaling=LINEAR) == (1e4, LINEAR)
    same = LINEAR | {"rope_theta": 5e5}
    assert read(rope_parameters=same, rope_scaling=same) == (5e5, LINEAR)


def test_the_original_context_may_stand_outside_or_be_the_whole() -> None:
    bare = {"rope_type": "yarn", "factor": 4.0}
    assert read(rope_parameters=bare, original_max_position_embeddings=32)[1] == YARN
    assert read(rope_parameters=bare)[1] == YARN | {
        "original_max_position_embeddings": 128
    }


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}},
            "rope_parameters.rope_theta=500000.0 and rope_theta=10000.0 must agree",
        ),
        (
            {"rope_scaling": LINEAR, "rope_parameters": {"rope_theta": 5e5}},
            "rope_parameters.rope_theta=500000.0 is hidden by rope_scaling",
        ),
        (
            {"rope_scaling": LINEAR, "rope_parameters": LINEAR | {"factor": 4.0}},
            "rope_scaling.factor=2.0 and rope_parameters.factor=4.0 must agree",
        ),
        (
            {"rope_scaling": LINEAR, "rope_parameters": YARN},
            "rope_scaling.rope_type='linear' and rope_parameters.rope_type='yarn'",
        ),
        (
            {"rope_scaling": {"type": "yarn", **LINEAR}},
            "rope_scaling.rope_type='linear' and rope_scaling.type='yarn' must agree",
        ),
        (
            {"rope_parameters": YARN, "original_max_position_embeddings": 64},
            "original_max_position_embeddings=64 and rope_parameters.original_max.*=32",
        ),
        # A missing rope_type is no licence to pass over the other keys.
        (
            {"rope_parameters": {"factor": 4.0, "rope_theta": 5e5}},
            "rope_parameters.factor=4.0 is nothing that rope_type 'default' uses",
        ),
        (
            {"rope_scaling": LINEAR | {"attention_factor": 2.0}},
            "rope_scaling.attention_factor=2.0 is nothing that rope_type 'linear' uses",
        ),
        (
            {"rope_parameters": {"mrope_section": [16, 24, 24]}},
            "rope_parameters.mrope_section=.* is nothing that rope_type 'default' uses",
        ),
        (
            {"rope_parameters": {"full_attention": YARN}},
            "rope_parameters.full_attention=.* is RoPE of one layer type",
        ),
        ({"rope_scaling": "linear"}, "rope_scaling must be an object, got 'linear'"),
        ({"rope_parameters": 0}, "rope_parameters must be an object, got 0"),
        (
            {"rope_scaling": {"rope_type": ["yarn"]}},
            "rope_type=.'yarn'. is not supported",
        ),
        (
            {"rope_scaling": {"type": "divisors"}},
            "rope_type='divisors' is not supported",
        ),
        (
            {"rope_parameters": {"partial_rotary_factor": 0.5}},
            "rope_parameters.partial_rotary_factor=0.5 is not supported; use full RoPE",
        ),
    ],
)
def test_what_would_be_overruled_or_ignored_is_refused(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        read(**values)
