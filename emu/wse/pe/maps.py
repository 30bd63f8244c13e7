"""Multiply-adds on resident tiles, issued by a PE's hardware loop (`@map`), one scalar at a time.

Each callback multiplies a vector by one scalar and adds it to the destination. The destination's
dtype is the accumulator's: float32 for 16-bit weights is the mixed-precision multiply-add
(`@fmachs`), a 16-bit destination rounds after every scalar. Scalars are taken in their order.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax

from emu.datasheet import Device
from emu.instruction import Cost, Operand, instruction
from emu.wse.pe.isa import SPACE, single
from emu.wse.pe.laws import known, map_cycles, on_datapath, precision

UNROLL = 64  # more terms are a loop, so that XLA compiles them in constant time


def accumulate(dst: Any, n: int, term: Callable[[Any], Any]) -> Any:
    """`dst` plus `term(k)`, float32, for each k below `n` in turn, rounding in `dst`'s dtype.

    Unrolled, XLA fuses the sum into one loop that streams the weights from where they are; its own
    reduction first copies a layer's slice of them and takes five times as long.
    """

    def add(k: Any, acc: Any) -> Any:
        return (single(acc) + term(k)).astype(dst.dtype)

    if n > UNROLL:
        return lax.fori_loop(0, n, add, dst)
    for k in range(n):
        dst = add(k, dst)
    return dst


def _map_cost(device: Device, dst: Operand, w: Operand, x: Operand) -> Cost:
    kind = precision(dst.dtype, w.dtype, x.dtype)
    loops = dst.size // dst.shape[-1]
    return on_datapath(
        loops * map_cycles(device, x.size, dst.shape[-1], kind), 2 * w.size
    )


@instruction(
    "wse.fmac_map",
    cost=_map_cost,
    reads=(SPACE, SPACE),
    writes=SPACE,
    reads_destination=True,
)
def fmac_map(dst: Any, w: Any, x: Any) -> Any:
    """`dst[n] += sum over k of x[k] * w[k, n]`: k callbacks of length n.

    With `dst` `[m, n]` and `w` `[m, k, n]`, m such loops one after the other.
    """
    return accumulate(dst, x.shape[0], lambda k: single(x[k]) * single(w[..., k, :]))


def _score_cost(
    device: Device, dst: Operand, k: Operand, q: Operand, live: Operand
) -> Cost:
    n = known(live)
    cycles = map_cycles(device, q.size, n, precision(dst.dtype, k.dtype, q.dtype))
    moved = {
        "sram_read": q.nbytes + n * q.shape[1] * k.dtype.itemsize,
        "sram_write": n * q.shape[0] * dst.dtype.itemsize,
    }
    return on_datapath(cycles, 2 * n * q.size, moved_bytes=moved)


@instruction(
    "wse.score_map",
    cost=_score_cost,
    reads=(SPACE, SPACE, "count"),
    writes=SPACE,
    reads_destination=True,
)
def score_map(dst: Any, k: Any, q: Any, live: Any) -> Any:
    """Adds `q . k` to the first `live` slots: a callback of length `live` per element of `q`.

    Args:
      dst: `[rows, slots]`; slots beyond `live` keep their content.
      k: `[m, slots]`, one column a cached token.
      q: `[rows, m]`, one row a query head.
      live: known number of slots in use on this PE.
    """
    term = lambda j: single(q)[:, j, None] * single(k)[None, j]  # noqa: E731
    summed = accumulate(dst, q.shape[1], term)
    return jnp.where(jnp.arange(k.shape[1])[None] < live, summed, dst)


def _value_cost(
    device: Device, dst: Operand, v: Operand, p: Operand, live: Operand
) -> Cost:
    n = known(live)
    callbacks = p.shape[0] * n
    cycles = map_cycles(
        device, callbacks, v.shape[1], precision(dst.dtype, v.dtype, p.dtype)
    )
    moved = {
        "sram_read": n
        * (v.shape[1] * v.dtype.itemsize + p.shape[0] * p.dtype.itemsize),
        "sram_write": dst.nbytes + 0 * n,
    }
    return on_datapath(cycles, 2 * callbacks * v.shape[1], moved_bytes=moved)


@instruction(
    "wse.value_map",
    cost=_value_cost,
    reads=(SPACE, SPACE, "count"),
    writes=SPACE,
    reads_destination=True,
)
def value_map(dst: Any, v: Any, p: Any, live: Any) -> Any:
    """`dst[r] += sum over live slots of p[r, slot] * v[slot]`: a callback of length m for each.

    Args:
      dst: `[rows, m]`.
      v: `[slots, m]`, one row a cached token.
      p: `[rows, slots]`.
      live: known number of slots in use on this PE; the others do not contribute.
    """

    def term(slot: Any) -> Any:
        return jnp.where(
            slot < live, single(p)[:, slot, None] * single(v)[None, slot], 0.0
        )

    return accumulate(dst, v.shape[0], term)


__all__ = ["fmac_map", "score_map", "value_map"]
