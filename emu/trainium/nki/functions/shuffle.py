"""Data moved from one partition to another, or reduced over them."""

from __future__ import annotations

from collections.abc import Sequence

from emu.trainium import isa
from emu.trainium.nki.functions.checks import refuse
from emu.trainium.nki.functions.engines import offer, way
from emu.trainium.nki.functions.operands import elements, on_chip, shaped
from emu.trainium.nki.handles import Handle
from emu.trainium.nki.record import current

QUADRANT = 32


def nc_stream_shuffle(
    dst: object,
    src: object,
    shuffle_mask: Sequence[int],
    *,
    name: str = "nki.isa.nc_stream_shuffle",
) -> None:
    """Within each quadrant of 32 partitions `dst[i] = src[shuffle_mask[i]]`; 255 keeps `dst[i]`."""
    mask = tuple(int(entry) for entry in shuffle_mask)
    if len(mask) != QUADRANT:
        refuse(name, f"shuffle_mask has {len(mask)} entries, must have {QUADRANT}")
    read = on_chip(src, name, "src")
    write = on_chip(dst, name, "dst", written=True)
    if elements(read) != elements(write) or read.dtype != write.dtype:
        refuse(
            name,
            f"src is {read.dtype}{list(read.shape)}, dst {write.dtype}{list(write.shape)}: must "
            "be of one dtype, with as many elements a partition",
        )
    source = shaped(read, (read.shape[0], *write.shape[1:])) or read
    choice = way("vector", isa.nc_stream_shuffle, mask=mask)
    current().emit(name, offer(None, name, choice), (write,), (source,))


def tensor_partition_reduce(
    dst: Handle | None,
    op: object,
    data: object,
    *,
    name: str = "nki.isa.tensor_partition_reduce",
) -> Handle:
    """`dst[1, ...] = op` over the partitions of `data`."""
    from emu.trainium.nki.functions import operators
    from emu.trainium.nki.functions.produce import produce

    source = on_chip(data, name, "data")
    reduction = operators.reduction(op, name)
    choice = way("gpsimd", isa.tensor_partition_reduce, op=reduction)
    shape = (1, *source.shape[1:])
    return produce(
        name, offer(None, name, choice), dst, shape, shape, source.dtype, (source,)
    )
