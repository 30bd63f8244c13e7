"""Multiply-adds on resident tiles, issued by a PE's hardware loop (`@map`), one scalar at a time.

Each callback multiplies a vector by one scalar and adds it to the destination. The destination's
dtype is the accumulator's: float32 for 16-bit weights is the mixed-precision multiply-add
(`@fmachs`), a 16-bit destination rounds after every scalar. Scalars are taken in their order.

A product is rounded to float32 before it is added, here as in the stepper. Of 16-bit operands it is
exact there, so the machine's multiply-add gives the same if it keeps the product whole; whether it
does so of float32 operands is not published.

A GEMV of 12 by 20 weights in float16 on a WSE-3 is 12 callbacks of length 20: 12 cycles load three
descriptors, then each takes 6 + 2 x 3 cycles, 3 being groups of 8 lanes: 12 + 12 x 12 = 156.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import lax

from emu import given
from emu.annotations import KnownInt
from emu.datasheet import Device
from emu.errors import WrongShape
from emu.instruction import Cost, Operand, instruction
from emu.tracing.jaxpr import caller
from emu.wse.pe.isa import SPACE, product, single
from emu.wse.pe.laws import known_part, map_cycles, on_datapath, precision
from emu.wse.spaces import Sram

MOST_STRIDE = 127
SLOW_STRIDES = (4, 7)  # modulo 8

UNROLL = 64  # more terms are a loop, so that XLA compiles them in constant time


def _check_depth(name: str, agrees: bool, table: Sram, vector: Sram) -> None:
    """Raises `WrongShape` where a table has not a row for each element that it meets."""
    if not agrees:
        told = f"{given.described(table)} and {given.described(vector)}"
        raise WrongShape(
            f"{name}: cannot take {told}: the sum runs over another number of elements in each",
            caller(),
        )


def strides_at_full_width(stride: int) -> bool:
    """Whether a vector operand of that stride is one that a PE reads as fast as its neighbours."""
    return 1 <= stride <= MOST_STRIDE and stride % 8 not in SLOW_STRIDES


def accumulate(dst: Sram, n: int, term: Callable[[KnownInt], Sram]) -> Sram:
    """`dst` plus `term(k)`, float32, for each k below `n` in turn, rounding in `dst`'s dtype.

    Unrolled, XLA fuses the sum into one loop that streams the weights from where they are; its own
    reduction first copies a layer's slice of them and takes five times as long.
    """

    def add(k: KnownInt, total: Sram) -> Sram:
        # Rounded after every term, as the datapath writes its sum back: XLA's own reduction would
        # keep it in float32, and add in an order of its own.
        return (single(total) + term(k)).astype(dst.dtype)

    if n > UNROLL:
        return lax.fori_loop(0, n, add, dst)
    total = dst
    for k in range(n):
        total = add(k, total)
    return total


def _map_cost(device: Device, dst: Operand, w: Operand, x: Operand) -> Cost:
    kind = precision(dst.dtype, w.dtype, x.dtype)
    length = dst.shape[-1]
    # A loop adds to one vector, so each row of `dst` is a loop with a set-up of its own.
    loops = dst.size // length
    cycles = loops * map_cycles(device, x.size, length, kind)
    return on_datapath(cycles, 2 * w.size)


@instruction(
    "wse.fmac_map",
    cost=_map_cost,
    reads=(SPACE, SPACE),
    writes=SPACE,
    reads_destination=True,
    adds=True,
)
def fmac_map(dst: Sram, w: Sram, x: Sram) -> Sram:
    """`dst[n] += sum over k of x[k] * w[k, n]`: k callbacks of length n.

    With `dst` `[m, n]` and `w` `[m, k, n]`, m such loops one after the other.
    """

    _check_depth("wse.fmac_map", w.shape[-2:-1] == x.shape, w, x)

    def term(k: KnownInt) -> Sram:
        return product(x[k], w[..., k, :])

    return accumulate(dst, x.shape[0], term)


def _score_cost(
    device: Device,
    dst: Operand,
    k: Operand,
    q: Operand,
    live: Operand,
) -> Cost:
    slots = known_part("wse.score_map", "live", live, k.shape[1])
    rows, m = q.shape
    kind = precision(dst.dtype, k.dtype, q.dtype)
    cycles = map_cycles(device, q.size, slots, kind)
    key_nbytes = m * k.dtype.itemsize
    scores_nbytes = rows * dst.dtype.itemsize
    moved = {
        "sram_read": q.nbytes + slots * key_nbytes,
        "sram_write": slots * scores_nbytes,
    }
    return on_datapath(cycles, 2 * slots * q.size, moved_bytes=moved)


@instruction(
    "wse.score_map",
    cost=_score_cost,
    reads=(SPACE, SPACE, "count"),
    writes=SPACE,
    reads_destination=True,
    adds=True,
)
def score_map(dst: Sram, k: Sram, q: Sram, live: KnownInt) -> Sram:
    """Adds `q . k` to the first `live` slots: a callback of length `live` per element of `q`.

    Args:
      dst: `[rows, slots]`; slots beyond `live` keep their content.
      k: `[m, slots]`, one column a cached token.
      q: `[rows, m]`, one row a query head.
      live: known number of slots in use on this PE.
    """

    _check_depth("wse.score_map", k.shape[0] == q.shape[-1], k, q)

    def term(element: KnownInt) -> Sram:
        return product(q[:, element, None], k[None, element])

    summed = accumulate(dst, q.shape[1], term)
    is_live = jnp.arange(k.shape[1])[None] < live
    # A tile of `live` slots would have a shape that XLA does not know; all slots are worked out,
    # and those beyond are dropped.
    return jnp.where(is_live, summed, dst)


def _value_cost(
    device: Device,
    dst: Operand,
    v: Operand,
    p: Operand,
    live: Operand,
    *,
    stride: int | None = None,
) -> Cost:
    slots_axis = 0 if stride is None else 1
    slots = known_part("wse.value_map", "live", live, v.shape[slots_axis])
    rows = p.shape[0]
    m = v.shape[1 - slots_axis]
    callbacks = rows * slots
    kind = precision(dst.dtype, v.dtype, p.dtype)
    cycles = map_cycles(device, callbacks, m, kind)
    value_nbytes = m * v.dtype.itemsize
    weights_nbytes = rows * p.dtype.itemsize
    slot_nbytes = value_nbytes + weights_nbytes
    moved = {"sram_read": slots * slot_nbytes, "sram_write": dst.nbytes}
    return on_datapath(cycles, 2 * callbacks * m, moved_bytes=moved)


@instruction(
    "wse.value_map",
    cost=_value_cost,
    reads=(SPACE, SPACE, "count"),
    writes=SPACE,
    reads_destination=True,
    adds=True,
)
def value_map(
    dst: Sram, v: Sram, p: Sram, live: KnownInt, *, stride: int | None = None
) -> Sram:
    """`dst[r] += sum over live slots of p[r, slot] * v[slot]`: a callback of length m for each.

    With a stride a value's elements are that far apart, as those of a token among keys are, and go
    at full width by strides of 0, 1, 2, 3, 5 and 6 modulo 8; a descriptor's stride has 8 bits
    (Cerebras SDK documentation, data structure descriptors and memory banks).

    Args:
      dst: `[rows, m]`.
      v: `[slots, m]`, one row a cached token; with a stride `[m, slots]`, part of rows that are as
        long as it.
      p: `[rows, slots]`.
      live: known number of slots in use on this PE; the others do not contribute.
      stride: elements from one of a value to the next; None: they are neighbours in a row.
    """
    if stride is not None and not strides_at_full_width(stride):
        given.refuse(
            f"wse.value_map: stride is {stride}, must be 1 to {MOST_STRIDE} and not 4 or 7 modulo 8"
        )
    if stride is not None:
        v = v.T
    _check_depth("wse.value_map", v.shape[0] == p.shape[-1], v, p)

    def term(slot: KnownInt) -> Sram:
        weighed = product(p[:, slot, None], v[None, slot])
        # Chosen, not multiplied by 0: a slot that nobody has written holds NaN, and 0 times that is
        # NaN.
        return jnp.where(slot < live, weighed, 0.0)

    return accumulate(dst, v.shape[0], term)


__all__ = ["fmac_map", "score_map", "strides_at_full_width", "value_map"]
