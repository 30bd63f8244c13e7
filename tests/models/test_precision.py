"""Precision plans: what words name, and what is refused."""

import pytest

from kernels.formats.formats import FORMATS
from models.errors import ModelError
from models.precision import PARTS, precision


def held(words: str) -> tuple[str, ...]:
    plan = precision(words)
    return *(plan.parts[part].name for part in PARTS), plan.wide


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_a_wide_dtype_is_everything_s(name: str) -> None:
    assert held(name) == (name, name, name, name, name)
    assert precision(name).is_plain


def test_one_word() -> None:
    for name in ("mxfp8", "fp8"):
        assert held(name) == (name, name, name, "bfloat16", "bfloat16")
    for name in ("mxfp4", "int4"):
        assert held(name) == (name, name, "bfloat16", "bfloat16", "bfloat16")
    assert not precision("int4").is_plain


def test_parts() -> None:
    words = "weights=mxfp4,activations=float16,cache=fp8"
    assert held(words) == ("mxfp4", "mxfp4", "float16", "fp8", "float16")
    assert held("cache=int8") == ("bfloat16",) * 3 + ("int8", "bfloat16")


def test_experts_are_as_other_weights_or_apart() -> None:
    """gpt-oss's checkpoint has its experts in MXFP4 and all else in bfloat16."""
    wide = "bfloat16"
    assert held("experts=mxfp4") == (wide, "mxfp4", wide, wide, wide)
    apart = "weights=mxfp8,experts=mxfp4,activations=mxfp8"
    assert held(apart) == ("mxfp8", "mxfp4", "mxfp8", wide, wide)
    assert precision("weights=int8,experts=bfloat16").name == (
        "weights=int8,experts=bfloat16"
    )
    assert precision("weights=mxfp4,experts=mxfp4").name == "mxfp4"


def test_activations_are_in_codes_where_their_products_weights_are() -> None:
    taken = precision("experts=mxfp4,activations=mxfp8").taken
    assert taken == (None, FORMATS["mxfp8"])
    taken = precision("weights=mxfp8,experts=bfloat16,activations=mxfp8").taken
    assert taken == (FORMATS["mxfp8"], None)
    assert precision("mxfp4").taken == precision("float32").taken == (None, None)


@pytest.mark.parametrize(
    "words",
    [
        *FORMATS,
        "weights=mxfp4,activations=mxfp8,cache=fp8",
        "experts=mxfp4,activations=mxfp8",
    ],
)
def test_a_plan_s_name_is_read_as_the_same_plan(words: str) -> None:
    assert precision(precision(words).name) == precision(words)
    assert precision(words).name == words


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("fp7", "there is no format 'fp7'.*mxfp8"),
        ("weight=fp8", "'weight' must be one of weights, experts, activations"),
        ("cache=fp8,cache=int8", "each once"),
        ("weights=float32,cache=bfloat16", "bfloat16 and float32"),
        ("weights=float32,activations=fp8", "name weights or experts in codes"),
    ],
)
def test_refused(words: str, expected: str) -> None:
    with pytest.raises(ModelError, match=expected):
        precision(words)
