"""One partition's row spread over several: a product with ones, as the compiler does it."""

import dataclasses

import numpy as np

from emu.trainium import isa
from emu.trainium.nki.functions import operands, psum
from emu.trainium.nki.functions.copy import out_of_psum, ways
from emu.trainium.nki.functions.engines import offer, way
from emu.trainium.nki.handles import Handle, fresh
from emu.trainium.nki.record import current
from emu.trainium.nki.tree import Access

BANK = 512


def over_partitions(row: Access, partitions: int, name: str) -> Access:
    """`[1, ...]` as `[partitions, ...]`: in PSUM if a bank holds it, else copied to SBUF."""
    shape = row.shape
    count = operands.elements(row)
    flat = operands.shaped(row, (1, count))
    source = out_of_psum(row if flat is None else flat, name)
    if flat is None:
        flat = operands.shaped(source, (1, count))
        assert flat is not None
        source = flat
    ones = fresh((1, partitions), source.dtype, "sbuf").access()
    memset = offer(None, name, way("vector", isa.memset, value=1.0))
    current().emit("nki.isa.memset", memset, (ones,), (), implicit=True)
    whole = None
    if count > BANK:
        whole = fresh((partitions, count), row.dtype, "sbuf").access()
    product = offer(None, name, way("tensor", isa.nc_matmul))
    result = whole
    for first in range(0, count, BANK):
        size = min(BANK, count - first)
        part = _columns(source, first, size)
        bank = fresh((partitions, size), np.float32, "psum").access()
        flag = psum.overwrite(bank)
        reads = (ones, part, flag)
        current().emit("nki.isa.nc_matmul", product, (bank,), reads, implicit=True)
        if whole is None:
            result = bank
            continue
        out = _columns(whole, first, size)
        choices = offer(None, name, *ways(bank, row.dtype))
        current().emit("nki.isa.tensor_copy", choices, (out,), (bank,), implicit=True)
    assert result is not None
    shaped = operands.shaped(result, (partitions, *shape[1:]))
    assert shaped is not None
    return shaped


def _columns(access: Access, first: int, size: int) -> Access:
    ((stride, _),) = access.axes
    offset = access.offset.plus(first * stride)
    return dataclasses.replace(access, offset=offset, axes=((stride, size),))


def as_handle(access: Access) -> Handle:
    """A handle of what is in a tile, without the axes that were put in."""
    return Handle(
        access.tensor,
        tuple(index.constant for index in access.member),
        access.partition.constant,
        access.partitions,
        access.partition_step,
        access.offset.constant,
        access.axes,
        access.dtype,
    )


def broadcast_to(handle: Handle, shape: tuple[int, ...], name: str) -> Handle:
    """`nl.broadcast_to` of a tile of one partition: as a tile of its own."""
    row = operands.on_chip(handle, name, "src")
    wide = operands.repeated(row, (1, *shape[1:]))
    return as_handle(over_partitions(row if wide is None else wide, shape[0], name))
