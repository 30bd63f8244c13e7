"""Puts what a loop did on each class of cores back on the mesh's clock."""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import TypeAlias, TypeVar

import numpy as np

from emu.clock.names import CauseName
from emu.clock.resources import (
    CLOCKS,
    LEVELS,
    Buffer,
    Path,
    Ring,
    Row,
    seen_whole,
)
from emu.clock.ticks import Ticks, later
from emu.clock.tiles import Value
from emu.errors import BranchBufferMismatch
from emu.loops.marks import KEEP, NEVER, PAST
from emu.loops.outcome import (
    BufferAfter,
    FromOutside,
    InRing,
    Outcome,
    Output,
    RingAfter,
)
from emu.loops.per_class import PerClass
from emu.tracing import jaxpr as jx

K = TypeVar("K")

Afters: TypeAlias = list[BufferAfter | None]
"""A buffer in each class; None where the loop left it as it was."""


# Not frozen, which would take three times as long to make one; there are tens of thousands.
@dataclasses.dataclass(eq=False, slots=True)
class InClasses:
    """A buffer in each class.

    Attributes:
      afters: its state in each.
      used: whether any class used it.
      times, users: when it is idle in each class that used it, else `KEEP`, and the last user.
      wrote: which classes wrote it.
      writer: the first of their last writes; None where nobody wrote.
      only_user: the last user in all classes, if it is one and no time is a mark.
      any_wrote: whether any class wrote it.
    """

    afters: Afters
    used: bool
    times: list[int]
    users: list[str]
    wrote: list[bool]
    writer: jx.Equation | None
    only_user: str | None
    any_wrote: bool


def in_classes(afters: Afters, *, moved: bool = False) -> InClasses:
    """A buffer in each class; `moved` where it was another before, so none keeps its time."""
    times: list[int] = []
    users: list[str] = []
    wrote: list[bool] = []
    writer: jx.Equation | None = None
    used = False
    for after in afters:
        if after is None:
            times.append(KEEP)
            users.append("")
            wrote.append(False)
            continue
        own_use = after.used or moved
        used = used or own_use
        times.append(after.idle if own_use else KEEP)
        users.append(after.user)
        # An error message has room for one writer, whichever core it was on.
        if after.written and True not in wrote:
            writer = after.writer
        wrote.append(after.written)
    is_one = min(times) > PAST and len(set(users)) == 1
    only_user = users[0] if is_one else None
    return InClasses(
        afters, used, times, users, wrote, writer, only_user, True in wrote
    )


@dataclasses.dataclass(eq=False, slots=True)
class RingInClasses:
    """A ring after the loop in each class, wherever and whenever the loop is met.

    Attributes:
      orders: places of its buffers before the loop, of classes that changed it.
      all_changed: whether every class did.
      loops: paths of the loops inside that it is in, as seen from this one.
      buffers: by turn.
    """

    orders: set[tuple[int | None, ...]]
    all_changed: bool
    loops: list[Path]
    buffers: list[InClasses]


def _ring_in_classes(each: Sequence[RingAfter | None]) -> RingInClasses:
    """A ring that some class turned or declared; None of a class that left it as it was."""
    changed = [ring for ring in each if ring is not None]
    orders: set[tuple[int | None, ...]] = set()
    for ring in changed:
        orders.add(tuple([after.origin for after in ring.buffers]))
    first = changed[0]
    buffers: list[InClasses] = []
    for turn in range(len(first.buffers)):
        of_turn = [None if ring is None else ring.buffers[turn] for ring in each]
        buffers.append(in_classes(of_turn))
    return RingInClasses(orders, len(changed) == len(each), first.loops, buffers)


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class MergedRing:
    """A ring after the loop, on the mesh.

    Attributes:
      before: the ring before, by its number among those of the loop; None if it is declared inside.
      path: its path, as seen from the loop.
      order: places after, or None where classes turned it differently.
      after: what it is in each class.
    """

    before: int | None
    path: Path
    order: list[int] | None
    after: RingInClasses


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class MergedRings:
    """All rings that some class turned or declared, after the loop, on the mesh.

    Attributes:
      rings: each of them.
      used: places of buffers that a ring keeps and that some class used.
      times: when each of those is idle, int64 `[used buffers, classes]`.
    """

    rings: list[MergedRing]
    used: list[int]
    times: np.ndarray

    @classmethod
    def of(cls, rings: list[MergedRing]) -> "MergedRings":
        used: list[int] = []
        times: list[list[int]] = []
        for ring in rings:
            for place, own in zip(ring.order or [], ring.after.buffers):
                if own.used:
                    used.append(place)
                    times.append(own.times)
        return cls(rings, used, np.array(times, np.int64))


KnownRings: TypeAlias = dict[tuple[bool, tuple[Outcome, ...]], MergedRings]
"""What becomes of rings in certain classes: by whether all cores take part, and outcomes.

Outcomes are of loops of one form, so that places and numbers of rings are the same."""


class Merge(PerClass):
    """Merges engines and counts, then buffers, then outputs."""

    # --- engines, ports, counts ---

    def asked(self) -> None:
        """Tells the core that is read alone when its operands are asked for in this loop."""
        (outcome,) = self.outcomes
        entry = self.entry
        for place, start in outcome.asked.items():
            if start != NEVER:
                ready = int(entry.times[entry.position["ready", place], 0])
                time = self.of_one(start, NEVER)
                assert isinstance(time, int)
                self.state.ask(ready, time)

    def clocks(self) -> None:
        """Gives engines and ports the times, names and charges that they have in each class."""
        outcomes = self.outcomes
        for row in _union(outcome.clocks for outcome in outcomes):
            self._clock(row)
        for row in _union(outcome.levels for outcome in outcomes):
            self._level(row)
        for engine in self.state.engines.values():
            engine.share_clock()
        taken = [outcome.taken for outcome in outcomes]
        for name in _union(taken):
            engine = self.state.engines[name]
            # An engine that issued nothing has no time of its own in the outcome. Say 30 ticks were
            # taken from it while it was free at 100 on one core and at 900 on another: 130 and 930.
            each = [table.get(name, 0) for table in taken]
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
        before = getattr(resource, clock.time)
        setattr(resource, clock.time, self.ticks(times, before))
        changes = getattr(resource, clock.mark)
        # No instruction was issued on this state, yet a loop around must see that the clock was
        # touched: `periodic.step` leaves out those whose mark stands still.
        setattr(resource, clock.mark, changes + 1)

    def _level(self, row: Row) -> None:
        field, _ = row
        resource = self.state.resource(row)
        kind = LEVELS[field]
        each = [outcome.levels.get(row, 0) for outcome in self.outcomes]
        before = self.entry.per_cell(getattr(resource, field))
        # A charge is no time: equal in all cores of a class, it is not counted from their bases.
        after = self.spread(each, 0, kind)
        moved = [row in outcome.levels for outcome in self.outcomes]
        has_moved = self.spread(moved, False, bool)
        chosen = np.where(has_moved, after, before)
        setattr(resource, field, self.folded(chosen))

    def counts(self) -> None:
        """Books what was spent and counted."""
        state = self.state
        outcomes = self.outcomes
        spent = [outcome.spent for outcome in outcomes]
        for key in _union(spent):
            each = [table.get(key, 0) for table in spent]
            before = state.spent.get(key, 0)
            state.spent[key] = before + self.of_cells(each)
            if self.any_late:
                state.spent[key] += self._waited(key)
        cells = np.bincount(self.ids, minlength=len(outcomes))
        sums = state.tally.sums
        for number, outcome in enumerate(outcomes):
            # A Python integer, which does not overflow as NumPy's would.
            cores = int(cells[number]) * self.entry.cores
            for key, each in outcome.sums.items():
                sums[key] += cores * each
        # Where nothing was issued nothing ends; KEEP becomes 0 here, which no time is earlier than.
        ends = [KEEP if outcome.end is None else outcome.end for outcome in outcomes]
        state.end = later(state.end, self.ticks(ends, 0))
        if self.single:
            self._latest(outcomes[0])

    def _waited(self, key: tuple[str, str]) -> Ticks:
        """Ticks from the base to the late arrival, as often as an engine waited for it."""
        often = [outcome.spent_late.get(key, 0) for outcome in self.outcomes]
        per_cell = self.spread(often, 0) * (self.late - self.base)
        return self.folded(per_cell)

    def _latest(self, outcome: Outcome) -> None:
        """Takes over the latest times of a single core."""
        for latest in (outcome.latest, outcome.latest_late):
            if latest is not None:
                time = self.of_one(latest, 0)
                assert isinstance(time, int)
                self.state.note(time)

    # --- buffers ---

    def buffers(self, known: KnownRings) -> None:
        """Those that no ring turns, then rings.

        Args:
          known: what becomes of rings in the classes met so far; these are added.
        """
        entry = self.entry
        changed = [outcome.buffers for outcome in self.outcomes]
        for place in _union(changed):
            afters = [table.get(place) for table in changed]
            is_aside = place in entry.aside
            self._put(entry.buffers[place], in_classes(afters), aside=is_aside)
        if self.single and self.traced is None:
            self._rings_of_one()
            return
        merged = self._merged_rings(known)
        idles = self._idles(merged)
        for ring in merged.rings:
            self._put_ring(ring, idles)

    def _rings_of_one(self) -> None:
        """Rings of a single core, as of every loop inside one that is read alone."""
        (outcome,) = self.outcomes
        for path, ring in outcome.rings.items():
            before = self.entry.rings_by_path.get(path)
            if before is None:
                own = _ring_in_classes([ring])
                self._put_ring(MergedRing(None, path, None, own), {})
                continue
            before.buffers = []
            for after in ring.buffers:
                assert after.origin is not None
                buffer = self.entry.buffers[after.origin]
                before.buffers.append(buffer)
                self._put_of_one(buffer, after)

    def _put_of_one(self, buffer: Buffer, after: BufferAfter) -> None:
        """`_put` on a single core."""
        if after.used and after.idle <= PAST:
            self._put(buffer, in_classes([after]))
            return
        if after.used:
            buffer.idle = self.of_one(after.idle, buffer.idle)
            buffer.user = after.user
            buffer.uses += 1
        if after.written:
            buffer.version = self.state.next_version()
            buffer.writer = after.writer

    def _idles(self, merged: MergedRings) -> dict[int, Ticks]:
        """When buffers of rings are idle, worked out at once: there are hundreds of them."""
        entry = self.entry
        if not merged.used:
            return {}
        rows = [entry.position["idle", place] for place in merged.used]
        idles = self.many(merged.times, entry.times[rows])
        found: dict[int, Ticks] = {}
        for place, idle in zip(merged.used, idles, strict=True):
            if idle is not None:
                found[place] = idle
        return found

    def _put(
        self,
        buffer: Buffer,
        own: InClasses,
        *,
        aside: bool = False,
        idle: Ticks | None = None,
    ) -> None:
        """Gives a buffer the state that it has in each class; None leaves it as it is.

        Args:
          buffer: to be changed.
          own: what it is in each class.
          aside: its times count from nothing, so the later of old and new holds.
          idle: when it is idle, where that is known.
        """
        if own.used:
            old_idle = 0 if aside else buffer.idle
            old_user = "" if aside else buffer.user
            if idle is None:
                idle = self.ticks(own.times, old_idle)
            user: CauseName | None = own.only_user
            if user is None or not self.all:
                user = self.name(own.users, own.times, old_user, self.entry.label_at)
            if aside:
                buffer.use(idle, user)
            else:
                buffer.idle = idle
                buffer.user = user
                buffer.uses += 1
        self._write(buffer, own)
        if self.traced is not None:
            self._trace(buffer, own.afters[self.traced])

    def _trace(self, buffer: Buffer, after: BufferAfter | None) -> None:
        """Takes over when what a buffer holds on the traced core began to be written."""
        if after is None:
            return
        buffer.since = after.since
        if after.lifetime is not None:
            assert self.state.trace is not None
            own = dataclasses.replace(after.lifetime, buffer=buffer)
            self.state.trace.tracked[id(buffer)] = own

    def _write(self, buffer: Buffer, own: InClasses) -> None:
        """Gives a buffer a new version on the cores that wrote it."""
        if not own.any_wrote:
            return
        version = self.state.next_version()
        cores = self.flags(own.wrote)
        if isinstance(cores, np.ndarray):
            version = np.where(cores, version, buffer.version)
        buffer.version = version
        buffer.writer = own.writer

    # --- rings ---

    def _merged_rings(self, known: KnownRings) -> MergedRings:
        """The rings that some class turned or declared."""
        outcomes = tuple(self.outcomes)
        key = self.all, outcomes
        if key not in known:
            numbers = {path: i for i, (path, _, _) in enumerate(self.entry.ring_places)}
            rings: list[MergedRing] = []
            for path in _union(outcome.rings for outcome in outcomes):
                each = [outcome.rings.get(path) for outcome in outcomes]
                before = numbers.get(path)
                rings.append(self._merged_ring(path, before, _ring_in_classes(each)))
            known[key] = MergedRings.of(rings)
        return known[key]

    def _merged_ring(
        self, path: Path, before: int | None, after: RingInClasses
    ) -> MergedRing:
        """A ring after the loop: classes may have turned it differently."""
        if before is None:
            return MergedRing(None, path, None, after)
        # Of a ring of two, an even number of turns gives (0, 1) and an odd number (1, 0). Cores
        # that take no part have not turned it.
        orders = after.orders
        if not (self.all and after.all_changed):
            _, _, places = self.entry.ring_places[before]
            orders = orders | {tuple(places)}
        if len(orders) > 1:
            return MergedRing(before, path, None, after)
        (only,) = orders
        order = [place for place in only if place is not None]
        assert len(order) == len(after.buffers)
        return MergedRing(before, path, order, after)

    def _put_ring(self, ring: MergedRing, idles: dict[int, Ticks]) -> None:
        """Gives a ring's buffers their states, by their turn."""
        if ring.before is None:
            start = self.state.path
            inner = [seen_whole(start, loop) for loop in ring.after.loops]
            loops = [*self.state.loops, *inner]
            new = Ring([], seen_whole(start, ring.path), loops)
            self.state.rings.declare(new)
            new.buffers = [self._made(own) for own in ring.after.buffers]
            return
        before = self.entry.rings[ring.before]
        if ring.order is None:
            self._part(before, ring)
            return
        before.buffers = [self.entry.buffers[place] for place in ring.order]
        for place, buffer, own in zip(ring.order, before.buffers, ring.after.buffers):
            self._put(buffer, own, idle=idles.get(place))

    def _part(self, before: Ring, ring: MergedRing) -> None:
        """The ring of classes that turned it differently: new buffers, what was in the old is lost.

        A buffer is then one of several per core; a value that was in it cannot be read any more.
        """
        old = before.buffers
        before.buffers = []
        state = self.state
        for turn, own in enumerate(ring.after.buffers):
            same_turn = old[turn]
            # Classes that did not turn the ring, and cores that take no part, wait next for what
            # the buffer of the same turn made them wait for.
            buffer = state.buffer(same_turn.idle, same_turn.user)
            buffer.port = same_turn.port
            buffer.packing = same_turn.packing
            self._put(buffer, in_classes(own.afters, moved=True))
            before.buffers.append(buffer)
        for buffer in old:
            # So that whoever reads it is told that it was overwritten.
            buffer.version = state.next_version()
            buffer.writer = self.entry.eqn
            buffer.since = None
            if state.trace is not None:
                state.trace.tracked.pop(id(buffer), None)

    def _made(self, own: InClasses) -> Buffer:
        """A buffer made inside."""
        buffer = self.state.buffer()
        made = next(after for after in own.afters if after is not None)
        bank = made.bank
        if bank is not None:
            buffer.port = self.state.port(bank)
        buffer.packing = made.packing
        self._put(buffer, own)
        return buffer

    # --- outputs ---

    def outputs(self, knowns: list[np.ndarray | None]) -> list[Value]:
        """The loop's outputs; `knowns` are the carry's known integers after it."""
        made_per_class = [outcome.made for outcome in self.outcomes]
        made: list[Buffer] = []
        # Each class numbers them as its outputs first reach them, so one number is one buffer in
        # all.
        for afters in itertools.zip_longest(*made_per_class):
            made.append(self._made(in_classes(list(afters))))
        outputs_per_class = [outcome.outputs for outcome in self.outcomes]
        results: list[Value] = []
        for slot, each in enumerate(zip(*outputs_per_class, strict=True)):
            is_carry = slot < len(knowns)
            known = knowns[slot] if is_carry else None
            results.append(self._output(slot, each, made, known))
        return results

    def _output(
        self,
        slot: int,
        each: Sequence[Output],
        made: list[Buffer],
        known: np.ndarray | None,
    ) -> Value:
        aval = self.entry.eqn.outvars[slot].aval
        space = each[0].space
        buffer = self._home(slot, each, made)
        if buffer is None:
            return Value(aval.shape, aval.dtype, space, 0, known=known)
        times = [output.ready for output in each]
        sources = [output.source for output in each]
        fresh = self.flags([output.fresh for output in each], absent=True)
        version = buffer.version
        if fresh is not True:
            version = np.where(fresh, version, -1)
        return Value(
            aval.shape,
            aval.dtype,
            space,
            self.ticks(times, 0),
            buffer,
            version,
            steps=self._steps(each),
            source=self.name(sources, times, "", self.entry.source_at),
        )

    def _steps(self, each: Sequence[Output]) -> list[Ticks] | None:
        """When each slice of a stacked output is ready, where that is kept."""
        if each[0].steps is None:
            return None
        steps_per_class = [output.steps or [] for output in each]
        by_slice = zip(*steps_per_class, strict=True)
        return [self.ticks(list(ready), 0) for ready in by_slice]

    def _home(
        self, slot: int, each: Sequence[Output], made: list[Buffer]
    ) -> Buffer | None:
        """The buffer of an output, which must have the same role in every class."""
        home = each[0].home
        # A value has one buffer on all cores; times and versions may differ in it, the buffer may
        # not.
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
    keys: dict[K, None] = {}
    for table in tables:
        keys.update(dict.fromkeys(table))
    return list(keys)


__all__ = ["KnownRings", "Merge"]
