"""What queries have attended to so far: carried from source to source in HBM."""

from typing import Any

from emu.trainium.isa import (
    activation_bias,
    memset,
    scalar_tensor_tensor,
    tensor_copy,
    tensor_immediate,
    tensor_scalar,
    tensor_tensor,
)
from emu.trainium.memory import dma_load, dma_store_at, hbm, sbuf
from emu.trainium.sheet import LOAD_QUEUES
from kernels.trainium.context.sizes import ContextTiling
from kernels.trainium.flash_steps import Attended
from kernels.trainium.online_softmax import LOWEST
from kernels.trainium.tiling import index

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


def lane_tiles(s: ContextTiling, *, buffers: int = 1) -> Attended:
    """SBUF tiles for one query tile's part of the state, and a spare maximum."""
    out = sbuf(s.rows, s.value_dim, dtype=s.carried, buffers=buffers)
    highest, total, spare = (sbuf(s.rows, 1, buffers=buffers) for _ in range(3))
    return out, (highest, total, spare)


def begin(tiles: Attended) -> Attended:
    """Nothing attended to yet."""
    out, (highest, total, spare) = tiles
    filled = ((out, 0.0), (highest, LOWEST), (total, 0.0))
    out, highest, total = (memset(x, value=y, engine="gpsimd") for x, y in filled)
    return out, (highest, total, spare)


def load(tiles: Attended, state: State, item: Any) -> Attended:
    """One query tile's part of the state, from HBM."""
    out, (highest, total, spare) = tiles
    old = [index(x, item) for x in state]
    out = dma_load(out, old[0])
    highest, total = (dma_load(x, y, queue=SECOND) for x, y in zip((highest, total), old[1:]))
    return out, (highest, total, spare)


def store(state: State, done: Attended, item: Any) -> State:
    """Puts one query tile's part back into HBM."""
    out, (highest, total, _) = done
    queues = ("store_queue", "store_queue2", "store_queue2")
    parts = zip(state, (out, highest, total), queues, strict=True)
    return tuple(dma_store_at(x, y, item, queue=queue) for x, y, queue in parts)  # type: ignore


def merge(old: Attended, new: Attended, s: ContextTiling) -> Attended:
    """Two parts of what a query tile attends to as one, in the tiles of the first.

    The recipe `bf16-o`: the second output is rounded to bfloat16 before, the merged one after.

    Pseudocode:
      m = max(m0, m1); a, b = exp(scale (m0 - m)), exp(scale (m1 - m)); l = l0 a + l1 b
      o = o0 a + o1 b
    """
    scale, step = s.step.scale, s.step
    out, (highest, total, spare) = old
    added, (other, sum_, _) = new

    def column() -> Any:
        return sbuf(s.rows, 1, buffers=step.buffers)

    peak = tensor_tensor(spare, highest, other, op="max")
    bias = tensor_immediate(column(), peak, op="multiply", value=-scale)
    a, b = (activation_bias(column(), x, bias, op="exp", scale=scale) for x in (highest, other))
    total = tensor_tensor(total, total, a, op="multiply")
    total = scalar_tensor_tensor(total, sum_, b, total, op0="multiply", op1="add")
    if added.dtype != out.dtype:
        added = tensor_copy(sbuf(*added.shape, dtype=out.dtype, buffers=step.buffers), added)
    kept = tensor_scalar(sbuf(*out.shape, buffers=step.buffers), out, a, op="multiply")
    out = scalar_tensor_tensor(out, added, b, kept, op0="multiply", op1="add")
    return out, (peak, total, highest)
