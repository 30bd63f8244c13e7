"""What queries have attended to so far: carried from source to source in HBM."""

from typing import Any

from emu.trainium.isa import (
    activation,
    memset,
    scalar_tensor_tensor,
    tensor_copy,
    tensor_scalar,
    tensor_tensor,
)
from emu.trainium.memory import dma_load, dma_store_at, hbm, sbuf
from emu.trainium.sheet import LOAD_QUEUES
from kernels.trainium.context.sizes import ContextTiling
from kernels.trainium.flash_steps import Attended
from kernels.trainium.online_softmax import LOWEST
from kernels.trainium.tiling import index

Lane = tuple[Any, Any, Any]  # the same of one query tile, in SBUF
State = tuple[Any, Any, Any]  # output [items, rows, value_dim], maximum and sum [items, rows, 1]
SECOND = LOAD_QUEUES[1]


def empty_state(s: ContextTiling, parts: int = 1) -> State:
    """HBM buffers for unnormalised output, row maximum and row sum of every query tile.

    Args:
      s: sizes.
      parts: how many states, one after another.
    """
    items = parts * s.items
    out = hbm(items, s.rows, s.value_dim, dtype=s.carried)
    return out, hbm(items, s.rows, 1), hbm(items, s.rows, 1)


def lane_tiles(s: ContextTiling, *, buffers: int = 1) -> Lane:
    """SBUF tiles for one query tile's part of the state."""
    out = sbuf(s.rows, s.value_dim, dtype=s.carried, buffers=buffers)
    return out, sbuf(s.rows, 1, buffers=buffers), sbuf(s.rows, 1, buffers=buffers)


def begin(tiles: Lane) -> Lane:
    """Nothing attended to yet."""
    filled = zip(tiles, (0.0, LOWEST, 0.0), strict=True)
    return tuple(memset(x, value=y, engine="gpsimd") for x, y in filled)  # type: ignore


def load(tiles: Lane, state: State, item: Any) -> Lane:
    """One query tile's part of the state, from HBM."""
    queues = (LOAD_QUEUES[0], SECOND, SECOND)
    parts = zip(tiles, state, queues, strict=True)
    return tuple(dma_load(x, index(y, item), queue=queue) for x, y, queue in parts)  # type: ignore


def store(state: State, done: Lane, item: Any, *, last: bool = False) -> State:
    """Puts one query tile's part back into HBM; of the `last` nobody needs the maximum any more."""
    out, highest, total = done
    kept, highs, sums = state
    kept = dma_store_at(kept, out, item, queue="store_queue")
    if not last:
        highs = dma_store_at(highs, highest, item, queue="store_queue2")
    return kept, highs, dma_store_at(sums, total, item, queue="store_queue2")


def opened(lane: Lane, s: ContextTiling) -> Attended:
    """A lane as a step takes it. Steps swap the maximum's tile with a spare one; these are tiles
    for as long as a block runs, so that every core carries on with the same ones."""
    out, highest, total = lane
    peak, spare = (sbuf(s.rows, 1, buffers=s.buffers) for _ in range(2))
    return out, (tensor_copy(peak, highest, engine="gpsimd"), total, spare)


def closed(lane: Lane, done: Attended, *, last: bool) -> Lane:
    """The lane after its steps; of the `last` nobody needs the maximum any more."""
    out, (peak, total, _) = done
    return out, lane[1] if last else tensor_copy(lane[1], peak, engine="gpsimd"), total


def merge(old: Lane, new: Lane, s: ContextTiling, *, last: bool = False) -> Lane:
    """Two parts of what a query tile attends to as one, in the tiles of the first.

    The recipe `bf16-o`: the second output is rounded to bfloat16 before, the merged one after.

    Pseudocode:
      m = max(m0, m1); a, b = exp(scale (m0 - m)), exp(scale (m1 - m)); l = l0 a + l1 b
      o = o0 a + o1 b
    """
    scale, step = s.step.scale, s.step
    out, highest, total = old
    added, other, sum_ = new

    def column() -> Any:
        return sbuf(s.rows, 1, buffers=step.buffers)

    peak = tensor_tensor(column(), highest, other, op="max")
    fallen = (
        tensor_tensor(column(), x, peak, op="subtract", engine="gpsimd") for x in (highest, other)
    )
    a, b = (activation(column(), x, op="exp", scale=scale) for x in fallen)
    total = tensor_tensor(total, total, a, op="multiply")
    total = scalar_tensor_tensor(total, sum_, b, total, op0="multiply", op1="add")
    if added.dtype != out.dtype:
        added = tensor_copy(sbuf(*added.shape, dtype=out.dtype, buffers=step.buffers), added)
    kept = tensor_scalar(sbuf(*out.shape, buffers=step.buffers), out, a, op="multiply")
    out = scalar_tensor_tensor(out, added, b, kept, op0="multiply", op1="add")
    return out, highest if last else tensor_copy(highest, peak, engine="gpsimd"), total
