"""What a tile may be declared as: refused before JAX or the clock meet a size that cannot be."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from emu import given
from emu.annotations import DType
from emu.checks import precision

LONGEST = 2**40
"""Elements of a dimension: a terabyte of bytes, more than any chip's memory."""


def check(
    name: str,
    shape: Sequence[int],
    *,
    buffers: int = 1,
    least_dimensions: int = 0,
) -> None:
    """Raises `LimitExceeded` where a size or the depth of a ring is no positive integer.

    Args:
      name: of the instruction that declares the tile.
      shape: its dimensions.
      buffers: depth of its ring.
      least_dimensions: how many it must have: partitions, and what lies in each.
    """
    if len(shape) < least_dimensions:
        given.refuse(
            f"{name}: shape is {list(shape)}, must be partitions and one or more free dimensions"
        )
    for number, size in enumerate(shape):
        given.whole(f"{name}: dimension {number}", size, 1, LONGEST)
    given.whole(f"{name}: buffers", buffers, 1)


def dtype(name: str, asked: DType, allowed: Sequence[str]) -> np.dtype:
    """The dtype of a fresh tile for which a kernel names `asked`.

    Args:
      name: of the instruction that declares the tile.
      asked: what `jnp.dtype` takes.
      allowed: names of those that the machine has.

    Raises:
      LimitExceeded: another one, or none at all.
    """
    try:
        # NumPy takes None for float64, and JAX float64 for float32: neither was meant.
        found = None if asked is None else jnp.dtype(asked)
    except TypeError:
        found = None
    # Where JAX has float64, as in the exact reading, a kernel names its arguments' wider dtypes.
    has_wide = jax.dtypes.canonicalize_dtype(np.float64) == np.float64
    is_wide = has_wide and found is not None and found.kind in "fiu"
    if found is None or not (is_wide or found.name in allowed):
        said = given.told(asked) if found is None else found.name
        given.refuse(f"{name}: dtype is {said}, must be one of {', '.join(allowed)}")
    return precision.tile_dtype(found)


__all__ = ["check", "dtype"]
