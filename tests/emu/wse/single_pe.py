"""Runs and prices one instruction on one PE, for tests."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from emu import Known, Program, Reading
from emu.wse import WSE3

NOMINAL = WSE3.at()
GRID = {"row": 1, "col": 1}


def read(call: Any, *operands: Any, device: Any = NOMINAL) -> Reading:
    """The clock of `call(*operands)` on one PE; integers are known, arrays are data."""
    given = [Known(np.int32(x)) if isinstance(x, int) else x for x in operands]
    return Program(call, GRID, ((),) * len(given)).read(device, *given)


def struct(shape: tuple[int, ...], dtype: Any = "float32") -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))


def data(seed: int, *shape: int, dtype: Any = "float32") -> jax.Array:
    """Standard normal numbers."""
    return jnp.asarray(
        np.random.default_rng(seed).standard_normal(shape), jnp.dtype(dtype)
    )


def wide(x: Any) -> np.ndarray:
    """As float64."""
    return np.asarray(x).astype(np.float64)
