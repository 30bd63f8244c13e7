"""When a loop's schedule repeats for certain: snapshots of its clocks, and the rule that compares.

A schedule without contention is max-plus linear: a clock's next value is a maximum of clocks, each
plus a constant that is not negative.
"""

import dataclasses
import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from emu.clock.reading import Spent
from emu.clock.resources import Buffer, Row
from emu.clock.ticks import Flags, Ticks, flat, same
from emu.clock.tiles import Value
from emu.loops.distinct import distinct
from emu.tracing import jaxpr as jx

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
      uses: how often each buffer had been used.
      since: when what each buffer holds began to be written, on the traced core.
      form: what must be equal for two states to have the same future: which value is in which
        role, where it lies, whether it is stale or known, which port each role's buffer shares,
        whom each clock makes wait for, and the clocks' shapes.
      spent: `(engine, what)` to its ticks.
      sums: the tally.
      events: how many events had been recorded.
      tracked: how many tiles the trace had begun to track.
    """

    rows: list[Row]
    clocks: list[Ticks]
    marks: list[object]
    buffers: list[Buffer]
    versions: list[Ticks]
    uses: list[int]
    since: list[int | None]
    form: tuple[object, ...]
    spent: Spent
    sums: dict[tuple[str, str], int]
    events: int
    tracked: int

    @cached_property
    def flat(self) -> np.ndarray:
        return flat(self.clocks)

    def grown(self, since: "Snapshot") -> Spent:
        """What was spent between another state and this one."""
        more: Spent = {}
        for key, ticks in self.spent.items():
            more[key] = ticks - since.spent.get(key, 0)
        return more


def roles(
    carry: list[Value], fixed: Sequence[Value], turned: list[Buffer]
) -> tuple[list[Buffer], tuple[object, ...]]:
    """Every buffer that a loop can touch, each once, and the form (see `Snapshot`).

    Args:
      carry: of the next iteration.
      fixed: the loop's other operands.
      turned: buffers of rings declared inside.
    """
    numbers: dict[int, int] = {}
    buffers: list[Buffer] = []

    def role(buffer: Buffer | None) -> int:
        if buffer is None:
            return -1
        number = numbers.setdefault(id(buffer), len(buffers))
        if number == len(buffers):
            buffers.append(buffer)
        return number

    slots: list[object] = []
    for value in carry:
        is_data = value.known is None
        slots.append((role(value.buffer), value.space, is_data, staleness(value)))
    rest = [role(value.buffer) for value in fixed]
    rest += [role(buffer) for buffer in turned]
    # A tile that turns into a role may share a bank, which it makes others wait for.
    ports = [None if buffer.port is None else id(buffer.port) for buffer in buffers]
    return buffers, (slots, rest, ports)


def staleness(value: Value) -> bytes | None:
    """On which cores a value was overwritten, or None if on none."""
    stale = value.stale
    if not np.any(stale):
        return None
    return np.asarray(stale).tobytes()


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
    earlier: list[Ticks] = []
    later: list[Ticks] = []
    decides: list[bool] = []
    for number, mark in enumerate(now.marks):
        # Equal counts of uses, or one and the same `Value`: a new one is never equal to the old.
        if mark == first.marks[number]:
            continue
        kind, _ = now.rows[number]
        earlier.append(was.clocks[number])
        later.append(now.clocks[number])
        decides.append(contended or kind == "ready")
    if decides and not _moved_repeat(earlier, later, decides, apart):
        return None
    # Equal clocks are not enough. Two causes may tie over one period and the slower fall behind
    # over the next: the starts are as before, but the wait is another's.
    before = was.grown(first)
    after = now.grown(was)
    if before.keys() != after.keys():
        return None
    if not all(same(before[key], after[key]) for key in after):
        return None
    found: dict[Row, Ticks] = {}
    for number, row in enumerate(now.rows):
        found[row] = now.clocks[number] - was.clocks[number]
    return found


def _moved_repeat(
    was: list[Ticks], now: list[Ticks], decides: list[bool], apart: list[int]
) -> bool:
    """Whether clocks that the loop moved repeat; `decides` has a flag for each of them."""
    # Of each core of each clock, as `flat` lays them out.
    cores = [np.size(clock) for clock in now]
    flags = np.repeat(decides, cores)
    if _repeats(flat(was), flat(now), flags):
        return True
    return _by_group(was, now, decides, apart)


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
        # Of chips 0 and 1 above, this accepts n = 11, where 1,210 is later than 1,200, and not n =
        # 10, where both are 1,100.
        faster = was[(steps > slow) & decides]
        if faster.size and now[steps <= slow].max() >= faster.min():
            return False
    return True


def _by_group(
    was: list[Ticks], now: list[Ticks], decides: list[bool], apart: list[int]
) -> bool:
    """The same, asked of each group of cores that exchange data in the loop."""
    frame = np.broadcast_shapes(*[np.shape(clock) for clock in now])
    # Groups may run at rates of their own: as no clock follows one of another group, a fast group
    # need not be ahead of a slow one.
    split = [axis for axis in apart if frame and frame[axis] > 1]
    if not split:
        return False
    groups = math.prod(frame[axis] for axis in split)

    def grouped(clocks: list[Ticks]) -> np.ndarray:
        """`[groups, clocks and cores of a group]`."""
        every = np.stack([np.broadcast_to(clock, frame) for clock in clocks])
        # Clocks are the first dimension, so a mesh axis is one further on.
        mine = [1 + axis for axis in split]
        leading = range(len(split))
        return np.moveaxis(every, mine, leading).reshape(groups, -1)

    before = grouped(was)
    after = grouped(now)
    # Groups in the same state are asked once.
    pairs = np.concatenate([before, after], axis=1)
    firsts, _ = distinct(pairs.T)
    if len(firsts) > MAX_GROUPS:
        return False
    cores = before.shape[1] // len(was)
    flags = np.repeat(decides, cores)
    for pair in pairs[firsts]:
        group_before, group_after = np.split(pair, 2)
        if not _repeats(group_before, group_after, flags):
            return False
    return True


@dataclasses.dataclass(frozen=True, slots=True)
class Moved:
    """The buffer that is in a role after a jump.

    Attributes:
      buffer: the buffer.
      written: on which cores it was written in the periods that were jumped.
      writer: the equation that wrote it last, in them or before.
      used: whether anything used it in them.
    """

    buffer: Buffer
    written: Flags
    writer: jx.Equation | None
    used: bool


def rotated(was: Snapshot, now: Snapshot, times: int) -> list[Moved]:
    """Which buffer is in each role after `times` more periods, and what happened to it meanwhile.

    The tiles of a ring change roles every iteration. A role that the loop keeps filling with new
    buffers is given one more.

    Three buffers A B C of which each moves up one role in a period are B C A one period later: role
    0 has what was in role 1, that what was in 2, that what was in 0, an orbit of three. After 5
    more periods role 0 holds what is now in role 2, as 5 mod 3 is 2. If role 0 is the one that is
    written, that buffer was; but after one more period only, the buffer that is now in role 2 is in
    role 1, and nobody has written it.
    """
    earlier = {id(buffer): role for role, buffer in enumerate(was.buffers)}
    source = [earlier.get(id(buffer)) for buffer in now.buffers]  # role a period ago
    moved: list[Moved] = []
    for role, buffer in enumerate(now.buffers):
        orbit = [role]
        before = source[role]
        # `source` never gives one role twice, so this ends where it began or at a buffer that is
        # new.
        while before is not None and before != role:
            orbit.append(before)
            before = source[before]
        closed = before is not None
        if closed:
            held = now.buffers[orbit[times % len(orbit)]]
        elif times < len(orbit):
            held = now.buffers[orbit[times]]
        else:
            held = dataclasses.replace(buffer)
        # It went through the roles between, this one last; in a closed orbit perhaps many times.
        written: Flags = False
        writer = held.writer
        used = False
        for member in orbit[:times]:
            origin = source[member]
            if origin is None:
                continue  # made in the period itself
            # A buffer that stays in its role was written in the periods that were walked already,
            # so whoever holds an earlier version has lost it, and needs no further version to know.
            if len(orbit) > 1:
                here = now.versions[member] != was.versions[origin]
                # The orbit goes back in time: the first role found that writes wrote last.
                if np.any(here) and not np.any(written):
                    writer = now.buffers[member].writer
                written = written | here
            used = used or now.uses[member] != was.uses[origin]
        moved.append(Moved(held, written, writer, used))
    return moved


__all__ = ["Moved", "Snapshot", "roles", "rotated", "staleness", "step"]
