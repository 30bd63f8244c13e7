"""Blocks of a line's PEs to its first PE, and back: a star that does not add."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from emu.datasheet import Device
from emu.errors import LimitExceeded
from emu.instruction import Cost, Crossing, Operand, caller, instruction
from emu.wse import trees
from emu.wse.collectives.multicast import arrival as of_multicasts
from emu.wse.collectives.reduce import arrival as of_trees
from emu.wse.pe.isa import SPACE
from emu.wse.pe.laws import move_cycles, on_datapath, words
from emu.wse.timeline.roles import Ticks, at_place, begin, crossed, group_size, role
from emu.wse.timeline.wires import operation_cycles, wires


def _cost(
    device: Device,
    dst: Operand,
    x: Operand,
    index: Operand,
    *,
    axis: str,
    group: int,
    ndim: int,
) -> Cost:
    """Either direction: the small tile is a block, the large one has a block of every PE."""
    block = min(dst.nbytes, x.nbytes)
    gathers = dst.nbytes > x.nbytes
    w = block_words(dst, x)
    first = role(index, [i == 0 for i in range(group)])
    many = (group - 1) * operation_cycles(device, w, sends=not gathers)
    one = operation_cycles(device, w, sends=gathers)
    own = move_cycles(device, block, descriptors=0)
    many_nbytes, one_nbytes = group * block, block
    read = np.where(
        first, block if gathers else many_nbytes, one_nbytes if gathers else 0
    )
    written = np.where(
        first, many_nbytes if gathers else block, 0 if gathers else one_nbytes
    )
    return on_datapath(
        begin(device, True) + np.where(first, own + many, one),
        moved_bytes={"sram_read": read, "sram_write": written},
        counts={"wavelet_hops": w * role(index, range(group))},
    )


def block_words(dst: Operand, x: Operand) -> int:
    """Wavelets of one PE's block."""
    return int(words(min(dst.size, x.size), x.dtype))


def _arrival(
    device: Device,
    mesh: Mapping[str, int],
    crossing: Crossing,
    dst: Operand,
    x: Operand,
    index: Operand,
    *,
    axis: str,
    group: int,
    ndim: int,
) -> Ticks:
    lines = crossed(mesh, axis, group, crossing, index)
    armed = lines.take(crossing.start_ticks) + begin(device, True)
    armed[:, 0] += int(
        np.ceil(move_cycles(device, min(dst.nbytes, x.nbytes), descriptors=0))
    )
    w = np.array(block_words(dst, x)).reshape(1, 1, 1)
    if dst.nbytes > x.nbytes:
        done = of_trees.reduce(armed, w, trees.star(group), wires(device))
    else:
        done = of_multicasts.scatter(armed, w, wires(device))
    ready = lines.put(done)
    return ready, ready


@instruction(
    "wse.gather", cost=_cost, reads=(SPACE, "count"), writes=SPACE, arrival=_arrival
)
def _gather(dst: Any, x: Any, index: Any, *, axis: str, group: int, ndim: int) -> Any:
    line = x.reshape(-1, group, *x.shape[1:])
    blocks = jnp.moveaxis(line, 1, line.ndim - 1 - ndim)
    return at_place(blocks, group, 0).astype(dst.dtype)


@instruction(
    "wse.scatter", cost=_cost, reads=(SPACE, "count"), writes=SPACE, arrival=_arrival
)
def _scatter(dst: Any, x: Any, index: Any, *, axis: str, group: int, ndim: int) -> Any:
    blocks = x[::group]  # the first PE's, [groups, ..., group, *block]
    line = jnp.moveaxis(blocks, blocks.ndim - 1 - ndim, 1)
    return line.reshape(-1, *line.shape[2:]).astype(dst.dtype)


def gather(dst: Any, x: Any, *, axis: str, group: int | None = None) -> Any:
    """The tiles of a group's PEs on its first PE, in their order; the nearest arrives first.

    Args:
      dst: `[pes, *x.shape]`; nothing is written to it but on the first PE.
      x: tile in SRAM.
      axis: mesh axis.
      group: consecutive PEs in a group, a divisor of the axis; default all.
    """
    size = group_size(axis, group)
    _check("wse.gather", dst, x, size)
    return _gather(dst, x, lax.axis_index(axis), axis=axis, group=size, ndim=x.ndim)


def scatter(dst: Any, x: Any, *, axis: str, group: int | None = None) -> Any:
    """Row i of the first PE's `x` to PE i of its group; the nearest one's leaves first.

    Args:
      dst: tile for one row.
      x: `[pes, *dst.shape]`; only the first PE's is read.
      axis: mesh axis.
      group: consecutive PEs in a group, a divisor of the axis; default all.
    """
    size = group_size(axis, group)
    _check("wse.scatter", x, dst, size)
    return _scatter(dst, x, lax.axis_index(axis), axis=axis, group=size, ndim=dst.ndim)


def _check(name: str, many: Any, one: Any, pes: int) -> None:
    if many.shape != (pes, *one.shape) or pes < 2:
        raise LimitExceeded(
            f"{name}: blocks {list(one.shape)} of {pes} PEs and a tile {list(many.shape)}, must be "
            f"{[pes, *one.shape]}, and 2 PEs or more",
            caller(),
        )


__all__ = ["gather", "scatter"]
