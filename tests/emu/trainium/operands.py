"""Operands as cost rules see them, and the values instructions are tried on."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np

from emu import Operand, Quantity
from emu.trainium.datasheets import TRN1, TRN2, TRN3

F32: Any = np.dtype(np.float32)
F16: Any = np.dtype(np.float16)
BF16: Any = np.dtype(ml_dtypes.bfloat16)
E4M3: Any = np.dtype(ml_dtypes.float8_e4m3fn)
E5M2: Any = np.dtype(ml_dtypes.float8_e5m2)
I32: Any = np.dtype(np.int32)
I16: Any = np.dtype(np.int16)
U8: Any = np.dtype(np.uint8)
U16: Any = np.dtype(np.uint16)
DEVICE = TRN3.at()
# A bfloat16 has 8 significant bits, so rounding to it errs by at most half of 2**-7.
ROUNDING = {F32: 2.0**-24, BF16: 2.0**-8}

# The three generations with round numbers where the datasheets' are fitted or in doubt.
ROUND = {
    "min_interval_cycles": 64,
    "vector_access_cycles": 20,
    "scalar_access_cycles": 30,
    "vector_latency_cycles": 200,
    "scalar_latency_cycles": 300,
    "tensor_latency_cycles": 400,
    "handover_cycles": 40,
    "weight_load_exposed_cycles": 10,
    "weight_load_columns_per_cycle": 4,
    "gpsimd_overhead_cycles": 150,
}
GENERATIONS = {
    sheet.generation: dataclasses.replace(
        sheet,
        **{
            k: Quantity(v, "published", "chosen for the tests")
            for k, v in ROUND.items()
        },
    ).at()
    for sheet in (TRN1, TRN2, TRN3)
}


def operand(space, *shape, dtype=F32):
    return Operand(shape, np.dtype(dtype), space)


def sbuf(*shape, dtype=F32):
    return operand("sbuf", *shape, dtype=dtype)


def psum(*shape, dtype=F32):
    return operand("psum", *shape, dtype=dtype)


def hbm(*shape, dtype=F32):
    return operand("hbm", *shape, dtype=dtype)


REGISTER = operand("register", dtype=I32)


def blank(*shape, dtype=F32):
    return jnp.full(shape, jnp.nan, dtype)


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
    allowed = (
        size * operations * ROUNDING[F32] + np.abs(expected) * ROUNDING[actual.dtype]
    )
    worst = np.max(np.abs(wide(actual) - expected) - allowed)
    assert worst <= 1e-30, f"beyond the bound by {worst}"
