"""Reductions, scans and statistics over the free dimension, on the Vector Engine.

N is elements per partition, MIN the minimum interval. Published intervals (NKI ISA reference, SDK
2.26.1): tensor_reduce N, or N/2 if both dtypes are bfloat16 and the operator add or max;
tensor_scalar_reduce max(MIN, N) + MIN; tensor_tensor_scan 2N; bn_stats N; bn_aggr 13N/3.
exponential has no formula: four times the Scalar Engine's rate (architecture guide of
NeuronCore-v4, SDK 2.32) makes N/4, plus MIN to read the sum out, as tensor_scalar_reduce does.
"""

from typing import Any

import jax.numpy as jnp
from jax import lax

from emu import given, numerics
from emu.annotations import Tile
from emu.datasheet import Device
from emu.instruction import Cost, Operand, instruction, limit
from emu.trainium.datasheets.limits import BN_STATS_ELEMENTS
from emu.trainium.engines.cost import (
    ON_CHIP,
    TWO_ON_CHIP,
    compute,
    is_bfloat16,
    needs,
    one_in_psum,
)
from emu.trainium.engines.memory import EITHER, f32
from emu.trainium.engines.operators import (
    REDUCE,
    REDUCE_BITS,
    alike,
    check,
    column,
    combine,
    immediate,
    named,
    reduce_free,
    two_dimensions,
)
from emu.trainium.spaces import OnChip


def _reducing(
    device: Device,
    name: str,
    cycles: float,
    dst: Operand,
    src: Operand,
    flops_each: int = 1,
) -> Cost:
    """The cost of an instruction with one source and one result, on the Vector Engine."""
    flops = flops_each * src.size
    return compute(device, name, "vector", cycles, (dst,), (src,), flops=flops)


def _reduce_cost(
    device: Device, dst: Operand, src: Operand, *, op: str, **_: bool
) -> Cost:
    twice_as_fast = is_bfloat16(src, dst) and op in ("add", "max")
    cycles = src.free / 2 if twice_as_fast else src.free
    return _reducing(device, "trn.tensor_reduce", cycles, dst, src)


@instruction("trn.tensor_reduce", cost=_reduce_cost, reads=(EITHER,), writes=ON_CHIP)
def tensor_reduce(dst: OnChip, src: OnChip, *, op: str, negate: bool = False) -> OnChip:
    """`dst[p, ..., 1] = op` over the last dimension, in float32; `negate` changes its sign.

    `op` is one of `operators.REDUCE`, or of integers one of `operators.REDUCE_BITS`.
    """
    name = "trn.tensor_reduce"
    reduce = named({**REDUCE, **REDUCE_BITS}, name, "op", op)
    if op in REDUCE_BITS:
        check(name, [op], dst, src)
        if negate:
            given.refuse(f"{name}: negate is True, must be False for {op}")
        return reduce(src, axis=-1, keepdims=True).astype(dst.dtype)
    reduced = reduce(f32(src), axis=-1, keepdims=True)
    return numerics.cast(-reduced if negate else reduced, dst.dtype)


def _reduced_too(
    device: Device,
    name: str,
    writes: tuple[Operand, Operand],
    reads: tuple[Operand, ...],
) -> Cost:
    src = reads[0]
    least = device.min_interval_cycles
    # Two instructions in one: the stream, then the register that holds the reduction is read out.
    # 512 elements take 512 + 64 cycles, 10 of them 64 + 64.
    cycles = max(least, src.free) + least
    return compute(device, name, "vector", cycles, writes, reads, flops=2 * src.size)


def _scalar_reduce_cost(
    device: Device,
    dst: Operand,
    total: Operand,
    src: Operand,
    scalar: Operand,
    **_: Any,
) -> Cost:
    name = "trn.tensor_scalar_reduce"
    return _reduced_too(device, name, (dst, total), (src, scalar))


@instruction(
    "trn.tensor_scalar_reduce",
    cost=_scalar_reduce_cost,
    reads=(EITHER, EITHER),
    writes=TWO_ON_CHIP,
)
def tensor_scalar_reduce(
    dst: OnChip, total: OnChip, src: OnChip, scalar: OnChip, *, op: str, reduce: str
) -> tuple[OnChip, OnChip]:
    """`dst = src op scalar` and `total[p, 1] = reduce` of it over the free dimensions.

    `scalar` is `[p, 1]`; `reduce` is add, multiply, max or min; all in float32.
    """
    name = "trn.tensor_scalar_reduce"
    check(name, [op], dst, src, scalar)
    result = combine(name, op, src, column(scalar, src))
    reduced = reduce_free(name, reduce, result)
    return numerics.cast(result, dst.dtype), numerics.cast(reduced, total.dtype)


def _immediate_reduce_cost(
    device: Device, dst: Operand, total: Operand, src: Operand, **_: Any
) -> Cost:
    return _reduced_too(device, "trn.tensor_immediate_reduce", (dst, total), (src,))


@instruction(
    "trn.tensor_immediate_reduce",
    cost=_immediate_reduce_cost,
    reads=(EITHER,),
    writes=TWO_ON_CHIP,
)
def tensor_immediate_reduce(
    dst: OnChip,
    total: OnChip,
    src: OnChip,
    *,
    op: str,
    value: float,
    reduce: str,
    reverse: bool = False,
) -> tuple[OnChip, OnChip]:
    """`dst = src op value` and `total[p, 1] = reduce` of it: `tensor_scalar_reduce` so."""
    name = "trn.tensor_immediate_reduce"
    check(name, [op], dst, src)
    number = immediate(name, value, op, src)
    result = combine(name, op, src, number, reverse=reverse)
    reduced = reduce_free(name, reduce, result)
    return numerics.cast(result, dst.dtype), numerics.cast(reduced, total.dtype)


# --- scans ---


def _scan(device: Device, name: str, dst: Operand, *reads: Operand) -> Cost:
    a, b = reads[:2]
    one_in_psum(name, a, b)
    cycles = 2 * a.free
    return compute(device, name, "vector", cycles, (dst,), reads, flops=2 * a.size)


def _scanned(
    name: str,
    dst: OnChip,
    a: OnChip,
    b: OnChip,
    first: Tile,
    op0: str,
    op1: str,
    reverse0: bool,
    reverse1: bool,
) -> OnChip:
    """The states from `first[p]` on, one of each column."""
    alike(name, a, b)
    two_dimensions(name, a)

    def step(state: Tile, columns: tuple[Tile, Tile]) -> tuple[Tile, Tile]:
        a_column, b_column = columns
        state = combine(name, op0, a_column, state, reverse=reverse0)
        state = combine(name, op1, state, b_column, reverse=reverse1)
        return state, state

    # Column by column, since each state needs the one before; partitions go side by side, so the
    # leading dimension of the scan is that of the columns.
    _, states = lax.scan(step, first, (f32(a).T, f32(b).T))
    return numerics.cast(states.T, dst.dtype)


def _scan_cost(device: Device, *operands: Operand, **_: Any) -> Cost:
    return _scan(device, "trn.tensor_tensor_scan", *operands)


@instruction(
    "trn.tensor_tensor_scan",
    cost=_scan_cost,
    reads=(EITHER, EITHER, EITHER),
    writes=ON_CHIP,
)
def tensor_tensor_scan(
    dst: OnChip,
    a: OnChip,
    b: OnChip,
    initial: OnChip,
    *,
    op0: str,
    op1: str,
    reverse0: bool = False,
    reverse1: bool = False,
) -> OnChip:
    """`dst[:, i] = (a[:, i] op0 dst[:, i-1]) op1 b[:, i]`, from `initial[p, 1]`, in float32.

    At most one of `a` and `b`, both `[p, n]`, is in PSUM; `reverse0` and `reverse1` swap sides.
    """
    name = "trn.tensor_tensor_scan"
    check(name, [op0, op1], dst, a, b, initial)
    first = column(f32(initial), a)[:, 0]
    return _scanned(name, dst, a, b, first, op0, op1, reverse0, reverse1)


def _immediate_scan_cost(device: Device, *operands: Operand, **_: Any) -> Cost:
    return _scan(device, "trn.tensor_tensor_scan_immediate", *operands)


@instruction(
    "trn.tensor_tensor_scan_immediate",
    cost=_immediate_scan_cost,
    reads=(EITHER, EITHER),
    writes=ON_CHIP,
)
def tensor_tensor_scan_immediate(
    dst: OnChip,
    a: OnChip,
    b: OnChip,
    *,
    initial: float,
    op0: str,
    op1: str,
    reverse0: bool = False,
    reverse1: bool = False,
) -> OnChip:
    """`dst` is `tensor_tensor_scan` from an immediate, the same in every partition."""
    name = "trn.tensor_tensor_scan_immediate"
    check(name, [op0, op1], dst, a, b)
    # Of the tile's own values, so that under `vmap` it varies over the mesh as they do.
    first = jnp.full_like(f32(a)[:, 0], initial)
    return _scanned(name, dst, a, b, first, op0, op1, reverse0, reverse1)


# --- statistics ---


def _bn_stats_cost(device: Device, dst: Operand, src: Operand) -> Cost:
    name = "trn.bn_stats"
    limit(name, "elements per partition", src.free, BN_STATS_ELEMENTS)
    return _reducing(device, name, src.free, dst, src, flops_each=3)


@instruction("trn.bn_stats", cost=_bn_stats_cost, reads=(EITHER,), writes=ON_CHIP)
def bn_stats(dst: OnChip, src: OnChip) -> OnChip:
    """`dst[p, 6]`: count, mean and variance times count of even elements, then of odd ones.

    `src` has at most 512 elements a partition; float32 arithmetic.
    """
    flat = f32(src).reshape(src.shape[0], -1)
    even = _statistics(flat[:, 0::2])
    odd = _statistics(flat[:, 1::2])
    return numerics.cast(jnp.concatenate([even, odd], axis=1), dst.dtype)


def _statistics(values: Tile) -> Tile:
    """Count, mean and sum of squares about it, of each row: `[rows, 3]`."""
    rows, count = values.shape
    # A tile of one element has no odd ones, and their mean would be 0 / 0.
    if not count:
        return jnp.zeros((rows, 3), values.dtype)
    total = jnp.sum(values, axis=1, keepdims=True)
    mean = numerics.quotient(total, count)
    squares = jnp.sum(_squared(values - mean), axis=1, keepdims=True)
    return jnp.concatenate([jnp.full_like(mean, count), mean, squares], axis=1)


def _squared(differences: Tile) -> Tile:
    return numerics.rounded(jnp.square(numerics.rounded(differences)))


def _bn_aggr_cost(device: Device, dst: Operand, src: Operand) -> Cost:
    cycles = 13 * src.free / 3
    return _reducing(device, "trn.bn_aggr", cycles, dst, src, flops_each=3)


@instruction("trn.bn_aggr", cost=_bn_aggr_cost, reads=(EITHER,), writes=ON_CHIP)
def bn_aggr(dst: OnChip, src: OnChip) -> OnChip:
    """`dst[p, 2]`: mean and variance from `src[p, 3k]`, triples as `bn_stats` writes them."""

    def added(values: Tile) -> Tile:
        return numerics.rounded(jnp.sum(values, axis=1, keepdims=True))

    triples = f32(src).reshape(src.shape[0], -1, 3)
    count = triples[..., 0]
    mean = triples[..., 1]
    squares = triples[..., 2]
    total = added(count)
    # Parts of different sizes weigh by their counts, so that 512 and 88 elements join as 600.
    whole_mean = numerics.rounded(added(numerics.rounded(count * mean)) / total)
    # Squares about the whole mean are those about each part's own, and what the means differ by.
    # Of {0, 2} and {2, 4}: means 1 and 3, squares 2 and 2. About the whole mean, 2, they add 2 · 1
    # + 2 · 1 = 4; the variance is (2 + 2 + 4) / 4 = 2, as of {0, 2, 2, 4}.
    squared = _squared(mean - whole_mean)
    between = added(numerics.rounded(count * squared))
    variance = (added(squares) + between) / total
    return numerics.cast(jnp.concatenate([whole_mean, variance], axis=1), dst.dtype)


def _exponential_cost(
    device: Device, dst: Operand, total: Operand, src: Operand, highest: Operand
) -> Cost:
    name = "trn.exponential"
    least = device.min_interval_cycles
    needs(name, device)
    # 512 elements: 512 / 4 + 64 = 192 cycles, where the Scalar Engine's activation_reduce takes 512
    # + 64 = 576.
    cycles = max(least, src.free / 4) + least
    writes = dst, total
    reads = src, highest
    return compute(device, name, "vector", cycles, writes, reads, flops=3 * src.size)


@instruction(
    "trn.exponential",
    cost=_exponential_cost,
    reads=(EITHER, EITHER),
    writes=TWO_ON_CHIP,
)
def exponential(
    dst: OnChip, total: OnChip, src: OnChip, highest: OnChip
) -> tuple[OnChip, OnChip]:
    """`dst = exp(src - highest)` and `total[p, 1] = Σ dst`, `highest` `[p, 1]`; NeuronCore-v4.

    The sum is of the float32 values, before `dst` is cast.
    """
    name = "trn.exponential"
    below = combine(name, "subtract", src, column(highest, src))
    powers = numerics.rounded(jnp.exp(below))
    sums = reduce_free(name, "add", powers)
    return numerics.cast(powers, dst.dtype), numerics.cast(sums, total.dtype)
