"""What context attention refuses before anything is laid out, each in one line."""

import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from emu.errors import EmulationError
from kernels import ContextAttention, masks

SIZES = dict(mask=masks.causal, tokens=64, ranks=2, heads=4, kv_heads=2, head_dim=16)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"tokens": 0}, "tokens is 0, must be a whole number from 1 to"),
        ({"tokens": 64.0}, "tokens is 64.0, must be a whole number from 1 to"),
        ({"tokens": True}, "tokens is True, must be a whole number"),
        ({"ranks": -1}, "ranks is -1, must be a whole number"),
        ({"heads": "4"}, "heads is '4', must be a whole number"),
        ({"head_dim": 0}, "head dim is 0, must be a whole number"),
        ({"value_dim": 0}, "value dim is 0, must be a whole number"),
        ({"queries": 0}, "queries is 0, must be a whole number"),
        ({"queries": 65}, "65 queries of 64 tokens, must be 1 to all"),
        ({"masks": 0}, "masks is 0, must be a whole number"),
        ({"cores": 3}, "cores of a rank"),
        ({"cores": 1, "tensor": 3}, "cores of a rank"),
        ({"tensor": 0}, "tensor is 0, must be a whole number"),
        ({"parts": (8,)}, r"parts are \(8,\), must add up to head_dim 16"),
        ({"parts": (17, -1)}, "part 1 is -1, must be a whole number"),
        ({"head_dim": 160, "parts": (160,)}, "each at most 128"),
        ({"dtype": "int8"}, "dtype is int8, must be one of float32, bfloat16"),
        ({"dtype": jnp.int32}, "dtype is int32, must be one of"),
        ({"dtype": bool}, "dtype is bool, must be one of"),
        ({"dtype": np.dtype("complex64")}, "dtype is complex64, must be one of"),
        ({"dtype": "no such"}, "dtype is no such, must be one of"),
        ({"dtype": "float64"}, "dtype is float64.*`exact` computes in float64"),
        ({"scheme": "star"}, "scheme is 'star', must be one of ring"),
    ],
    ids=str,
)
def test_sizes_and_dtypes(change, message):
    with pytest.raises(EmulationError, match=message):
        ContextAttention(**{**SIZES, **change})


def _if(b, h, q, k):
    return 1 if q > k else 0  # if


def _and(b, h, q, k):
    return q >= k and q - k < 8  # and


def _table(b, h, q, k):
    return np.arange(64)[k] <= q  # table


def _raises(b, h, q, k):
    raise RuntimeError("mine")  # raises


@pytest.mark.parametrize(
    "mask, cure",
    [
        (_if, "write `&`"),
        (_and, "write `&`"),
        (_table, r"`jnp.asarray\(table\)"),
        (_raises, "raises RuntimeError: mine"),
    ],
)
def test_a_mask_is_named_with_its_line_and_the_cure(mask, cure):
    lines = pathlib.Path(__file__).read_text(encoding="utf-8").splitlines()
    marked = f"# {mask.__name__.strip('_')}"
    number = next(i for i, line in enumerate(lines, 1) if line.endswith(marked))
    with pytest.raises(EmulationError, match=cure) as refused:
        ContextAttention(**{**SIZES, "mask": mask}).placed
    assert f"test_context_checks.py:{number}" in str(refused.value)
    assert "\n" not in str(refused.value)
