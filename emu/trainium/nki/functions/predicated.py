"""Copies of those elements that a predicate names."""

from __future__ import annotations

from emu.trainium import isa
from emu.trainium.nki.functions.checks import refuse
from emu.trainium.nki.functions.elementwise import memset
from emu.trainium.nki.functions.engines import offer, way
from emu.trainium.nki.functions.operands import is_tile, on_chip, shaped
from emu.trainium.nki.handles import fresh
from emu.trainium.nki.record import current


def tensor_copy_predicated(
    dst: object,
    src: object,
    predicate: object,
    *,
    reverse_pred: bool = False,
    mask: object = None,
    name: str = "nki.isa.tensor_copy_predicated",
) -> None:
    """`dst = src` where `predicate` is not 0 (0 if reversed); elsewhere `dst` is kept.

    A number as `src` is put into a tile first.
    """
    write = on_chip(dst, name, "dst", mask, written=True)
    if not is_tile(src):
        tile = fresh(write.shape, write.dtype, "sbuf")
        memset(tile, src, name=name)
        src = tile
    sources = []
    for argument, value in (("src", src), ("predicate", predicate)):
        access = on_chip(value, name, argument, mask)
        alike = shaped(access, write.shape)
        if alike is None:
            refuse(
                name,
                f"{argument} is {list(access.shape)}, must be {list(write.shape)} as dst",
            )
        sources.append(alike)
    choice = way("vector", isa.tensor_copy_predicated, reverse=bool(reverse_pred))
    current().emit(name, offer(None, name, choice), (write,), sources)
