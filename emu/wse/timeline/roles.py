"""What every collective along a line of PEs shares: its groups, its roles and its bookkeeping.

A wavelet carries 32 bits: one float32 or two 16-bit elements. Collectives are synchronous
operations of the main thread on every PE that takes part. One begins with a *call*: an address, a
register load and the branches that pick the PE's role; `call=False` goes on within the call of the
collective before it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from emu.datasheet import Device
from emu.errors import LimitExceeded
from emu.instruction import Crossing, Operand
from emu.wse.pe.isa import single
from emu.wse.pe.laws import known, words
from emu.wse.timeline.lines import Lines
from emu.wse.timeline.wires import call_cycles

Ticks = tuple[np.ndarray, np.ndarray]
_JOIN = {"add": jnp.add, "max": jnp.maximum}


def group_size(axis: str, group: int | None) -> int:
    """The PEs of a group, by default the whole axis, of which it must be a divisor."""
    size = lax.axis_size(axis)
    if size % (group or size):
        raise LimitExceeded(
            f"wse.fabric: axis '{axis}' has {size} PEs, a group of {group} must divide it"
        )
    return group or size


def role(index: Operand, table: Sequence[int] | np.ndarray) -> np.ndarray:
    """A PE's entry of a table over the places of its group."""
    table = np.asarray(table)
    return table[known(index) % len(table)]


def begin(device: Device, call: bool) -> int:
    """Cycles before a collective's first operation is dispatched."""
    return call_cycles(device) if call else 0


def line_words(lines: Lines, elements: Operand, dtype: Any) -> np.ndarray:
    """Wavelets of each line's streams, `[groups, 1, lines]`."""
    return lines.take(words(known(elements), dtype)).max(axis=1, keepdims=True)


def crossed(
    mesh: Mapping[str, int],
    axis: str,
    group: int,
    crossing: Crossing,
    elements: Operand,
) -> Lines:
    """The lines of a collective, as far as starts and lengths tell them apart."""
    return Lines(mesh, axis, group, crossing.start_ticks, known(elements))


def join(op: str, a: Any, b: Any) -> Any:
    """One step of a reduce, `"add"` or `"max"`, rounded to the tiles' dtype."""
    return _JOIN[op](single(a), single(b)).astype(a.dtype)


def unset(dtype: Any) -> Any:
    """What a tile holds that nobody has written: NaN, or the largest integer."""
    floating = jnp.issubdtype(dtype, jnp.floating)
    return jnp.array(jnp.nan if floating else jnp.iinfo(dtype).max, dtype)


def at_place(x: Any, group: int, place: int) -> Any:
    """`[groups, ...]` as `[groups * group, ...]`: on one PE of each group, nothing on the others.

    Padded in a shape that a multicast slices, so XLA drops what nobody reads and works out each
    sum once instead of once per PE.
    """
    around = [
        (place, group - 1 - place, 0) if i == 2 else (0, 0, 0)
        for i in range(x.ndim + 2)
    ]
    return lax.pad(x[None, :, None], unset(x.dtype), around).reshape(-1, *x.shape[1:])


__all__ = [
    "Ticks",
    "at_place",
    "begin",
    "crossed",
    "group_size",
    "join",
    "line_words",
    "role",
    "unset",
]
