"""Tiles and the DMA that moves them: HBM, SBUF and PSUM."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from emu import given
from emu.annotations import DType, Shape, Tile
from emu.checks import precision, tile
from emu.datasheet import Device
from emu.errors import LimitExceeded
from emu.instruction import Cost, Operand, instruction, limit
from emu.tracing.jaxpr import caller
from emu.trainium.datasheets.limits import TILE_DTYPES
from emu.trainium.engines.dma import Descriptors, dma_cost, rows_cost
from emu.trainium.spaces import Hbm, Psum, Sbuf, Stationary

EITHER = ("sbuf", "psum")

NO_TIME = Cost(engine="vector", busy_cycles=0)


# --- tiles ---


def _allocation(name: str, space: str) -> Callable[..., Tile]:
    """Declares the instruction that makes a fresh tile, of NaN or of the largest integer."""

    def cost(
        device: Device, *, shape: Shape, bank: int | None = None, **_: Any
    ) -> Cost:
        if space != "hbm":
            limit(name, "partition dimension", shape[0], device.partitions)
        if bank is not None:
            _check_bank(device, name, space, bank)
        return NO_TIME

    @instruction(name, cost=cost, reads=(), writes=space, in_place=False)
    def tile(*, shape: Shape, dtype: DType, **_: Any) -> Tile:
        """A fresh tile, holding NaN: takes no time."""
        # What reads before it was written then spreads NaN into the result, where a zero would pass
        # for a sum not yet begun. Integers have no NaN; their largest value stands out likewise.
        is_float = jnp.issubdtype(dtype, jnp.floating)
        poison = jnp.nan if is_float else jnp.iinfo(dtype).max
        return jnp.full(shape, poison, dtype)

    return tile


def _check_bank(device: Device, name: str, space: str, bank: int) -> None:
    partitions, bank_bytes = device.partitioned[space]
    capacity_bytes = device.capacity_bytes[space]
    assert capacity_bytes is not None
    # PSUM: 2 MiB in 128 partitions with banks of 2 KiB, so 8 of them, 0 to 7.
    banks = capacity_bytes // (partitions * bank_bytes)
    if not 0 <= bank < banks:
        raise LimitExceeded(
            f"{name}: bank is {bank}, {space} has banks 0 to {banks - 1}", caller()
        )


def _held(name: str, shape: Shape, dtype: DType, buffers: int) -> np.dtype:
    """The dtype of a tile on chip, once all that is said of it was checked."""
    tile.check(name, shape, buffers=buffers, least_dimensions=2)
    return tile.dtype(name, dtype, TILE_DTYPES)


_sbuf = _allocation("trn.sbuf", "sbuf")
_psum = _allocation("trn.psum", "psum")
_hbm = _allocation("trn.hbm", "hbm")
_array = _allocation("trn.array", "array")


def sbuf(*shape: int, dtype: DType = jnp.float32, buffers: int = 1) -> Sbuf:
    """A fresh SBUF tile `[partition ≤ 128, ...free]`, holding NaN.

    Args:
      shape: partitions first.
      dtype: of its elements.
      buffers: declared inside a loop, the tile is a ring this deep: each time the declaration is
        met the next buffer is used, as soon as its last reader is done.
    """
    held = _held("trn.sbuf", shape, dtype, buffers)
    return _sbuf(shape=shape, dtype=held, buffers=buffers)


def psum(
    *shape: int,
    dtype: DType = jnp.float32,
    buffers: int = 1,
    bank: int | None = None,
    shares: bool = False,
) -> Psum:
    """A fresh PSUM tile `[partition ≤ 128, free]`, holding NaN; banks are 2 KiB a partition.

    Args:
      shape: partitions first.
      dtype: of its elements.
      buffers: depth of the ring, as for `sbuf`.
      bank: puts the tile in this bank, beside others that name it: two engines cannot use one bank
        at the same time. None gives it banks of its own.
      shares: lets it lie in one bank with others that share, if it is smaller: wherever there is
        room, so engines that meet in that bank are not held up. Not for a tile that products are
        added to: the Tensor Engine has one accumulation group a bank at a time (AWS's architecture
        guide: eight in eight banks).
    """
    held = _held("trn.psum", shape, dtype, buffers)
    if bank is not None:
        bank = given.whole("trn.psum: bank", bank, *given.INT32)
    return _psum(shape=shape, dtype=held, buffers=buffers, bank=bank, shares=shares)


def hbm(*shape: int, dtype: DType = jnp.float32) -> Hbm:
    """A fresh HBM buffer, holding NaN."""
    tile.check("trn.hbm", shape)
    return _hbm(shape=shape, dtype=tile.dtype("trn.hbm", dtype, TILE_DTYPES))


def array(*shape: int, dtype: DType = jnp.float32, buffers: int = 1) -> Stationary:
    """A fresh stationary tile `[partition ≤ 128, columns ≤ 128]` in the Tensor Engine's array.

    The array holds two: in a loop, `buffers=2` loads one behind the matmuls that use the other.
    """
    held = _held("trn.array", shape, dtype, buffers)
    return _array(shape=shape, dtype=held, buffers=buffers)


# --- loads ---


def _load_cost(
    device: Device, dst: Operand, src: Operand, *, queue: str = "load_queue"
) -> Cost:
    return rows_cost(device, "trn.dma_load", queue, dst, src.nbytes, other=src)


@instruction("trn.dma_load", cost=_load_cost, reads=("hbm",), writes="sbuf")
def dma_load(dst: Sbuf, src: Hbm, *, queue: str = "load_queue") -> Sbuf:
    """HBM to SBUF: `dst = src`, one descriptor a partition, on DMA queue `queue`.

    Into part of a tile, `dma_load.at[:, i, ds(j, n)](dst, src)`, it is a descriptor for each piece
    that is contiguous on both sides.

    Its cost is that of `engines.dma.dma_cost`, with an example, as of every DMA.

    Args:
      dst: SBUF `[p, ...]`.
      src: HBM, of the same shape and dtype.
      queue: load_queue, load_queue2, store_queue or store_queue2.
    """
    return src


def _load_tiles_cost(
    device: Device, dst: Operand, src: Operand, *, queue: str = "load_queue"
) -> Cost:
    tiles, partitions, columns = src.shape
    # A row of a tile is in pieces where either side is a part of a buffer that cuts it.
    runs = [columns if x.run is None else math.gcd(columns, x.run) for x in (dst, src)]
    number = partitions * tiles * (columns // min(runs))
    what = Descriptors(
        number=number,
        nbytes=src.nbytes / number,
        partitions=partitions,
        hbm_bytes=src.nbytes,
    )
    return dma_cost(device, "trn.dma_load_tiles", queue, what)


@instruction("trn.dma_load_tiles", cost=_load_tiles_cost, reads=("hbm",), writes="sbuf")
def dma_load_tiles(dst: Sbuf, src: Hbm, *, queue: str = "load_queue") -> Sbuf:
    """Several tiles in one DMA: `dst[p, i, n] = src[i, p, n]`, a descriptor a row of each."""
    return jnp.swapaxes(src, 0, 1)


def _gather_cost(
    device: Device,
    dst: Operand,
    table: Operand,
    ids: Operand,
    *,
    queue: str = "load_queue",
) -> Cost:
    # Of the table only the rows that are named, though it is an operand as a whole.
    read = dst.nbytes + ids.nbytes
    cost = rows_cost(device, "trn.dma_gather", queue, dst, read)
    moved = {"hbm_read": read, "sbuf_write": dst.nbytes}
    return dataclasses.replace(cost, moved_bytes=moved)


@instruction("trn.dma_gather", cost=_gather_cost, reads=("hbm", "hbm"), writes="sbuf")
def dma_gather(dst: Sbuf, table: Hbm, ids: Hbm, *, queue: str = "load_queue") -> Sbuf:
    """Indirect load of rows: `dst[p] = table[ids[p]]`, ids `int32[p]` in HBM."""
    integers("trn.dma_gather", "ids", ids.dtype)
    return jnp.take(table, ids, axis=0, mode="clip")


# --- stores ---


def _store_cost(device: Device, *operands: Operand, queue: str = "store_queue") -> Cost:
    # A fresh buffer is no operand; a part of one is, before the source.
    *into, src = operands
    other = into[0] if into else None
    return rows_cost(device, "trn.dma_store", queue, src, src.nbytes, other=other)


@instruction(
    "trn.dma_store", cost=_store_cost, reads=("sbuf",), writes="hbm", in_place=False
)
def dma_store(src: Sbuf, *, queue: str = "store_queue") -> Hbm:
    """SBUF to a fresh HBM buffer, which it returns: one descriptor a partition.

    Into part of a buffer that there is: `dma_store.at[i](dst, src)` is `dst[i] = src`.
    """
    return src


# --- dtypes ---


def integers(name: str, what: str, dtype: np.dtype) -> None:
    """Raises `LimitExceeded` unless an operand's dtype is an integer."""
    if not jnp.issubdtype(dtype, jnp.integer):
        given.refuse(f"{name}: {what} is {dtype}, must be an integer")


def f32(x: Tile) -> Tile:
    """`x` in the engines' arithmetic: float32, or float64 in the exact reading."""
    return x.astype(precision.arithmetic_dtype())
