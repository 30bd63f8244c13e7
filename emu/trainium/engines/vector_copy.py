"""Copies within SBUF and PSUM: whole, at an address in SBUF, by predicate, turned.

N is elements per partition. Published intervals (NKI ISA reference, SDK 2.26.1): tensor_copy N;
memset N, or N/2 for a zero in a 16-bit float on the Vector Engine; an address in SBUF at least 600
cycles; tensor_copy_predicated N if source and predicate are one in SBUF and one in PSUM, else 2N;
nc_transpose of 32 x 32 and nc_stream_shuffle N. Fast modes of tensor_copy: `engines.copy_cycles`.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from emu import given, numerics
from emu.datasheet import Device
from emu.errors import LimitExceeded
from emu.instruction import Cost, Operand, instruction, limit
from emu.tracing.jaxpr import caller
from emu.trainium.datasheets.limits import (
    DYNAMIC_INTERVAL_CYCLES,
    QUADRANT,
    SHUFFLE_KEEP,
)
from emu.trainium.engines.cost import (
    ON_CHIP,
    check_engine,
    check_partitions,
    compute,
    copy_cycles,
    one_in_psum,
    part,
)
from emu.trainium.engines.memory import EITHER, f32
from emu.trainium.engines.operators import alike
from emu.trainium.spaces import OnChip, Sbuf

# A Scalar Engine that is not `scalar_elementwise` copies by activation(op="copy").
_COPIES = ("vector", "scalar", "gpsimd")


def _copy_cost(
    device: Device, dst: Operand, src: Operand, *, engine: str = "vector"
) -> Cost:
    name = "trn.tensor_copy"
    check_engine(name, device, engine, *_COPIES)
    cycles = copy_cycles(device, engine, dst, src)
    return compute(device, name, engine, cycles, (dst,), (src,))


@instruction("trn.tensor_copy", cost=_copy_cost, reads=(EITHER,), writes=ON_CHIP)
def tensor_copy(dst: OnChip, src: OnChip, *, engine: str = "vector") -> OnChip:
    """`dst = src`, cast to the destination's dtype.

    Args:
      dst: `[p, ...]`.
      src: of the same shape.
      engine: vector; scalar from NeuronCore-v3 on; gpsimd, which cannot access PSUM.
    """
    return numerics.cast(src, dst.dtype)


def _dynamic(
    device: Device, name: str, engine: str, dst: Operand, src: Operand, offset: Operand
) -> Cost:
    check_engine(name, device, engine, *_COPIES)
    # The address must come out of SBUF first: 64 columns take 600 cycles, and so do 600.
    cycles = max(DYNAMIC_INTERVAL_CYCLES, src.free)
    check_partitions(name, dst, src)
    # The offset is one number, which the engine's own sequencer reads.
    reads = src, offset
    return compute(device, name, engine, cycles, (dst,), reads, across=True)


def _dynamic_src_cost(
    device: Device,
    dst: Operand,
    src: Operand,
    offset: Operand,
    *,
    engine: str = "vector",
) -> Cost:
    name = "trn.tensor_copy_dynamic_src"
    # Of the source only what is copied counts: 64 of 4,096 columns are 32 KiB, not 2 MiB.
    touched = part(src, dst)
    return _dynamic(device, name, engine, dst, touched, offset)


@instruction(
    "trn.tensor_copy_dynamic_src",
    cost=_dynamic_src_cost,
    reads=(EITHER, "sbuf"),
    writes=ON_CHIP,
)
def tensor_copy_dynamic_src(
    dst: OnChip, src: OnChip, offset: Sbuf, *, engine: str = "vector"
) -> OnChip:
    """`dst[p, n] = src[:, o:o+n]` with the offset `o = offset[0, 0]`, an integer in SBUF."""
    zero = jnp.zeros((), offset.dtype)
    read = lax.dynamic_slice(src, (zero, offset[0, 0]), dst.shape)
    return numerics.cast(read, dst.dtype)


def _dynamic_dst_cost(
    device: Device,
    dst: Operand,
    src: Operand,
    offset: Operand,
    *,
    engine: str = "vector",
) -> Cost:
    touched = part(dst, src)
    return _dynamic(device, "trn.tensor_copy_dynamic_dst", engine, touched, src, offset)


@instruction(
    "trn.tensor_copy_dynamic_dst",
    cost=_dynamic_dst_cost,
    reads=(EITHER, "sbuf"),
    writes=ON_CHIP,
    reads_destination=True,
)
def tensor_copy_dynamic_dst(
    dst: OnChip, src: OnChip, offset: Sbuf, *, engine: str = "vector"
) -> OnChip:
    """`dst[:, o:o+n] = src[p, n]` with `o = offset[0, 0]` in SBUF; the rest of `dst` is kept."""
    zero = jnp.zeros((), offset.dtype)
    block = numerics.cast(src, dst.dtype)
    return lax.dynamic_update_slice(dst, block, (zero, offset[0, 0]))


def _memset_cost(
    device: Device, dst: Operand, *, value: float, engine: str = "vector"
) -> Cost:
    check_engine("trn.memset", device, engine, "vector", "gpsimd")
    half_size = jnp.issubdtype(dst.dtype, jnp.floating) and dst.dtype.itemsize == 2
    # Only zero: the reference gives the fast mode to no other value.
    twice_as_fast = engine == "vector" and half_size and value == 0
    cycles = dst.free / 2 if twice_as_fast else dst.free
    return compute(device, "trn.memset", engine, cycles, (dst,), ())


@instruction("trn.memset", cost=_memset_cost, reads=(), writes=ON_CHIP)
def memset(dst: OnChip, *, value: float, engine: str = "vector") -> OnChip:
    """`dst = value` in every element; `engine`: vector or gpsimd."""
    # Through float32 an integer above 2**24 would lose its last bits.
    if not jnp.issubdtype(dst.dtype, jnp.floating):
        held = jnp.iinfo(dst.dtype)
        least, most = int(held.min), int(held.max)
        # Of floats the whole ones: 0.0 is what most would write for an empty tile.
        number = int(value) if value == int(value) else value
        return jnp.full_like(dst, given.whole("trn.memset: value", number, least, most))
    wide = jnp.full_like(f32(dst), value)
    return numerics.cast(wide, dst.dtype)


def _predicated_cost(
    device: Device, dst: Operand, src: Operand, predicate: Operand, **_: bool
) -> Cost:
    name = "trn.tensor_copy_predicated"
    if not np.issubdtype(predicate.dtype, np.unsignedinteger) or src.dtype != dst.dtype:
        raise LimitExceeded(
            f"{name}: predicate is {predicate.dtype}, must be an unsigned integer; source and "
            f"destination are {src.dtype} and {dst.dtype}, must be the same"
        )
    both_in_sbuf = not one_in_psum(name, src, predicate)
    cycles = src.free / device.vector_pair_elements[0] if both_in_sbuf else src.free
    return compute(device, name, "vector", cycles, (dst,), (src, predicate))


@instruction(
    "trn.tensor_copy_predicated",
    cost=_predicated_cost,
    reads=(EITHER, EITHER),
    writes=ON_CHIP,
    reads_destination=True,
)
def tensor_copy_predicated(
    dst: OnChip, src: OnChip, predicate: OnChip, *, reverse: bool = False
) -> OnChip:
    """`dst = src` where `predicate` is not 0 (0 if reversed); elsewhere `dst` is kept."""
    alike("trn.tensor_copy_predicated", dst, src, predicate)
    return jnp.where((predicate != 0) ^ reverse, src, dst)


def _predicated_value_cost(
    device: Device, dst: Operand, predicate: Operand, **_: Any
) -> Cost:
    name = "trn.tensor_copy_predicated_value"
    if not np.issubdtype(predicate.dtype, np.unsignedinteger):
        raise LimitExceeded(
            f"{name}: predicate is {predicate.dtype}, must be an unsigned integer"
        )
    # One tile is read, as where the other one is in PSUM.
    return compute(device, name, "vector", dst.free, (dst,), (predicate,))


@instruction(
    "trn.tensor_copy_predicated_value",
    cost=_predicated_value_cost,
    reads=(EITHER,),
    writes=ON_CHIP,
    reads_destination=True,
)
def tensor_copy_predicated_value(
    dst: OnChip, predicate: OnChip, *, value: float, reverse: bool = False
) -> OnChip:
    """`dst = value` where `predicate` is not 0 (0 if reversed); elsewhere `dst` is kept."""
    alike("trn.tensor_copy_predicated_value", dst, predicate)
    number = numerics.cast(f32(jnp.asarray(value)), dst.dtype)
    return jnp.where((predicate != 0) ^ reverse, number, dst)


def _transpose_cost(device: Device, dst: Operand, src: Operand) -> Cost:
    name = "trn.nc_transpose_vector"
    limit(name, "partitions", src.shape[0], QUADRANT)
    limit(name, "free size", src.free, QUADRANT)
    return compute(device, name, "vector", src.free, (dst,), (src,), across=True)


@instruction(
    "trn.nc_transpose_vector", cost=_transpose_cost, reads=(EITHER,), writes=ON_CHIP
)
def nc_transpose_vector(dst: OnChip, src: OnChip) -> OnChip:
    """`dst[n, p] = src[p, n]ᵀ` on the Vector Engine: at most 32 x 32, exact, SBUF or PSUM."""
    return src.T


def _shuffled_rows(
    name: str, partitions: int, sources: int, mask: tuple[int, ...]
) -> list[int]:
    """Of each destination partition the source's, or `SHUFFLE_KEEP`."""
    rows: list[int] = []
    for row in range(partitions if len(mask) == QUADRANT else 0):
        entry = mask[row % QUADRANT]
        first = row // QUADRANT * QUADRANT
        rows.append(entry if entry == SHUFFLE_KEEP else first + entry)
    allowed = {*range(QUADRANT), SHUFFLE_KEEP}
    moved = [row for row in rows if row != SHUFFLE_KEEP]
    if not rows or not set(mask) <= allowed or max(moved, default=0) >= sources:
        raise LimitExceeded(
            f"{name}: mask is {list(mask)} for {partitions} partitions of {sources}, must be "
            f"{QUADRANT} entries below {QUADRANT} or {SHUFFLE_KEEP}, of partitions that there are",
            caller(),
        )
    return rows


def _shuffle_cost(
    device: Device, dst: Operand, src: Operand, *, mask: tuple[int, ...]
) -> Cost:
    name = "trn.nc_stream_shuffle"
    rows = _shuffled_rows(name, dst.shape[0], src.shape[0], mask)
    # The engine walks all N elements whatever the mask; traffic is only of the partitions it moves:
    # a mask that keeps 24 of 32 moves 8 of each quadrant.
    moved = sum(row != SHUFFLE_KEEP for row in rows)
    read = dataclasses.replace(src, shape=(moved, *src.shape[1:]))
    written = part(dst, read)
    return compute(device, name, "vector", src.free, (written,), (read,))


@instruction(
    "trn.nc_stream_shuffle",
    cost=_shuffle_cost,
    reads=(EITHER,),
    writes=ON_CHIP,
    reads_destination=True,
)
def nc_stream_shuffle(dst: OnChip, src: OnChip, *, mask: tuple[int, ...]) -> OnChip:
    """Within each quadrant of 32 partitions `dst[i] = src[mask[i]]`; 255 keeps `dst[i]`.

    The last quadrant of either may have fewer partitions, if no entry is of one that is missing.
    """
    name = "trn.nc_stream_shuffle"
    rows = np.asarray(_shuffled_rows(name, dst.shape[0], src.shape[0], mask))
    keep = rows == SHUFFLE_KEEP
    # 255 is no partition: those rows take partition 0 for the moment, and the old ones last.
    shuffled = src[np.where(keep, 0, rows)]
    return jnp.where(keep.reshape(-1, *(1,) * (src.ndim - 1)), dst, shuffled)
