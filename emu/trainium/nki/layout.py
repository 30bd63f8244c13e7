"""An access pattern as a box of its buffer, with the registers in which it starts.

A pattern is a start and strides in a flat memory; an instruction of ours takes a *box*: a slice of
the buffer in some view of it, whose starts are registers (`emu.boxes`). Strides divide the memory
into the digits of a view. A box is right if no digit overflows, whatever turn the loops are in.

Example: columns 512·j and on of rows 128·i and on, `hbm[4096, 2048]`: offset 262144·i + 512·j, axes
((2048, 128), (1, 512)). Stride 2048 makes the view `[4096, 2048]`, in which the start is
(128·i, 512·j): as 512·j + 511 stays below 2048, it is the slice `[128, 512]` from there. What fits
no view, as with strides 3 and 2 beside each other, is gathered: a `Pattern`.
"""

import dataclasses
import math
from collections.abc import Sequence

from emu.boxes import Box, Pattern
from emu.errors import EmulationError
from emu.trainium.nki.scopes import Buffer
from emu.trainium.nki.tree import Access, Affine, Loop


@dataclasses.dataclass(frozen=True)
class Placed:
    """A part of a buffer: its form, None for all of it, and its start registers."""

    box: Box | Pattern | None
    starts: tuple[Affine, ...]


@dataclasses.dataclass(frozen=True)
class Axis:
    """A further axis of a pattern, in elements; several that lie end to end are one."""

    stride: int
    count: int
    place: int

    @property
    def is_slice(self) -> bool:
        return self.count > 1 and self.stride != 0


@dataclasses.dataclass(frozen=True)
class Digit:
    """A dimension of a view: how far apart its places are, how many, and the axis along it."""

    stride: int
    size: int
    axis: Axis | None = None

    @property
    def step(self) -> int:
        return self.axis.stride // self.stride if self.axis else 1

    @property
    def count(self) -> int:
        return self.axis.count if self.axis else 1


def placed(access: Access, buffer: Buffer) -> Placed:
    """Where an access is in its buffer.

    Raises:
      EmulationError: it reads the bytes of a tile as another format.
    """
    if access.cast is not None and access.cast != buffer.tensor.dtype:
        raise EmulationError(
            f"{buffer.tensor.name or 'a tile'}: read as {access.cast}, must be read as the "
            f"{buffer.tensor.dtype} that it is declared with"
        )
    start = buffer.member(access).times(buffer.pitch).plus(access.offset)
    on_chip = access.partitions is not None
    elements = math.prod(buffer.shape[1:] if on_chip else buffer.shape)
    if access.shape == buffer.shape and _is_whole(access, start):
        return Placed(None, ())
    axes = _joined(access.axes)
    found = _digits(axes, start, elements)
    if found is None:
        return _pattern(access, start)
    digits, starts = found
    return _box(access, buffer, axes, digits, starts)


def _is_whole(access: Access, start: Affine) -> bool:
    """Whether an access of the buffer's own shape has its elements in their order."""
    first = (start.constant, start.terms, access.partition.constant)
    if first != (0, (), 0) or access.partition.terms or access.partition_step != 1:
        return False
    if access.partitions not in (None, access.shape[0]):
        return False
    stride = 1
    for found, count in reversed(access.axes):
        if count > 1 and found != stride:
            return False
        stride *= count
    return True


def _joined(axes: Sequence[tuple[int, int]]) -> list[Axis]:
    """The axes without those of one element; two of which one ends where the next begins are one.

    Example: ((1024, 4), (128, 8), (1, 128)) is 4096 elements in a row, ((1, 4096),).
    """
    joined: list[Axis] = []
    for place, (stride, count) in enumerate(axes):
        if count == 1:
            continue
        last = joined[-1] if joined else None
        if last and stride and last.stride == stride * count:
            joined[-1] = Axis(stride, last.count * count, last.place)
        elif last and stride == 0 and last.stride == 0:
            joined[-1] = Axis(0, last.count * count, last.place)
        else:
            joined.append(Axis(stride, count, place))
    return joined


# --- views ---


def _digits(
    axes: Sequence[Axis], start: Affine, elements: int
) -> tuple[list[Digit], list[Affine]] | None:
    """A view in which no digit overflows, largest strides first, and its starts."""
    slices = sorted((a for a in axes if a.is_slice), key=lambda a: -a.stride)
    strides = _strides(slices, elements)
    while strides is not None:
        digits = _view(slices, strides, elements)
        starts = _split(start, [digit.stride for digit in digits])
        wrong = [k for k, d in enumerate(digits) if _overflows(d, starts[k])]
        if not wrong:
            return digits, starts
        strides = _finer(slices, strides, start, wrong[0])
    return None


def _strides(slices: Sequence[Axis], elements: int) -> list[int] | None:
    """A stride of the view for each sliced axis, each a divisor of the one before.

    Example: of 1024 elements every sixth is stride 2, of which the axis takes every third.
    """
    strides: list[int] = []
    above = elements
    for axis in slices:
        stride = math.gcd(axis.stride, above)
        # Two axes along one dimension, or one that runs backwards.
        if axis.stride < 0 or stride in strides:
            return None
        strides.append(stride)
        above = stride
    return strides


def _view(slices: Sequence[Axis], strides: Sequence[int], elements: int) -> list[Digit]:
    """The dimensions between the strides; single elements are the last one."""
    digits: list[Digit] = []
    # Above the first axis nothing is told apart: its dimension reaches to the buffer's end.
    above = elements
    for axis, stride in zip(slices, strides, strict=True):
        digits.append(Digit(stride, above // stride, axis))
        above = stride
    if above > 1 or not digits:
        digits.append(Digit(1, above))
    return digits


def _split(start: Affine, strides: Sequence[int]) -> list[Affine]:
    """A flat start as one along each dimension of a view."""
    starts = [Affine() for _ in strides]

    def add(amount: int, loop: Loop | None) -> None:
        for place, stride in enumerate(strides):
            # Towards zero, so that what runs backwards does so along every dimension.
            digit = int(math.copysign(abs(amount) // stride, amount))
            if digit:
                term = Affine(0, ((loop, digit),)) if loop else Affine(digit)
                starts[place] = starts[place].plus(term)
                amount -= digit * stride

    add(start.constant, None)
    for loop, coefficient in start.terms:
        add(coefficient, loop)
    return starts


def _overflows(digit: Digit, start: Affine) -> bool:
    last = start.most() + (digit.count - 1) * digit.step
    return start.least() < 0 or last >= digit.size


def _finer(
    slices: Sequence[Axis], strides: Sequence[int], start: Affine, wrong: int
) -> list[int] | None:
    """The strides with a smaller one above the dimension that overflowed; None if there is none.

    Example: a column of `[64, 1024]`, stride 1024, at offset 1536·i: the digit of single elements
    would be 512·i. With a view of 512 it is row 3·i, in steps of 2.
    """
    above = wrong - 1
    if not 0 <= above < len(slices):
        return None
    finer = strides[above]
    for _, coefficient in start.terms:
        finer = math.gcd(finer, coefficient)
    below = strides[wrong] if wrong < len(strides) else 0
    if finer == strides[above] or finer <= below or (below and finer % below):
        return None
    return [*strides[:above], finer, *strides[wrong:]]


# --- results ---


def _box(
    access: Access,
    buffer: Buffer,
    axes: Sequence[Axis],
    digits: Sequence[Digit],
    starts: Sequence[Affine],
) -> Placed:
    view = [digit.size for digit in digits]
    counts = [digit.count for digit in digits]
    steps = [digit.step for digit in digits]
    firsts = list(starts)
    # Of the instruction's dimensions, in its order: the view's along which they are.
    order: list[int] = []
    repeat: list[int] = []
    for axis in axes:
        if axis.is_slice:
            place = next(k for k, digit in enumerate(digits) if digit.axis is axis)
            repeat.append(1)
        else:
            # What is repeated is along a dimension of one.
            place = len(view)
            view.append(1)
            counts.append(1)
            steps.append(1)
            firsts.append(Affine())
            repeat.append(axis.count)
        order.append(place)
    rest = [k for k in range(len(view)) if k not in order]
    order += rest
    repeat += [1] * len(rest)
    if access.partitions is not None:
        view.insert(0, buffer.shape[0])
        counts.insert(0, access.partitions)
        steps.insert(0, access.partition_step)
        firsts.insert(0, access.partition)
        order = [0, *(place + 1 for place in order)]
        repeat.insert(0, 1)
    sizes = [(count - 1) * step + 1 for count, step in zip(counts, steps, strict=True)]
    box = Box(
        view=tuple(view),
        sizes=tuple(sizes),
        steps=tuple(steps),
        order=tuple(order),
        repeat=tuple(repeat),
        shape=access.shape,
    )
    return Placed(box, tuple(firsts[dim] for dim in box.moving))


def _pattern(access: Access, start: Affine) -> Placed:
    """Whatever it is, element by element."""
    pattern = Pattern(
        axes=access.axes,
        partitions=access.partitions,
        partition_step=access.partition_step,
        shape=access.shape,
    )
    on_chip = access.partitions is not None
    return Placed(pattern, (access.partition, start) if on_chip else (start,))


__all__ = ["Placed", "placed"]
