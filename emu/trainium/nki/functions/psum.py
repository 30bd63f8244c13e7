"""What of a PSUM tensor is written: which matmul overwrites, which adds, where zeros are missing.

A matmul writes over what its bank holds or adds to it, as a flag says. Kernels say `nl.zeros` and
`+=`; then the first product into a place overwrites and no zeros are ever written. The flag is
recorded as a register that says yes or no.
"""

import dataclasses
import math

import numpy as np

from emu.trainium import isa
from emu.trainium.nki.functions.engines import offer, way
from emu.trainium.nki.record import current
from emu.trainium.nki.tree import Access, Affine, Tensor
from emu.trainium.nki.written import Region, Written


def _of(tensor: Tensor) -> Written:
    known = current().written
    if tensor not in known:
        known[tensor] = Written()
    return known[tensor]


def declare_zeros(tensor: Tensor) -> None:
    """Notes that the tensor reads as zeros until it is written."""
    _of(tensor).zeros = True


def _place(access: Access) -> tuple[tuple[int, ...], Region]:
    member = tuple(index.constant for index in access.member)
    region = (
        access.partition.constant,
        access.partitions,
        access.partition_step,
        access.offset.constant,
        access.axes,
    )
    return member, region


def add(access: Access) -> bool:
    """The flag of a product that is added there: whether one was written before; counts it."""
    known = _of(access.tensor)
    member, region = _place(access)
    regions = known.products.setdefault(member, {})
    count = regions.get(region)
    if count is None:
        count = _first(access, known, regions)
    regions[region] = count + 1
    return count > 0


def _first(access: Access, known: Written, regions: dict[Region, int]) -> int:
    """Products before the first one to a region that was not written as such before."""
    covered = _covered(access, regions)
    if not covered.any():
        return 0
    if covered.all():
        return 1
    settle(access)
    return 1


def overwrite(access: Access) -> bool:
    """Notes that an operation writes there without adding; the flag if it is a product."""
    if access.space != "psum":
        return False
    member, region = _place(access)
    _of(access.tensor).products.setdefault(member, {})[region] = 1
    return False


def flag(accumulate: bool | None, access: Access) -> bool:
    """The flag of a product into a kernel's own destination."""
    if accumulate is None:
        return add(access)
    if not accumulate:
        return overwrite(access)
    add(access)
    return True


def settle(access: Access) -> None:
    """Writes zeros where the kernel declared them and nothing was written, before a read."""
    known = current().written.get(access.tensor)
    if known is None or not known.zeros:
        return
    member, region = _place(access)
    regions = known.products.setdefault(member, {})
    if region in regions:
        return
    covered = _covered(access, regions)
    if covered.all():
        return
    memset = offer(None, "nl.zeros", way("vector", isa.memset, value=0.0))
    if not covered.any():
        current().emit("nl.zeros", memset, (access,), (), implicit=True)
        regions[region] = 1
        return
    for first, count in _runs(_elements(access)[~covered]):
        part = dataclasses.replace(access, offset=Affine(first), axes=((1, count),))
        current().emit("nl.zeros", memset, (part,), (), implicit=True)
        regions[_place(part)[1]] = 1


def _elements(access: Access) -> np.ndarray:
    """Places of its elements in a partition, flat."""
    places = np.full((), access.offset.constant)
    for stride, count in access.axes:
        places = places[..., None] + stride * np.arange(count)
    return places.reshape(-1)


def _covered(access: Access, regions: dict[Region, int]) -> np.ndarray:
    """Of each of its elements, whether a region in all its partitions was written before."""
    free = math.prod(access.tensor.shape[1:])
    written = np.zeros(free, bool)
    first = access.partition.constant
    last = first + (access.partitions or 0)
    for partition, partitions, step, offset, axes in regions:
        end = partition + (partitions or 0) * step
        if partition <= first and last <= end and step == 1:
            whole = dataclasses.replace(access, offset=Affine(offset), axes=axes)
            written[_elements(whole)] = True
    return written[_elements(access)]


def _runs(places: np.ndarray) -> list[tuple[int, int]]:
    """Contiguous runs of sorted places: (first, count)."""
    places = np.unique(places)
    breaks = np.flatnonzero(np.diff(places) != 1) + 1
    return [(int(run[0]), len(run)) for run in np.split(places, breaks)]
