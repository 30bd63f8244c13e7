"""Sums that a DMA makes on the way."""

from __future__ import annotations

from collections.abc import Sequence

from emu.trainium.engines import dma_compute as instructions
from emu.trainium.nki.functions import operators
from emu.trainium.nki.functions.checks import refuse
from emu.trainium.nki.functions.engines import offer, way
from emu.trainium.nki.functions.operands import handle
from emu.trainium.nki.functions.transfer import alike, dma_copy
from emu.trainium.nki.handles import Handle
from emu.trainium.nki.record import current


def dma_compute(
    dst: object,
    srcs: Sequence[object],
    reduce_op: object = "add",
    scales: Sequence[float] | None = None,
    *,
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


def _overlap(target: Handle, sources: Sequence[Handle]) -> bool:
    """Whether a source other than the destination is of the same part of a tensor."""
    return any(
        source.tensor is target.tensor
        and source.offset == target.offset
        and source.partition == target.partition
        and source.member == target.member
        for source in sources
    )
