"""Parts of a buffer that an instruction reads or writes: where their elements lie.

A part's form is fixed when a kernel is traced; where it begins is one or more registers. What
copies it out of the buffer and back is here, and what a cost rule asks: how many elements lie one
behind the other, and which partitions they are in.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from emu import given, in_place
from emu.checks import precision

Axis: TypeAlias = tuple[int, int]
"""Stride in elements and count of one axis of an access pattern."""


@dataclasses.dataclass(frozen=True)
class Rows:
    """Which partitions of a buffer a part takes.

    Attributes:
      count: how many.
      step: from one to the next.
      register: which of the part's registers says the first; None where that is 0.
    """

    count: int
    step: int
    register: int | None


@dataclasses.dataclass(frozen=True)
class Box:
    """A regular part of a buffer.

    The buffer is reshaped to `view`; from the starts on, `sizes` of it are taken, of these every
    `steps`-th; then dimensions change places by `order`, those of extent 1 are repeated, and what
    comes out is reshaped to `shape`. What is left empty leaves its step out.

    There is a register for each dimension of which the box takes less than all, in the order of
    `view`: `moving` says which.

    Example: columns 512·j and on of rows 128·i and on of `hbm[4096, 2048]` are
    `Box((32, 128, 2048), (1, 128, 512), shape=(128, 512))` with registers i and 512·j: a row is
    2,048 elements after the one before, so 512 lie one behind the other.

    Attributes:
      view: shape of the same elements, in SBUF and PSUM with the buffer's partitions first.
      sizes: extents in the view, before steps.
      steps: every how many-th element is taken.
      order: the dimension of the view that each dimension of the result is.
      repeat: how often each dimension of the result is repeated, 1 for as it is. Of what is written
        to one place the last stays, as engines write in order.
      shape: as the instruction sees it.
    """

    view: tuple[int, ...]
    sizes: tuple[int, ...]
    steps: tuple[int, ...] = ()
    order: tuple[int, ...] = ()
    repeat: tuple[int, ...] = ()
    shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        rank = len(self.view)
        ones = (1,) * rank
        # What is left out becomes what it stands for, so that boxes which are the same are equal.
        for field, value in (
            ("steps", ones),
            ("order", tuple(range(rank))),
            ("repeat", ones),
        ):
            if not getattr(self, field):
                object.__setattr__(self, field, value)
        for field in ("sizes", "steps", "order", "repeat"):
            if len(getattr(self, field)) != rank:
                given.refuse(
                    f"box: {field} are {getattr(self, field)}, must be {rank} as in {self.view}"
                )
        if sorted(self.order) != list(range(rank)):
            given.refuse(f"box: order is {self.order}, must be 0 to {rank - 1}")
        for size, step, whole in zip(self.sizes, self.steps, self.view, strict=True):
            if not 1 <= size <= whole or step < 1:
                given.refuse(
                    f"box: sizes {self.sizes} in steps of {self.steps} are no part of {self.view}"
                )
        turned = self._turned
        for extent, times in zip(turned, self.repeat, strict=True):
            if times != 1 and extent != 1:
                given.refuse(
                    f"box: repeats {self.repeat} of {turned}, must be of dimensions of 1"
                )
        if not self.shape:
            object.__setattr__(self, "shape", self._repeated)
        if math.prod(self.shape) != math.prod(self._repeated):
            given.refuse(
                f"box: shape is {self.shape}, must have the elements of {self._repeated}"
            )

    @property
    def _taken(self) -> tuple[int, ...]:
        """Extents in the view, after steps."""
        pairs = zip(self.sizes, self.steps, strict=True)
        return tuple(math.ceil(size / step) for size, step in pairs)

    @property
    def _turned(self) -> tuple[int, ...]:
        taken = self._taken
        return tuple(taken[dim] for dim in self.order)

    @property
    def _repeated(self) -> tuple[int, ...]:
        pairs = zip(self._turned, self.repeat, strict=True)
        return tuple(extent * times for extent, times in pairs)

    @property
    def moving(self) -> tuple[int, ...]:
        """The dimensions of the view that have a register, as the box takes less than all."""
        pairs = enumerate(zip(self.sizes, self.view, strict=True))
        return tuple(dim for dim, (size, whole) in pairs if size < whole)

    @property
    def registers(self) -> int:
        """How many say where it begins."""
        return len(self.moving)

    @property
    def whole(self) -> bool:
        """Whether it takes every element of the buffer."""
        return not self.moving and self._taken == self.view

    def fault(self, shape: tuple[int, ...], starts: Sequence[int | None]) -> str | None:
        """Why it is no part of a buffer, or None; a start that is not known is None."""
        if math.prod(shape) != math.prod(self.view):
            return f" is {list(shape)}, must be {list(self.view)}"
        for dim, start in zip(self.moving, starts, strict=True):
            last = self.view[dim] - self.sizes[dim]
            if start is not None and not 0 <= start <= last:
                return (
                    f": {self.sizes[dim]} from {start} on leave dimension {dim} of "
                    f"{list(self.view)}, must begin at 0 to {last}"
                )
        return None

    def read(self, buffer: jax.Array, starts: Sequence[jax.Array]) -> jax.Array:
        """The part's elements, in its shape."""
        x = self._cut(buffer.reshape(self.view), starts)
        if self._taken != self.sizes:
            x = lax.slice(x, (0,) * x.ndim, self.sizes, self.steps)
        if self.order != tuple(range(x.ndim)):
            x = jnp.transpose(x, self.order)
        if x.shape != self._repeated:
            x = jnp.broadcast_to(x, self._repeated)
        return x.reshape(self.shape)

    def write(
        self, buffer: jax.Array, starts: Sequence[jax.Array], block: jax.Array
    ) -> jax.Array:
        """The buffer with the part's elements replaced; the same buffer, where XLA may."""
        x = block.reshape(self._repeated)
        if any(times > 1 for times in self.repeat):
            kept = [slice(-1 if times > 1 else 0, None) for times in self.repeat]
            x = x[tuple(kept)]
        if self.order != tuple(range(x.ndim)):
            x = jnp.transpose(x, np.argsort(self.order).tolist())
        viewed = buffer.reshape(self.view)
        if self._taken != self.sizes:
            x = self._among(self._cut(viewed, starts), x)
        if self.sizes == self.view:
            return x.reshape(buffer.shape)
        updated = in_place.replaced(viewed, x, self._addresses(starts))
        return updated.reshape(buffer.shape)

    def _among(self, old: jax.Array, x: jax.Array) -> jax.Array:
        """`old` with every `steps`-th element replaced: of steps 3, `[x, old, old, x, old]`."""
        zero = jnp.zeros((), x.dtype)
        apart = [
            (0, size - 1 - (count - 1) * step, step - 1)
            for size, count, step in zip(
                self.sizes, self._taken, self.steps, strict=True
            )
        ]
        spread = lax.pad(x, zero, apart)
        taken = jnp.ones((), bool)
        for dim, step in enumerate(self.steps):
            if step > 1:
                number = lax.broadcasted_iota(jnp.int32, self.sizes, dim)
                taken = taken & (number % step == 0)
        return jnp.where(taken, spread, old)

    def stacked(self, size: int) -> "Box":
        """The same part of each of several buffers, which are stacked in front."""
        return Box(
            (size, *self.view),
            (size, *self.sizes),
            (1, *self.steps),
            (0, *(dim + 1 for dim in self.order)),
            (1, *self.repeat),
            (size, *self.shape),
        )

    def _cut(self, viewed: jax.Array, starts: Sequence[jax.Array]) -> jax.Array:
        if self.sizes == self.view:
            return viewed
        return lax.dynamic_slice(viewed, self._addresses(starts), self.sizes)

    def _addresses(self, starts: Sequence[jax.Array]) -> list[jax.Array]:
        # int32: beside float64, JAX makes loop indices int64.
        addresses = [jnp.zeros((), jnp.int32)] * len(self.view)
        for dim, start in zip(self.moving, starts, strict=True):
            addresses[dim] = jnp.asarray(start, jnp.int32)
        return addresses

    def rows(self, shape: tuple[int, ...]) -> Rows | None:
        """Its partitions in a buffer whose first dimension they are; None if it moves them."""
        partitions = self._taken[0]
        stays = self.order[0] == 0 and self.repeat[0] == 1
        if not stays or self.view[0] != shape[0] or self.shape[0] != partitions:
            return None
        return Rows(partitions, self.steps[0], 0 if 0 in self.moving else None)

    def run(self, partitioned: bool) -> int:
        """How many of its elements lie one behind the other, within a partition if it has any."""
        axes: list[Axis] = []
        for dim, times in zip(self.order, self.repeat, strict=True):
            if partitioned and dim == 0:
                continue
            stride = math.prod(self.view[dim + 1 :])
            axes.append((stride * self.steps[dim], self._taken[dim]))
            axes.append((0, times))
        return _run(axes)


@dataclasses.dataclass(frozen=True)
class Pattern:
    """A part of any form: elements at `offset + a · stride_a + b · stride_b + ...`.

    Read by gather, so a `Box` is faster where one says the same. In SBUF and PSUM the axes are
    those of a partition, the same in each of a range of partitions.

    Its registers are the first partition, where there are partitions, and the offset, counted as
    if the buffer, or a partition of it, were flat.

    Example: windows of 3 that overlap, `[128, 6, 3]` of `sbuf[128, 8]`, are
    `Pattern(((1, 6), (1, 3)), partitions=128)` with registers 0 and 0.

    Attributes:
      axes: (stride in elements, count) of each; stride 0 repeats, one below goes back. Of what is
        written to one place the last stays, as engines write in order.
      partitions: how many; None in HBM.
      partition_step: from one to the next.
      shape: as the instruction sees it; partitions and counts if left empty.
    """

    axes: tuple[Axis, ...]
    partitions: int | None = None
    partition_step: int = 1
    shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if any(count < 1 for _, count in self.axes):
            given.refuse(
                f"pattern: axes are {self.axes}, must be strides and counts of 1 or more"
            )
        if not self.shape:
            object.__setattr__(self, "shape", self._counts)
        if math.prod(self.shape) != math.prod(self._counts):
            given.refuse(
                f"pattern: shape is {self.shape}, must have the elements of {self._counts}"
            )

    @property
    def _counts(self) -> tuple[int, ...]:
        counts = tuple(count for _, count in self.axes)
        return counts if self.partitions is None else (self.partitions, *counts)

    @property
    def _span(self) -> tuple[int, int]:
        """How many partitions, and elements of each, it reaches over."""
        rows = 1
        if self.partitions is not None:
            rows = (self.partitions - 1) * self.partition_step + 1
        return rows, 1 + sum(abs(stride) * (count - 1) for stride, count in self.axes)

    @property
    def _back(self) -> int:
        """How many elements before the offset the first one in memory is."""
        return -sum(min(0, stride * (count - 1)) for stride, count in self.axes)

    @property
    def registers(self) -> int:
        """How many say where it begins."""
        return 1 if self.partitions is None else 2

    @property
    def whole(self) -> bool:
        """Never: nobody asks a pattern whether it takes every element."""
        return False

    def fault(self, shape: tuple[int, ...], starts: Sequence[int | None]) -> str | None:
        """Why it is no part of a buffer, or None; a start that is not known is None."""
        flat = self._flat(shape)
        reach = self._span
        names = "partitions", "elements"
        # In HBM there is no register for the partitions, of which there is one.
        known = [0, *starts] if self.partitions is None else starts
        backs = 0, self._back
        parts = zip(names, flat, reach, known, backs, strict=True)
        for name, whole, span, start, back in parts:
            first = 0 if start is None else start - back
            if first < 0 or first + span > whole:
                return f": {span} {name} from {first} on leave the {whole} of {list(shape)}"
        return None

    def read(self, buffer: jax.Array, starts: Sequence[jax.Array]) -> jax.Array:
        """The part's elements, in its shape."""
        rows, span = self._span
        flat = buffer.reshape(self._flat(buffer.shape))
        cut = lax.dynamic_slice(flat, self._addresses(starts), (rows, span))
        taken = cut[:: self.partition_step]
        found = jnp.take(taken, self._places(), axis=1, mode="clip")
        return found.reshape(self.shape)

    def write(
        self, buffer: jax.Array, starts: Sequence[jax.Array], block: jax.Array
    ) -> jax.Array:
        """The buffer with the part's elements replaced."""
        rows, span = self._span
        flat = buffer.reshape(self._flat(buffer.shape))
        addresses = self._addresses(starts)
        cut = lax.dynamic_slice(flat, addresses, (rows, span))
        places, last = self._last_places()
        where = np.arange(0, rows, self.partition_step)[:, None], places[None]
        values = block.reshape(len(where[0]), -1)[:, last]
        cut = cut.at[where].set(values, unique_indices=True)
        return in_place.replaced(flat, cut, addresses).reshape(buffer.shape)

    def _places(self) -> np.ndarray:
        """Of each element, in order, how far behind the first one in memory it is."""
        places = np.full((), self._back, np.int32)
        for stride, count in self.axes:
            places = places[..., None] + stride * np.arange(count, dtype=np.int32)
        return places.reshape(-1)

    def _last_places(self) -> tuple[np.ndarray, np.ndarray]:
        """Every place once, and the number of the last element that is written there."""
        backwards = self._places()[::-1]
        places, first = np.unique(backwards, return_index=True)
        return places, backwards.size - 1 - first

    def _flat(self, shape: tuple[int, ...]) -> tuple[int, int]:
        if self.partitions is None:
            return 1, math.prod(shape)
        return shape[0], math.prod(shape[1:])

    def _addresses(self, starts: Sequence[jax.Array]) -> list[jax.Array]:
        *partition, offset = [jnp.asarray(start, jnp.int32) for start in starts]
        first = partition or [jnp.zeros((), jnp.int32)]
        return [*first, offset - self._back if self._back else offset]

    def rows(self, shape: tuple[int, ...]) -> Rows | None:
        """Its partitions in a buffer whose first dimension they are; None if it moves them."""
        if self.partitions is None or self.shape[0] != self.partitions:
            return None
        return Rows(self.partitions, self.partition_step, 0)

    def run(self, partitioned: bool) -> int:
        """How many of its elements lie one behind the other, within a partition if it has any."""
        return _run(self.axes)


@dataclasses.dataclass(frozen=True)
class Bitcast:
    """A part of a buffer whose bytes are taken as elements of another format.

    The buffer's bytes stay where they are; those of a partition are read one behind the other as
    elements of `dtype`, and `part` is a part of what comes out. What is written goes back as bytes.

    Example: `uint32[128, 64]` holds four 8-bit floats in each element. As `float8_e4m3fn` it is
    `[128, 256]`, and `Bitcast(Box((128, 256), (128, 4)), float8, uint32, 128)` is the first
    element's four in every partition.

    Attributes:
      part: of the buffer as it is taken.
      dtype: as which.
      held: the buffer's own.
      partitions: of the buffer; None in HBM.
    """

    part: Box | Pattern
    dtype: np.dtype
    held: np.dtype
    partitions: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """As the instruction sees it."""
        return self.part.shape

    @property
    def registers(self) -> int:
        """How many say where it begins."""
        return self.part.registers

    @property
    def whole(self) -> bool:
        """Whether it takes every byte of the buffer."""
        return self.part.whole

    def fault(self, shape: tuple[int, ...], starts: Sequence[int | None]) -> str | None:
        """Why it is no part of a buffer, or None; a start that is not known is None."""
        return self.part.fault(self._shape(shape), starts)

    def read(self, buffer: jax.Array, starts: Sequence[jax.Array]) -> jax.Array:
        """The part's elements, in its shape."""
        return lax.bitcast_convert_type(
            self.part.read(self._bits(buffer), starts), self.dtype
        )

    def write(
        self, buffer: jax.Array, starts: Sequence[jax.Array], block: jax.Array
    ) -> jax.Array:
        """The buffer with the part's bytes replaced."""
        # Whole numbers are moved: XLA on a CPU takes narrow floats through wider ones, where one
        # NaN is as good as another, and a scale's bytes among 8-bit floats may well spell one.
        bits = self._bits(buffer)
        written = self.part.write(
            bits, starts, lax.bitcast_convert_type(block, bits.dtype)
        )
        return _bitcast(written, buffer.dtype).reshape(buffer.shape)

    def rows(self, shape: tuple[int, ...]) -> Rows | None:
        """Its partitions in a buffer whose first dimension they are; None if it moves them."""
        return self.part.rows(self._shape(shape))

    def run(self, partitioned: bool) -> int:
        """How many of its elements lie one behind the other, within a partition if it has any."""
        return self.part.run(partitioned)

    def _bits(self, buffer: jax.Array) -> jax.Array:
        """A buffer as it is taken, each element as the whole number that its bits are."""
        precision.refuse_exact("bitcast", f"{self.held} read as {self.dtype}")
        unsigned = np.dtype(f"uint{8 * self.dtype.itemsize}")
        return _bitcast(buffer, unsigned).reshape(self._shape(buffer.shape))

    def _shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """A buffer's shape as it is taken: partitions, and the elements of each as one row."""
        elements = math.prod(shape) * self.held.itemsize // self.dtype.itemsize
        if self.partitions is None:
            return (elements,)
        return self.partitions, elements // self.partitions


def _bitcast(x: jax.Array, dtype: np.dtype) -> jax.Array:
    """All bytes of an array, in order, as elements of another format in one row."""
    flat, ratio = x.reshape(-1), dtype.itemsize // x.dtype.itemsize
    if ratio > 1:
        flat = flat.reshape(-1, ratio)
    return lax.bitcast_convert_type(flat, dtype).reshape(-1)


Region: TypeAlias = Box | Pattern | Bitcast


@dataclasses.dataclass(frozen=True)
class Part:
    """An operand of which an instruction takes a part.

    Attributes:
      operand: its place.
      region: which part.
      registers: places of the operands that say where it begins.
    """

    operand: int
    region: Region
    registers: tuple[int, ...]


def _run(axes: Sequence[Axis]) -> int:
    """How many elements lie one behind the other: of `((2048, 128), (1, 512))` 512."""
    run = 1
    for stride, count in reversed([axis for axis in axes if axis[1] > 1]):
        if stride != run:
            break
        run *= count
    return run


__all__ = ["Bitcast", "Box", "Part", "Pattern", "Region", "Rows"]
