"""Names for annotations: what a value is to the machine, where JAX only sees an array.

They are aliases, so nothing is checked by them at run time (the clock checks memory spaces itself);
they tell a reader, and `help`, what a parameter must be.
"""

from typing import Any, TypeAlias

import jax
import numpy as np

Tile: TypeAlias = jax.Array
"""An array in some memory space of a core."""

KnownInt: TypeAlias = jax.Array | np.ndarray | np.integer | int
"""An integer that the clock follows: a literal, a loop index, a core's index, an `emu.Known`."""

Shape: TypeAlias = tuple[int, ...]

DType: TypeAlias = Any
"""Whatever `jnp.dtype` takes: `jnp.bfloat16`, `"float32"`, a `np.dtype`."""

ShapeAndDtype: TypeAlias = tuple[tuple[int, ...], np.dtype]

PyTree: TypeAlias = Any
"""Nested tuples, lists and dictionaries of arrays, or one array."""

__all__ = ["DType", "KnownInt", "PyTree", "Shape", "ShapeAndDtype", "Tile"]
