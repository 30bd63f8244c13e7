"""Any instruction on parts of its operands: the hardware's access patterns, beside whole tiles.

What a part costs is what a tile of its shape costs, what it computes is computed of such a tile;
so no instruction declares a second form of itself. `tensor_copy.at[:, i, ds(j, 512)](dst, src)` is
how a kernel writes one; `boxed` makes any other, with parts of sources too.

A write to a part keeps the rest of its buffer, so it is a partial write: it waits for readers of
the buffer, not for writes to other parts. The clock sees whole buffers as operands, because a
part is no buffer of its own.
"""

import dataclasses
import functools
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import EllipsisType
from typing import Any, Generic, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from emu import given
from emu.annotations import KnownInt, ShapeAndDtype
from emu.clock.tally import moved_bytes
from emu.datasheet import Device
from emu.instruction import (
    Cost,
    Crossing,
    Instruction,
    Operand,
    Spaces,
    applied,
    checked_shapes,
    enrolled,
    on_cores,
    result_shapes,
    vary_with_mesh,
)
from emu.regions import Bitcast, Box, Part, Pattern, Region
from emu.tracing.jaxpr import Primitive

R = TypeVar("R")


@dataclasses.dataclass(frozen=True)
class Old:
    """A source that is what a destination holds before: `dst = dst op src` in place.

    It is no operand, so the clock lets the instruction wait for no write to another part. Nor
    does it then wait for the last write to the same part: `Old` is for sums whose last one into the
    same place is long done, as of the k-block before. One that follows at once, or on another
    engine, takes the part as a source, `None` or a region, and waits for every write to the buffer.

    Attributes:
      destination: which one, counted from 0.
    """

    destination: int = 0


Write: TypeAlias = Region | None
Read: TypeAlias = Region | Old | None

old = Old()
"""What the destination holds, as a source: `tensor_tensor.at[:, i](dst, old, src, op="add")`."""


@functools.cache
def boxed(
    instruction: Instruction[..., Any],
    writes: tuple[Write, ...],
    reads: tuple[Read, ...],
) -> Instruction[..., Any]:
    """The instruction on parts of its operands.

    It is called with whole buffers, destinations first, then whole sources, then the registers
    that say where each part begins, those of writes first; parameters are the instruction's own.
    What would write a fresh buffer takes, for a part, the buffer as its destination.

    Example: `boxed(dma_load, (Box((128, 4, 512), (128, 1, 512), shape=(128, 512)),), (None,))` is
    called as `(dst, src, i)` and loads `src[128, 512]` into `dst[:, i]`.

    Args:
      instruction: which.
      writes: of each destination the part that is written; None writes all.
      reads: of each source the part that is read, None for all, or `Old`.

    Raises:
      LimitExceeded: as many as the instruction has they are not.
    """
    name = instruction.name
    for what, parts, takes in (
        ("writes", writes, instruction.writes),
        ("reads", reads, instruction.reads),
    ):
        if len(parts) != len(takes):
            given.refuse(f"{name}: {len(parts)} {what}, must be {len(takes)}")
    if all(part is None for part in (*writes, *reads)):
        return instruction
    form = _Form(instruction, writes, reads)
    return form.instruction()


class _Form:
    """How an instruction's operands follow from those of the instruction on parts of them.

    Attributes:
      base: the instruction.
      writes, reads: the parts.
      in_place: whether there are destinations.
      sources: of each read the place of its operand, with parts; of `Old`, its destination's.
      parts: by place of their operand.
    """

    def __init__(
        self,
        base: Instruction[..., Any],
        writes: tuple[Write, ...],
        reads: tuple[Read, ...],
    ) -> None:
        self.base = base
        self.writes = writes
        self.reads = reads
        fresh = not base.in_place and all(write is None for write in writes)
        self.in_place = not fresh
        self.destinations = 0 if fresh else len(writes)
        self.sources: list[int] = []
        # As many as are given: an old content is not.
        place = self.destinations
        for read in reads:
            if isinstance(read, Old):
                self.sources.append(read.destination)
            else:
                self.sources.append(place)
                place += 1
        self.wholes = place
        self.parts: dict[int, Part] = {}
        taken = list(enumerate(writes)) + list(zip(self.sources, reads, strict=True))
        for operand, region in taken:
            if region is None or isinstance(region, Old):
                continue
            registers = tuple(range(place, place + region.registers))
            self.parts[operand] = Part(operand, region, registers)
            place += region.registers
        self.registers = place - self.wholes

    def instruction(self) -> Instruction[..., Any]:
        base = self.base
        primitive = Primitive(base.name)
        primitive.multiple_results = True
        partial = any(write is not None and not write.whole for write in self.writes)
        has_old = any(isinstance(read, Old) for read in self.reads)
        # An old content is no operand, so it has no place among the sources.
        pairs = zip(self.reads, base.reads, strict=True)
        spaces: list[Spaces] = [s for read, s in pairs if not isinstance(read, Old)]
        arrival = None if base.arrival is None else self.arrival
        adds_if = base.adds_if
        if adds_if is not None:
            adds_if = self.sources[adds_if] - self.destinations
        inst = dataclasses.replace(
            base,
            meaning=self.meaning_across() if base.across else self.meaning(),
            cost=self.cost,
            arrival=arrival,
            reads=(*spaces, *["register"] * self.registers),
            in_place=self.in_place,
            reads_destination=base.reads_destination or partial or has_old,
            partial=base.partial or partial,
            adds=base.adds or has_old,
            adds_if=adds_if,
            primitive=primitive,
            base=base,
            parts=tuple(self.parts.values()),
            stacked=self.stacked if self.parts else None,
            shapes=self.shapes,
        )
        return enrolled(inst)

    def meaning(self) -> Callable[..., Any]:
        # It has the parameters of the instruction's own meaning, and its name.
        @functools.wraps(self.base.meaning)
        def meaning(*operands: jax.Array, **params: Any) -> tuple[jax.Array, ...]:
            tiles = [self._read(operands, n) for n in range(self.wholes)]
            results = self._computed(*tiles, **params)
            if not self.in_place:
                return tuple(results)
            pairs = enumerate(results)
            return tuple(self._written(operands, n, result) for n, result in pairs)

        return meaning

    def meaning_across(self) -> Callable[..., Any]:
        """Of a collective, whose operands are those of all cores, stacked in front."""

        @functools.wraps(self.base.meaning)
        def meaning(*operands: jax.Array, **params: Any) -> tuple[jax.Array, ...]:
            cores = max((operands[place].ndim for place in self._registers), default=1)
            tiles = [self._read_each(operands, n, cores) for n in range(self.wholes)]
            sources = [tiles[place] for place in self.sources]
            into = tiles[: self.destinations] if self.base.in_place else []
            results = self.base.meaning(*into, *sources, **params)
            given = results if isinstance(results, tuple) else (results,)
            pairs = enumerate(given)
            return tuple(self._write_each(operands, n, x, cores) for n, x in pairs)

        return meaning

    @property
    def _registers(self) -> list[int]:
        """Places of the operands that say where parts begin."""
        return [place for part in self.parts.values() for place in part.registers]

    def _read_each(
        self, operands: Sequence[jax.Array], place: int, cores: int
    ) -> jax.Array:
        """A part of each core's buffer; `cores` dimensions in front are the cores'."""
        part = self.parts.get(place)
        if part is None:
            return operands[place]
        read = part.region.read
        for _ in range(cores):
            read = jax.vmap(read)
        return read(operands[place], [operands[each] for each in part.registers])

    def _write_each(
        self,
        operands: Sequence[jax.Array],
        place: int,
        result: jax.Array,
        cores: int,
    ) -> jax.Array:
        part = self.parts.get(place)
        if part is None:
            return result
        write = part.region.write
        for _ in range(cores):
            write = jax.vmap(write)
        starts = [operands[each] for each in part.registers]
        return write(operands[place], starts, result)

    def arrival(
        self,
        device: Device,
        mesh: Mapping[str, int],
        crossing: Crossing,
        *operands: Operand,
        **params: Any,
    ) -> tuple[np.ndarray, np.ndarray]:
        """A collective's arrival, of tiles of the parts' shapes."""
        assert self.base.arrival is not None
        tiles = [self._seen(device, operands, n) for n in range(self.wholes)]
        sources = [tiles[place] for place in self.sources]
        into = tiles[: self.destinations]
        return self.base.arrival(device, mesh, crossing, *into, *sources, **params)

    def _computed(self, *tiles: jax.Array, **params: Any) -> list[jax.Array]:
        """The instruction's results, of tiles of the parts' shapes."""
        destinations = tiles[: self.destinations]
        sources = [tiles[place] for place in self.sources]
        into = destinations if self.base.in_place else []
        results = applied(self.base, *into, *sources, **params)
        if self.in_place and not self.base.in_place:
            self._check(_shapes(results), _shapes(destinations))
        return results

    def shapes(
        self, operands: Sequence[ShapeAndDtype], params: Mapping[str, Any]
    ) -> list[ShapeAndDtype]:
        """Of the results: what the instruction makes of the parts, or the whole destinations.

        Tracing what copies parts out of buffers and back would take ten times as long.
        """
        base, tiles = self.base, [self._tile(operands, n) for n in range(self.wholes)]
        destinations = tiles[: self.destinations]
        into = destinations if base.in_place else []
        sources = [tiles[place] for place in self.sources]
        results = checked_shapes(base, (*into, *sources), params)
        if not self.in_place:
            return results
        if not base.in_place:
            self._check(results, destinations)
        return list(operands[: self.destinations])

    def _tile(self, operands: Sequence[ShapeAndDtype], place: int) -> ShapeAndDtype:
        """Shape and dtype of a part."""
        part, (shape, dtype) = self.parts.get(place), operands[place]
        if part is None:
            return shape, dtype
        region = part.region
        return region.shape, region.dtype if isinstance(region, Bitcast) else dtype

    def stacked(
        self,
        size: int,
        is_stacked: Sequence[bool],
        operands: Sequence[jax.Array],
        params: Mapping[str, Any],
    ) -> list[jax.Array]:
        """The meaning on several cores whose parts begin at the same places.

        `vmap` makes a gather of each part that is read and a scatter of each that is written, for
        which XLA copies the whole buffer, of one core even. Here a part of a stack of buffers is
        a part of a larger buffer.
        """
        # A destination that is alike on all cores is not so any more once it is written.
        held = [
            x
            if stacked or place >= self.destinations
            else jnp.broadcast_to(x[None], (size, *x.shape))
            for place, (x, stacked) in enumerate(zip(operands, is_stacked, strict=True))
        ]
        into = [True] * self.destinations
        mapped = [*into, *is_stacked[self.destinations : self.wholes]]
        tiles = [
            self._read_stacked(held, n, size) if mapped[n] else self._read(held, n)
            for n in range(self.wholes)
        ]
        results = self._computed_stacked(size, mapped, tiles, params)
        if not self.in_place:
            return results
        return [self._write_stacked(held, n, x, size) for n, x in enumerate(results)]

    def _computed_stacked(
        self,
        size: int,
        is_stacked: Sequence[bool],
        tiles: Sequence[jax.Array],
        params: Mapping[str, Any],
    ) -> list[jax.Array]:
        """`_computed` on several cores."""
        into = list(range(self.destinations)) if self.base.in_place else []
        places = [*into, *self.sources]
        taken = [tiles[place] for place in places]
        dims = [0 if is_stacked[place] else None for place in places]
        results = on_cores(self.base, size, dims, taken, params)
        if self.in_place and not self.base.in_place:
            self._check(_shapes(results), _shapes(tiles[: self.destinations]))
        return results

    def _read_stacked(
        self, operands: Sequence[jax.Array], place: int, size: int
    ) -> jax.Array:
        part = self.parts.get(place)
        if part is None:
            return operands[place]
        starts = [operands[register] for register in part.registers]
        if isinstance(part.region, Box):
            return _read_box(operands[place], part.region, starts, size)
        read = jax.vmap(part.region.read, in_axes=(0, None))
        return read(operands[place], starts)

    def _write_stacked(
        self, operands: Sequence[jax.Array], place: int, result: jax.Array, size: int
    ) -> jax.Array:
        part = self.parts.get(place)
        if part is None:
            return result
        starts = [operands[register] for register in part.registers]
        if isinstance(part.region, Box):
            box = part.region.stacked(size)
            written = box.write(operands[place], starts, result)
            if isinstance(written, Tracer):
                _WRITTEN.append((written, part.region, starts, result))
            return written
        write = jax.vmap(part.region.write, in_axes=(0, None, 0))
        return write(operands[place], starts, result)

    def _check(
        self, results: Sequence[ShapeAndDtype], destinations: Sequence[ShapeAndDtype]
    ) -> None:
        """Refuses the result of a fresh buffer that is not of the size of the part."""
        for result, part in zip(results, destinations, strict=True):
            if result != part:
                made, held = (jax.ShapeDtypeStruct(*each) for each in (result, part))
                given.refuse(
                    f"{self.base.name}: the result is {given.described(made)} but its part of "
                    f"the destination is {given.described(held)}"
                )

    def _read(self, operands: Sequence[jax.Array], place: int) -> jax.Array:
        part = self.parts.get(place)
        if part is None:
            return operands[place]
        starts = [operands[register] for register in part.registers]
        return part.region.read(operands[place], starts)

    def _written(
        self, operands: Sequence[jax.Array], place: int, result: jax.Array
    ) -> jax.Array:
        part = self.parts.get(place)
        if part is None:
            return result
        starts = [operands[register] for register in part.registers]
        return part.region.write(operands[place], starts, result)

    def cost(self, device: Device, *operands: Operand, **params: Any) -> Cost:
        """The instruction's cost on tiles of the parts' shapes, and its traffic."""
        tiles = [self._seen(device, operands, n) for n in range(self.wholes)]
        destinations = tiles[: self.destinations]
        sources = [tiles[place] for place in self.sources]
        # Who makes a fresh buffer still wants to know what its destination looks like.
        cost = self.base.cost(device, *destinations, *sources, **params)
        lead: dict[int, Any] = {}
        for place, cycles in cost.lead_cycles.items():
            lead[self._place(place)] = cycles
        moved = cost.moved_bytes
        if moved is None and cost.engine is not None:
            moved = self._moved(destinations, sources, params)
        return dataclasses.replace(cost, lead_cycles=lead, moved_bytes=moved)

    def _seen(self, device: Device, operands: Sequence[Operand], place: int) -> Operand:
        operand = operands[place]
        part = self.parts.get(place)
        if part is None:
            return operand
        region = part.region
        run = region.run(operand.space in device.partitioned)
        dtype = region.dtype if isinstance(region, Bitcast) else operand.dtype
        return dataclasses.replace(operand, shape=region.shape, dtype=dtype, run=run)

    def _place(self, place: int) -> int:
        """Of an operand of the instruction, its place among ours."""
        own = self.base.destinations
        return place if place < own else self.sources[place - own]

    def _moved(
        self,
        destinations: Sequence[Operand],
        sources: Sequence[Operand],
        params: Mapping[str, Any],
    ) -> Mapping[str, int]:
        into = destinations if self.base.in_place else []
        operands = [*into, *sources]
        if self.base.across:
            # One core's meaning there is none of; its results are of its destinations' shapes.
            results = [(each.shape, each.dtype) for each in destinations]
        else:
            results = result_shapes(self.base, operands, params)
        made = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in results]
        return moved_bytes(self.base, operands, made)


def _shapes(arrays: Sequence[jax.Array]) -> list[ShapeAndDtype]:
    return [(array.shape, array.dtype) for array in arrays]


# --- what was just written ---

# XLA on a CPU computes a write once more within what reads the same buffer next, and for that keeps
# a copy of the whole buffer as it was. Who reads just what was written has it without the buffer;
# who reads another part does so behind a choice, past which XLA does not look. A handful is enough,
# as that is among the next instructions; more would keep old traces alive.
_WRITTEN: deque[tuple[jax.Array, Box, list[jax.Array], jax.Array]] = deque(maxlen=16)


def _read_box(
    buffer: jax.Array, box: Box, starts: Sequence[jax.Array], size: int
) -> jax.Array:
    """A part of each of several buffers."""

    def read(buffer: jax.Array) -> jax.Array:
        return box.stacked(size).read(buffer, starts)

    for written, other, begun, result in _WRITTEN:
        if written is not buffer:
            continue
        if other == box and all(map(_same, begun, starts)):
            return result
        # Any number is one of these, which XLA does not know.
        number = result[(0,) * result.ndim]
        always = (number < 0) | (number >= 0) | (number != number)
        nothing = vary_with_mesh(jnp.zeros((size, *box.shape), buffer.dtype))
        return lax.cond(always, read, lambda _: nothing, buffer)
    return read(buffer)


def _same(one: jax.Array, other: jax.Array) -> bool:
    if one is other:
        return True
    if isinstance(one, Tracer) or isinstance(other, Tracer):
        return False
    return int(one) == int(other)


# --- as a kernel writes it ---


@dataclasses.dataclass(frozen=True)
class Range:
    """`size` places from `start` on, every `step`-th of them."""

    start: KnownInt
    size: int
    step: int = 1


def ds(start: KnownInt, size: int, step: int = 1) -> Range:
    """A dynamic slice, for `instruction.at`: `size` places from `start` on.

    Args:
      start: a known integer, such as a loop index.
      size: how many places it goes over.
      step: takes every how many-th of them.
    """
    size = given.whole("ds: size", size, 1)
    return Range(start, size, given.whole("ds: step", step, 1))


Index: TypeAlias = KnownInt | Range | slice | None | EllipsisType


@dataclasses.dataclass(frozen=True)
class Places(Generic[R]):
    """`instruction.at`, which takes an index."""

    instruction: Instruction[..., R]

    def __getitem__(self, index: Index | tuple[Index, ...]) -> "Placed[R]":
        return Placed(self.instruction, index if isinstance(index, tuple) else (index,))


@dataclasses.dataclass(frozen=True)
class Placed(Generic[R]):
    """An instruction on a part of its first destination: it is called with the whole of it.

    The index is NumPy's, with `ds(start, size)` where a start is not a number: a whole number
    takes a dimension away. The other operands are of the part's shape.
    """

    instruction: Instruction[..., R]
    index: tuple[Index, ...]

    def __call__(self, dst: jax.Array, *operands: Any, **params: Any) -> R:
        inst = self.instruction
        dst = given.array(f"{inst.name}: operand 0", dst)
        box, starts = indexed(f"{inst.name}.at", dst.shape, self.index)
        others = (None,) * (len(inst.writes) - 1)
        in_place = len(others)
        sources = operands[in_place:]
        reads = tuple(x if isinstance(x, Old) else None for x in sources)
        if len(reads) != len(inst.reads):
            # The instruction says how many operands it takes.
            reads = (None,) * len(inst.reads)
        wholes = [x for x in operands if not isinstance(x, Old)]
        return boxed(inst, (box, *others), reads)(dst, *wholes, *starts, **params)


def indexed(
    what: str, shape: tuple[int, ...], index: tuple[Index, ...]
) -> tuple[Box, list[KnownInt]]:
    """The part of a buffer that an index names, and where it begins.

    Example: `[:, i, ds(j, 512)]` of `[128, 8, 2048]` is a box of sizes (128, 1, 512) that is
    seen as `[128, 512]`, with registers i and j.

    Raises:
      LimitExceeded: it does not fit the shape.
    """
    view: list[int] = []
    sizes: list[int] = []
    steps: list[int] = []
    seen: list[int] = []
    starts: list[KnownInt] = []
    dims = iter(shape)
    for each in _spelled_out(what, shape, index):
        if each is None:
            view.append(1)
            sizes.append(1)
            steps.append(1)
            seen.append(1)
            continue
        whole = next(dims)
        start, size, step = _range(what, each, whole)
        view.append(whole)
        sizes.append(size)
        steps.append(step)
        if isinstance(each, slice | Range):
            seen.append(-(-size // step))
        if size < whole:
            starts.append(start)
        elif isinstance(start, int) and start != 0:
            given.refuse(f"{what}: {size} from {start} on, of {whole} in {list(shape)}")
    box = Box(tuple(view), tuple(sizes), tuple(steps), shape=tuple(seen))
    return box, starts


def _spelled_out(
    what: str, shape: tuple[int, ...], index: tuple[Index, ...]
) -> list[Index]:
    """An index for each dimension, `...` and what is left out at the end put in."""
    named = sum(each is not None and each is not Ellipsis for each in index)
    dots = sum(each is Ellipsis for each in index)
    if named > len(shape) or dots > 1:
        given.refuse(f"{what}: {named} indices into {list(shape)}")
    rest: list[Index] = [slice(None)] * (len(shape) - named)
    full: list[Index] = []
    for each in index:
        full += rest if each is Ellipsis else [each]
    return full if dots else full + rest


def _range(what: str, each: Any, whole: int) -> tuple[KnownInt, int, int]:
    """Start, size and step of one dimension's index."""
    if isinstance(each, Range):
        if each.size > whole:
            given.refuse(f"{what}: {each.size} places of a dimension of {whole}")
        return each.start, each.size, each.step
    if isinstance(each, slice):
        bounds = each.start, each.stop, each.step
        if any(b is not None and not given.is_whole(b, -(2**31)) for b in bounds):
            given.refuse(f"{what}: a slice of known integers is ds(start, size)")
        start, stop, step = each.indices(whole)
        if stop <= start or step < 1:
            given.refuse(f"{what}: {start}:{stop}:{step} takes nothing of {whole}")
        return start, stop - start, step
    if isinstance(each, int | np.integer):
        start = int(each)
        return start + whole if start < 0 else start, 1, 1
    return each, 1, 1


__all__ = ["Box", "Old", "Pattern", "boxed", "ds", "indexed", "old"]
