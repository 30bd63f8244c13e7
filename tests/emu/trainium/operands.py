"""Operands as cost rules see them, and the values instructions are tried on."""

from typing import Any

import ml_dtypes
import numpy as np

from emu import Operand
from emu.trainium.datasheet import TRN3

F32: Any = np.dtype(np.float32)
BF16: Any = np.dtype(ml_dtypes.bfloat16)
I32: Any = np.dtype(np.int32)
DEVICE = TRN3.at()
# A bfloat16 has 8 significant bits, so rounding to it errs by at most half of 2**-7.
ROUNDING = {F32: 2.0**-24, BF16: 2.0**-8}


def operand(space, *shape, dtype=F32):
    return Operand(shape, np.dtype(dtype), space)


def sbuf(*shape, dtype=F32):
    return operand("sbuf", *shape, dtype=dtype)


def psum(*shape, dtype=F32):
    return operand("psum", *shape, dtype=dtype)


def hbm(*shape, dtype=F32):
    return operand("hbm", *shape, dtype=dtype)


REGISTER = operand("register", dtype=I32)


def draw(seed, *shape, dtype=F32):
    """Normal values that `dtype` holds exactly, as a NumPy array of `dtype`."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def wide(x):
    """The same values in float64."""
    return np.asarray(x).astype(np.float64)


def assert_close(actual, expected, *, operations=1, scale=None):
    """Each element within `operations` float32 roundings and one rounding to the result's dtype.

    `scale` is the magnitude that the roundings are relative to, the expected value by default.
    """
    actual = np.asarray(actual)
    size = np.abs(expected) if scale is None else scale
    allowed = size * operations * ROUNDING[F32] + np.abs(expected) * ROUNDING[actual.dtype]
    worst = np.max(np.abs(wide(actual) - expected) - allowed)
    assert worst <= 1e-30, f"beyond the bound by {worst}"
