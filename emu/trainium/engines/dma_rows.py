"""DMA to and from rows of HBM that a tile names: gathers, scatters, and sums into such rows.

An index a partition, `[p, 1]` in SBUF, names a row of a buffer in HBM (NKI: `vector_offset`). Each
row is a descriptor, as of `memory.dma_gather`, whose indices are in HBM. That the GpSimd Engine
writes the descriptors is not modelled; no cost of it is published.

A row that does not exist is an error on the machine unless the kernel asks to skip it. Here it is
NaN, or the largest integer, as what nobody wrote; a write there is left out. A tile of another
dtype than the buffer is cast on the way, through float32, and counts in the wider of the two.
"""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np

from emu import numerics
from emu.datasheet import Device
from emu.errors import LimitExceeded
from emu.instruction import Cost, Operand, instruction
from emu.trainium.engines.dma import rows_cost
from emu.trainium.engines.memory import f32, integers
from emu.trainium.engines.operators import column
from emu.trainium.spaces import Hbm, Sbuf


def _check(name: str, rows: Operand, buffer: Operand, index: Operand) -> None:
    """Raises `LimitExceeded` unless `rows` are rows of `buffer`, one for each index."""
    is_row = rows.shape[1:] == buffer.shape[1:]
    if not is_row or index.shape != (rows.shape[0], 1):
        raise LimitExceeded(
            f"{name}: tile {rows.dtype}{list(rows.shape)}, index {list(index.shape)}, must be "
            f"{buffer.dtype}{['p', *buffer.shape[1:]]} and ['p', 1]"
        )


def _wide_bytes(rows: Operand, buffer: Operand) -> int:
    """What the rows take in the wider of two dtypes."""
    return rows.size * max(rows.dtype.itemsize, buffer.dtype.itemsize)


def _moved(rows: Operand, index: Operand, *, into_hbm: bool) -> dict[str, int]:
    read, written = ("sbuf", "hbm") if into_hbm else ("hbm", "sbuf")
    moved = {f"{read}_read": rows.nbytes, f"{written}_write": rows.nbytes}
    moved["sbuf_read"] = moved.get("sbuf_read", 0) + index.nbytes
    return moved


def _gather_cost(
    device: Device,
    dst: Operand,
    table: Operand,
    index: Operand,
    *,
    skip: bool = False,
    queue: str = "load_queue",
) -> Cost:
    name = "trn.dma_gather_rows"
    _check(name, dst, table, index)
    wide = _wide_bytes(dst, table)
    cost = rows_cost(device, name, queue, dst, wide, other=_rows_of(table, dst))
    return dataclasses.replace(cost, moved_bytes=_moved(dst, index, into_hbm=False))


def _rows_of(buffer: Operand, rows: Operand) -> Operand:
    """The rows of a buffer that a tile holds: contiguous as far as one of them is."""
    whole = math.prod(rows.shape[1:])
    run = whole if buffer.run is None else min(buffer.run, whole)
    return dataclasses.replace(buffer, shape=rows.shape, run=run)


@instruction(
    "trn.dma_gather_rows",
    cost=_gather_cost,
    reads=("hbm", "sbuf"),
    writes="sbuf",
    reads_destination=True,
)
def dma_gather_rows(
    dst: Sbuf, table: Hbm, index: Sbuf, *, skip: bool = False, queue: str = "load_queue"
) -> Sbuf:
    """`dst[p] = table[index[p]]`.

    Args:
      dst: SBUF `[p, ...]`.
      table: HBM `[rows, ...]`.
      index: SBUF, integer `[p, 1]`.
      skip: keeps `dst[p]` where there is no such row.
      queue: one of the DMA queues.
    """
    integers("trn.dma_gather_rows", "index", index.dtype)
    places = index[:, 0].astype(jnp.int32)
    # Not from the end: -1 is no row either.
    exists = column(((places >= 0) & (places < len(table)))[:, None], dst)
    rows = _cast(jnp.take(table, places, axis=0, mode="clip"), dst.dtype)
    is_float = jnp.issubdtype(dst.dtype, jnp.floating)
    poison = jnp.nan if is_float else jnp.iinfo(dst.dtype).max
    other = dst if skip else jnp.full_like(dst, poison)
    return jnp.where(exists, rows, other)


def _scatter_cost(
    device: Device,
    dst: Operand,
    src: Operand,
    index: Operand,
    *,
    queue: str = "store_queue",
) -> Cost:
    name = "trn.dma_scatter_rows"
    _check(name, src, dst, index)
    wide = _wide_bytes(src, dst)
    cost = rows_cost(device, name, queue, src, wide, other=_rows_of(dst, src))
    return dataclasses.replace(cost, moved_bytes=_moved(src, index, into_hbm=True))


@instruction(
    "trn.dma_scatter_rows",
    cost=_scatter_cost,
    reads=("sbuf", "sbuf"),
    writes="hbm",
    partial=True,
)
def dma_scatter_rows(
    dst: Hbm, src: Sbuf, index: Sbuf, *, queue: str = "store_queue"
) -> Hbm:
    """`dst[index[p]] = src[p]`; indices differ, and one of no row writes nothing.

    Args:
      dst: HBM `[rows, ...]`.
      src: SBUF `[p, ...]`.
      index: SBUF, integer `[p, 1]`.
      queue: one of the DMA queues.
    """
    places = _places("trn.dma_scatter_rows", dst, index)
    return dst.at[places].set(_cast(src, dst.dtype), mode="drop")


def _cast(x: Hbm | Sbuf, dtype: np.dtype) -> Hbm | Sbuf:
    return x if x.dtype == dtype else numerics.cast(f32(x), dtype)


def _places(name: str, dst: Hbm, index: Sbuf) -> Sbuf:
    """Rows to write; a negative index becomes one past the last, not one from the end."""
    integers(name, "index", index.dtype)
    places = index[:, 0].astype(jnp.int32)
    return jnp.where(places < 0, len(dst), places)


def _scatter_add_cost(
    device: Device,
    dst: Operand,
    src: Operand,
    index: Operand,
    *,
    queue: str = "store_queue",
) -> Cost:
    name = "trn.dma_scatter_add"
    _check(name, src, dst, index)
    rows = _rows_of(dst, src)
    share = device.dma_accumulate_share
    # Each row is read from HBM and written back.
    cost = rows_cost(device, name, queue, src, 2 * src.nbytes, share, other=rows)
    moved = _moved(src, index, into_hbm=True)
    moved["hbm_read"] = src.nbytes
    return dataclasses.replace(cost, moved_bytes=moved)


@instruction(
    "trn.dma_scatter_add",
    cost=_scatter_add_cost,
    reads=("sbuf", "sbuf"),
    writes="hbm",
    partial=True,
    adds=True,
)
def dma_scatter_add(
    dst: Hbm, src: Sbuf, index: Sbuf, *, queue: str = "store_queue"
) -> Hbm:
    """`dst[index[p]] += src[p]`, in float32, rounded to the dtype; see `dma_scatter_rows`."""
    places = _places("trn.dma_scatter_add", dst, index)
    old = jnp.take(dst, places, axis=0, mode="clip")
    total = numerics.cast(f32(old) + f32(src), dst.dtype)
    return dst.at[places].set(total, mode="drop")
