"""Addresses that a tensor or a register holds: `.ap(..., scalar_offset=..., vector_offset=...)`.

A scalar offset is a number as soon as it is asked for (`known`), so an access at one is like any
other, recorded for this value. A vector of offsets stays in its tile: the DMA reads a row of the
indexed tensor for each partition, whatever the indices are.
"""

from collections.abc import Sequence

import numpy as np

from emu.errors import EmulationError, LimitExceeded
from emu.trainium.nki.handles import Axes, Handle
from emu.trainium.nki.index import Mask
from emu.trainium.nki.tree import Access


class Rows(Handle):
    """Rows of a tensor in HBM, one for each partition, at indices that a tile in SBUF holds.

    Attributes:
      index: `[p, 1]`.
      table: all rows that there are, `[rows, ...]`.
    """

    __slots__ = ("index", "table")

    index: Handle
    table: Handle

    def access(self, mask: Mask | None = None) -> Access:
        raise EmulationError(
            f"nki: {self!r} has a vector_offset, which only nki.isa.dma_copy, dma_transpose and "
            "dma_compute take"
        )


def stride(handle: Handle, dim: int) -> tuple[int, int]:
    """(elements from one to the next, how many) along a dimension; of partitions a row each."""
    if handle.partitions is not None:
        if dim == 0:
            raise EmulationError(
                f"nki: scalar_offset along the partitions of {handle!r}, must be along a free "
                "dimension (indirect_dim)"
            )
        dim -= 1
    if not 0 <= dim < len(handle.axes):
        raise EmulationError(
            f"nki: indirect_dim is {dim}, {handle!r} has {handle.ndim} dimensions"
        )
    return handle.axes[dim]


def scalar(handle: Handle, offset: int, value: object, dim: int) -> tuple[int, bool]:
    """The offset with what a scalar adds to it, and whether that is a place of the dimension."""
    from emu.trainium.nki.functions.registers import number_of

    step, count = stride(handle, dim)
    number = number_of(value, "ap", "scalar_offset")
    inside = 0 <= number < count
    return (offset + number * step if inside else offset), inside


def rows(
    handle: Handle,
    pairs: Sequence[tuple[int, int]],
    offset: int,
    index: Handle,
    dim: int,
) -> Rows:
    """The rows at `offset + index[p] · stride` of a dimension, and the rest of a pattern each."""
    if handle.partitions is not None:
        raise EmulationError(
            f"nki: vector_offset of {handle!r}, must be of a tensor in HBM"
        )
    if index.buffer != "sbuf" or index.size != pairs[0][1]:
        raise EmulationError(
            f"nki: vector_offset is {index!r} in {index.buffer.upper()}, must be a tile of "
            f"{pairs[0][1]} indices in SBUF"
        )
    step, count = stride(handle, dim)
    rest = tuple(pairs[1:])
    span = sum(s * (n - 1) for s, n in rest)
    total = int(np.prod(handle.tensor.shape)) * handle.tensor.dtype.itemsize
    last = total // handle.dtype.itemsize - 1
    begin = handle.offset + offset
    # Rows that would reach past the tensor are none.
    there = min(count, (last - begin - span) // step + 1) if step else count
    if there < 1:
        raise LimitExceeded(
            f"nki: out of bounds, a row of the pattern reaches past {handle!r}"
        )
    table = handle.changed(((step, there), *rest), offset=begin)
    axes: Axes = (pairs[0], *rest)
    found = Rows(handle.tensor, handle.member, 0, None, 1, begin, axes, handle.dtype)
    found.index, found.table = index, table
    return found


__all__ = ["Rows", "rows", "scalar", "stride"]
