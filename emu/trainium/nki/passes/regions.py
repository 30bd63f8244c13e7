"""Which elements an access touches, and whether two accesses can touch the same ones.

A region is a box: a first index, affine in loops, and an extent along each dimension of the family
and of its tensor. Two regions are apart if they are along any one of them. What does not divide
into the tensor's dimensions is a stretch of its flat elements. The answer errs on the safe side.

Example: rows 128·i and on, columns 512·j and on of `hbm[4096, 2048]`, 128 by 512 of them. In two
turns of `j` they are apart along columns, whatever `i` is, although the flat stretches meet.
"""

import dataclasses
import math
from collections.abc import Mapping

from emu.trainium.nki.tree import Access, Affine, Loop


@dataclasses.dataclass(frozen=True)
class Span:
    """`size` places from a first one."""

    start: Affine
    size: int


@dataclasses.dataclass(frozen=True)
class Distances:
    """How the turns of two accesses lie to each other.

    Attributes:
      same: loops of which both are in one turn.
      later: loops to how many turns the second is after the first, the least and the most.
        Of all other loops any two turns are compared.
    """

    same: frozenset[Loop]
    later: Mapping[Loop, tuple[int, int]]


def region(access: Access) -> tuple[Span, ...]:
    """The box that an access is within: members, partitions, then free dimensions or one stretch.

    Of one tensor all accesses that divide into its dimensions have as many spans.
    """
    spans = [Span(member, 1) for member in access.member]
    shape = access.tensor.shape
    if access.partitions is not None:
        extent = (access.partitions - 1) * abs(access.partition_step) + 1
        spans.append(Span(access.partition, extent))
        shape = shape[1:]
    return (*spans, *_free(access, shape))


def _free(access: Access, shape: tuple[int, ...]) -> tuple[Span, ...]:
    strides = [math.prod(shape[k + 1 :]) for k in range(len(shape))]
    extents = _extents(access.axes, shape, strides)
    if extents is not None:
        starts = _starts(access.offset, strides)
        inside = True
        for k in range(1, len(shape)):
            last = starts[k].most() + extents[k]
            inside = inside and starts[k].least() >= 0 and last < shape[k]
        if inside:
            spans = zip(starts, extents, strict=True)
            return tuple(Span(start, extent + 1) for start, extent in spans)
    if any(stride < 0 for stride, _ in access.axes):
        return (Span(Affine(), math.prod(shape)),)
    length = sum(stride * (count - 1) for stride, count in access.axes) + 1
    return (Span(access.offset, length),)


def _extents(
    axes: tuple[tuple[int, int], ...], shape: tuple[int, ...], strides: list[int]
) -> list[int] | None:
    """How far the axes reach along each dimension; None if they do not divide so."""
    extents = [0] * len(shape)
    for stride, count in axes:
        if stride == 0 or count == 1:
            continue
        place = next((k for k, own in enumerate(strides) if own <= stride), None)
        while place is not None and count > 1:
            step, rest = divmod(stride, strides[place])
            if rest or stride < 0:
                return None
            reach = extents[place] + (count - 1) * step
            if reach < shape[place] or place == 0:
                extents[place] = reach
                break
            # All of this dimension and several places of the one above: 4,096 of `[8, 512]`.
            if step != 1 or count % shape[place]:
                return None
            extents[place] = shape[place] - 1
            count //= shape[place]
            place -= 1
            stride = strides[place]
    return extents


def _starts(offset: Affine, strides: list[int]) -> list[Affine]:
    """A flat offset as one along each dimension."""
    starts = [Affine() for _ in strides]
    for loop, amount in ((None, offset.constant), *offset.terms):
        for place, stride in enumerate(strides):
            digit = int(math.copysign(abs(amount) // stride, amount))
            if digit:
                term = Affine(0, ((loop, digit),)) if loop else Affine(digit)
                starts[place] = starts[place].plus(term)
                amount -= digit * stride
    return starts


def may_meet(first: Access, second: Access, distances: Distances) -> bool:
    """Whether two accesses can touch an element in common, in turns that lie so."""
    if first.tensor is not second.tensor:
        return False
    mine, other = region(first), region(second)
    if len(mine) != len(other):
        # One is a stretch: only members and partitions compare.
        shared = len(first.member) + (first.partitions is not None)
        mine, other = mine[:shared], other[:shared]
    return spans_may_meet(mine, other, distances)


def spans_may_meet(
    first: tuple[Span, ...], second: tuple[Span, ...], distances: Distances
) -> bool:
    """Whether two boxes can have a place in common."""
    pairs = zip(first, second, strict=True)
    return not any(_apart(a, b, distances) for a, b in pairs)


def _apart(first: Span, second: Span, distances: Distances) -> bool:
    least, most = _difference(first.start, second.start, distances)
    return least >= first.size or most <= -second.size


def _difference(a: Affine, b: Affine, distances: Distances) -> tuple[int, int]:
    """The least and the most that `b` can be larger than `a`."""
    least = most = b.constant - a.constant
    mine, other = dict(a.terms), dict(b.terms)

    def add(coefficient: int, low: int, high: int) -> None:
        nonlocal least, most
        ends = coefficient * low, coefficient * high
        least += min(ends)
        most += max(ends)

    for loop in {**mine, **other}:
        c, d = mine.get(loop, 0), other.get(loop, 0)
        last = loop.count - 1
        if loop in distances.same:
            add(d - c, 0, last)
        elif loop in distances.later:
            # c·i of the first and d·(i + distance) of the second.
            add(d - c, 0, last)
            add(d, *distances.later[loop])
        else:
            add(d, 0, last)
            add(-c, 0, last)
    return least, most


def is_constant(expression: Affine, loop: Loop) -> bool:
    """Whether a loop's index is not in an expression."""
    return all(each is not loop for each, _ in expression.terms)


def depends_on(access: Access, loop: Loop) -> bool:
    """Whether an access is elsewhere in another turn of a loop."""
    parts = (*access.member, access.partition, access.offset)
    return not all(is_constant(part, loop) for part in parts)


def loops_of(access: Access) -> set[Loop]:
    """The loops in an access's address."""
    parts = (*access.member, access.partition, access.offset)
    return {loop for part in parts for loop, _ in part.terms}


__all__ = [
    "Distances",
    "Span",
    "depends_on",
    "is_constant",
    "loops_of",
    "may_meet",
    "region",
    "spans_may_meet",
]
