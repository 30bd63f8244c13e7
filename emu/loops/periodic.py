"""When a loop's schedule repeats for certain: snapshots of its clocks, and the rule that compares.

A schedule without contention is max-plus linear: a clock's next value is a maximum of clocks, each
plus a constant that is not negative.
"""

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from emu.clock.resources import Buffer, Row
from emu.clock.ticks import Ticks, flat, same
from emu.clock.tiles import Value

MAX_RATES = 8
MAX_GROUPS = 4096


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """A loop's state between two iterations: every clock it can move, and what it had counted.

    Attributes:
      rows: the names of the clocks.
      clocks: engines, ports, the loop's end and outputs, the carry's ready times, buffers' idle
        times.
      marks: per clock, something that changes whenever the loop may have moved it, even by nothing.
      buffers: the buffers of those idle times; a buffer's place here is its role.
      versions: the version each buffer held.
      since: when what each buffer holds began to be written, on the traced core.
      form: what must be equal for two states to have the same future: which value is in which
        role, where it lies, whether it is stale or known, whom each clock makes wait for, and the
        clocks' shapes.
      spent: `(engine, what)` to its ticks.
      sums: the tally.
      events: how many events had been recorded.
    """

    rows: list[Row]
    clocks: list[Ticks]
    marks: list[object]
    buffers: list[Buffer]
    versions: list[Any]
    since: list[int | None]
    form: Any
    spent: dict[tuple[str, str], Ticks]
    sums: dict[tuple[str, str], int]
    events: int

    @cached_property
    def flat(self) -> np.ndarray:
        return flat(self.clocks)

    def grown(self, since: "Snapshot") -> dict[tuple[str, str], Ticks]:
        """What was spent between another state and this one."""
        return {
            key: ticks - since.spent.get(key, 0) for key, ticks in self.spent.items()
        }


def roles(
    carry: list[Value], fixed: Sequence[Value], sites: list[Buffer]
) -> tuple[Any, Any]:
    """Every buffer that a loop can touch, each once, and the form (see `Snapshot`)."""
    place: dict[int, int] = {}
    found: list[Buffer] = []

    def role(buffer: Buffer | None) -> int:
        if buffer is None:
            return -1
        if id(buffer) not in place:
            place[id(buffer)] = len(found)
            found.append(buffer)
        return place[id(buffer)]

    slots = tuple(
        (role(v.buffer), v.space, v.known is None, staleness(v)) for v in carry
    )
    rest = tuple([*(role(v.buffer) for v in fixed), *map(role, sites)])
    return found, (slots, rest)


def staleness(v: Value) -> bytes | None:
    """On which cores a value was overwritten, or None if on none."""
    if v.buffer is None or v.version is v.buffer.version:
        return None
    stale = v.version != v.buffer.version
    return np.asarray(stale).tobytes() if np.any(stale) else None


def step(
    first: Snapshot,
    was: Snapshot,
    now: Snapshot,
    apart: list[int],
    contended: bool = True,
) -> dict[Row, Ticks] | None:
    """Each clock's step over one period if every further period must repeat it, else None.

    Args:
      first: the state two periods ago.
      was: the state one period ago; the periods before and after it took equal decisions.
      now: the state now.
      apart: mesh dimensions along which cores exchange nothing inside the loop.
      contended: False where instructions wait for their operands alone, so that nothing depends on
        when an engine or a buffer was last used.
    """
    if not first.form == was.form == now.form:
        return None
    steps = now.flat - was.flat
    if not np.array_equal(steps, was.flat - first.flat):
        return None
    # What nothing in the loop touches is a constant; a clock may be touched and yet stand still.
    moved = [
        i for i, (a, b) in enumerate(zip(first.marks, now.marks, strict=True)) if a != b
    ]
    if moved:
        before = [was.clocks[i] for i in moved]
        after = [now.clocks[i] for i in moved]
        decides = [contended or now.rows[i][0] == "ready" for i in moved]
        if not _repeats(
            flat(before), flat(after), _flat_flags(decides, after)
        ) and not _by_group(before, after, decides, apart):
            return None
    before, after = was.grown(first), now.grown(was)
    if before.keys() != after.keys() or not all(
        same(before[k], after[k]) for k in after
    ):
        return None
    return {
        row: clock - earlier
        for row, clock, earlier in zip(now.rows, now.clocks, was.clocks, strict=True)
    }


def _flat_flags(flags: list[bool], clocks: list[Ticks]) -> np.ndarray:
    """A flag of each clock, repeated for each of its cores as `flat` lays them out."""
    return np.repeat(flags, [np.size(clock) for clock in clocks])


def _repeats(was: np.ndarray, now: np.ndarray, decides: np.ndarray) -> bool:
    """Whether clocks that moved equally over two periods must do so over every further one.

    Let clock `i` have moved by `r[i]` over each of the two periods, and let `now[i]` be
    `a + was[j]`. Since `i` was at least `a + first[j]` one period ago, `r[i] <= r[j]`. If no
    clock depends on one of a faster rate, then `r[j] <= r[i]`: each clock follows one of its own
    rate, and slower ones, falling behind, can never overtake it. A dependence of a slow clock on
    a faster one is excluded by the fast one having been later already: were there one, then
    `now[slow] >= was[fast]`, as constants are not negative.

    Two equal periods are needed: over one alone, a clock may still be following another that ran
    faster before. Clocks that nothing in the loop moves are constants and depend on nothing.

    Clock `j` need only be asked for where it `decides`, that is, where another can depend on it.
    Say four chips pass keys on, and chip `c` has a chain of 100 + 10·c ticks an iteration, because
    it attends to what chips before it sent. Chip 0 follows nobody. That chip 1 has the faster rate
    does no harm once what it hands on, 110·n, is later than all that chip 0 has, 100·(n + 1). A
    buffer of chip 1 that was last used long ago has the faster rate too, but if nobody waits for
    it, it need not be later.
    """
    steps = now - was
    rates = np.unique(steps)
    if len(rates) > MAX_RATES:
        return False
    for slow in rates[:-1]:
        faster = was[(steps > slow) & decides]
        if faster.size and now[steps <= slow].max() >= faster.min():
            return False
    return True


def _by_group(
    was: list[Ticks], now: list[Ticks], decides: list[bool], apart: list[int]
) -> bool:
    """The same, asked of each group of cores that exchange data in the loop."""
    frame = np.broadcast_shapes(*(np.shape(x) for x in now))
    apart = [i for i in apart if frame and frame[i] > 1]
    if not apart:
        return False
    groups = int(np.prod([frame[i] for i in apart]))

    def grouped(clocks: list[Ticks]) -> np.ndarray:
        x = np.stack([np.broadcast_to(c, frame) for c in clocks])
        return np.moveaxis(x, [1 + i for i in apart], range(len(apart))).reshape(
            groups, -1
        )

    w, n = grouped(was), grouped(now)
    alike = np.unique(np.concatenate([w, n], axis=1), axis=0)
    if len(alike) > MAX_GROUPS:
        return False
    flags = np.repeat(decides, w.shape[1] // len(was))
    return all(_repeats(*np.split(pair, 2), flags) for pair in alike)


def rotated(was: Snapshot, now: Snapshot, times: int) -> tuple[list[Buffer], list[Any]]:
    """Which buffer is in each role after `times` more periods, and on which cores it was written.

    The tiles of a ring change roles every iteration. A role that the loop keeps filling with new
    buffers is given one more.
    """
    earlier = {id(b): r for r, b in enumerate(was.buffers)}
    source = [earlier.get(id(b)) for b in now.buffers]  # its role one period ago
    held, written = [], []
    for r, buffer in enumerate(now.buffers):
        orbit, q = [r], source[r]
        while q is not None and q != r:
            orbit.append(q)
            q = source[q]
        if q is not None:
            buffer = now.buffers[orbit[times % len(orbit)]]
        elif times < len(orbit):
            buffer = now.buffers[orbit[times]]
        else:
            buffer = dataclasses.replace(buffer)
        changed: Any = False
        if q is not None and len(orbit) > 1:
            for q in orbit:
                changed = changed | (now.versions[q] != was.versions[source[q]])  # type: ignore
        held.append(buffer)
        written.append(changed)
    return held, written
