"""Sets as bits, one integer a PE: what is worked out of one color is worked out of all at once.

A PE of whose colors 0 and 3 a word waits has `0b1001`. A program of four colors then takes a byte a
PE where an array for each color would take four, and "who waits and has room" is one operation on
it. Sets of threads, directions and tasks are bits in the same way.
"""

import functools
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from emu.annotations import DType
from emu.wse.fabric.cycles.rows import PerPE

FEW = 64
"""PEs whose sets are united one by one."""


def dtype_for(count: int) -> DType:
    """The smallest dtype with a bit for each of so many."""
    for dtype in (jnp.uint8, jnp.uint16):
        if count <= jnp.iinfo(dtype).bits:
            return dtype
    return jnp.uint32


def of(flags: Sequence[PerPE]) -> PerPE:
    """`bool[PEs]` of each member as the set of those that are true."""
    dtype = dtype_for(len(flags))
    bits = [flag.astype(dtype) << number for number, flag in enumerate(flags)]
    return functools.reduce(operator.or_, bits)


def only(member: PerPE, dtype: DType) -> PerPE:
    """The set of one member, or the empty one where it is NONE."""
    bit = jnp.int32(1) << jnp.maximum(member, 0)
    return jnp.where(member >= 0, bit, 0).astype(dtype)


def where(condition: PerPE, members: PerPE) -> PerPE:
    """The sets where a condition holds, and empty ones elsewhere."""
    return jnp.where(condition, members, jnp.zeros_like(members))


def some(members: PerPE) -> PerPE:
    """Where a set has any member."""
    return members != 0


def several(members: PerPE) -> PerPE:
    """Where a set has more than one: without its lowest bit something is left."""
    return (members & (members - 1)) != 0


def union(sets: Sequence[PerPE]) -> PerPE:
    """Of one or more sets."""
    return functools.reduce(operator.or_, sets)


def anywhere(members: PerPE) -> jax.Array:
    """The union over all PEs, one integer; or, of `bool[PEs]`, whether any is true."""
    # Half upon half: loops over arrays, where XLA's CPU compiler reduces element by element. An odd
    # one in the middle is in both halves, which changes no union.
    while len(members) > FEW:
        half = (len(members) + 1) // 2
        members = members[:half] | members[-half:]
    return lax.reduce(members, members.dtype.type(0), lax.bitwise_or, (0,))


def number_of(bit: jax.Array) -> jax.Array:
    """The member of sets of one: 3 of `0b1000`."""
    return lax.population_count(bit - 1).astype(jnp.int32)


def packed(table: np.ndarray) -> np.ndarray:
    """`bool[members, PEs]` as sets."""
    dtype = np.dtype(dtype_for(len(table)))
    sets = np.zeros(table.shape[1:], dtype)
    for number, row in enumerate(table):
        sets |= row.astype(dtype) << dtype.type(number)
    return sets


def unpacked(sets: np.ndarray, count: int) -> np.ndarray:
    """Sets as `bool[members, PEs]`."""
    rows = [(sets >> sets.dtype.type(number) & 1) == 1 for number in range(count)]
    return np.array(rows, bool).reshape(count, *sets.shape)


__all__ = [
    "anywhere",
    "dtype_for",
    "number_of",
    "of",
    "only",
    "packed",
    "several",
    "some",
    "union",
    "unpacked",
    "where",
]
