"""Views of a handle with other axes, which move no data: patterns, reshapes, permutations."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from emu.errors import WrongShape
from emu.trainium.nki.dtypes import named
from emu.trainium.nki.handles import Axes, Handle, Limit, split


def sizes(arguments: "tuple[int | Sequence[int], ...]") -> tuple[int, ...]:
    """`(2, 3)` of both `f(2, 3)` and `f((2, 3))`."""
    if len(arguments) == 1 and isinstance(arguments[0], Sequence):
        return tuple(int(size) for size in arguments[0])
    return tuple(int(size) for size in arguments)  # pyright: ignore[reportArgumentType]


def row(handle: Handle, dtype: np.dtype) -> int:
    """Elements of one partition of the handle's tensor, or of all of it in HBM."""
    tensor = handle.tensor
    shape = tensor.shape if handle.partitions is None else tensor.shape[1:]
    return math.prod(shape) * tensor.dtype.itemsize // dtype.itemsize


def pattern(
    handle: Handle,
    pairs: Sequence[Sequence[int]],
    offset: int,
    dtype: Any,
    indirect: Mapping[str, Any],
) -> Handle:
    """`.ap`: [stride, count] pairs in elements; in SBUF and PSUM the first is the partitions'.

    The partitions' stride counts elements too: a row of the tile, or several. `offset` is a row
    times the first partition plus the first element in it. Both count from the handle's own
    first element.
    """
    wanted = handle.dtype if dtype is None else named(dtype, "ap")
    handle = reinterpret(handle, wanted) if wanted != handle.dtype else handle
    pairs = [(int(stride), int(count)) for stride, count in pairs]
    elements = row(handle, wanted)
    dim = int(indirect.get("indirect_dim") or 0)
    if indirect.get("vector_offset") is not None:
        from emu.trainium.nki import indirect as addresses

        return addresses.rows(
            handle, pairs, int(offset), indirect["vector_offset"], dim
        )
    if indirect.get("scalar_offset") is not None:
        from emu.trainium.nki import indirect as addresses

        value = indirect["scalar_offset"]
        offset, inside_it = addresses.scalar(handle, int(offset), value, dim)
        if not inside_it:
            # No such place: `oob_mode` of what uses it decides.
            limits = ((-1, (), 1, f"dimension {dim}"),)
            return Handle(
                handle.tensor,
                handle.member,
                handle.partition,
                pairs[0][1] if handle.partitions else None,
                1,
                handle.offset,
                tuple(pairs[1:] if handle.partitions else pairs),
                wanted,
                limits,
            )
    if handle.partitions is None:
        start = handle.offset + int(offset)
        limits = beyond("all", start, pairs, elements)
        return handle.changed(tuple(pairs), offset=start, limits=limits)
    if not pairs:
        raise WrongShape(
            "nki: an access pattern's first pair is the partitions', got none"
        )
    first, rest = divmod(int(offset), elements)
    stride, count = pairs[0]
    if count > 1 and stride % elements:
        raise WrongShape(
            f"nki: the first pair of an access pattern steps through partitions, {elements} "
            f"elements of {handle.tensor.name or 'the tile'} each, got stride {stride}"
        )
    step = stride // elements if count > 1 else 1
    partition = handle.partition + first
    start = handle.offset + rest
    limits = (
        *beyond("dimension 0", partition, [(step, count)], handle.tensor.shape[0]),
        *beyond("a partition", start, pairs[1:], elements),
    )
    return handle.changed(
        tuple(pairs[1:]),
        partition=partition,
        partitions=count,
        partition_step=step,
        offset=start,
        limits=limits,
    )


def beyond(
    what: str, start: int, pairs: Sequence[tuple[int, int]], size: int
) -> tuple[Limit, ...]:
    """That a pattern leaves its buffer: an error once it is used, which kernels may well guard."""
    if any(count == 0 for _, count in pairs):
        return ()
    least = start + sum(min(0, stride * (count - 1)) for stride, count in pairs)
    most = start + sum(max(0, stride * (count - 1)) for stride, count in pairs)
    if least >= 0 and most < size:
        return ()
    axes = tuple((place, n, stride) for place, (stride, n) in enumerate(pairs))
    return ((start, axes, size, what),)


def reinterpret(handle: Handle, dtype: Any) -> Handle:
    """The same bytes as elements of another format; the last dimension's size changes with it."""
    wanted = named(dtype, "view")
    old, new = handle.dtype.itemsize, wanted.itemsize
    if old == new:
        return handle.changed(handle.axes, dtype=wanted)
    if not handle.axes:
        raise WrongShape(
            f"nki: {handle!r} has no free dimension to be read as {wanted}"
        )
    *others, (stride, count) = handle.axes
    values = [handle.offset, *[s for s, n in others if n > 1], count]
    if stride != 1 and count > 1 or any(value * old % new for value in values):
        raise WrongShape(f"nki: {handle!r} does not split into elements of {wanted}")
    axes = tuple((s * old // new, n) for s, n in others)
    return handle.changed(
        (*axes, (1, count * old // new)),
        offset=handle.offset * old // new,
        dtype=wanted,
    )


def free(handle: Handle, dim: int, what: str) -> int:
    """The place in `axes` of a dimension, which has to be a free one."""
    before = len(handle.lead) + (0 if handle.partitions is None else 1)
    dim = dim + handle.ndim if dim < 0 else dim
    if dim < before:
        raise WrongShape(f"nki: {what} of the partition dimension of {handle!r}")
    if dim - before >= len(handle.axes):
        raise WrongShape(f"nki: {what} of dimension {dim} of {handle!r}")
    return dim - before


def reshape(handle: Handle, shape: tuple[int, ...]) -> Handle:
    """Another shape of the same elements in the same order; partitions stay partitions."""
    if math.prod(split(handle.size, shape) if -1 in shape else shape) != handle.size:
        raise WrongShape(
            f"nki: reshape of {handle!r} to {list(shape)}, which has other elements"
        )
    shape = split(handle.size, shape)
    before = handle.shape[: len(handle.lead) + (0 if handle.partitions is None else 1)]
    if shape[: len(before)] != before:
        raise WrongShape(
            f"nki: reshape of {handle!r} to {list(shape)} would move elements to other partitions; "
            f"the first dimensions have to stay {list(before)}"
        )
    return handle.changed(reshaped(handle, shape[len(before) :]))


def reshaped(handle: Handle, shape: tuple[int, ...]) -> Axes:
    """Axes of another shape, where runs of old axes that follow each other can be cut anew."""
    runs: list[tuple[int, int]] = []
    for stride, count in handle.axes:
        if count == 1:
            continue
        if runs and runs[-1][0] == stride * count:
            runs[-1] = (stride, runs[-1][1] * count)
        else:
            runs.append((stride, count))
    axes: list[tuple[int, int]] = []
    left = iter(runs)
    stride, rest = 0, 1
    for size in shape:
        if size == 1:
            axes.append((0, 1))
            continue
        if rest == 1:
            stride, rest = next(left)
        if rest % size:
            raise WrongShape(
                f"nki: reshape of {handle!r} to {list(shape)} takes elements that do not lie "
                "evenly; copy them first"
            )
        rest //= size
        axes.append((stride * rest, size))
    return tuple(axes)


def select(handle: Handle, dim: int, index: int) -> Handle:
    """One element of a dimension, which goes."""
    if handle.partitions is not None and dim == len(handle.lead):
        raise WrongShape(
            f"nki: select of the partition dimension of {handle!r}; slice it"
        )
    return handle[(*(slice(None),) * dim, index)]


def permute(handle: Handle, dims: tuple[int, ...]) -> Handle:
    """Dimensions in another order; partitions stay first."""
    before = len(handle.lead) + (0 if handle.partitions is None else 1)
    if sorted(dims) != list(range(handle.ndim)) or dims[:before] != tuple(
        range(before)
    ):
        raise WrongShape(
            f"nki: permute of {handle!r} by {list(dims)}; every dimension once, partitions first"
        )
    return handle.changed(tuple(handle.axes[dim - before] for dim in dims[before:]))


def broadcast(handle: Handle, dim: int, size: int) -> Handle:
    """A dimension of size 1 repeated."""
    place = free(handle, dim, "broadcast")
    if handle.axes[place][1] != 1:
        raise WrongShape(
            f"nki: broadcast of dimension {dim} of {handle!r}, which is not 1"
        )
    axes = (*handle.axes[:place], (0, size), *handle.axes[place + 1 :])
    return handle.changed(axes)


def broadcast_to(handle: Handle, shape: tuple[int, ...]) -> Handle:
    """Dimensions of size 1, or missing ones in front in HBM, repeated to a shape."""
    missing = len(shape) - handle.ndim
    if missing < 0 or missing > 0 and handle.partitions is not None:
        raise WrongShape(f"nki: broadcast of {handle!r} to {list(shape)}")
    if handle.partitions == 1 and shape[0] > 1 and _generation() != "nki":
        # The older generation's compiler spreads a row over partitions itself.
        from emu.trainium.nki.functions import spread

        return spread.broadcast_to(handle, shape, "nki.language.broadcast_to")
    axes = [*[(0, 1)] * missing, *handle.axes]
    before = len(shape) - len(axes)
    if handle.shape[:before] != shape[:before]:
        raise WrongShape(
            f"nki: broadcast of {handle!r} to {list(shape)} would read one partition in several; "
            "use a matmul with ones, nc_stream_shuffle or a DMA"
        )
    for place, size in enumerate(shape[before:]):
        if axes[place][1] == 1:
            axes[place] = (0, size)
        elif axes[place][1] != size:
            raise WrongShape(f"nki: broadcast of {handle!r} to {list(shape)}")
    return handle.changed(tuple(axes))


def expand(handle: Handle, dim: int) -> Handle:
    """A new dimension of size 1."""
    before = len(handle.lead) + (0 if handle.partitions is None else 1)
    dim = dim + handle.ndim + 1 if dim < 0 else dim
    if not before <= dim <= handle.ndim:
        raise WrongShape(
            f"nki: expand_dim of {handle!r} at {dim}; partitions come first"
        )
    place = dim - before
    return handle.changed((*handle.axes[:place], (0, 1), *handle.axes[place:]))


def squeeze(handle: Handle, dim: int) -> Handle:
    """A dimension of size 1 taken away."""
    place = free(handle, dim, "squeeze_dim")
    if handle.axes[place][1] != 1:
        raise WrongShape(
            f"nki: squeeze_dim of dimension {dim} of {handle!r}, which is not 1"
        )
    return handle.changed((*handle.axes[:place], *handle.axes[place + 1 :]))


def _generation() -> str:
    from emu.trainium.nki.record import current

    return current().api
