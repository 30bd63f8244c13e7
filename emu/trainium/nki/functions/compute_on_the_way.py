"""Sums that a DMA makes on the way."""

from __future__ import annotations

from collections.abc import Sequence

from emu.trainium.engines import dma_compute as instructions
from emu.trainium.engines import dma_rows
from emu.trainium.nki.functions import operators
from emu.trainium.nki.functions.checks import refuse
from emu.trainium.nki.functions.elementwise import memset
from emu.trainium.nki.functions.engines import offer, way
from emu.trainium.nki.functions.operands import formed, handle, on_chip
from emu.trainium.nki.functions.transfer import (
    alike,
    dma_copy,
    gather,
    len_of,
    row_wise,
)
from emu.trainium.nki.handles import Handle, fresh
from emu.trainium.nki.indirect import Rows
from emu.trainium.nki.record import current


def dma_compute(
    dst: object,
    srcs: Sequence[object],
    reduce_op: object = "add",
    scales: Sequence[float] | None = None,
    *,
    skip: bool = False,
    name: str = "nki.isa.dma_compute",
) -> None:
    """`dst = srcs[0] + srcs[1] + ...`, one DMA for each after the first.

    Where `dst` is among the sources it is added to; else the first is copied there.
    """
    if operators.reduction(reduce_op, name, "reduce_op") != "add":
        refuse(name, f"reduce_op is {reduce_op!r}, must be nl.add")
    if scales is not None and any(float(scale) != 1.0 for scale in scales):
        refuse(name, f"scales are {list(scales)}, must be 1.0 each")
    target = handle(dst, name, "dst")
    sources = [handle(src, name, f"srcs[{i}]") for i, src in enumerate(srcs)]
    if not sources:
        refuse(name, "srcs is empty, must be one tensor or more")
    if isinstance(target, Rows):
        _scatter_add(target, sources, name)
        return
    if any(isinstance(source, Rows) for source in sources):
        sources = [_gathered(source, target, skip, name) for source in sources]
    held = [source for source in sources if source.same(target)]
    rest = [source for source in sources if not source.same(target)]
    if len(held) > 1 or _overlap(target, rest):
        refuse(name, "dst overlaps a source, must be one of them or apart from all")
    if not held:
        first, *rest = rest
        dma_copy(target, first, name=name)
    for source in rest:
        read, write = alike(source.access(), target.access(), name)
        choice = way("dma", instructions.dma_accumulate)
        current().emit(name, offer(None, name, choice), (write,), (read,))


def _scatter_add(target: Rows, sources: Sequence[Handle], name: str) -> None:
    """`dst[index[p]] += src[p]`."""
    rest = [source for source in sources if not isinstance(source, Rows)]
    if len(rest) != 1 or len(sources) != 2:
        refuse(name, "with a vector_offset srcs must be dst itself and one tile")
    write, read = row_wise(target, rest[0], name)
    index = on_chip(target.index, name, "vector_offset")
    index = formed(index, (len_of(index), 1))
    choice = way("dma", dma_rows.dma_scatter_add)
    current().emit(name, offer(None, name, choice), (write,), (read, index))


def _gathered(source: Handle, like: Handle, skip: bool, name: str) -> Handle:
    """A source; rows at indices in a tile of their own."""
    if not isinstance(source, Rows):
        return source
    tile = fresh(like.shape, source.dtype, "sbuf")
    if skip:
        memset(tile, 0.0, name=name)
    gather(tile, source, skip, name)
    return tile


def _overlap(target: Handle, sources: Sequence[Handle]) -> bool:
    """Whether a source other than the destination is of the same part of a tensor."""
    return any(
        source.tensor is target.tensor
        and source.offset == target.offset
        and source.partition == target.partition
        and source.member == target.member
        for source in sources
    )
