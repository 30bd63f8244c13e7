"""The GpSimd Engine's searches: gathers in a partition, places of non-zeros, sums of partitions.

Its eight cores serve 16 partitions each. N is elements per partition. No formula is published for
these; each begins with the published 150 cycles of every GpSimd instruction. A gather of n indices
takes 2n more, what local_gather's formula gives for single elements of 32 bits, with the 150 again
for each 512 of them (NKI reference, SDK 2.32: that many groups of instructions). The cycles that
the other two take for an element are assumed, in the datasheet: `gpsimd_nonzero_cycles`,
`gpsimd_partition_cycles`.
"""

import dataclasses
import math

import jax.numpy as jnp
from jax import lax

from emu import given, numerics
from emu.datasheet import Device
from emu.errors import LimitExceeded
from emu.instruction import Cost, Operand, instruction
from emu.trainium.datasheets.limits import GATHER_GROUP, GATHER_PARTITIONS
from emu.trainium.engines.cost import compute, needs
from emu.trainium.engines.memory import f32, integers
from emu.trainium.engines.operators import REDUCE, REDUCE_BITS, check, named
from emu.trainium.spaces import Sbuf

# Cycles an index, as local_gather of single elements of 32 bits: 16 indices a column, 8 a cycle.
_GATHER_CYCLES = 2


def _gather_cost(device: Device, dst: Operand, src: Operand, index: Operand) -> Cost:
    name = "trn.nc_n_gather"
    if index.shape != dst.shape or src.dtype != dst.dtype:
        raise LimitExceeded(
            f"{name}: indices are {list(index.shape)} and the source is {src.dtype}, must be of "
            f"the destination's shape and dtype, {dst.dtype}{list(dst.shape)}"
        )
    groups = math.ceil(index.free / GATHER_GROUP)
    cycles = groups * device.gpsimd_overhead_cycles + _GATHER_CYCLES * index.free
    # Of the source what is gathered.
    read = dataclasses.replace(src, shape=dst.shape)
    return compute(device, name, "gpsimd", cycles, (dst,), (read, index))


@instruction(
    "trn.nc_n_gather", cost=_gather_cost, reads=("sbuf", "sbuf"), writes="sbuf"
)
def nc_n_gather(dst: Sbuf, src: Sbuf, index: Sbuf) -> Sbuf:
    """`dst[p, i] = src[p, index[p, i]]`, in each partition by itself.

    Args:
      dst: SBUF, shape of `index`, dtype of `src`.
      src: SBUF `[p, ...]`; its free dimensions count as one.
      index: SBUF, integer `[p, ...]`.
    """
    integers("trn.nc_n_gather", "index", index.dtype)
    rows = len(src)
    places = index.reshape(rows, -1).astype(jnp.int32)
    gathered = jnp.take_along_axis(src.reshape(rows, -1), places, axis=1)
    return gathered.reshape(dst.shape)


def _nonzero_cost(
    device: Device, dst: Operand, src: Operand, *, offset: int = 0, padding: int = -1
) -> Cost:
    name = "trn.nonzero_with_count"
    needs(name, device)
    if dst.shape[0] != src.shape[0] or dst.free != src.free + 1:
        raise LimitExceeded(
            f"{name}: destination is {list(dst.shape)}, must be {[src.shape[0], src.free + 1]}: a "
            "place for each element, and their count"
        )
    cycles = device.gpsimd_overhead_cycles + device.gpsimd_nonzero_cycles * src.free
    # One partition of each core.
    rows = math.ceil(src.shape[0] / GATHER_PARTITIONS)
    read = dataclasses.replace(src, shape=(rows, *src.shape[1:]))
    written = dataclasses.replace(dst, shape=(rows, *dst.shape[1:]))
    return compute(device, name, "gpsimd", cycles, (written,), (read,))


@instruction(
    "trn.nonzero_with_count",
    cost=_nonzero_cost,
    reads=("sbuf",),
    writes="sbuf",
    reads_destination=True,
)
def nonzero_with_count(
    dst: Sbuf, src: Sbuf, *, offset: int = 0, padding: int = -1
) -> Sbuf:
    """Where the elements of partitions 0, 16, 32, ... are not 0, and how many; NeuronCore-v3.

    Example: of 0 1 1 0 0 1 0 0 with an offset of 16 it is 17 18 21, five times the padding, and 3.

    Args:
      dst: SBUF `int32[p, n + 1]`; of the other partitions nothing is written.
      src: SBUF `[p, n]`, float32 or int32.
      offset: added to each place.
      padding: what stands behind the places.
    """
    name = "trn.nonzero_with_count"
    if dst.dtype != jnp.int32:
        given.refuse(f"{name}: destination is {dst.dtype}, must be int32")
    values = src[::GATHER_PARTITIONS].reshape(-1, math.prod(src.shape[1:]))
    found = values != 0
    columns = found.shape[1]
    places = lax.broadcasted_iota(jnp.int32, found.shape, 1)
    # Those that count in their order, the others behind them.
    ordered = jnp.sort(jnp.where(found, places, columns), axis=1)
    kept = jnp.where(ordered < columns, ordered + offset, padding)
    count = jnp.sum(found, axis=1, keepdims=True, dtype=jnp.int32)
    rows = jnp.concatenate([kept, count], axis=1)
    shaped = rows.reshape(len(rows), *dst.shape[1:])
    return dst.at[::GATHER_PARTITIONS].set(shaped)


def _partitions_cost(device: Device, dst: Operand, src: Operand, *, op: str) -> Cost:
    name = "trn.tensor_partition_reduce"
    if dst.shape != (1, *src.shape[1:]):
        raise LimitExceeded(
            f"{name}: destination is {list(dst.shape)}, must be {[1, *src.shape[1:]]}"
        )
    cycles = device.gpsimd_overhead_cycles + device.gpsimd_partition_cycles * src.free
    return compute(
        device,
        name,
        "gpsimd",
        cycles,
        (dst,),
        (src,),
        flops=src.size,
        across=True,
    )


@instruction(
    "trn.tensor_partition_reduce",
    cost=_partitions_cost,
    reads=("sbuf",),
    writes="sbuf",
)
def tensor_partition_reduce(dst: Sbuf, src: Sbuf, *, op: str) -> Sbuf:
    """`dst[1, ...] = op` over the partitions of `src[p, ...]`.

    `op` is add or max, in float32, or bitwise_and or bitwise_or of integers.
    """
    name = "trn.tensor_partition_reduce"
    given.one_of(f"{name}: op", op, ("add", "max", "bitwise_and", "bitwise_or"))
    if op in REDUCE_BITS:
        check(name, [op], dst, src)
        reduced = REDUCE_BITS[op](src, axis=0, keepdims=True)
        return reduced.astype(dst.dtype)
    reduce = named(REDUCE, name, "op", op)
    return numerics.cast(reduce(f32(src), axis=0, keepdims=True), dst.dtype)
