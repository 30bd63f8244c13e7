"""What has to come before what in a loop, and in which order engines that look ahead would issue.

`Constraint(p, q, turns, ticks)`: operation q of a turn that is `turns` later starts `ticks` after p
does. The order is found by playing some turns: each engine takes, of what is ready, what is oldest;
the turn in the middle tells the order, folded to one turn's length.

Example: a product on the Tensor Engine and an exponential on the Scalar Engine, 100 each, the one
150 after the other. In program order a turn that needs the exponential again on the Tensor Engine
takes 300. Ahead by one turn the Tensor Engine is busy 200 of 200.
"""

import dataclasses
import itertools
from collections.abc import Sequence

from emu.trainium.nki.passes.costs import Spent


@dataclasses.dataclass(frozen=True)
class Constraint:
    """Operation `after` of the turn `turns` later starts `ticks` after operation `before`."""

    before: int
    after: int
    turns: int
    ticks: int


@dataclasses.dataclass(frozen=True)
class Order:
    """A loop's order: `stage` turns late each operation is, and the sequence of one step.

    Attributes:
      sequence: operations in the order in which a step issues them.
      stage: of each operation; a step runs it for the turn that is so many before the newest.
      ticks: of a step.
    """

    sequence: tuple[int, ...]
    stage: tuple[int, ...]
    ticks: float

    @property
    def stages(self) -> int:
        return max(self.stage) + 1


def order(
    spent: Sequence[Spent],
    constraints: Sequence[Constraint],
    turns: int,
    ahead: int,
    window: int,
) -> Order | None:
    """The order of a step that engines which look ahead fall into; None if there is none.

    Args:
      spent: of each operation.
      constraints: between them.
      turns: how many to play.
      ahead: an operation starts once no turn more than `ahead` before has any left.
      window: nor is it more than so many operations behind the first that has not started.
    """
    best: Order | None = None
    # What shares a port with another engine waits for it. An order found without that wait is at
    # times the better one with it, as engines that wait for each other too soon drift apart.
    for waits in (True, False):
        start = _Play(spent, constraints, turns, ahead, window, waits).run()
        for length in _lengths(start, ahead):
            found = _folded(start, constraints, length)
            if found is None or found.stages > ahead + 2:
                continue
            ticks = stepped(spent, constraints, found, turns)
            if best is None or ticks < best.ticks:
                best = dataclasses.replace(found, ticks=ticks)
    return best


def program_order(
    spent: Sequence[Spent], constraints: Sequence[Constraint], turns: int
) -> Order:
    """One turn after the other."""
    number = len(spent)
    order = Order(tuple(range(number)), (0,) * number, 0)
    return dataclasses.replace(order, ticks=stepped(spent, constraints, order, turns))


def stepped(
    spent: Sequence[Spent],
    constraints: Sequence[Constraint],
    order: Order,
    steps: int,
) -> float:
    """How long a step takes once they follow each other evenly, as the clock counts it."""
    before: list[list[Constraint]] = [[] for _ in spent]
    for each in constraints:
        before[each.after].append(each)
    free: dict[str, int] = {}
    ports = _Ports()
    start: dict[tuple[int, int], int] = {}
    ends: list[int] = []
    end = 0
    for step in range(steps + order.stages):
        for place in order.sequence:
            turn = step - order.stage[place]
            if turn < 0:
                continue
            own = spent[place]
            begin = free.get(own.engine, 0)
            for space in own.ports:
                begin = max(begin, ports.until(space, own.engine))
            for each in before[place]:
                earlier = start.get((turn - each.turns, each.before))
                if earlier is not None:
                    begin = max(begin, earlier + each.ticks)
            start[turn, place] = begin
            free[own.engine] = begin + own.busy
            ports.use(own, begin + own.busy)
            end = max(end, begin + own.busy)
        ends.append(end)
    first = len(ends) // 2
    return max(1.0, (ends[-1] - ends[first]) / (len(ends) - 1 - first))


class _Ports:
    """The ports that engines share, one at a time: until when, and who uses each."""

    def __init__(self) -> None:
        self._used: dict[str, tuple[int, str]] = {}

    def until(self, space: str, engine: str) -> int:
        """Until when an engine waits for a memory's port; not for itself."""
        until, user = self._used.get(space, (0, engine))
        return 0 if user == engine else until

    def use(self, spent: Spent, until: int) -> None:
        for space in spent.ports:
            self._used[space] = until, spent.engine


class _Play:
    """Some turns on engines that take what is ready, the oldest first."""

    def __init__(
        self,
        spent: Sequence[Spent],
        constraints: Sequence[Constraint],
        turns: int,
        ahead: int,
        window: int,
        waits: bool,
    ) -> None:
        self.spent = spent
        self.turns = turns
        self.ahead = ahead
        self.window = window
        self.waits_for_ports = waits
        number = len(spent)
        self.after: list[list[Constraint]] = [[] for _ in range(number)]
        self.waits = [[0] * number for _ in range(turns)]
        for each in constraints:
            self.after[each.before].append(each)
            for turn in range(each.turns, turns):
                self.waits[turn][each.after] += 1
        self.ready = [[0] * number for _ in range(turns)]
        self.start = [[-1] * number for _ in range(turns)]
        self.left = [number] * turns
        self.oldest = 0
        # Operations of all turns in program order that have started, up to the first that has not.
        self.passed = 0
        self.free: dict[str, int] = {}
        self.ports = _Ports()
        # What waits for nothing that has not started, by engine.
        self.open: dict[str, set[tuple[int, int]]] = {
            each.engine: set() for each in spent
        }
        for turn in range(turns):
            for place in range(number):
                if not self.waits[turn][place]:
                    self.open[spent[place].engine].add((turn, place))

    def run(self) -> list[list[int]]:
        for _ in range(self.turns * len(self.spent)):
            best = min(
                (found for found in map(self.first, self.open) if found is not None),
                default=None,
            )
            assert best is not None, "operations that wait for each other"
            self.issue(*best)
        return self.start

    def first(self, engine: str) -> tuple[int, int, int] | None:
        """What an engine takes next: when, the turn and the operation."""
        best: tuple[int, int, int] | None = None
        for turn, place in self.open[engine]:
            in_program = turn * len(self.spent) + place
            is_far = in_program >= self.passed + self.window
            if is_far or turn > self.oldest + self.ahead:
                continue
            begin = max(self.ready[turn][place], self.free.get(engine, 0))
            for space in self.spent[place].ports if self.waits_for_ports else ():
                begin = max(begin, self.ports.until(space, engine))
            if best is None or (begin, turn, place) < best:
                best = begin, turn, place
        return best

    def issue(self, begin: int, turn: int, place: int) -> None:
        spent = self.spent[place]
        engine = spent.engine
        self.start[turn][place] = begin
        self.open[engine].discard((turn, place))
        self.free[engine] = begin + spent.busy
        self.ports.use(spent, begin + spent.busy)
        self.left[turn] -= 1
        while self.oldest < self.turns and not self.left[self.oldest]:
            self.oldest += 1
        number = len(self.spent)
        while self.passed < self.turns * number:
            first_turn, first_place = divmod(self.passed, number)
            if self.start[first_turn][first_place] < 0:
                break
            self.passed += 1
        for each in self.after[place]:
            later = turn + each.turns
            if later >= self.turns:
                continue
            at = begin + each.ticks
            self.ready[later][each.after] = max(self.ready[later][each.after], at)
            self.waits[later][each.after] -= 1
            if not self.waits[later][each.after]:
                self.open[self.spent[each.after].engine].add((later, each.after))


def _folded(
    start: Sequence[Sequence[int]], constraints: Sequence[Constraint], length: int
) -> Order | None:
    """The turn in the middle as a step: times beyond a turn's length are of turns before."""
    times = _repaired(start[len(start) // 2], constraints, length)
    if times is None:
        return None
    base = min(times)
    folded = [divmod(time - base, length) for time in times]
    number = range(len(times))
    sequence = sorted(number, key=lambda place: (folded[place][1], place))
    return Order(tuple(sequence), tuple(turn for turn, _ in folded), length)


def _lengths(start: Sequence[Sequence[int]], ahead: int) -> list[int]:
    """How far apart turns may be once they follow each other evenly: what to try.

    Neither the first turns are nor the last ones, which have nothing behind them that takes its
    share of the engines, and operations that wait for little run ahead of the others. Where eight
    turns end at 24, 38, 51, 64, 78, 91, 99 and 108, one takes 13 in a loop that goes on; folded by
    the 12 of their average it would take twice that.
    """
    turns = len(start)
    first, last = turns // 3, turns - 1 - ahead
    if last <= first:
        first, last = 0, turns - 1
    begins, ends = [min(turn) for turn in start], [max(turn) for turn in start]
    found = {(ends[last] - ends[first]) // max(1, last - first)}
    for times in (begins, ends):
        found.update(b - a for a, b in itertools.pairwise(times))
    return sorted(each for each in found if each > 0) or [1]


def _repaired(
    times: Sequence[int], constraints: Sequence[Constraint], length: int
) -> list[int] | None:
    """Times moved back as little as holds every constraint's order, each turn `length` later."""
    result = list(times)
    for _ in range(len(result) + 1):
        moved = False
        for each in constraints:
            least = result[each.before] + 1 - each.turns * length
            if result[each.after] < least:
                result[each.after] = least
                moved = True
        if not moved:
            return result
    # A turn of fewer ticks than a chain has operations.
    return None


__all__ = ["Constraint", "Order", "order", "program_order", "stepped"]
