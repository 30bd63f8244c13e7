"""From what queries have attended to, to attention's output and log-sum-exp."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from emu.trainium.isa import (
    activation,
    memset,
    nc_transpose,
    reciprocal,
    tensor_copy,
    tensor_copy_predicated,
    tensor_immediate,
    tensor_scalar,
    tensor_tensor,
)
from emu.trainium.memory import dma_load_tiles, dma_store_at, hbm, psum, sbuf
from emu.trainium.sheet import LOAD_QUEUES
from kernels.trainium.context.sizes import ContextTiling
from kernels.trainium.context.state import State
from kernels.trainium.flash_steps import Ring
from kernels.trainium.tiling import BANKS, largest_divisor, part

BATCH = 8  # query tiles normalised together
STORES = ("store_queue", "store_queue2")
# Below any sum of weights, which is 1 at least, and above 0: its inverse squared is finite.
LEAST_SUM = 2.0**-40


def finish(
    state: State, s: ContextTiling, *, transposed: bool, logsumexp: bool, batch: int | None = None
) -> Any:
    """Divides by the row sums; rows that attended to nothing become 0.

    Args:
      state: after every source.
      s: sizes.
      transposed: puts features on partitions, as a projection wants them.
      logsumexp: whether it is wanted.
      batch: query tiles of a head normalised together; None: up to 8.

    Returns:
      HBM `[heads, tiles, rows, value_dim]`, transposed `[..., value_dim, rows]`, in the dtype of
      the queries (16 bits for 8-bit floats); and, if wanted, the log-sum-exp of the scores, float32
      `[heads, tiles / batch, rows, batch]`, -inf where a row attended to nothing.
    """
    shape = (s.value_dim, s.rows) if transposed else (s.rows, s.value_dim)
    count = batch or largest_divisor(s.tiles, BATCH)
    out = hbm(s.items, *shape, dtype=s.output)
    lse = (hbm(s.items // count, s.rows, count),) if logsumexp else ()

    def some(carry: Any, at: Any) -> tuple[Any, None]:
        (out, lse), first = carry, at * count
        total = _columns(state[2], first, count, s, LOAD_QUEUES[0])
        least = tensor_immediate(_column(count, s), total, op="max", value=LEAST_SUM)
        inverse = reciprocal(_column(count, s), least)
        own = sbuf(s.rows, count, s.value_dim, dtype=s.carried, buffers=s.buffers)
        own = dma_load_tiles(own, part(state[0], first, count, 0), queue=LOAD_QUEUES[1])
        banks = Ring(*(psum(*shape, dtype=s.turned or s.output) for _ in range(BANKS // 2)))
        for n in range(count):
            y = _normalised(own[:, n], inverse[:, n : n + 1], banks if transposed else None, s)
            out = dma_store_at(out, y, first + n, queue=STORES[n % 2])
        if lse:
            highest = _columns(state[1], first, count, s, LOAD_QUEUES[0])
            y = _logsumexp(highest, total, least, s)
            lse = (dma_store_at(lse[0], y, at, queue=STORES[1]),)
        return (out, lse), None

    steps = jnp.arange(s.items // count, dtype=jnp.int32)
    (out, lse), _ = lax.scan(some, (out, lse), steps)
    out = out.reshape(s.heads, s.tiles, *shape)
    if not lse:
        return out
    return out, lse[0].reshape(s.heads, s.tiles // count, s.rows, count)


def _column(count: int, s: ContextTiling) -> Any:
    return sbuf(s.rows, count, buffers=s.buffers)


def _columns(x: Any, first: Any, count: int, s: ContextTiling, queue: str) -> Any:
    """A column of each of some query tiles: HBM `[items, rows, 1]` to SBUF `[rows, count]`."""
    tile = sbuf(s.rows, count, 1, buffers=s.buffers)
    return dma_load_tiles(tile, part(x, first, count, 0), queue=queue).reshape(s.rows, count)


def _normalised(own: Any, inverse: Any, banks: Ring | None, s: ContextTiling) -> Any:
    y = sbuf(s.rows, s.value_dim, dtype=s.output, buffers=s.buffers)
    y = tensor_scalar(y, own, inverse, op="multiply")
    if banks is None:
        return y
    turned = banks.give(nc_transpose(banks.take(), y))
    return tensor_copy(sbuf(s.value_dim, s.rows, dtype=s.output, buffers=s.buffers), turned)


def _logsumexp(highest: Any, total: Any, least: Any, s: ContextTiling) -> Any:
    """`scale · maximum + log(sum)`, and -inf by a predicated copy where the sum is 0."""
    count = total.shape[1]
    log = activation(_column(count, s), least, op="log")
    high = tensor_immediate(_column(count, s), highest, op="multiply", value=s.step.scale)
    lse = tensor_tensor(_column(count, s), high, log, op="add")
    empty = sbuf(s.rows, count, dtype=jnp.uint8, buffers=s.buffers)
    empty = tensor_immediate(empty, total, op="equal", value=0.0)
    nothing = memset(_column(count, s), value=-np.inf, engine="gpsimd")
    return tensor_copy_predicated(lse, nothing, empty)
