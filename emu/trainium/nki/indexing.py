"""What `handle[...]` means: whole numbers, slices, `nl.ds`, `...`, `None`, `nl.arange` indices."""

import functools
from types import EllipsisType
from typing import TypeAlias

import numpy as np

from emu.errors import EmulationError, LimitExceeded, WrongShape
from emu.trainium.nki.handles import Axes, Handle, Limit
from emu.trainium.nki.index import Axis, Ds, Grid, Index, whole
from emu.trainium.nki.tree import Tensor

Part: TypeAlias = "int | slice | Ds | Index | None | EllipsisType"
Key: TypeAlias = "Part | Grid | tuple[Part, ...]"


def indexed(handle: Handle, key: Key) -> Handle:
    """A view of the elements that a key names."""
    parts = keys(key)
    blocks = sum([type(part) is range for part in handle.member])
    before = 0 if handle.partitions is None else 1
    dimensions = blocks + before + len(handle.axes)
    given = 0
    dots = False
    indices = False
    for part in parts:
        if part is Ellipsis:
            dots = True
        elif part is not None:
            given += 1
            if isinstance(part, Index):
                indices = True
    if given == dimensions + 1 and before and not handle.axes:
        # A tile on chip has a free dimension also where it was indexed away.
        handle = handle.changed(((1, 1),))
        dimensions += 1
    if given > dimensions:
        raise WrongShape(
            f"nki: {given} indices for {handle!r}, which has {dimensions} dimensions"
        )
    if dots:
        place = next(i for i, part in enumerate(parts) if part is Ellipsis)
        filled = (slice(None),) * (dimensions - given)
        parts = (*parts[:place], *filled, *parts[place + 1 :])
    elif given < dimensions:
        parts = (*parts, *(slice(None),) * (dimensions - given))
    if handle.limits:
        handle.check({})
    member = handle.member
    if blocks:
        member, parts = chosen(handle, parts, blocks)
    if indices:
        found = planned(handle, member, parts)
        return advanced(handle, member, parts) if found is None else found
    return basic(handle, member, parts, blocks)


def keys(key: Key) -> tuple[Part, ...]:
    """A key as a tuple of its parts."""
    if isinstance(key, tuple):
        return key  # pyright: ignore[reportReturnType]
    return tuple(key) if isinstance(key, Grid) else (key,)


def chosen(
    handle: Handle, parts: tuple[Part, ...], blocks: int
) -> "tuple[tuple[int | range, ...], tuple[Part, ...]]":
    """The members that a key leaves, and the key without its block dimensions."""
    left = iter(parts[:blocks])
    member: list[int | range] = []
    for place, old in enumerate(handle.member):
        if type(old) is not range:
            member.append(old)
            continue
        part = next(left)
        if isinstance(part, int) and 0 <= part < len(old):
            member.append(old[part])
            continue
        if isinstance(part, Ds):
            part = slice(part.start, part.start + part.size)
        if isinstance(part, Index) and not part.axes:
            part = part.constant
        if isinstance(part, slice):
            member.append(old[part])
        elif part is None or isinstance(part, Index | EllipsisType):
            raise EmulationError(
                f"nki: block dimension {place} of {handle!r} takes a whole number, for an "
                "operation works on one block"
            )
        else:
            number = whole(part)
            if not -len(old) <= number < len(old):
                raise outside(handle, place, len(old), number, number)
            member.append(old[number])
    return tuple(member), parts[blocks:]


def outside(
    handle: Handle, dimension: int, size: int, least: int, most: int
) -> LimitExceeded:
    name = handle.tensor.name or "the tensor"
    return LimitExceeded(
        f"nki: out of bounds, dimension {dimension} of {name} has {size} elements and the access "
        f"reaches from {least} to {most}"
    )


def span(part: "slice | Ds", size: int) -> tuple[int, int, int]:
    """(first, count, step) of a slice of a dimension, which may leave it."""
    if isinstance(part, Ds):
        return part.start, part.size, 1
    step = 1 if part.step is None else whole(part.step)
    if step < 0:
        return (lambda r: (r.start, len(r), step))(range(size)[part])
    first = 0 if part.start is None else whole(part.start)
    last = size if part.stop is None else whole(part.stop)
    first = first + size if first < 0 else first
    last = last + size if last < 0 else last
    return first, max(0, -((first - last) // step)), step


def basic(
    handle: Handle,
    member: "tuple[int | range, ...]",
    parts: tuple[Part, ...],
    blocks: int,
) -> Handle:
    """Whole numbers and slices: each dimension by itself, in order."""
    axes: list[tuple[int, int]] = []
    limits: list[Limit] = []
    partition, partitions, step = (
        handle.partition,
        handle.partitions,
        handle.partition_step,
    )
    offset = handle.offset
    before = 0 if partitions is None else 1
    old = 0
    for part in parts:
        if part is None:
            if old < before:
                raise WrongShape(
                    f"nki: the partition dimension of {handle!r} has to stay first"
                )
            axes.append((0, 1))
            continue
        if old < before:
            stride, size = step, partitions or 0
        else:
            stride, size = handle.axes[old - before]
        if (
            type(part) is slice
            and part.start is None
            and part.stop is None
            and part.step is None
        ):
            first, count, jump = 0, size, 1
        elif isinstance(part, slice | Ds):
            first, count, jump = span(part, size)
            if count and (first < 0 or first + (count - 1) * jump >= size):
                position = len(axes) + (before if old else 0)
                what = f"dimension {blocks + old}"
                limits.append((first, ((position, count, jump),), size, what))
        else:
            first, count, jump = whole(part), None, 1
            first = first + size if first < 0 else first
            if not 0 <= first < size:
                raise outside(handle, blocks + old, size, first, first)
        if old < before:
            partition += first * stride
            partitions = 1 if count is None else count
            step = stride * jump
        else:
            offset += first * stride
            if count is not None:
                axes.append((stride * jump, count))
        old += 1
    return Handle(
        handle.tensor,
        member,
        partition,
        partitions,
        step,
        offset,
        tuple(axes),
        handle.dtype,
        tuple(limits),
    )


def planned(
    handle: Handle, member: "tuple[int | range, ...]", parts: tuple[Part, ...]
) -> Handle | None:
    """What `advanced` gives for keys of indices and whole numbers that stay within the tensor.

    Kernels index in the same few ways thousands of times, at other places: the ways are kept.
    """
    kinds: list[tuple[tuple[Axis, ...], int] | None] = []
    constants: list[int] = []
    for part in parts:
        if isinstance(part, Index):
            kinds.append((part.axes, part.ndim))
            constants.append(part.constant)
        elif isinstance(part, int):
            kinds.append(None)
            constants.append(part)
        else:
            return None
    way = plan(handle.partitions, handle.partition_step, handle.axes, tuple(kinds))
    if way is None:
        return None
    partitions, partition_step, axes, dimensions = way
    partition, offset = handle.partition, handle.offset
    first = partitions is not None
    for constant, (stride, size, least, most) in zip(
        constants, dimensions, strict=True
    ):
        if constant + least < 0 or constant + most >= size:
            return None
        if first:
            partition += constant * stride
            first = False
        else:
            offset += constant * stride
    return Handle(
        handle.tensor,
        member,
        partition,
        partitions,
        partition_step,
        offset,
        axes,
        handle.dtype,
    )


Plan: TypeAlias = tuple[int | None, int, Axes, tuple[tuple[int, int, int, int], ...]]
"""(partitions, partition step, axes) of an access, and for each dimension of the tensor its
stride and size, and how far the indices reach below and above their constants."""


@functools.lru_cache(maxsize=16384)
def plan(
    partitions: int | None,
    partition_step: int,
    axes: Axes,
    kinds: tuple[tuple[tuple[Axis, ...], int] | None, ...],
) -> Plan | None:
    """The access that such indices make of such a handle; None where `advanced` has to say no."""
    nowhere = Tensor((), np.dtype(np.float32), "sbuf")
    handle = Handle(nowhere, (), 0, partitions, partition_step, 0, axes, nowhere.dtype)
    parts = tuple([0 if kind is None else Index(0, *kind) for kind in kinds])
    try:
        made = advanced(handle, (), parts)
    except WrongShape:
        return None
    sides = axes if partitions is None else ((partition_step, partitions), *axes)
    dimensions: list[tuple[int, int, int, int]] = []
    for part, (stride, size) in zip(parts, sides, strict=True):
        least, most = (0, 0) if isinstance(part, int) else (part.least(), part.most())
        dimensions.append((stride, size, least, most))
    return made.partitions, made.partition_step, made.axes, tuple(dimensions)


def advanced(
    handle: Handle, member: "tuple[int | range, ...]", parts: tuple[Part, ...]
) -> Handle:
    """Keys with `nl.arange` indices, whose axes say themselves where in the access they stand."""
    before = 0 if handle.partitions is None else 1
    depth = max(part.ndim for part in parts if isinstance(part, Index))
    places = [
        i for i, part in enumerate(parts) if not isinstance(part, slice | Ds | None)
    ]
    together = places[-1] - places[0] + 1 == len(places)
    # As in NumPy: the axes of the indices come where the indices stand, or first if they do not
    # stand together; slices keep their order.
    at = (
        sum(isinstance(part, slice | Ds | None) for part in parts[: places[0]])
        if together
        else 0
    )
    total = depth + len(parts) - len(places)
    fresh = iter([*range(at), *range(at + depth, total)])
    lengths = [1] * total
    steps = [0] * total
    limits: list[Limit] = []
    partition, partition_step, partition_axis = handle.partition, 1, None
    offset = handle.offset
    old = 0
    for part in parts:
        if part is None:
            next(fresh)
            continue
        dimension = old
        old += 1
        if dimension < before:
            stride, size = handle.partition_step, handle.partitions or 0
        else:
            stride, size = handle.axes[dimension - before]
        terms: tuple[Axis, ...] = ()
        if isinstance(part, Index):
            first = part.constant
            terms = tuple((at + p, length, step) for p, length, step in part.axes)
        elif isinstance(part, slice | Ds):
            first, count, jump = span(part, size)
            terms = ((next(fresh), count, jump),)
        else:
            first = whole(part)
            first = first + size if first < 0 else first
        least = first + sum(min(0, step * (n - 1)) for _, n, step in terms)
        most = first + sum(max(0, step * (n - 1)) for _, n, step in terms)
        if least < 0 or most >= size:
            limits.append((first, terms, size, f"dimension {dimension}"))
        for position, length, _ in terms:
            if lengths[position] not in (1, length):
                raise WrongShape(
                    f"nki: axis {position} is {lengths[position]} long in one index of {handle!r} "
                    f"and {length} in another"
                )
            lengths[position] = length
        if dimension < before:
            partition += first * stride
            varying = [term for term in terms if term[1] > 1 and term[2]]
            if len(varying) > 1 or any(term[0] != 0 for term in varying):
                raise WrongShape(
                    f"nki: the partition dimension of {handle!r} has to be indexed by the first "
                    "axis alone"
                )
            for position, _, step in terms:
                if position == 0:
                    partition_axis, partition_step = 0, step * stride
        else:
            offset += first * stride
            for position, _, step in terms:
                steps[position] += step * stride
    partitions = handle.partitions
    if before:
        if partition_axis is None and lengths[0] > 1:
            # One partition, and all axes are free: they move up by one.
            lengths, steps = [1, *lengths], [0, *steps]
            limits = [
                (c, tuple((p + 1, n, s) for p, n, s in t), z, d)
                for c, t, z, d in limits
            ]
        if steps[0] and lengths[0] > 1:
            raise WrongShape(
                f"nki: the first axis of an access to {handle!r} indexes the partition dimension "
                "and a free one; the hardware steps through them separately"
            )
        partitions = lengths[0]
    axes = tuple(zip(steps[before:], lengths[before:], strict=True))
    return Handle(
        handle.tensor,
        member,
        partition,
        partitions,
        partition_step if before else 1,
        offset,
        axes,
        handle.dtype,
        tuple(limits),
    )
