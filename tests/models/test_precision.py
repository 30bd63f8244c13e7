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
    assert held(name) == (name, name, name, name)
    assert precision(name).is_plain


def test_one_word() -> None:
    assert held("mxfp8") == ("mxfp8", "mxfp8", "bfloat16", "bfloat16")
    assert held("fp8") == ("fp8", "fp8", "bfloat16", "bfloat16")
    assert held("mxfp4") == ("mxfp4", "bfloat16", "bfloat16", "bfloat16")
    assert held("int4") == ("int4", "bfloat16", "bfloat16", "bfloat16")
    assert not precision("int4").is_plain


def test_parts() -> None:
    words = "weights=mxfp4,activations=float16,cache=fp8"
    assert held(words) == ("mxfp4", "float16", "fp8", "float16")
    assert held("cache=int8") == ("bfloat16", "bfloat16", "int8", "bfloat16")


@pytest.mark.parametrize(
    "words", [*FORMATS, "weights=mxfp4,activations=mxfp8,cache=fp8"]
)
def test_a_plan_s_name_is_read_as_the_same_plan(words: str) -> None:
    assert precision(precision(words).name) == precision(words)
    assert precision(words).name == words


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("fp7", "there is no format 'fp7'.*mxfp8"),
        ("weight=fp8", "'weight' must be one of weights, activations, cache"),
        ("cache=fp8,cache=int8", "each once"),
        ("weights=float32,cache=bfloat16", "bfloat16 and float32"),
    ],
)
def test_refused(words: str, expected: str) -> None:
    with pytest.raises(ModelError, match=expected):
        precision(words)
