"""Selection by position, by value and by chance, on the Vector Engine.

N is elements per partition. Published intervals (NKI ISA reference, SDK 2.26.1): range_select,
dropout, nc_max8 and nc_find_index8 N. For nc_match_replace8 the reference prints min(MIN, N), taken
as the max that it says everywhere else. rand2 has no formula: four values a lane and cycle
(architecture guide of NeuronCore-v4, SDK 2.32) make N/4.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from emu import given, numerics
from emu.annotations import KnownInt, Shape, Tile
from emu.datasheet import Device
from emu.errors import LimitExceeded
from emu.instruction import Cost, Operand, instruction
from emu.trainium.datasheets.limits import SEARCH8_ELEMENTS
from emu.trainium.engines.cost import ON_CHIP, TWO_ON_CHIP, compute, needs
from emu.trainium.engines.memory import EITHER, f32, integers
from emu.trainium.engines.operators import (
    BINARY,
    COMPARE,
    column,
    named,
    reduce_free,
    two_dimensions,
)
from emu.trainium.spaces import OnChip

# What range_select puts where it does not select.
# Finite, so that of a row without any selected element `x - max` is 0; -inf - -inf is NaN.
LOWEST = float(np.finfo(np.float32).min)


def _range_select_cost(
    device: Device,
    dst: Operand,
    highest: Operand,
    src: Operand,
    low: Operand,
    high: Operand,
    **_: Any,
) -> Cost:
    name = "trn.range_select"
    needs(name, device)
    writes = dst, highest
    reads = src, low, high
    return compute(device, name, "vector", src.free, writes, reads, flops=3 * src.size)


@instruction(
    "trn.range_select",
    cost=_range_select_cost,
    reads=(EITHER, EITHER, EITHER),
    writes=TWO_ON_CHIP,
)
def range_select(
    dst: OnChip,
    highest: OnChip,
    src: OnChip,
    bound0: OnChip,
    bound1: OnChip,
    *,
    compare0: str,
    compare1: str,
    start: int = 0,
) -> tuple[OnChip, OnChip]:
    """Keeps the elements whose place is in a range, and finds the largest; from NeuronCore-v3 on.

    Args:
      dst: `[p, ...]`: `src` where `start + place` compares with both bounds as asked, elsewhere the
        least float32.
      highest: `[p, 1]`: the largest of `dst` in each partition.
      src: `[p, ...]`; its free dimensions count as one.
      bound0: float32 `[p, 1]`.
      bound1: float32 `[p, 1]`.
      compare0: of `equal`, `less`, `less_equal`, `greater`, `greater_equal`, with `bound0`.
      compare1: likewise, with `bound1`.
      start: place of the first element.
    """
    name = "trn.range_select"
    tests = {comparison: BINARY[comparison] for comparison in COMPARE}
    flat = f32(src).reshape(src.shape[0], -1)
    low = column(f32(bound0), flat)
    high = column(f32(bound1), flat)
    # As floats, which the bounds are: exact to 2**24, far past a partition's 65,536 elements.
    place = lax.broadcasted_iota(flat.dtype, flat.shape, 1) + start
    test0 = named(tests, name, "compare0", compare0)
    test1 = named(tests, name, "compare1", compare1)
    passes0 = test0(place, low)
    passes1 = test1(place, high)
    keep = passes0 & passes1
    selected = jnp.where(keep, flat, LOWEST).reshape(src.shape)
    largest = reduce_free(name, "max", selected)
    return numerics.cast(selected, dst.dtype), numerics.cast(largest, highest.dtype)


def _search8(device: Device, name: str, dst: Operand, *reads: Operand) -> Cost:
    src = reads[0]
    low, high = SEARCH8_ELEMENTS
    if not low <= src.free <= high:
        raise LimitExceeded(
            f"{name}: source has {src.free} elements per partition, must be {low} to {high}"
        )
    return compute(device, name, "vector", src.free, (dst,), reads, flops=src.size)


def _max8_cost(device: Device, dst: Operand, src: Operand) -> Cost:
    return _search8(device, "trn.nc_max8", dst, src)


@instruction("trn.nc_max8", cost=_max8_cost, reads=(EITHER,), writes=ON_CHIP)
def nc_max8(dst: OnChip, src: OnChip) -> OnChip:
    """`dst[p, 8]`: the eight largest of each partition, descending."""
    largest, _ = lax.top_k(src.reshape(src.shape[0], -1), 8)
    return numerics.cast(largest, dst.dtype)


def _find_index8_cost(
    device: Device, dst: Operand, src: Operand, values: Operand
) -> Cost:
    return _search8(device, "trn.nc_find_index8", dst, src, values)


def _check_eight(name: str, src: OnChip, values: OnChip) -> None:
    """Raises `LimitExceeded` unless these are `[p, n]` and eight values of each partition."""
    two_dimensions(name, src)
    wanted = src.shape[0], 8
    if values.shape != wanted:
        given.refuse(f"{name}: values are {list(values.shape)}, must be {list(wanted)}")


@instruction(
    "trn.nc_find_index8", cost=_find_index8_cost, reads=(EITHER, EITHER), writes=ON_CHIP
)
def nc_find_index8(dst: OnChip, src: OnChip, values: OnChip) -> OnChip:
    """`dst[p, 8]`, integer: where each of `values[p, 8]` first stands in `src[p, n]`."""
    name = "trn.nc_find_index8"
    integers(name, "destination", dst.dtype)
    _check_eight(name, src, values)
    # `argmax` of booleans is the first True. Of a value that does not occur it is 0, of one that
    # occurs twice both times the first.
    found = src[:, None, :] == values[:, :, None]
    return numerics.cast(jnp.argmax(found, axis=-1), dst.dtype)


def _match_replace8_cost(
    device: Device, dst: Operand, src: Operand, values: Operand, *, value: float
) -> Cost:
    return _search8(device, "trn.nc_match_replace8", dst, src, values)


@instruction(
    "trn.nc_match_replace8",
    cost=_match_replace8_cost,
    reads=(EITHER, EITHER),
    writes=ON_CHIP,
)
def nc_match_replace8(
    dst: OnChip, src: OnChip, values: OnChip, *, value: float
) -> OnChip:
    """`dst = src[p, n]` with the first match of each of `values[p, 8]`, in turn, set to `value`.

    After `nc_max8` it takes the eight largest away, so that the next call finds the next eight.
    """
    _check_eight("trn.nc_match_replace8", src, values)
    replaced, _ = _replaced(src, values, value)
    return numerics.cast(replaced, dst.dtype)


def _replaced(src: OnChip, values: OnChip, value: float) -> tuple[Tile, Tile]:
    """`src` without the matches, and the place of each, `int32[p, 8]`."""
    places = lax.broadcasted_iota(jnp.int32, src.shape, 1)

    def replace(i: KnownInt, state: tuple[Tile, Tile]) -> tuple[Tile, Tile]:
        # One value after the other, on what the one before left: of 7 5 5 3 and the values 7 5 5
        # ... both fives go, the first for the second value, the second for the third.
        left, found = state
        match = left == lax.dynamic_slice_in_dim(values, i, 1, axis=1)
        first = jnp.argmax(match, axis=1, keepdims=True).astype(jnp.int32)
        new = jnp.asarray(value, left.dtype)
        left = jnp.where(match & (places == first), new, left)
        return left, lax.dynamic_update_slice_in_dim(found, first, i, axis=1)

    # Of the tiles' own, so that under `vmap` it varies over the mesh as they do.
    nowhere = jnp.zeros_like(values, jnp.int32)
    return lax.fori_loop(0, 8, replace, (src, nowhere))


def _match_index8_cost(
    device: Device,
    dst: Operand,
    index: Operand,
    src: Operand,
    values: Operand,
    *,
    value: float,
) -> Cost:
    name = "trn.nc_match_replace8_index"
    cost = _search8(device, name, dst, src, values)
    written = cost.moved_bytes or {}
    key = f"{index.space}_write"
    moved = {**written, key: written.get(key, 0) + index.nbytes}
    return dataclasses.replace(cost, moved_bytes=moved)


@instruction(
    "trn.nc_match_replace8_index",
    cost=_match_index8_cost,
    reads=(EITHER, EITHER),
    writes=TWO_ON_CHIP,
)
def nc_match_replace8_index(
    dst: OnChip, index: OnChip, src: OnChip, values: OnChip, *, value: float
) -> tuple[OnChip, OnChip]:
    """`nc_match_replace8`, and in `index[p, 8]`, integer, where each match stood.

    Unlike `nc_find_index8`, of a value that occurs twice and is asked for twice it has both places.
    """
    name = "trn.nc_match_replace8_index"
    integers(name, "index", index.dtype)
    _check_eight(name, src, values)
    replaced, places = _replaced(src, values, value)
    return numerics.cast(replaced, dst.dtype), numerics.cast(places, index.dtype)


# --- random numbers ---


def _drawn(seed: KnownInt, shape: Shape, low: float = 0.0, high: float = 1.0) -> Tile:
    """Uniform in `[low, high)`: float32 draws in every reading, so that all draw the same."""
    # Drawn in float64 they would be other numbers, and the exact reading would drop out elements
    # that the kernel keeps.
    key = jax.random.key(jnp.asarray(seed, jnp.int32))
    drawn = jax.random.uniform(key, shape, jnp.float32, low, high)
    return f32(numerics.rounded(drawn))


def _dropout_cost(
    device: Device, dst: Operand, src: Operand, probability: Operand, seed: Operand
) -> Cost:
    name = "trn.dropout"
    reads = src, probability
    return compute(device, name, "vector", src.free, (dst,), reads, flops=src.size)


@instruction(
    "trn.dropout",
    cost=_dropout_cost,
    reads=(EITHER, EITHER, "register"),
    writes=ON_CHIP,
)
def dropout(dst: OnChip, src: OnChip, probability: OnChip, seed: KnownInt) -> OnChip:
    """`dst = src`, or 0 with the probability of its partition, `[p, 1]`; nothing is rescaled.

    `seed` is a known integer. The hardware's generator is not published: these draws are JAX's.
    """
    drawn = _drawn(seed, src.shape)
    is_kept = drawn >= column(f32(probability), src)
    kept = jnp.where(is_kept, src, jnp.zeros_like(src))
    return numerics.cast(kept, dst.dtype)


def _rand_cost(
    device: Device, dst: Operand, seed: Operand, *, low: float, high: float
) -> Cost:
    needs("trn.rand2", device)
    if low >= high:
        raise LimitExceeded(f"trn.rand2: low is {low}, must be less than high, {high}")
    cycles = dst.free / 4
    return compute(device, "trn.rand2", "vector", cycles, (dst,), (), flops=dst.size)


@instruction("trn.rand2", cost=_rand_cost, reads=("register",), writes=ON_CHIP)
def rand2(dst: OnChip, seed: KnownInt, *, low: float, high: float) -> OnChip:
    """`dst` uniform in `[low, high)`; NeuronCore-v4. Seed and draws as in `dropout`."""
    return numerics.cast(_drawn(seed, dst.shape, low, high), dst.dtype)
