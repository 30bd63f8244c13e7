"""DMA: between HBM and SBUF, and within each."""

import dataclasses
import math
from collections.abc import Sequence

from emu.annotations import DType
from emu.errors import LimitExceeded
from emu.trainium.engines import dma_compute, dma_rows
from emu.trainium.nki.functions import operands
from emu.trainium.nki.functions.checks import refuse
from emu.trainium.nki.functions.copy import out_of_psum
from emu.trainium.nki.functions.engines import offer, way
from emu.trainium.nki.handles import Handle, fresh
from emu.trainium.nki.indirect import Rows
from emu.trainium.nki.record import current
from emu.trainium.nki.tree import Access, Choice

PARTITIONS = 128


def _any(value: object, function: str, argument: str, mask: object) -> Access:
    """A part of a tensor in HBM or SBUF."""
    handle = operands.handle(value, function, argument)
    return handle.access(operands.masked(mask, function))


def load(
    src: object,
    *,
    dtype: DType | None = None,
    mask: object = None,
    name: str = "nki.language.load",
) -> Handle:
    """A fresh SBUF tile with a part of a tensor in HBM; its first axis becomes partitions."""
    handle = operands.handle(src, name, "src")
    if handle.buffer != "hbm":
        refuse(name, f"src is in {handle.buffer.upper()}, must be in HBM")
    full = operands.two_dimensional(handle.shape or (1,))
    if full[0] > PARTITIONS:
        refuse(
            name,
            f"src is {list(full)}, at most {PARTITIONS} partitions (nl.tile_size.pmax)",
        )
    tile = fresh(full, dtype or handle.dtype, "sbuf")
    return _moved(tile, handle, mask, name, fresh_dst=True)


def store(
    dst: object,
    value: object,
    *,
    mask: object = None,
    name: str = "nki.language.store",
) -> None:
    """Writes a tile, or a number, to a part of a tensor in HBM."""
    target = operands.handle(dst, name, "dst")
    if target.buffer != "hbm":
        refuse(name, f"dst is in {target.buffer.upper()}, must be in HBM")
    if not operands.is_tile(value):
        from emu.trainium.nki.functions.elementwise import memset

        shape = operands.two_dimensional(target.shape)
        value = memset(None, value, shape=shape, dtype=target.dtype, name=name)
    _moved(target, operands.handle(value, name, "value"), mask, name)


def dma_copy(
    dst: Handle | None,
    src: object,
    *,
    dtype: DType | None = None,
    mask: object = None,
    name: str = "nki.dma_compute.dma_copy",
) -> Handle:
    """`dst = src`, HBM or SBUF each, any access pattern."""
    source = operands.handle(src, name, "src")
    if dst is None:
        shape = operands.two_dimensional(source.shape)
        dst = fresh(shape, dtype or source.dtype, "sbuf")
        return _moved(dst, source, mask, name, fresh_dst=True)
    return _moved(operands.handle(dst, name, "dst"), source, mask, name)


def indirect_copy(
    dst: object, src: object, *, skip: bool, name: str = "nki.isa.dma_copy"
) -> None:
    """`dst = src`, where either may be at addresses that a tensor holds.

    `skip` leaves out what is at an address that does not exist; else that is an error.
    """
    target, source = (
        operands.handle(dst, name, "dst"),
        operands.handle(src, name, "src"),
    )
    if isinstance(target, Rows) and isinstance(source, Rows):
        refuse(name, "dst and src have a vector_offset, must be one of the two")
    if isinstance(source, Rows):
        gather(target, source, skip, name)
    elif isinstance(target, Rows):
        write, read = row_wise(target, source, name)
        index = operands.on_chip(target.index, name, "vector_offset")
        index = operands.formed(index, (len_of(index), 1))
        choice = way("dma", dma_rows.dma_scatter_rows)
        current().emit(name, offer(None, name, choice), (write,), (read, index))
    elif not (skip and (leaves(target) or leaves(source))):
        dma_copy(target, source, name=name)


def gather(target: Handle, source: Rows, skip: bool, name: str) -> None:
    """`target[p] = source.table[source.index[p]]`."""
    read, write = row_wise(source, target, name)
    index = operands.on_chip(source.index, name, "vector_offset")
    index = operands.formed(index, (len_of(index), 1))
    choice = way("dma", dma_rows.dma_gather_rows, skip=skip)
    current().emit(name, offer(None, name, choice), (write,), (read, index))


def len_of(index: Access) -> int:
    """How many indices."""
    return math.prod(index.shape)


def row_wise(rows: Rows, tile: Handle, name: str) -> tuple[Access, Access]:
    """The table and the tile, each `[rows, elements of one]`."""
    table, held = rows.table.access(), tile.access()
    each = math.prod(table.shape[1:])
    count = rows.axes[0][1]
    if held.space != "sbuf":
        refuse(
            name,
            f"the tile beside a vector_offset is in {held.space.upper()}, must be in SBUF",
        )
    if math.prod(held.shape) != count * each or held.shape[0] != count:
        refuse(
            name,
            f"the tile is {list(held.shape)}, must be {count} partitions of {each} elements",
        )
    return (
        operands.formed(table, (table.shape[0], each)),
        operands.formed(held, (count, each)),
    )


def leaves(handle: Handle) -> bool:
    """Whether it is at an address that does not exist."""
    try:
        handle.access()
    except LimitExceeded:
        return True
    return False


def _moved(
    dst: Handle, src: Handle, mask: object, name: str, *, fresh_dst: bool = False
) -> Handle:
    read = _any(src, name, "src", mask)
    write = _any(dst, name, "dst", mask)
    if read.space == "psum":
        from emu.trainium.nki.functions import psum

        psum.settle(read)
        read = out_of_psum(read, name)
    if write.space == "psum":
        refuse(name, "dst is in PSUM, must be in HBM or SBUF: DMA does not reach PSUM")
    read, write = alike(read, write, name)
    choices = offer(None, name, queue_of(read, write))
    operation = current().emit(name, choices, (write,), (read,))
    if fresh_dst:
        dst.producer = operation
    return dst


def queue_of(read: Access, write: Access) -> Choice:
    """Loads and stores have queues of their own, as the compiler gives them."""
    queue = "load_queue" if write.space == "sbuf" else "store_queue"
    return way("dma", dma_compute.dma_copy, queue=queue)


def alike(read: Access, write: Access, name: str) -> tuple[Access, Access]:
    """Both sides with the same axes, in which one DMA moves element by element.

    The side in SBUF has partitions; the axes of one in HBM are cut so that the first is as long.
    """
    if math.prod(read.shape) != math.prod(write.shape):
        refuse(
            name,
            f"src is {list(read.shape)}, dst {list(write.shape)}: must have as many elements",
        )
    if read.shape == write.shape:
        return read, write
    # On chip partitions cannot be cut: the other side takes this one's shape.
    shape: Sequence[int] = read.shape
    if read.partitions is None and write.partitions is not None:
        shape = write.shape
    if 0 in shape:
        return dataclasses.replace(read, form=tuple(shape)), dataclasses.replace(
            write, form=tuple(shape)
        )
    sides = [operands.shaped(side, shape) for side in (read, write)]
    if None in sides and read.partitions is not None and write.partitions is not None:
        refuse(
            name, f"src is {list(read.shape)}, dst {list(write.shape)}: must be alike"
        )
    found = [
        operands.formed(side, tuple(shape)) if other is None else other
        for side, other in zip((read, write), sides, strict=True)
    ]
    return found[0], found[1]


def load_transpose2d(
    src: object,
    *,
    dtype: DType | None = None,
    mask: object = None,
    name: str = "nki.language.load_transpose2d",
) -> Handle:
    """A fresh tile `[n, p]` of `src[p, n]`: a DMA that walks the columns."""
    handle = operands.handle(src, name, "src")
    if handle.buffer != "hbm" or handle.ndim != 2:
        refuse(name, f"src is {handle!r}, must be [p, n] in HBM")
    read = _any(handle, name, "src", mask)
    turned = operands.with_axes(read, read.axes[::-1])
    tile = fresh(handle.shape[::-1], dtype or handle.dtype, "sbuf")
    part = tile[tuple(slice(0, size) for size in turned.shape)]
    write = part.access()
    choices = offer(None, name, queue_of(turned, write))
    tile.producer = current().emit(name, choices, (write,), (turned,))
    return tile
