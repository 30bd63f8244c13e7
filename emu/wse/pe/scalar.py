"""A PE's scalar code and reductions: sums, maxima, exponentials, table look-up, arg-max."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from emu.datasheet import Device
from emu.instruction import Cost, Operand, instruction
from emu.wse.pe.isa import SPACE, single
from emu.wse.pe.laws import issue_cycles, known, loop_cycles, move_cycles, on_datapath

LOWEST = float(jnp.finfo(jnp.float32).min)


def _fold_setup(device: Device) -> Any:
    return 2 * device.descriptor_load_cycles + issue_cycles(device)


def _square_sum_cost(device: Device, dst: Operand, x: Operand) -> Cost:
    cycles = dst.size * _fold_setup(device) + device.dot_cycles * x.size
    return on_datapath(cycles, 2 * x.size)


@instruction("wse.square_sum", cost=_square_sum_cost, reads=(SPACE,), writes=SPACE)
def square_sum(dst: Any, x: Any) -> Any:
    """Sum of squares of each row of `x` (`[n]` to `[1]`, or `[rows, n]` to `[rows]`)."""
    return (single(x) ** 2).sum(-1).reshape(dst.shape).astype(dst.dtype)


def _fold_cost(
    device: Device, dst: Operand, x: Operand, live: Operand, *, op: str
) -> Cost:
    n = dst.size * known(live)
    moved = {"sram_read": n * x.dtype.itemsize, "sram_write": dst.nbytes + 0 * n}
    cycles = dst.size * _fold_setup(device) + device.fold_cycles * n
    return on_datapath(cycles, n, moved_bytes=moved)


@instruction("wse.fold", cost=_fold_cost, reads=(SPACE, "count"), writes=SPACE)
def fold(dst: Any, x: Any, live: Any, *, op: str) -> Any:
    """Sum or max of the first `live` elements of each row.

    Args:
      dst: `[rows]`.
      x: `[rows, slots]`; slots beyond `live` may hold anything.
      live: known number of elements that count.
      op: `"add"` (0 where nothing is live) or `"max"` (then the lowest float32).
    """
    empty = 0.0 if op == "add" else LOWEST
    kept = jnp.where(jnp.arange(x.shape[1])[None] < live, single(x), empty)
    return (kept.sum(1) if op == "add" else kept.max(1)).astype(dst.dtype)


def _exp_cost(
    device: Device,
    dst: Operand,
    x: Operand,
    top: Operand,
    live: Operand,
    *,
    scale: float,
) -> Cost:
    n = x.shape[0] * known(live)
    each = device.exp_cycles + 2 * device.scalar_cycles
    moved = {"sram_read": n * x.dtype.itemsize, "sram_write": n * dst.dtype.itemsize}
    return on_datapath(loop_cycles(device, n, each), 3 * n, moved_bytes=moved)


@instruction("wse.exp", cost=_exp_cost, reads=(SPACE, SPACE, "count"), writes=SPACE)
def exp(dst: Any, x: Any, top: Any, live: Any, *, scale: float) -> Any:
    """`exp(scale * (x[r] - top[r]))` of the first `live` slots, a scalar loop; 0 beyond.

    Args:
      dst, x: `[rows, slots]`.
      top: `[rows]`, subtracted first.
      live: known number of slots in use.
      scale: factor of the exponent.
    """
    raised = jnp.exp(
        (single(x) - jnp.broadcast_to(single(top)[:, None], x.shape)) * scale
    )
    used = jnp.arange(x.shape[1])[None] < live
    return jnp.where(used, raised, 0.0).astype(dst.dtype)


def _silu_cost(device: Device, dst: Operand, x: Operand, *, count: int | None) -> Cost:
    n = x.size if count is None else count
    each = device.exp_cycles + device.divide_cycles + 2 * device.scalar_cycles
    moved = {"sram_read": n * x.dtype.itemsize, "sram_write": n * dst.dtype.itemsize}
    return on_datapath(loop_cycles(device, n, each), 4 * n, moved_bytes=moved)


@instruction("wse.silu", cost=_silu_cost, reads=(SPACE,), writes=SPACE)
def _silu(dst: Any, x: Any, *, count: int | None) -> Any:
    if count is None:
        return jax.nn.silu(single(x)).astype(dst.dtype)
    here = jnp.arange(x.size) < count
    return jnp.where(here, jax.nn.silu(single(x)), single(x)).astype(dst.dtype)


def silu(dst: Any, x: Any, count: int | None = None) -> Any:
    """`x / (1 + exp(-x))`, a scalar loop: negate, exponential, add, divide.

    Args:
      dst: tile like `x`.
      x: float tile.
      count: only of the first so many elements of an `[n]` that `dst` itself holds; default all.
    """
    return _silu(dst, x, count=count)


def _rsqrt_cost(
    device: Device, dst: Operand, x: Operand, *, n: int, eps: float
) -> Cost:
    """A divide, an add, a square root and a reciprocal."""
    each = device.sqrt_cycles + 2 * device.divide_cycles + device.scalar_cycles
    return on_datapath(x.size * each, 4 * x.size)


@instruction("wse.rsqrt_mean", cost=_rsqrt_cost, reads=(SPACE,), writes=SPACE)
def rsqrt_mean(dst: Any, x: Any, *, n: int, eps: float) -> Any:
    """`1 / sqrt(x / n + eps)` of each scalar of `x`, a sum of `n` squares."""
    return (1.0 / jnp.sqrt(single(x) * (1.0 / n) + eps)).astype(dst.dtype)


def _reciprocal_cost(device: Device, dst: Operand, x: Operand) -> Cost:
    return on_datapath(x.size * device.divide_cycles, x.size)


@instruction("wse.reciprocal", cost=_reciprocal_cost, reads=(SPACE,), writes=SPACE)
def reciprocal(dst: Any, x: Any) -> Any:
    """`1 / x` of each scalar of `x`."""
    return (1.0 / single(x)).astype(dst.dtype)


def _lookup_cost(
    device: Device, dst: Operand, table: Operand, token: Operand, first: Operand
) -> Cost:
    """A compare, a branch and one strided vector operation, whether it copies or fills."""
    check = 2 * device.scalar_cycles + device.branch_cycles
    moved = {"sram_read": token.nbytes + dst.nbytes, "sram_write": dst.nbytes}
    return on_datapath(check + move_cycles(device, dst.nbytes), moved_bytes=moved)


@instruction(
    "wse.lookup", cost=_lookup_cost, reads=(SPACE, SPACE, "register"), writes=SPACE
)
def lookup(dst: Any, table: Any, token: Any, first: Any) -> Any:
    """Column `token - first` of `table`, or zeros where another PE holds it.

    Args:
      dst: `[k]`.
      table: `[k, n]`, the columns of tokens `first` to `first + n - 1`.
      token: `int32[1]` in SRAM: data, so the cost must not depend on it.
      first: known integer.
    """
    at = token[0] - first
    column = lax.dynamic_index_in_dim(table, at, 1, keepdims=False)
    return jnp.where((at >= 0) & (at < table.shape[1]), column, 0).astype(dst.dtype)


def _argmax_cost(
    device: Device,
    top: Operand,
    at: Operand,
    x: Operand,
    valid: Operand,
    first: Operand,
) -> Cost:
    n = known(valid)
    moved = {"sram_read": n * x.dtype.itemsize, "sram_write": 8 + 0 * n}
    each = device.scalar_cycles + device.branch_cycles
    return on_datapath(loop_cycles(device, n, each), n, moved_bytes=moved)


@instruction(
    "wse.argmax",
    cost=_argmax_cost,
    reads=(SPACE, "count", "register"),
    writes=(SPACE, SPACE),
)
def argmax(top: Any, at: Any, x: Any, valid: Any, first: Any) -> Any:
    """The largest of the first `valid` elements and where it is; the lowest index wins a tie.

    Args:
      top: `float32[1]`, the value; minus infinity where nothing is valid.
      at: `int32[1]`, its index plus `first`.
      x: `[n]`.
      valid: known number of elements that count; the rest is padding.
      first: known index of `x[0]` in the whole vector.
    """
    kept = jnp.where(jnp.arange(x.shape[0]) < valid, single(x), -jnp.inf)
    best = jnp.argmax(kept).astype(jnp.int32)
    return kept.max().reshape(1), (first + best).reshape(1)


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
