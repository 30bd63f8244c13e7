"""Indices of the old generation: `nl.arange`, `nl.mgrid`, the masks that they make, and `nl.ds`.

An index is a whole number plus multiples of the axes of the access that it will make. A mask is a
set of inequalities between such indices.
"""

import dataclasses
from collections.abc import Iterator
from typing import TypeAlias

from emu.errors import EmulationError

Axis: TypeAlias = tuple[int, int, int]
"""Of an index: (position of the axis in the access, its length, what one step adds)."""


@dataclasses.dataclass(frozen=True)
class Ds:
    """`nl.ds(start, size)`: `size` elements from `start` on."""

    start: int
    size: int


class Index:
    """`constant + Σ step · axis`, where axis `p` of the access runs from 0 to its length.

    Example: `512 * j + nl.arange(512)[None, :]` for j = 3 is constant 1536 and axes
    ((1, 512, 1),) of two dimensions.
    """

    __slots__ = ("constant", "axes", "ndim", "views")

    def __init__(self, constant: int, axes: tuple[Axis, ...], ndim: int):
        self.constant = constant
        self.axes = axes
        self.ndim = ndim
        self.views: dict[tuple[bool, ...], Index] = {}

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of its axes, 1 where it does not vary."""
        lengths = {position: length for position, length, _ in self.axes}
        return tuple(lengths.get(position, 1) for position in range(self.ndim))

    def __getitem__(self, key: "slice | None | tuple[slice | None, ...]") -> "Index":
        """New axes, such as `[:, None]`."""
        parts = key if isinstance(key, tuple) else (key,)
        kept = tuple(part is not None for part in parts)
        view = self.views.get(kept)
        if view is not None:
            return view
        for part in parts:
            if part is not None and part != slice(None):
                raise EmulationError(
                    f"nl.arange: a part of an index is no index, got [{part}]"
                )
        if sum(kept) != self.ndim:
            raise EmulationError(
                f"nl.arange: {sum(kept)} axes of an index that has {self.ndim}"
            )
        places = [new for new, old in enumerate(kept) if old]
        axes = tuple((places[p], length, step) for p, length, step in self.axes)
        view = self.views[kept] = Index(self.constant, axes, len(kept))
        return view

    def plus(self, other: "Index | int", sign: int) -> "Index":
        if not isinstance(other, Index):
            return Index(self.constant + sign * whole(other), self.axes, self.ndim)
        axes = {position: (length, step) for position, length, step in self.axes}
        for position, length, step in other.axes:
            first = axes.get(position, (length, 0))
            if first[0] != length:
                raise EmulationError(
                    f"index: axis {position} has {first[0]} steps in one index, {length} in another"
                )
            axes[position] = (length, first[1] + sign * step)
        parts = tuple((p, length, step) for p, (length, step) in sorted(axes.items()))
        ndim = max(self.ndim, other.ndim)
        return Index(self.constant + sign * other.constant, parts, ndim)

    def __add__(self, other: "Index | int") -> "Index":
        return self.plus(other, 1)

    __radd__ = __add__

    def __sub__(self, other: "Index | int") -> "Index":
        return self.plus(other, -1)

    def __rsub__(self, other: int) -> "Index":
        return (self * -1).plus(other, 1)

    def __neg__(self) -> "Index":
        return self * -1

    def __mul__(self, factor: int) -> "Index":
        factor = whole(factor)
        axes = tuple((p, length, step * factor) for p, length, step in self.axes)
        return Index(self.constant * factor, axes, self.ndim)

    __rmul__ = __mul__

    def __ge__(self, other: "Index | int") -> "Mask":
        return Mask((self - other,))

    def __le__(self, other: "Index | int") -> "Mask":
        return Mask((-(self - other),))

    def __gt__(self, other: "Index | int") -> "Mask":
        return Mask((self - other - 1,))

    def __lt__(self, other: "Index | int") -> "Mask":
        return Mask((-(self - other) - 1,))

    def __eq__(self, other: object) -> "Mask":  # pyright: ignore[reportIncompatibleMethodOverride]
        if not isinstance(other, Index | int):
            raise EmulationError(f"index: compared with {other!r}")
        return (self >= other) & (self <= other)

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def least(self) -> int:
        return self.constant + sum(min(0, step * (n - 1)) for _, n, step in self.axes)

    def most(self) -> int:
        return self.constant + sum(max(0, step * (n - 1)) for _, n, step in self.axes)


def whole(value: object) -> int:
    """An index's other operand, which has to be a whole number."""
    if type(value) is int:
        return value
    if hasattr(value, "__index__"):
        return int(value)  # pyright: ignore[reportArgumentType]
    raise EmulationError(
        f"index: expected a whole number or another index, got {type(value).__name__}; "
        "what a tensor holds is known only on the device"
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Mask:
    """Elements for which all `bounds` are at least 0."""

    bounds: tuple[Index, ...]

    def __and__(self, other: "Mask | bool | None") -> "Mask":
        if other is None or other is True:
            return self
        if other is False:
            return Mask((Index(-1, (), 0),))
        return Mask(self.bounds + other.bounds)

    __rand__ = __and__

    def clips(self, shape: tuple[int, ...]) -> dict[int, tuple[int, int]]:
        """Of each axis that it shortens, the part (first, one past the last) that is left.

        Axes are counted from the last one, as shapes are broadcast. Axes may come out empty.
        """
        clips: dict[int, tuple[int, int]] = {}
        for bound in self.bounds:
            if bound.least() >= 0:
                continue
            axes = [axis for axis in bound.axes if axis[2] and axis[1] > 1]
            if bound.most() < 0:
                clips.update({position: (0, 0) for position in range(len(shape))})
                return clips
            if len(axes) > 1:
                raise EmulationError(
                    "mask: an inequality between two axes leaves no box of elements; "
                    "use nisa.affine_select, which the hardware has for it"
                )
            position, length, step = axes[0]
            position += len(shape) - bound.ndim
            first, last = clips.get(position, (0, length))
            # constant + step · a >= 0
            if step > 0:
                first = max(first, -(bound.constant // step))
            else:
                last = min(last, bound.constant // -step + 1)
            clips[position] = (first, max(first, last))
        return clips


def arange(start: int, stop: int | None = None, step: int = 1) -> Index:
    """`nl.arange`: one axis, to be given its place by `[:, None]`."""
    found = ARANGES.get((start, stop, step))
    if found is None:
        first, last = (0, start) if stop is None else (start, stop)
        first, last, step = whole(first), whole(last), whole(step)
        key = (start, stop, step)
        if step == 0 or len(range(first, last, step)) == 0:
            raise EmulationError(f"nl.arange: empty, from {first} to {last} by {step}")
        axes = ((0, len(range(first, last, step)), step),)
        found = ARANGES[key] = Index(first, axes, 1)
    return found


# Values, not state: an index does not change, and kernels ask for the same few again and again.
ARANGES: dict[tuple[int, int | None, int], Index] = {}


class Grid:
    """`nl.mgrid[0:128, 0:512]`: one index for each axis, also as `.p`, `.x`, `.y`, `.z`."""

    def __init__(self, indices: tuple[Index, ...]):
        self.indices = indices

    def __iter__(self) -> Iterator[Index]:
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> Index:
        return self.indices[place]

    @property
    def p(self) -> Index:
        return self.indices[0]

    def __getattr__(self, name: str) -> Index:
        # [p, x, y, z], as the documentation of NKI counts them.
        order = {"x": 1, "y": 2, "z": 3, "w": 4}
        if name not in order or order[name] >= len(self.indices):
            raise EmulationError(
                f"nl.mgrid: no axis {name!r} among {len(self.indices)}"
            )
        return self.indices[order[name]]


class GridMaker:
    """`nl.mgrid`."""

    def __getitem__(self, key: slice | tuple[slice, ...]) -> Grid:
        parts = key if isinstance(key, tuple) else (key,)
        indices: list[Index] = []
        for position, part in enumerate(parts):
            first, step = part.start or 0, part.step or 1
            length = len(range(first, part.stop, step))
            indices.append(Index(first, ((position, length, step),), len(parts)))
        return Grid(tuple(indices))


mgrid = GridMaker()
