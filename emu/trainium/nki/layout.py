"""An access pattern as a box of its buffer, with the registers in which it starts.

A pattern is a start and strides in a flat memory; an instruction of ours takes a *box*: a slice of
the buffer in some view of it, whose starts are registers (`emu.boxes`). The view's strides divide
the memory into digits. A box is right if no digit overflows, whatever turn the loops are in.

Example: columns 512·j and on of rows 128·i and on, `hbm[4096, 2048]`: offset 262144·i + 512·j,
axes ((2048, 128), (1, 512)). In the view `[4096, 2048]` the start is (128·i, 512·j), and as 512·j +
511 stays below 2048, it is the slice `[128, 512]` from there. What fits no view, as with strides 3
and 2 beside each other, is gathered: a `Pattern`.

A buffer is declared in a view that fits what is written to it: XLA updates a buffer in place, but
copies it whole where it is reshaped before.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence

import jax.numpy as jnp
import numpy as np

from emu.regions import Bitcast, Box, Pattern
from emu.trainium.nki.scopes import Buffer, Scopes
from emu.trainium.nki.tree import Access, Affine, Loop

Sizes = tuple[int, ...]
"""Of a view's dimensions, without that of the partitions."""


@dataclasses.dataclass(frozen=True)
class Placed:
    """A part of a buffer: its form, None for all of it, and its start registers."""

    box: Box | Pattern | Bitcast | None
    starts: tuple[Affine, ...]


@dataclasses.dataclass(frozen=True)
class Axis:
    """A further axis of a pattern; several that lie end to end are one."""

    stride: int
    count: int


@dataclasses.dataclass(frozen=True)
class Taken:
    """What a box takes along one dimension of a view."""

    start: Affine
    count: int = 1
    step: int = 1


@dataclasses.dataclass(frozen=True)
class Fit:
    """An access in a view: what it takes of each dimension, and the dimensions of each axis."""

    sizes: Sizes
    taken: tuple[Taken, ...]
    dims: tuple[tuple[int, ...], ...]

    @property
    def steps(self) -> int:
        """How many times as many elements as it takes it goes over."""
        return math.prod(each.step for each in self.taken)


def forms(scopes: Scopes) -> dict[Buffer, Sizes]:
    """The shape in which each buffer is declared."""
    return {buffer: _form(buffer, scopes.written(buffer)) for buffer in scopes}


def placed(access: Access, buffer: Buffer, shape: Sizes) -> Placed:
    """Where an access is in its buffer, which is declared in some shape."""
    if access.cast is not None and access.cast != buffer.tensor.dtype:
        return _bitcast(access, buffer, shape, access.cast)
    own = shape if access.partitions is None else shape[1:]
    start = _start(access, buffer)
    axes = _joined(access.axes)
    fit = _best(axes, start, own)
    rows = None if access.partitions is None else shape[0]
    if fit is None:
        return _kept(_pattern(access, start), buffer, rows)
    found = _box(access, axes, fit, shape[0])
    box = found.box
    is_all = (
        isinstance(box, Box) and box.whole and box.order == tuple(range(len(box.view)))
    )
    if is_all and access.shape == shape:
        return Placed(None, ())
    return _kept(found, buffer, rows)


def _kept(part: Placed, buffer: Buffer, partitions: int | None) -> Placed:
    """Of 8-bit floats the bits, as kernels put the bytes of other formats among them."""
    dtype = buffer.tensor.dtype
    is_byte = dtype.itemsize == 1 and jnp.issubdtype(dtype, jnp.floating)
    if not is_byte or not isinstance(part.box, Box | Pattern):
        return part
    return Placed(Bitcast(part.box, dtype, dtype, partitions), part.starts)


def _bitcast(access: Access, buffer: Buffer, shape: Sizes, dtype: np.dtype) -> Placed:
    """Where an access is that takes a buffer's bytes as another format.

    Its offset and strides count elements of that format, so it is a part of the buffer's bytes,
    of each partition in one row, and its view is of those elements.
    """
    held = buffer.tensor.dtype
    rows = None if access.partitions is None else shape[0]
    elements = math.prod(shape) * held.itemsize // dtype.itemsize // (rows or 1)
    pitch = buffer.pitch * held.itemsize // dtype.itemsize
    start = buffer.member(access).times(pitch).plus(access.offset)
    axes = _joined(access.axes)
    fit = _best(axes, start, (elements,))
    found = _pattern(access, start)
    if fit is not None:
        found = _box(access, axes, fit, shape[0])
    assert isinstance(found.box, Box | Pattern)
    return Placed(Bitcast(found.box, dtype, held, rows), found.starts)


def _start(access: Access, buffer: Buffer) -> Affine:
    return buffer.member(access).times(buffer.pitch).plus(access.offset)


def _joined(axes: Sequence[tuple[int, int]]) -> list[Axis]:
    """The axes without those of one element; two of which one ends where the next begins are one.

    Example: ((1024, 4), (128, 8), (1, 128)) is 4096 elements in a row, ((1, 4096),).
    """
    joined: list[Axis] = []
    for stride, count in axes:
        if count == 1:
            continue
        last = joined[-1] if joined else None
        if last is not None and last.stride == stride * count:
            joined[-1] = Axis(stride, last.count * count)
        elif last is not None and last.stride == stride == 0:
            joined[-1] = Axis(0, last.count * count)
        else:
            joined.append(Axis(stride, count))
    return joined


# --- one view ---


def _best(axes: Sequence[Axis], start: Affine, own: Sizes) -> Fit | None:
    """An access in its buffer's own shape, or in the view that passes over the fewest elements."""
    best = _fit(axes, start, own)
    if best is not None and best.steps == 1:
        return best
    for sizes in _views(axes, start, math.prod(own)):
        fit = _fit(axes, start, sizes)
        if fit is not None and (best is None or fit.steps < best.steps):
            best = fit
    return best


def _fit(axes: Sequence[Axis], start: Affine, sizes: Sizes) -> Fit | None:
    """An access in a view; None where it is no box there."""
    strides = [math.prod(sizes[dim + 1 :]) for dim in range(len(sizes))]
    taken = [Taken(each) for each in _split(start, strides)]
    dims: list[tuple[int, ...]] = []
    for axis in axes:
        counts = _along(axis, sizes, strides)
        if counts is None or any(taken[dim].count > 1 for dim in counts):
            return None
        dims.append(tuple(counts))
        for dim, (count, step) in counts.items():
            taken[dim] = dataclasses.replace(taken[dim], count=count, step=step)
    if any(_overflows(each, size) for each, size in zip(taken, sizes, strict=True)):
        return None
    return Fit(sizes, tuple(taken), tuple(dims))


def _along(
    axis: Axis, sizes: Sizes, strides: Sequence[int]
) -> dict[int, tuple[int, int]] | None:
    """Along which dimensions of a view an axis goes, with count and step, outermost first.

    Example: 512 elements of `[8, 128]`, stride 1, are 4 rows and, in each, all 128 columns.
    """
    if axis.stride == 0:
        return {}
    dims = [
        dim
        for dim, size in enumerate(sizes)
        if size > 1 and axis.stride > 0 and axis.stride % strides[dim] == 0
    ]
    if not dims:
        return None
    dim = dims[0]
    step = axis.stride // strides[dim]
    if (axis.count - 1) * step < sizes[dim]:
        return {dim: (axis.count, step)}
    counts: dict[int, tuple[int, int]] = {}
    left = axis.count
    while left > 1:
        if step > 1 or dim < 0 or left % min(left, sizes[dim]):
            return None
        count = min(left, sizes[dim])
        if count > 1:
            counts[dim] = (count, 1)
        left //= count
        dim -= 1
    return dict(reversed(counts.items()))


def _split(start: Affine, strides: Sequence[int]) -> list[Affine]:
    """A flat start as one along each dimension of a view."""
    starts = [Affine() for _ in strides]

    def add(amount: int, loop: Loop | None) -> None:
        for dim, stride in enumerate(strides):
            # Towards zero, so that what runs backwards does so along every dimension.
            digit = abs(amount) // stride * (1 if amount > 0 else -1)
            if digit:
                term = Affine(0, ((loop, digit),)) if loop else Affine(digit)
                starts[dim] = starts[dim].plus(term)
                amount -= digit * stride

    add(start.constant, None)
    for loop, coefficient in start.terms:
        add(coefficient, loop)
    return starts


def _overflows(taken: Taken, size: int) -> bool:
    last = taken.start.most() + (taken.count - 1) * taken.step
    return taken.start.least() < 0 or last >= size


# --- which view ---


def _form(buffer: Buffer, writes: Iterable[Access]) -> Sizes:
    """The shape of a buffer in which as much as possible of what is written to it is a box."""
    natural = buffer.shape
    if buffer.is_given:
        return natural
    first = 0 if buffer.tensor.space == "hbm" else 1
    chosen = natural[first:]
    done: list[tuple[list[Axis], Affine]] = []
    for access in writes:
        if access.cast is not None:
            # In another format: no view of this one's elements would serve it.
            continue
        axes, start = _joined(access.axes), _start(access, buffer)
        best = _best(axes, start, chosen)
        if best is None:
            continue
        is_own = best.sizes == chosen
        finer = chosen if is_own else _common(chosen, best.sizes)
        if finer is not None and all(
            _fit(*other, finer) is not None for other in (*done, (axes, start))
        ):
            chosen = finer
            done.append((axes, start))
    return (*natural[:first], *chosen)


def _common(one: Sizes, other: Sizes) -> Sizes | None:
    """A view with the strides of both; None if they do not divide each other.

    Example: `[8, 512]` and `[32, 128]` are both slices of `[8, 4, 128]`.
    """
    strides = {math.prod(one[dim:]) for dim in range(len(one) + 1)}
    strides |= {math.prod(other[dim:]) for dim in range(len(other) + 1)}
    found = sorted(strides, reverse=True)
    pairs = list(zip(found, found[1:], strict=False))
    if any(above % below for above, below in pairs):
        return None
    return tuple(above // below for above, below in pairs)


def _views(axes: Sequence[Axis], start: Affine, elements: int) -> Iterable[Sizes]:
    """Views that an access could be a box of, coarsest first.

    Example: a column of `[64, 1024]`, stride 1024, at offset 1536·i. In the view `[64, 1024]` the
    digit of single elements would be 512·i; in `[128, 512]` it is row 3·i, in steps of 2.
    """
    slices = sorted((a for a in axes if a.stride), key=lambda axis: -axis.stride)
    for is_finer in (False, True):
        strides = [elements]
        for axis in slices:
            stride = math.gcd(axis.stride, strides[-1])
            for _, coefficient in start.terms if is_finer else ():
                if abs(coefficient) > axis.stride:
                    stride = math.gcd(stride, coefficient)
            # Two axes along one dimension, or one that runs backwards.
            if axis.stride < 0 or stride == strides[-1] and stride != elements:
                return
            strides.append(stride)
        strides.append(1)
        pairs = zip(strides, strides[1:], strict=False)
        yield tuple(above // below for above, below in pairs if above > below) or (1,)


# --- results ---


def _box(access: Access, axes: Sequence[Axis], fit: Fit, partitions: int) -> Placed:
    view = list(fit.sizes)
    taken = list(fit.taken)
    # Of the instruction's dimensions, in its order: the view's along which they are.
    order: list[int] = []
    repeat: list[int] = []
    for axis, dims in zip(axes, fit.dims, strict=True):
        if axis.stride:
            order += dims
            repeat += [1] * len(dims)
        else:
            # What is repeated is along a dimension of one.
            order.append(len(view))
            repeat.append(axis.count)
            view.append(1)
            taken.append(Taken(Affine()))
    rest = [dim for dim in range(len(view)) if dim not in order]
    if not repeat or max(repeat) == 1:
        # Dimensions of which one place is taken stay where they are: nothing is transposed.
        order = _in_place(order, rest)
    else:
        order += rest
    repeat += [1] * len(rest)
    if access.partitions is not None:
        view.insert(0, partitions)
        rows = Taken(access.partition, access.partitions, access.partition_step)
        taken.insert(0, rows)
        order = [0, *(dim + 1 for dim in order)]
        repeat.insert(0, 1)
    box = Box(
        view=tuple(view),
        sizes=tuple((each.count - 1) * each.step + 1 for each in taken),
        steps=tuple(each.step for each in taken),
        order=tuple(order),
        repeat=tuple(repeat),
        shape=access.shape,
    )
    return Placed(box, tuple(taken[dim].start for dim in box.moving))


def _in_place(order: list[int], rest: list[int]) -> list[int]:
    """Puts dimensions of one place among others, each before the next that follows in the view."""
    placed = list(order)
    for dim in rest:
        after = [place for place, other in enumerate(placed) if other > dim]
        placed.insert(after[0] if after else len(placed), dim)
    return placed


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


__all__ = ["Placed", "forms", "placed"]
