"""Families: their tables against the gguf package's own, their arithmetic on every machine."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from models.catalogue import TINY
from models.config import ModelConfig
from models.errors import ModelError
from models.families import FAMILIES, by_gguf_architecture, by_model_type
from models.machines.disaggregated import Disaggregated
from models.plain.oracle import generate
from models.plain.transformer import from_weights
from models.plain.weights import flatten, nest, random_weights
from models.tensors import outer_tensors

SMALL = dataclasses.replace(
    TINY,
    hidden_size=40,
    intermediate_size=56,
    head_dim=8,
    vocab_size=96,
    tie_word_embeddings=False,
)


def test_a_tied_model_has_all_tensors_but_the_head() -> None:
    untied = set(outer_tensors(tied=False)) - set(outer_tensors(tied=True))
    assert {tensor.name for tensor in untied} == {"head"}


def test_families_are_found_by_either_name() -> None:
    for family in FAMILIES.values():
        assert by_model_type(family.model_type, "a model") is family
        if family.gguf_architecture is not None:
            found = by_gguf_architecture(family.gguf_architecture, "a model")
            assert found is family


@pytest.mark.parametrize("model_type", ["gemma", None, ["llama"], 3])
def test_others_are_refused_with_a_list_of_those_known(model_type: Any) -> None:
    with pytest.raises(ModelError, match="model_type .* supported are .*'llama'"):
        by_model_type(model_type, "a model")
    with pytest.raises(
        ModelError, match="a model: architecture .*'llama', 'llama4'.*'qwen2', 'qwen3'"
    ):
        by_gguf_architecture("gemma", "a model")


# Two layers of float32 sums in another order give a few 1e-6 of logits of size 1.
TOLERANCE = 5e-5


@pytest.mark.parametrize("model_type", ["llama", "qwen3", "mistral"])
def test_oracle_prefill_and_decode_compute_the_same(model_type: str) -> None:
    check_all_machines(dataclasses.replace(SMALL, model_type=model_type))


# What families' configs say beside their sizes.
FURTHER: dict[str, dict[str, Any]] = {
    "qwen2": {},
    "gemma2": {"attention_soft_cap": 3.0, "logit_soft_cap": 2.0},
    "gemma3_text": {
        "layer_types": ("sliding_attention", "full_attention"),
        "sliding_window": 3,
        "rope_local_theta": 100.0,
    },
    "phi3": {"rotary_dim": 4},
    "smollm3": {"rope_layers": (True, False)},
}


@pytest.mark.slow
@pytest.mark.parametrize("model_type", FURTHER)
def test_families_of_other_forms_compute_the_same(model_type: str) -> None:
    """By default each machine is held to the oracle by itself: `test_prefill_forms` for one."""
    change = {"model_type": model_type, **FURTHER[model_type]}
    check_all_machines(dataclasses.replace(SMALL, **change))


@pytest.mark.parametrize(
    "scaling",
    [
        # One table for all lengths, where the next one has two.
        pytest.param(
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 6},
            marks=pytest.mark.slow,
        ),
        # The answer passes the original context: keys of the prompt stay short, later ones are
        # long.
        {
            "rope_type": "longrope",
            "short_factor": [1.0, 1.5, 2.0, 2.5],
            "long_factor": [1.0, 4.0, 9.0, 16.0],
            "original_max_position_embeddings": 6,
        },
    ],
    ids=lambda scaling: scaling["rope_type"],
)
def test_scaled_rope_reaches_both_machines(scaling: dict[str, Any]) -> None:
    check_all_machines(dataclasses.replace(SMALL, rope_scaling=scaling))


def check_all_machines(config: ModelConfig) -> None:
    """The oracle, prefill and decode choose the same tokens from the same logits."""
    generator = np.random.default_rng(0)
    flat = flatten(random_weights(config, 0))
    # Away from their first value, 1, so that a weight left out shows.
    moved = {name: generator.uniform(0.5, 1.5, w.shape) for name, w in flat.items()}
    weights = nest(
        {name: w * moved[name].astype(np.float32) for name, w in flat.items()}
    )
    prompt, new = [5, 17, 3, 80, 41], 3
    tokens, logits = generate(from_weights(config, weights), prompt, new)
    machines = Disaggregated(
        config, weights, tokens=len(prompt), new_tokens=new, chips=1, dtype="float32"
    )
    first = machines.prefill.run(prompt)
    np.testing.assert_allclose(first.logits, logits[0], rtol=0, atol=TOLERANCE)
    assert first.token == tokens[0]
    decoded = machines.decode(first.token, first.k, first.v)
    for token, row in zip(tokens[1:], logits[1:], strict=True):
        chosen, computed = next(decoded)
        np.testing.assert_allclose(computed, row, rtol=0, atol=TOLERANCE)
        assert chosen == token
