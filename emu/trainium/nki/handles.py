"""What a kernel holds for a tensor: which of its elements, as an access pattern, concretely.

A `Handle` is a tensor or any view of one. Python runs concretely while a kernel is recorded, so
everything here is a plain whole number; loops come in afterwards (`roll`). `views` has what makes
one view of another, `indexing` what `handle[...]` means.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from emu.errors import EmulationError, LimitExceeded
from emu.trainium.nki.dtypes import named, unpacked
from emu.trainium.nki.index import Axis, Mask
from emu.trainium.nki.tree import Access, Affine, Operation, Tensor

if TYPE_CHECKING:
    from emu.trainium.nki.indexing import Key

Axes: TypeAlias = tuple[tuple[int, int], ...]

Limit: TypeAlias = tuple[int, tuple[Axis, ...], int, str]
"""An index that leaves what it is of: (constant, axes, elements, name, such as dimension 0)."""

CONSTANTS: dict[int, Affine] = {value: Affine(value) for value in range(1024)}


def constant(value: int) -> Affine:
    """The address that no loop changes."""
    found = CONSTANTS.get(value)
    return Affine(value) if found is None else found


PATTERN = (
    *("tensor", "member", "partition", "partitions", "partition_step"),
    *("offset", "axes", "dtype", "limits", "made"),
)


class Handle:
    """A view of a tensor, perhaps with block dimensions that are not yet indexed.

    Attributes:
      tensor: of which it is a view.
      member: for each block dimension its index, or the range of indices that is left.
      partition, partitions, partition_step, offset, axes: as in `Access`, in elements of `dtype`.
      dtype: of the elements as they are seen here.
      limits: indices that leave the tensor; a mask must clip them.
      producer: of the old generation's fresh values: the operation that made this one.
    """

    __slots__ = (
        "tensor",
        "member",
        "partition",
        "partitions",
        "partition_step",
        "offset",
        "axes",
        "dtype",
        "limits",
        "producer",
        "made",
        "__weakref__",
    )

    def __init__(
        self,
        tensor: Tensor,
        member: "tuple[int | range, ...]",
        partition: int,
        partitions: int | None,
        partition_step: int,
        offset: int,
        axes: Axes,
        dtype: np.dtype,
        limits: tuple[Limit, ...] = (),
    ):
        self.tensor = tensor
        self.member = member
        self.partition = partition
        self.partitions = partitions
        self.partition_step = partition_step
        self.offset = offset
        self.axes = axes
        self.dtype = dtype
        self.limits = limits
        self.producer: Operation | None = None
        self.made: Access | None = None

    # What kernels ask of a tensor.

    @property
    def lead(self) -> tuple[int, ...]:
        """Sizes of the block dimensions that are not yet indexed."""
        return tuple(len(part) for part in self.member if type(part) is range)

    @property
    def shape(self) -> tuple[int, ...]:
        free = tuple([count for _, count in self.axes])
        if self.partitions is not None:
            free = (self.partitions, *free)
        return free if not self.member else self.lead + free

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        return self.size * self.itemsize

    @property
    def buffer(self) -> str:
        return self.tensor.space

    @property
    def space(self) -> str:
        return self.tensor.space

    @property
    def name(self) -> str:
        return self.tensor.name

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        name = self.tensor.name or self.tensor.space
        return f"{name}{list(self.shape)} {self.dtype}"

    def __bool__(self) -> bool:
        from emu.trainium.nki.record import newer

        if newer() and self.producer is None:
            # `if bias:` asks there whether one was given; what tiles compare as is never named.
            return True
        raise EmulationError(
            f"nki: a branch on what a tensor holds, {self!r}; a kernel can branch only on shapes, "
            "loop indices and other plain Python values"
        )

    # As an operand.

    def access(self, mask: Mask | None = None) -> Access:
        """The elements, clipped by a mask; it may come out empty."""
        if mask is None:
            if self.made is not None:
                return self.made
            if self.limits:
                self.check({})
            access = self.made = self.build(
                self.partition, self.partitions, self.offset, self.axes
            )
            return access
        clips = mask.clips(self.shape)
        if self.limits:
            self.check(clips)
        partition, partitions, offset = self.partition, self.partitions, self.offset
        axes = list(self.axes)
        before = 0 if partitions is None else 1
        for position, (first, last) in clips.items():
            if position < 0:
                raise EmulationError(f"mask: more axes than {self!r} has")
            if position < before:
                partition += first * self.partition_step
                partitions = last - first
            else:
                stride = axes[position - before][0]
                offset += first * stride
                axes[position - before] = (stride, last - first)
        return self.build(partition, partitions, offset, tuple(axes))

    def build(
        self, partition: int, partitions: int | None, offset: int, axes: Axes
    ) -> Access:
        member: list[Affine] = []
        for part in self.member:
            if type(part) is range:
                if len(part) != 1:
                    raise EmulationError(
                        f"nki: {self!r} still has block dimensions {list(self.lead)}; "
                        "an operation takes one block, index it first"
                    )
                part = part[0]
            member.append(constant(part))  # pyright: ignore[reportArgumentType]
        access = object.__new__(Access)
        # Filled directly: this is the recorder's hottest line, and setting the fields of a frozen
        # dataclass one by one takes four times as long.
        access.__dict__.update(
            tensor=self.tensor,
            member=tuple(member),
            partition=constant(partition),
            partitions=partitions,
            offset=constant(offset),
            axes=axes,
            partition_step=self.partition_step,
            form=None,
            cast=None if self.dtype == self.tensor.dtype else self.dtype,
        )
        if self.dtype.fields:
            self.unpack(access)
        return access

    def unpack(self, access: Access) -> None:
        """Puts the elements that a packed one has in its place, as a further axis."""
        element, count = unpacked(self.dtype)
        axes = tuple([(stride * count, n) for stride, n in access.axes])
        access.__dict__.update(
            offset=access.offset.times(count),
            axes=(*axes, (1, count)),
            cast=None if element == self.tensor.dtype else element,
        )

    def check(self, clips: dict[int, tuple[int, int]]) -> None:
        """That a mask clips every index that would leave the tensor."""
        if any(first >= last for first, last in clips.values()):
            return
        for constant_part, axes, size, what in self.limits:
            least = most = constant_part
            for position, length, step in axes:
                first, last = clips.get(position, (0, length))
                least += min(step * first, step * (last - 1))
                most += max(step * first, step * (last - 1))
            if least < 0 or most >= size:
                name = self.tensor.name or "the tensor"
                raise LimitExceeded(
                    f"nki: out of bounds, {what} of {name} has {size} elements "
                    f"and the access reaches from {least} to {most}; "
                    "shorten it or give mask="
                )

    # Views.

    def __getitem__(self, key: "Key") -> "Handle":
        from emu.trainium.nki import indexing

        return indexing.indexed(self, key)

    def changed(
        self,
        axes: Axes,
        *,
        partition: int | None = None,
        partitions: int | None = None,
        partition_step: int | None = None,
        offset: int | None = None,
        dtype: np.dtype | None = None,
        limits: tuple[Limit, ...] = (),
    ) -> "Handle":
        """The same tensor and member with another pattern; None keeps a part, `limits` adds."""
        return Handle(
            self.tensor,
            self.member,
            self.partition if partition is None else partition,
            self.partitions if partitions is None else partitions,
            self.partition_step if partition_step is None else partition_step,
            self.offset if offset is None else offset,
            axes,
            self.dtype if dtype is None else dtype,
            (*self.limits, *limits),
        )

    def ap(
        self,
        pattern: Sequence[Sequence[int]],
        offset: int = 0,
        dtype: Any = None,
        **indirect: Any,
    ) -> "Handle":
        from emu.trainium.nki import views

        return views.pattern(self, pattern, offset, dtype, indirect)

    def reshape(self, *shape: "int | Sequence[int]") -> "Handle":
        from emu.trainium.nki import views

        return views.reshape(self, views.sizes(shape))

    def view(self, dtype: Any) -> "Handle":
        from emu.trainium.nki import views

        return views.reinterpret(self, dtype)

    reinterpret_cast = view

    def slice(self, dim: int, start: int, end: int, step: int = 1) -> "Handle":
        key: list[slice] = [slice(None)] * self.ndim
        key[dim] = slice(start, end, step)
        return self[tuple(key)]

    def select(self, dim: int, index: int) -> "Handle":
        from emu.trainium.nki import views

        return views.select(self, dim, index)

    def permute(self, *dims: "int | Sequence[int]") -> "Handle":
        from emu.trainium.nki import views

        return views.permute(self, views.sizes(dims))

    def broadcast(self, dim: int, size: int) -> "Handle":
        from emu.trainium.nki import views

        return views.broadcast(self, dim, size)

    def broadcast_to(self, *shape: "int | Sequence[int]") -> "Handle":
        from emu.trainium.nki import views

        return views.broadcast_to(self, views.sizes(shape))

    def expand_dim(self, dim: int) -> "Handle":
        from emu.trainium.nki import views

        return views.expand(self, dim)

    def squeeze_dim(self, dim: int) -> "Handle":
        from emu.trainium.nki import views

        return views.squeeze(self, dim)

    def reshape_dim(self, dim: int, shape: Sequence[int]) -> "Handle":
        before, after = self.shape[:dim], self.shape[dim + 1 :]
        return self.reshape((*before, *split(self.shape[dim], shape), *after))

    def flatten_dims(self, start_dim: int, end_dim: int) -> "Handle":
        flat = math.prod(self.shape[start_dim : end_dim + 1])
        return self.reshape((*self.shape[:start_dim], flat, *self.shape[end_dim + 1 :]))

    def rearrange(self, *arguments: Any, **sizes: int) -> "Handle":
        from emu.trainium.nki import rearrange

        return rearrange.rearrange(self, *arguments, **sizes)

    # Python's operators between tiles, which the old generation has.

    def __setitem__(self, key: "Key", value: "Handle | float") -> None:
        from emu.trainium.nki.functions import arithmetic

        destination = self[key]
        # `tile[...] += value` comes here once more with what `+=` returned: it is done by then.
        if isinstance(value, Handle) and value.same(destination):
            return
        arithmetic.assign(destination, value)

    def become(self, other: "Handle") -> None:
        """Stands for what another handle stands for, from now on."""
        for field in PATTERN:
            setattr(self, field, getattr(other, field))
        self.producer = None

    def same(self, other: "Handle") -> bool:
        """Whether both are the same elements in the same order."""
        return (
            self.tensor is other.tensor
            and self.member == other.member
            and (self.partition, self.partitions) == (other.partition, other.partitions)
            and self.offset == other.offset
            and self.axes == other.axes
        )

    def __iadd__(self, value: "Handle | float") -> "Handle":
        from emu.trainium.nki.functions import arithmetic

        return arithmetic.accumulate(self, value)

    def operate(
        self, name: str, left: "Handle | float", right: "Handle | float"
    ) -> "Handle":
        from emu.trainium.nki.functions import arithmetic

        return arithmetic.binary(name, left, right)

    def __add__(self, other: "Handle | float") -> "Handle":
        return self.operate("add", self, other)

    def __radd__(self, other: float) -> "Handle":
        return self.operate("add", other, self)

    def __sub__(self, other: "Handle | float") -> "Handle":
        return self.operate("subtract", self, other)

    def __rsub__(self, other: float) -> "Handle":
        return self.operate("subtract", other, self)

    def __mul__(self, other: "Handle | float") -> "Handle":
        return self.operate("multiply", self, other)

    def __rmul__(self, other: float) -> "Handle":
        return self.operate("multiply", other, self)

    def __truediv__(self, other: "Handle | float") -> "Handle":
        return self.operate("divide", self, other)

    def __rtruediv__(self, other: float) -> "Handle":
        return self.operate("divide", other, self)

    def __pow__(self, other: "Handle | float") -> "Handle":
        return self.operate("power", self, other)

    def __neg__(self) -> "Handle":
        return self.operate("multiply", self, -1.0)

    def __gt__(self, other: "Handle | float") -> "Handle":
        return self.operate("greater", self, other)

    def __ge__(self, other: "Handle | float") -> "Handle":
        return self.operate("greater_equal", self, other)

    def __lt__(self, other: "Handle | float") -> "Handle":
        return self.operate("less", self, other)

    def __le__(self, other: "Handle | float") -> "Handle":
        return self.operate("less_equal", self, other)


def split(size: int, shape: Sequence[int]) -> tuple[int, ...]:
    """`shape` with its -1, if it has one, worked out."""
    known = math.prod(part for part in shape if part != -1)
    return tuple(size // known if part == -1 else part for part in shape)


def strides(shape: Sequence[int]) -> Axes:
    """Row-major axes of a shape: [2, 3, 4] gives ((12, 2), (4, 3), (1, 4))."""
    axes: list[tuple[int, int]] = []
    stride = 1
    for size in reversed(shape):
        axes.append((stride, size))
        stride *= size
    return tuple(reversed(axes))


def whole_tensor(tensor: Tensor, dtype: np.dtype | None = None) -> Handle:
    """The handle of all of a tensor, block dimensions included; `dtype` is a packed one."""
    member = tuple(range(size) for size in tensor.block)
    shape = tensor.shape if dtype is None else tensor.shape[:-1]
    held = tensor.dtype if dtype is None else dtype
    if tensor.space == "hbm":
        return Handle(tensor, member, 0, None, 1, 0, strides(shape), held)
    return Handle(tensor, member, 0, shape[0], 1, 0, strides(shape[1:]), held)


def declared(shape: Sequence[int], dtype: Any, space: str, **more: Any) -> Handle:
    """The handle of a new tensor; `more` is as of `Recorder.tensor`."""
    from emu.trainium.nki.record import current

    held = named(dtype, "nl.ndarray")
    element, count = unpacked(held)
    if count == 1:
        return whole_tensor(current().tensor(shape, element, space, **more))
    tensor = current().tensor((*shape, count), element, space, **more)
    return whole_tensor(tensor, held)


def fresh(shape: Sequence[int], dtype: Any, space: str, name: str = "") -> Handle:
    """A new tile or buffer of the kernel that is being recorded."""
    return declared(shape, dtype, space, name=name)
