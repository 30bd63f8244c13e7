"""Puts what a loop did on each class of cores back on the mesh's timeline."""

import dataclasses
from typing import Any

import numpy as np

from emu.clock.throttle import State
from emu.clock.ticks import later
from emu.clock.tiles import Buffer, Ring, Value
from emu.errors import BranchBufferMismatch
from emu.loops.effect import Held, Out
from emu.loops.per_class import KEEP, Spread
from emu.loops.scene import Path, graft
from emu.tracing import jaxpr as jx


@dataclasses.dataclass(frozen=True, slots=True)
class Turned:
    """A ring after the loop.

    Attributes:
      was: the ring before, or None if it is declared inside.
      where, loops: its path, and those of the loops inside that it is in.
      old: places of its buffers before, in the order of their next use.
      order: places after, or None where classes turned it differently.
      held: by turn, its buffer per class.
    """

    was: Ring | None
    where: Path
    loops: list[Path]
    old: list[int]
    order: list[int] | None
    held: list[list[Held | None]]

    @property
    def pairs(self) -> list[tuple[int, list[Held | None]]]:
        """Each buffer that the ring keeps: its place, and what it is per class."""
        return (
            [] if self.order is None else list(zip(self.order, self.held, strict=True))
        )


class Merge(Spread):
    """Merges engines and counts, then buffers, then outputs."""

    # --- engines, ports, counts ---

    def engines(self) -> None:
        line = self.line
        for row in dict.fromkeys(row for e in self.effects for row in e.clocks):
            kind, key = row
            times = [e.clocks.get(row, KEEP) for e in self.effects]
            if kind == "port":
                port = line.port(*key)
                port.engine = self.label(
                    [e.engines.get(key, "") for e in self.effects],
                    times,
                    port.engine,
                    lambda _: port.engine,
                )
                port.until = self.ticks(times, port.until)
                port.uses += 1
            else:
                clocks = {"last": line.last, "free": line.free, "paced": line.paced}[
                    kind
                ]
                clocks[key] = self.ticks(times, clocks.get(key, 0))
        for engine in dict.fromkeys(x for e in self.effects for x in e.touched):
            line.touches[engine] += 1
            if (
                type(line.free[engine]) is int
                and line.free[engine] == line.last[engine]
            ):
                line.free[engine] = line.last[engine]
        for engine in dict.fromkeys(x for e in self.effects for x in e.taken):
            took = self.spread([e.taken.get(engine, 0) for e in self.effects], 0)
            line.free[engine] = line.free[engine] + self.folded(took)
        self.throttle()

    def throttle(self) -> None:
        for engine, was in list(self.line.throttle.items()):
            if any(engine in e.throttle for e in self.effects):
                moved = self.spread(
                    [engine in e.throttle for e in self.effects], False, bool
                )
                states = [e.throttle.get(engine, State()) for e in self.effects]
                charge = self.spread([s.charge for s in states], 0)
                slow = self.spread([s.slow for s in states], False, bool)
                self.line.throttle[engine] = State(
                    self.folded(np.where(moved, charge, self.scene.flat(was.charge))),
                    self.folded(np.where(moved, slow, self.scene.flat(was.slow))),
                )

    def counts(self) -> None:
        line = self.line
        for key in dict.fromkeys(k for e in self.effects for k in e.spent):
            ticks = self.folded(
                self.spread([e.spent.get(key, 0) for e in self.effects], 0)
            )
            line.spent[key] = line.spent.get(key, 0) + ticks
        cells = np.bincount(self.ids, minlength=len(self.effects)).tolist()
        for effect, n in zip(self.effects, cells):
            for key, each in effect.sums.items():
                line.tally.sums[key] += n * self.scene.cores * each
        ends = [KEEP if e.end is None else e.end for e in self.effects]
        line.end = later(line.end, self.ticks(ends, 0))

    # --- buffers ---

    def buffers(self) -> None:
        """Those that no ring turns, then rings."""
        for place in dict.fromkeys(p for e in self.effects for p in e.buffers):
            held = [e.buffers.get(place) for e in self.effects]
            self.hold(self.scene.buffers[place], held, aside=place in self.scene.aside)
        rings = [
            self.turned(p)
            for p in dict.fromkeys(p for e in self.effects for p in e.rings)
        ]
        self.foresee([pair for ring in rings for pair in ring.pairs])
        for ring in rings:
            self.ring(ring)

    def foresee(self, pairs: list[tuple[int, list[Held | None]]]) -> None:
        """Works out at once when buffers of rings are idle: there are hundreds of them."""
        pairs = [
            (place, held) for place, held in pairs if any(h and h.used for h in held)
        ]
        if self.single or not pairs:
            return
        per_class = [
            [h.idle if h and h.used else KEEP for h in held] for _, held in pairs
        ]
        rows = [self.scene.rows["idle", place] for place, _ in pairs]
        idles = self.many(np.array(per_class, np.int64), self.scene.times[rows])
        for (place, _), idle in zip(pairs, idles, strict=True):
            if idle is not None:
                self.idles[place] = idle

    def hold(
        self,
        b: Buffer,
        held: list[Held | None],
        *,
        aside: bool = False,
        moved: bool = False,
    ) -> None:
        """Gives a buffer the state that it has in each class; None leaves it as it is.

        Args:
          b: the buffer.
          held: per class.
          aside: its times count from nothing, so the later of old and new holds.
          moved: it was another buffer before, so what is not used is not kept either.
        """
        uses = [h is not None and (h.used or moved) for h in held]
        if any(uses):
            times = [h.idle if u and h else KEEP for u, h in zip(uses, held)]
            keep = (0, "") if aside else (b.idle, b.user)
            idle = (
                None
                if aside or moved
                else self.idles.pop(self.scene.place.get(id(b)), None)
            )
            idle = self.ticks(times, keep[0]) if idle is None else idle
            names = ["" if h is None else h.user for h in held]
            user = self.label(
                names, times, keep[1], self.of_row(self.scene.labels.__getitem__)
            )
            if aside:
                b.use(idle, user)
            else:
                b.idle = idle
                b.user = user
                b.uses = b.uses + 1
        writes = [h is not None and h.written for h in held]
        if any(writes):
            cores = True if self.single else self.written(tuple(writes))
            new = self.line.next_version()
            b.version = new if cores is True else np.where(cores, new, b.version)
            b.writer = next(h.writer for h in held if h and h.written)
        if self.traced is not None and (h := held[self.traced]) is not None:
            b.since = h.since
            if h.tracked is not None:
                self.line.tracked[id(b)] = b, *h.tracked[1:]

    def written(self, writes: tuple[bool, ...]) -> Any:
        """On which cores something is written: many buffers are on the same."""
        if writes not in self.cores:
            self.cores[writes] = self.folded(self.spread(writes, False, bool))
        return self.cores[writes]

    def turned(self, path: Path) -> "Turned":
        """A ring after the loop: classes may have turned it differently."""
        where = graft(self.line.path, path)
        each = [e.rings.get(path) for e in self.effects]
        some, loops = next(r for r in each if r is not None)
        was = self.line.sites.get(where)
        old = [] if was is None else [self.scene.place[id(b)] for b in was.buffers]
        orders = {tuple(h.origin for h in r[0]) if r else tuple(old) for r in each}
        if not self.all:
            orders.add(tuple(old))
        held: list[list[Held | None]] = [
            [None if r is None else r[0][turn] for r in each]
            for turn in range(len(some))
        ]
        kept = was is not None and len(orders) == 1
        order: Any = list(orders.pop()) if kept else None
        return Turned(
            was, where, [graft(self.line.path, p) for p in loops], old, order, held
        )

    def ring(self, ring: "Turned") -> None:
        """Gives a ring's buffers their states, by their turn."""
        was = ring.was
        if was is None:
            was = Ring([], ring.where, [*self.line.loops, *ring.loops])
            self.declare(was)
            was.buffers = [self.fresh(h) for h in ring.held]
        elif ring.order is not None:
            was.buffers = [self.scene.buffers[i] for i in ring.order]
            for b, h in zip(was.buffers, ring.held, strict=True):
                self.hold(b, h)
        else:
            self.part(was, ring.old, ring.held)

    def part(self, ring: Ring, old: list[int], held: list[list[Held | None]]) -> None:
        """The ring of classes that turned it differently: new buffers, what was in the old is lost.

        A buffer is then one of several per core; a value that was in it cannot be read any more.
        """
        was = [self.scene.buffers[i] for i in old]
        ring.buffers = []
        for turn, h in enumerate(held):
            b = self.line.buffer(was[turn].idle, was[turn].user)
            b.port = was[turn].port
            self.hold(b, h, moved=True)
            ring.buffers.append(b)
        for b in was:
            b.version = self.line.next_version()
            b.writer = self.scene.eqn
            b.since = None
            self.line.tracked.pop(id(b), None)

    def fresh(self, held: list[Held | None]) -> Buffer:
        """A buffer made inside."""
        b = self.line.buffer()
        bank = next((h.bank for h in held if h is not None), None)
        b.port = None if bank is None else self.line.port(*bank)
        self.hold(b, held)
        return b

    def declare(self, ring: Ring) -> None:
        line = self.line
        inner = ring.loops[len(self.line.loops) :]
        line.sites[ring.path] = ring
        for loop in (*line.loops, *inner):
            line.within.setdefault(loop, []).append(ring)

    # --- outputs ---

    def outputs(self, knowns: list[Any]) -> list[Value]:
        """The loop's outputs; `knowns` are the carry's known integers after it."""
        made = [
            self.fresh([e.made[n] if n < len(e.made) else None for e in self.effects])
            for n in range(max(len(e.made) for e in self.effects))
        ]
        slots = zip(*(e.outs for e in self.effects), strict=True)
        knowns = [*knowns, *(None for _ in self.scene.eqn.outvars[len(knowns) :])]
        return [
            self.output(i, list(s), made, k)
            for i, (s, k) in enumerate(zip(slots, knowns))
        ]

    def output(self, i: int, outs: list[Out], made: list[Buffer], known: Any) -> Value:
        aval = self.scene.eqn.outvars[i].aval
        buffer = self.home(i, outs, made)
        space = outs[0].space
        if buffer is None:
            return Value(aval.shape, aval.dtype, space, 0, None, None, known)
        times = [o.ready for o in outs]
        source = self.label(
            [o.source for o in outs], times, "", self.of_row(self.scene.source)
        )
        fresh = self.folded(self.spread([o.fresh for o in outs], True, bool))
        version = (
            buffer.version if fresh is True else np.where(fresh, buffer.version, -1)
        )
        steps = None
        if outs[0].steps is not None:
            each = zip(*(o.steps for o in outs), strict=True)  # type: ignore[misc]
            steps = [self.ticks(list(t), 0) for t in each]
        return Value(
            aval.shape,
            aval.dtype,
            space,
            self.ticks(times, 0),
            buffer,
            version,
            None,
            steps,
            source,
        )

    def home(self, i: int, outs: list[Out], made: list[Buffer]) -> Buffer | None:
        """The buffer of an output, which must have the same role in every class."""
        if any(o.home != outs[0].home for o in outs):
            raise BranchBufferMismatch(
                f"scan: output {i} is a different buffer on cores that take different branches; "
                "write all results into one destination",
                jx.location(self.scene.eqn),
            )
        if outs[0].home is None:
            return None
        kind, *at = outs[0].home
        if kind == "ring":
            return self.line.sites[graft(self.line.path, at[0])].buffers[at[1]]
        return self.scene.buffers[at[0]] if kind == "in" else made[at[0]]


__all__ = ["Merge"]
