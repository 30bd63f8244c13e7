"""A PE's scalar code and reductions: sums, maxima, exponentials, table look-up, arg-max."""

import jax
import jax.numpy as jnp
from jax import lax

from emu import given, numerics
from emu.annotations import KnownInt
from emu.datasheet import Device
from emu.instruction import Cost, Operand, instruction
from emu.wse.pe.isa import SPACE, single
from emu.wse.pe.laws import (
    Count,
    issue_cycles,
    known_part,
    load_cycles,
    loop_cycles,
    move_cycles,
    on_datapath,
)
from emu.wse.spaces import Sram

# Not minus infinity: a softmax subtracts maxima from one another, and of two infinities that is
# NaN.
LOWEST = float(jnp.finfo(jnp.float32).min)
PAIR_NBYTES = 8  # of a value and its index


def _before_a_reduction(device: Device) -> int:
    return load_cycles(device, 2) + issue_cycles(device)


# --- reductions ---


def _square_sum_cost(device: Device, dst: Operand, x: Operand) -> Cost:
    # A reduction leaves one scalar, so each row is an operation of its own.
    rows = dst.size
    cycles = rows * _before_a_reduction(device) + device.dot_cycles * x.size
    return on_datapath(cycles, 2 * x.size)


@instruction("wse.square_sum", cost=_square_sum_cost, reads=(SPACE,), writes=SPACE)
def square_sum(dst: Sram, x: Sram) -> Sram:
    """Sum of squares of each row of `x` (`[n]` to `[1]`, or `[rows, n]` to `[rows]`)."""
    squares = numerics.rounded(single(x) ** 2)
    sums = squares.sum(-1)
    return sums.reshape(dst.shape).astype(dst.dtype)


def _fold_cost(
    device: Device,
    dst: Operand,
    x: Operand,
    live: Operand,
    *,
    op: str,
) -> Cost:
    rows = dst.size
    n = rows * known_part("wse.fold", "live", live, x.shape[1])
    cycles = rows * _before_a_reduction(device) + device.fold_cycles * n
    moved = {"sram_read": n * x.dtype.itemsize, "sram_write": dst.nbytes}
    return on_datapath(cycles, n, moved_bytes=moved)


@instruction("wse.fold", cost=_fold_cost, reads=(SPACE, "count"), writes=SPACE)
def fold(dst: Sram, x: Sram, live: KnownInt, *, op: str) -> Sram:
    """Sum or max of the first `live` elements of each row.

    Args:
      dst: `[rows]`.
      x: `[rows, slots]`; slots beyond `live` may hold anything.
      live: known number of elements that count.
      op: `"add"` (0 where nothing is live) or `"max"` (then the lowest float32).
    """
    adds = given.one_of("wse.fold: op", op, ("add", "max")) == "add"
    is_live = jnp.arange(x.shape[1])[None] < live
    neutral = 0.0 if adds else LOWEST
    kept = jnp.where(is_live, single(x), neutral)
    # XLA's own maximum may lose a NaN on a CPU, and with it the sign of a tile that nobody wrote.
    folded = kept.sum(1) if adds else numerics.largest(kept, 1)
    return folded.astype(dst.dtype)


def _argmax_cost(
    device: Device,
    top: Operand,
    at: Operand,
    x: Operand,
    valid: Operand,
    first: Operand,
) -> Cost:
    n = known_part("wse.argmax", "valid", valid, x.shape[0])
    compare_cycles = device.scalar_cycles + device.branch_cycles
    moved = {"sram_read": n * x.dtype.itemsize, "sram_write": PAIR_NBYTES}
    cycles = loop_cycles(device, n, compare_cycles)
    return on_datapath(cycles, n, moved_bytes=moved)


@instruction(
    "wse.argmax",
    cost=_argmax_cost,
    reads=(SPACE, "count", "register"),
    writes=(SPACE, SPACE),
)
def argmax(
    top: Sram,
    at: Sram,
    x: Sram,
    valid: KnownInt,
    first: KnownInt,
) -> tuple[Sram, Sram]:
    """The largest of the first `valid` elements and where it is; the lowest index wins a tie.

    Args:
      top: `float32[1]`, the value; minus infinity where nothing is valid.
      at: `int32[1]`, its index plus `first`.
      x: `[n]`.
      valid: known number of elements that count; the rest is padding.
      first: known index of `x[0]` in the whole vector.
    """
    is_valid = jnp.arange(x.shape[0]) < valid
    # Lower than any logit, so that padding wins no tie either.
    kept = jnp.where(is_valid, single(x), -jnp.inf)
    best = jnp.argmax(kept).astype(jnp.int32)
    index = jnp.add(first, best)
    return kept.max().reshape(1), index.reshape(1)


# --- functions, element by element ---


def _moved(n: Count, dst: Operand, x: Operand) -> dict[str, Count]:
    """Bytes of `n` elements taken from `x` and written to `dst`."""
    return {
        "sram_read": n * x.dtype.itemsize,
        "sram_write": n * dst.dtype.itemsize,
    }


def _exp_cost(
    device: Device,
    dst: Operand,
    x: Operand,
    top: Operand,
    live: Operand,
    *,
    scale: float,
) -> Cost:
    """A subtract and a multiply before each exponential."""
    n = x.shape[0] * known_part("wse.exp", "live", live, x.shape[1])
    each_cycles = device.exp_cycles + 2 * device.scalar_cycles
    cycles = loop_cycles(device, n, each_cycles)
    return on_datapath(cycles, 3 * n, moved_bytes=_moved(n, dst, x))


@instruction("wse.exp", cost=_exp_cost, reads=(SPACE, SPACE, "count"), writes=SPACE)
def exp(dst: Sram, x: Sram, top: Sram, live: KnownInt, *, scale: float) -> Sram:
    """`exp(scale * (x[r] - top[r]))` of the first `live` slots, a scalar loop; 0 beyond.

    Args:
      dst, x: `[rows, slots]`.
      top: `[rows]`, subtracted first.
      live: known number of slots in use.
      scale: factor of the exponent.
    """
    values = single(x)
    tops = jnp.broadcast_to(single(top)[:, None], x.shape)
    # No more than 0 for a live slot, so `exp` does not overflow whatever the scores are.
    below = numerics.rounded(values - tops)
    raised = jnp.exp(numerics.rounded(below * scale))
    is_live = jnp.arange(x.shape[1])[None] < live
    return jnp.where(is_live, raised, 0.0).astype(dst.dtype)


def _silu_cost(device: Device, dst: Operand, x: Operand, *, count: int | None) -> Cost:
    """Negate, exponential, add, divide."""
    n = x.size if count is None else count
    each_cycles = device.exp_cycles + device.divide_cycles + 2 * device.scalar_cycles
    cycles = loop_cycles(device, n, each_cycles)
    return on_datapath(cycles, 4 * n, moved_bytes=_moved(n, dst, x))


@instruction("wse.silu", cost=_silu_cost, reads=(SPACE,), writes=SPACE)
def _silu(dst: Sram, x: Sram, *, count: int | None) -> Sram:
    if count is None:
        return jax.nn.silu(single(x)).astype(dst.dtype)
    is_first = jnp.arange(x.size) < count
    activated = jax.nn.silu(single(x))
    result = jnp.where(is_first, activated, single(x))
    return result.astype(dst.dtype)


def silu(dst: Sram, x: Sram, count: int | None = None) -> Sram:
    """`x / (1 + exp(-x))`, a scalar loop: negate, exponential, add, divide.

    Args:
      dst: tile like `x`.
      x: float tile.
      count: only of the first so many elements of an `[n]` that `dst` itself holds; default all.
    """
    if count is not None:
        count = given.whole("wse.silu: count", count, 0, x.size)
    return _silu(dst, x, count=count)


def _rsqrt_cost(
    device: Device,
    dst: Operand,
    x: Operand,
    *,
    n: int,
    eps: float,
) -> Cost:
    """A divide, an add, a square root and a reciprocal."""
    each_cycles = device.sqrt_cycles + 2 * device.divide_cycles + device.scalar_cycles
    return on_datapath(x.size * each_cycles, 4 * x.size)


@instruction("wse.rsqrt_mean", cost=_rsqrt_cost, reads=(SPACE,), writes=SPACE)
def rsqrt_mean(dst: Sram, x: Sram, *, n: int, eps: float) -> Sram:
    """`1 / sqrt(x / n + eps)` of each scalar of `x`, a sum of `n` squares."""
    given.whole("wse.rsqrt_mean: n", n, 1)
    mean = numerics.rounded(single(x) * (1.0 / n))
    root = numerics.rounded(jnp.sqrt(numerics.rounded(mean + eps)))
    return (1.0 / root).astype(dst.dtype)


def _reciprocal_cost(device: Device, dst: Operand, x: Operand) -> Cost:
    return on_datapath(x.size * device.divide_cycles, x.size)


@instruction("wse.reciprocal", cost=_reciprocal_cost, reads=(SPACE,), writes=SPACE)
def reciprocal(dst: Sram, x: Sram) -> Sram:
    """`1 / x` of each scalar of `x`."""
    return (1.0 / single(x)).astype(dst.dtype)


# --- look-up ---


def _lookup_cost(
    device: Device,
    dst: Operand,
    table: Operand,
    token: Operand,
    first: Operand,
) -> Cost:
    """A compare, a branch and one strided vector operation, whether it copies or fills.

    A number held as a float is converted first.
    """
    simple = 2 + (token.dtype != jnp.dtype("int32"))
    check_cycles = simple * device.scalar_cycles + device.branch_cycles
    cycles = check_cycles + move_cycles(device, dst.nbytes)
    moved = {"sram_read": token.nbytes + dst.nbytes, "sram_write": dst.nbytes}
    return on_datapath(cycles, moved_bytes=moved)


@instruction(
    "wse.lookup",
    cost=_lookup_cost,
    reads=(SPACE, SPACE, "register"),
    writes=SPACE,
)
def lookup(dst: Sram, table: Sram, token: Sram, first: KnownInt) -> Sram:
    """Column `token - first` of `table`, or zeros where another PE holds it.

    Args:
      dst: `[k]`.
      table: `[k, n]`, the columns of tokens `first` to `first + n - 1`.
      token: `[1]` in SRAM, a whole number as int32 or float32: data, so the cost must not depend
        on it.
      first: known integer.
    """
    given.one_of("wse.lookup: dtype of token", token.dtype.name, ("int32", "float32"))
    whole = jnp.nan_to_num(token) if token.dtype == jnp.float32 else token
    column_index = whole[0].astype(jnp.int32) - first
    # Of a token that another PE holds this is some column, as JAX brings any index into range.
    column = lax.dynamic_index_in_dim(table, column_index, 1, keepdims=False)
    is_here = (column_index >= 0) & (column_index < table.shape[1])
    return jnp.where(is_here, column, 0).astype(dst.dtype)


__all__ = [
    "argmax",
    "exp",
    "fold",
    "lookup",
    "reciprocal",
    "rsqrt_mean",
    "silu",
    "square_sum",
]
