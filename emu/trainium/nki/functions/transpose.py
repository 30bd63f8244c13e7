"""Transposes by DMA."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from emu.trainium.engines import dma_compute
from emu.trainium.nki.functions.checks import refuse
from emu.trainium.nki.functions.engines import offer, way
from emu.trainium.nki.functions.operands import handle
from emu.trainium.nki.functions.transfer import gather
from emu.trainium.nki.handles import fresh
from emu.trainium.nki.indirect import Rows
from emu.trainium.nki.record import current
from emu.trainium.nki.tree import Access

PARTITIONS = 128
# By how many dimensions the source has: the first and the last change places.
PERMUTATIONS = {2: (1, 0), 3: (2, 1, 0), 4: (3, 1, 2, 0)}


def dma_transpose(
    dst: object,
    src: object,
    axes: Sequence[int] | None = None,
    *,
    skip: bool = False,
    name: str = "nki.isa.dma_transpose",
) -> None:
    """`dst[c, ..., a] = src[a, ..., c]`: the first and the last dimension change places.

    Rows at indices are gathered into a tile first, which is then transposed.
    """
    source, target = handle(src, name, "src"), handle(dst, name, "dst")
    if isinstance(source, Rows):
        count = source.axes[0][1]
        shape = tuple(size for _, size in source.axes)
        if count > PARTITIONS:
            refuse(name, f"src has {count} indices, must be {PARTITIONS} or less")
        tile = fresh(shape, source.dtype, "sbuf")
        gather(tile, source, skip, name)
        source = tile
    read, write = source.access(), target.access()
    wanted = PERMUTATIONS.get(len(read.shape))
    if wanted is None or (axes is not None and tuple(axes) != wanted):
        refuse(
            name,
            f"axes are {axes} of {list(read.shape)}, must be "
            f"{' or '.join(map(str, PERMUTATIONS.values()))}",
        )
    turned = tuple(read.shape[axis] for axis in wanted)
    if turned != write.shape or read.dtype != write.dtype:
        refuse(
            name,
            f"src is {read.dtype}{list(read.shape)}, so dst must be {read.dtype}"
            f"{list(turned)}, is {write.dtype}{list(write.shape)}",
        )
    if write.space != "sbuf":
        refuse(name, f"dst is in {write.space.upper()}, must be in SBUF")
    read, write = _plain(read), _plain(write)
    choice = way("dma", dma_compute.dma_transpose, axes=PERMUTATIONS[len(read.shape)])
    current().emit(name, offer(None, name, choice), (write,), (read,))


def _plain(access: Access) -> Access:
    """Without dimensions of one element between the first and the last."""
    first, *middle, last = access.shape
    if not middle or any(size != 1 for size in middle):
        return access
    return dataclasses.replace(access, form=(first, last))
