"""What queries have attended to so far: carried from source to source in HBM, a block at a time.

A block's lanes lie side by side, so its whole state is two DMAs each way: copies of one query tile
would be short, and a queue starts one every 0.85 us at most. The GpSimd Engine, which has little
else to do, takes the lanes apart and puts them together.
"""

from typing import Any

import jax.numpy as jnp

from emu.trainium.datasheets.sheet import DMA_QUEUES, LOAD_QUEUES
from emu.trainium.engines.memory import dma_load, dma_store_at, hbm, sbuf
from emu.trainium.isa import (
    activation,
    memset,
    scalar_tensor_tensor,
    tensor_copy,
    tensor_copy_at,
    tensor_scalar,
    tensor_tensor,
)
from kernels.trainium.context.sizes import ContextTiling
from kernels.trainium.flash.online_softmax import LOWEST
from kernels.trainium.flash.step import Attended
from kernels.trainium.tiles import index

# Unnormalised output [units, rows, lanes, value_dim], and row maximum and sum [..., lanes, 2].
State = tuple[Any, Any]
Packed = tuple[Any, Any]  # the same of one unit, a block of a group of heads, in SBUF
# Output [rows, value_dim], maximum and sum [rows, 1] of a query tile.
Lane = tuple[Any, Any, Any]
STORES = DMA_QUEUES[len(LOAD_QUEUES) :]
MAXIMUM, SUM = 0, 1


def empty_state(s: ContextTiling, parts: int = 1) -> State:
    """HBM buffers for the state of every query tile.

    Args:
      s: sizes.
      parts: how many states, one after another.
    """
    units = parts * s.units
    out = hbm(units, s.rows, s.block_lanes, s.value_dim, dtype=s.carried)
    return out, hbm(units, s.rows, s.block_lanes, 2)


def packed_tiles(s: ContextTiling, *, buffers: int = 1) -> Packed:
    """SBUF for one unit's state."""
    out = sbuf(s.rows, s.block_lanes, s.value_dim, dtype=s.carried, buffers=buffers)
    return out, sbuf(s.rows, s.block_lanes, 2, buffers=buffers)


def load(tiles: Packed, state: State, unit: Any) -> Packed:
    """One unit's state, from HBM."""
    pairs = zip(tiles, state, LOAD_QUEUES, strict=True)
    return tuple(dma_load(x, index(y, unit), queue=queue) for x, y, queue in pairs)  # type: ignore


def store(state: State, tiles: Packed, unit: Any) -> State:
    """One unit's state, to HBM."""
    pairs = zip(state, tiles, STORES, strict=True)
    return tuple(dma_store_at(x, y, unit, queue=queue) for x, y, queue in pairs)  # type: ignore


def nothing(tiles: Packed, s: ContextTiling) -> Packed:
    """A unit whose queries have attended to nothing yet."""
    out, numbers = tiles
    out = memset(out, value=0.0, engine="gpsimd")
    for at, value in ((MAXIMUM, LOWEST), (SUM, 0.0)):
        column = memset(sbuf(s.rows, 1), value=value, engine="gpsimd")
        for lane in range(s.block_lanes):
            numbers = _put(numbers, column, lane, at)
    return out, numbers


def views(tiles: Packed, lane: int) -> Lane:
    """A lane of a unit, as part of its tiles."""
    out, numbers = tiles
    columns = (numbers[:, lane, at : at + 1] for at in (MAXIMUM, SUM))
    return out[:, lane], *columns


def opened(tiles: Packed, lane: int, s: ContextTiling) -> Lane:
    """A lane of a unit in tiles of its own, which instructions can write."""
    copies = (
        sbuf(*x.shape, dtype=x.dtype, buffers=s.buffers) for x in views(tiles, lane)
    )
    pairs = zip(copies, views(tiles, lane), strict=True)
    return tuple(tensor_copy(x, y, engine="gpsimd") for x, y in pairs)  # type: ignore


def closed(tiles: Packed, lanes: list[Lane], *, last: bool) -> Packed:
    """The lanes of a unit back in its tiles; of the `last` nobody needs the maxima any more."""
    out, numbers = tiles
    for n, (own, highest, total) in enumerate(lanes):
        out = _put(out, own, n, 0)
        numbers = numbers if last else _put(numbers, highest, n, MAXIMUM)
        numbers = _put(numbers, total, n, SUM)
    return out, numbers


def _put(dst: Any, src: Any, lane: int, at: int) -> Any:
    return tensor_copy_at(dst, src, jnp.int32(lane), jnp.int32(at), engine="gpsimd")


def stepping(lane: Lane, s: ContextTiling) -> Attended:
    """A lane as a step takes it: with a spare tile for the next maximum."""
    out, highest, total = lane
    return out, (highest, total, sbuf(s.rows, 1, buffers=s.buffers))


def stepped(done: Attended) -> Lane:
    """A lane after its steps."""
    out, (highest, total, _) = done
    return out, highest, total


def merge(old: Lane, new: Lane, s: ContextTiling) -> Lane:
    """Two parts of what a query tile attends to as one, in the tiles of the first.

    The recipe `bf16-o`: the second output is rounded to bfloat16 before, the merged one after.

    Pseudocode:
      m = max(m0, m1); a, b = exp(scale (m0 - m)), exp(scale (m1 - m)); l = l0 a + l1 b
      o = o0 a + o1 b
    """
    scale, buffers = s.step.scale, s.buffers
    out, highest, total = old
    added, other, sum_ = new

    def column() -> Any:
        return sbuf(s.rows, 1, buffers=buffers)

    peak = tensor_tensor(column(), highest, other, op="max")
    fallen = (
        tensor_tensor(column(), x, peak, op="subtract", engine="gpsimd")
        for x in (highest, other)
    )
    a, b = (activation(column(), x, op="exp", scale=scale) for x in fallen)
    total = tensor_tensor(total, total, a, op="multiply")
    total = scalar_tensor_tensor(total, sum_, b, total, op0="multiply", op1="add")
    if added.dtype != out.dtype:
        added = tensor_copy(sbuf(*added.shape, dtype=out.dtype, buffers=buffers), added)
    kept = tensor_scalar(sbuf(*out.shape, buffers=buffers), out, a, op="multiply")
    out = scalar_tensor_tensor(out, added, b, kept, op0="multiply", op1="add")
    return out, tensor_copy(highest, peak, engine="gpsimd"), total
