"""Puts what a loop did on each class of cores back on the mesh's clock."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TypeAlias, TypeVar

import numpy as np

from emu.clock.resources import CLOCKS, LEVELS, Buffer, Path, Ring, Row
from emu.clock.ticks import Ticks, later
from emu.clock.tiles import Value
from emu.errors import BranchBufferMismatch
from emu.loops.entry import seen_whole
from emu.loops.marks import KEEP
from emu.loops.outcome import BufferAfter, FromOutside, InRing, Output
from emu.loops.per_class import PerClass
from emu.tracing import jaxpr as jx

K = TypeVar("K")

Afters: TypeAlias = list[BufferAfter | None]
"""A buffer in each class; None where the loop left it as it was."""


@dataclasses.dataclass(frozen=True, slots=True)
class RingAfter:
    """A ring after the loop.

    Attributes:
      before: the ring before, or None if it is declared inside.
      path, loops: its path, and those of the loops inside that it is in.
      old: places of its buffers before, in the order of their next use.
      order: places after, or None where classes turned it differently.
      afters: by turn, its buffer per class.
    """

    before: Ring | None
    path: Path
    loops: list[Path]
    old: list[int]
    order: list[int] | None
    afters: list[Afters]

    @property
    def kept(self) -> list[tuple[int, Afters]]:
        """Each buffer that the ring keeps: its place, and what it is per class."""
        if self.order is None:
            return []
        return list(zip(self.order, self.afters, strict=True))


class Merge(PerClass):
    """Merges engines and counts, then buffers, then outputs."""

    # --- engines, ports, counts ---

    def clocks(self) -> None:
        """Gives engines and ports the times, names and charges that they have in each class."""
        outcomes = self.outcomes
        for row in _union(outcome.clocks for outcome in outcomes):
            self._clock(row)
        for row in _union(outcome.levels for outcome in outcomes):
            self._level(row)
        for engine in self.state.engines.values():
            engine.share_clock()
        for name in _union(outcome.taken for outcome in outcomes):
            engine = self.state.engines[name]
            each = [outcome.taken.get(name, 0) for outcome in outcomes]
            engine.free = engine.free + self.of_cells(each)

    def _clock(self, row: Row) -> None:
        resource = self.state.resource(row)
        clock = CLOCKS[row[0]]
        times = [outcome.clocks.get(row, KEEP) for outcome in self.outcomes]
        if clock.label is not None:
            names = [outcome.labels.get(row, "") for outcome in self.outcomes]
            keep = getattr(resource, clock.label)
            name = self.name(names, times, keep, self.entry.label_at)
            setattr(resource, clock.label, name)
        keep = getattr(resource, clock.time)
        setattr(resource, clock.time, self.ticks(times, keep))
        setattr(resource, clock.mark, getattr(resource, clock.mark) + 1)

    def _level(self, row: Row) -> None:
        field, _ = row
        resource = self.state.resource(row)
        kind = LEVELS[field]
        moved = [row in outcome.levels for outcome in self.outcomes]
        each = [outcome.levels.get(row, 0) for outcome in self.outcomes]
        before = self.entry.per_cell(getattr(resource, field))
        after = self.spread(each, 0, kind)
        chosen = np.where(self.spread(moved, False, bool), after, before)
        setattr(resource, field, self.folded(chosen))

    def counts(self) -> None:
        """Books what was spent and counted."""
        state = self.state
        for key in _union(outcome.spent for outcome in self.outcomes):
            each = [outcome.spent.get(key, 0) for outcome in self.outcomes]
            state.spent[key] = state.spent.get(key, 0) + self.of_cells(each)
        cells = np.bincount(self.ids, minlength=len(self.outcomes)).tolist()
        for outcome, number in zip(self.outcomes, cells):
            cores = number * self.entry.cores
            for key, each in outcome.sums.items():
                state.tally.sums[key] += cores * each
        ends = [KEEP if o.end is None else o.end for o in self.outcomes]
        state.end = later(state.end, self.ticks(ends, 0))

    # --- buffers ---

    def buffers(self) -> None:
        """Those that no ring turns, then rings."""
        entry = self.entry
        for place in _union(outcome.buffers for outcome in self.outcomes):
            afters = [outcome.buffers.get(place) for outcome in self.outcomes]
            self._put(entry.buffers[place], afters, aside=place in entry.aside)
        paths = _union(outcome.rings for outcome in self.outcomes)
        rings = [self._ring_after(path) for path in paths]
        idles = self._idles([pair for ring in rings for pair in ring.kept])
        for ring in rings:
            self._put_ring(ring, idles)

    def _idles(self, kept: list[tuple[int, Afters]]) -> dict[int, Ticks]:
        """When buffers of rings are idle, worked out at once: there are hundreds of them."""
        used = [
            (place, afters)
            for place, afters in kept
            if any(after and after.used for after in afters)
        ]
        if self.single or not used:
            return {}
        per_class = [
            [after.idle if after and after.used else KEEP for after in afters]
            for _, afters in used
        ]
        rows = [self.entry.position["idle", place] for place, _ in used]
        idles = self.many(np.array(per_class, np.int64), self.entry.times[rows])
        return {
            place: idle
            for (place, _), idle in zip(used, idles, strict=True)
            if idle is not None
        }

    def _put(
        self,
        buffer: Buffer,
        afters: Afters,
        *,
        aside: bool = False,
        moved: bool = False,
        idle: Ticks | None = None,
    ) -> None:
        """Gives a buffer the state that it has in each class; None leaves it as it is.

        Args:
          buffer: to be changed.
          afters: per class.
          aside: its times count from nothing, so the later of old and new holds.
          moved: it was another buffer before, so what is not used is not kept either.
          idle: when it is idle, where that is known.
        """
        uses = [after is not None and (after.used or moved) for after in afters]
        if any(uses):
            times = [
                after.idle if used and after else KEEP
                for used, after in zip(uses, afters)
            ]
            keep_idle, keep_user = (0, "") if aside else (buffer.idle, buffer.user)
            if idle is None:
                idle = self.ticks(times, keep_idle)
            users = ["" if after is None else after.user for after in afters]
            user = self.name(users, times, keep_user, self.entry.label_at)
            if aside:
                buffer.use(idle, user)
            else:
                buffer.idle = idle
                buffer.user = user
                buffer.uses += 1
        self._write(buffer, afters)
        if self.traced is not None and (after := afters[self.traced]) is not None:
            buffer.since = after.since
            if after.lifetime is not None:
                assert self.state.trace is not None
                own = dataclasses.replace(after.lifetime, buffer=buffer)
                self.state.trace.tracked[id(buffer)] = own

    def _write(self, buffer: Buffer, afters: Afters) -> None:
        """Gives a buffer a new version on the cores that wrote it."""
        writers = [after.writer for after in afters if after and after.written]
        if not writers:
            return
        version = self.state.next_version()
        cores = self.flags([after is not None and after.written for after in afters])
        if isinstance(cores, np.ndarray):
            version = np.where(cores, version, buffer.version)
        buffer.version = version
        buffer.writer = writers[0]

    # --- rings ---

    def _ring_after(self, path: Path) -> RingAfter:
        """A ring after the loop: classes may have turned it differently."""
        entry = self.entry
        start = self.state.path
        where = seen_whole(start, path)
        each = [outcome.rings.get(path) for outcome in self.outcomes]
        some, loops = next(ring for ring in each if ring is not None)
        before = self.state.rings.by_path.get(where)
        old: list[int] = []
        if before is not None:
            old = [entry.place[id(buffer)] for buffer in before.buffers]
        orders: set[tuple[int | None, ...]] = set()
        for ring in each:
            places = [after.origin for after in ring[0]] if ring else old
            orders.add(tuple(places))
        if not self.all:
            orders.add(tuple(old))
        order = None
        if before is not None and len(orders) == 1:
            order = [place for place in orders.pop() if place is not None]
            assert len(order) == len(some)
        afters = [
            [None if ring is None else ring[0][turn] for ring in each]
            for turn in range(len(some))
        ]
        inner = [seen_whole(start, loop) for loop in loops]
        return RingAfter(before, where, inner, old, order, afters)

    def _put_ring(self, ring: RingAfter, idles: dict[int, Ticks]) -> None:
        """Gives a ring's buffers their states, by their turn."""
        before = ring.before
        if before is None:
            new = Ring([], ring.path, [*self.state.loops, *ring.loops])
            self.state.rings.declare(new)
            new.buffers = [self._made(afters) for afters in ring.afters]
        elif ring.order is not None:
            before.buffers = [self.entry.buffers[place] for place in ring.order]
            for place, afters in ring.kept:
                buffer = self.entry.buffers[place]
                self._put(buffer, afters, idle=idles.get(place))
        else:
            self._part(before, ring)

    def _part(self, before: Ring, ring: RingAfter) -> None:
        """The ring of classes that turned it differently: new buffers, what was in the old is lost.

        A buffer is then one of several per core; a value that was in it cannot be read any more.
        """
        old = [self.entry.buffers[place] for place in ring.old]
        before.buffers = []
        for turn, afters in enumerate(ring.afters):
            buffer = self.state.buffer(old[turn].idle, old[turn].user)
            buffer.port = old[turn].port
            self._put(buffer, afters, moved=True)
            before.buffers.append(buffer)
        for buffer in old:
            buffer.version = self.state.next_version()
            buffer.writer = self.entry.eqn
            buffer.since = None
            if self.state.trace is not None:
                self.state.trace.tracked.pop(id(buffer), None)

    def _made(self, afters: Afters) -> Buffer:
        """A buffer made inside."""
        buffer = self.state.buffer()
        bank = next((after.bank for after in afters if after is not None), None)
        if bank is not None:
            buffer.port = self.state.port(bank)
        self._put(buffer, afters)
        return buffer

    # --- outputs ---

    def outputs(self, knowns: list[np.ndarray | None]) -> list[Value]:
        """The loop's outputs; `knowns` are the carry's known integers after it."""
        made: list[Buffer] = []
        for number in range(max(len(outcome.made) for outcome in self.outcomes)):
            afters = [
                outcome.made[number] if number < len(outcome.made) else None
                for outcome in self.outcomes
            ]
            made.append(self._made(afters))
        slots = zip(*(outcome.outputs for outcome in self.outcomes), strict=True)
        stacks = len(self.entry.eqn.outvars) - len(knowns)
        known = [*knowns, *([None] * stacks)]
        return [
            self._output(slot, each, made, known[slot])
            for slot, each in enumerate(slots)
        ]

    def _output(
        self,
        slot: int,
        each: Sequence[Output],
        made: list[Buffer],
        known: np.ndarray | None,
    ) -> Value:
        aval = self.entry.eqn.outvars[slot].aval
        shape, dtype, space = aval.shape, aval.dtype, each[0].space
        buffer = self._home(slot, each, made)
        if buffer is None:
            return Value(shape, dtype, space, 0, known=known)
        times = [output.ready for output in each]
        sources = [output.source for output in each]
        fresh = self.flags([output.fresh for output in each], absent=True)
        version = buffer.version
        if fresh is not True:
            version = np.where(fresh, version, -1)
        steps = None
        if each[0].steps is not None:
            per_slice = zip(*(output.steps or () for output in each), strict=True)
            steps = [self.ticks(list(ready), 0) for ready in per_slice]
        return Value(
            shape,
            dtype,
            space,
            self.ticks(times, 0),
            buffer,
            version,
            steps=steps,
            source=self.name(sources, times, "", self.entry.source_at),
        )

    def _home(
        self, slot: int, each: Sequence[Output], made: list[Buffer]
    ) -> Buffer | None:
        """The buffer of an output, which must have the same role in every class."""
        home = each[0].home
        if any(output.home != home for output in each):
            raise BranchBufferMismatch(
                f"scan: output {slot} is a different buffer on cores that take different branches; "
                "write all results into one destination",
                jx.location(self.entry.eqn),
            )
        if home is None:
            return None
        if isinstance(home, InRing):
            path = seen_whole(self.state.path, home.path)
            return self.state.rings.by_path[path].buffers[home.position]
        if isinstance(home, FromOutside):
            return self.entry.buffers[home.place]
        return made[home.number]


def _union(tables: Iterable[Iterable[K]]) -> list[K]:
    """All keys of some tables, each once, in the order met."""
    return list(dict.fromkeys(key for table in tables for key in table))


__all__ = ["Merge"]
