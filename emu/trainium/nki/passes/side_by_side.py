"""Turns of a loop issued side by side, so that in-order engines do not wait out each result.

The vendor's compiler writes loops out and schedules what it then has, each engine's instructions
in the order in which they could start. Here a loop stays a loop: some turns of it are written out
with the loops inside, the order in which engines that look ahead would issue them is found
(`order`), and a step of the new loop runs each operation for the turn that it is late by. What the
first and last turns have of it stands before and behind the loop.

    for i: a(i); b(i); c(i)    ->    a(0); for i: a(i + 1), b(i), c(i) as they would start; b; c

Each turn has tiles of its own, in as many buffers as there is room for (`instances`); nothing else
is assumed of turns: whatever one of them writes and another touches keeps its order, whether the
kernel calls the loop affine or sequential, and so do sums in PSUM. That is why no value changes.

A loop that stores or reloads what was spilled keeps its order: there the compiler has filled SBUF,
so turns have no buffers of their own. By its counted bytes T1-NKIB-gqa_full-base keeps 15 of 64
tiles of its queries, 49 x 524,288 B of the 1,133.0 MB that it writes: all that there is room for.
A scheduler that is short of room goes by room, and no longer by latency (Goodman and Hsu, "Code
scheduling and register allocation in large basic blocks", 1988).
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

from emu.trainium.nki.passes.costs import Costs, Spent
from emu.trainium.nki.passes.effect import Effect
from emu.trainium.nki.passes.engines import balance
from emu.trainium.nki.passes.flat import has_only_operations, size, written_out
from emu.trainium.nki.passes.instances import Family, Placement, families, member_of
from emu.trainium.nki.passes.memory import Alive, Memory
from emu.trainium.nki.passes.order import (
    Constraint,
    Order,
    order,
    program_order,
)
from emu.trainium.nki.passes.regions import Distances, may_meet
from emu.trainium.nki.passes.rewrite import copied, rewritten, with_body
from emu.trainium.nki.passes.spill import has_spills
from emu.trainium.nki.passes.uses import uses
from emu.trainium.nki.rings import Room
from emu.trainium.nki.tree import (
    Access,
    Affine,
    Loop,
    Node,
    Operation,
    Recorded,
    Tensor,
)

NAME = "side_by_side"
# What is said of a kernel that stays as it is.
NONE = "no loop gains"
# A step of more operations than this is not written out: it has overlap enough inside.
LARGEST = 200
# As many operations as a step should have, so that two turns' tiles can take turns.
WANTED = 48
# The most buffers of one family: enough for a DMA's latency.
DEEPEST = 8
# Turns that an operation may be ahead of the oldest one that is not done.
AHEAD = 2
# How many operations behind the first that has not started a scheduler looks for what could start,
# whatever the size of a turn. Chosen when T1-AC-ATT-3 took 2 % longer with 32 and gqa_full longer
# with 96; since PSUM banks are shared, the fitted T1-AC-ATT-3 and -4 are the same from 64 on.
WINDOW = 64
PLAYED = 8
# Below this gain a loop stays as it is.
LEAST_GAIN = 0.03


def apply(recorded: Recorded, memory: Memory, costs: Costs) -> tuple[Recorded, Effect]:
    """Reorders every loop that gains by it, the innermost that is long enough."""
    body = copied(recorded.body)
    pass_ = _SideBySide(body, memory, costs)
    pass_.inside(body, ())
    parts = [
        f"line {loop.place.line}: {before / after:.2f} times as fast, "
        f"{stages} turns at a time"
        for loop, before, after, stages in pass_.done
    ]
    said = "; ".join(parts) or NONE
    return with_body(recorded, body), Effect(NAME, said)


@dataclasses.dataclass(frozen=True)
class Plan:
    """A loop reordered, before it is put in place.

    Attributes:
      loop: of some turns at a time.
      operations: of one of its turns, on buffers.
      order: of them.
      before, after: ticks of a turn in program order and in this one.
    """

    loop: Loop
    operations: tuple[Operation, ...]
    order: Order
    before: float
    after: float

    @property
    def gain(self) -> float:
        """The share of the loop's time that it saves, its first and last turns included."""
        steps = self.loop.count + self.order.stages - 1
        return 1 - steps * self.after / (self.loop.count * self.before)

    @property
    def edge(self) -> float:
        """The share of its steps that are not full."""
        return (self.order.stages - 1) / self.loop.count


class _SideBySide:
    def __init__(self, body: list[Node], memory: Memory, costs: Costs) -> None:
        self.body = body
        self.memory = memory
        self.costs = costs
        self.done: list[tuple[Loop, float, float, int]] = []

    def inside(self, body: list[Node], path: tuple[Loop, ...]) -> None:
        """Reorders loops of a body in place."""
        place = 0
        while place < len(body):
            node = body[place]
            if isinstance(node, Loop):
                plan = self.plan(node, path)
                nodes = [] if plan is None else list(emitted(plan))
                if plan is not None and self.fits(body, place, nodes):
                    place += len(nodes) - 1
                    stages = plan.order.stages
                    self.done.append((node, plan.before, plan.after, stages))
                else:
                    self.inside(node.body, (*path, node))
            place += 1

    def fits(self, body: list[Node], place: int, nodes: list[Node]) -> bool:
        """Puts a loop's turns in its place, if the kernel holds no more by it than there is."""
        loop = body[place]
        held = Alive(self.body).room()
        body[place : place + 1] = nodes
        # Buffers of turns that are taken apart may be alive longer than they were in the loop.
        room = Alive(self.body).room()
        if self.memory.holds(room) or room.most(held) == held:
            return True
        body[place : place + len(nodes)] = [loop]
        return False

    def can_move(self, loop: Loop) -> bool:
        """Whether a loop's turns may be taken apart."""
        if size(loop.body) > LARGEST or not has_only_operations(loop.body):
            return False
        return not has_spills(loop.body)

    def plan(self, loop: Loop, path: tuple[Loop, ...]) -> Plan | None:
        """How to reorder a loop here; None to leave it, or to look inside."""
        if loop.count < 3 or not self.can_move(loop):
            return None
        inner = [node for node in loop.body if isinstance(node, Loop)]
        # Its own loops are reordered instead where that leaves little at their ends.
        if inner and all(self.is_long(each, (*path, loop)) for each in inner):
            return None
        plan = self.planned(loop)
        if plan is None or plan.gain < LEAST_GAIN:
            return None
        return plan

    def is_long(self, loop: Loop, path: tuple[Loop, ...]) -> bool:
        """Whether a loop, reordered by itself, is full most of the time."""
        if loop.count < 3:
            return False
        plan = self.planned(loop)
        return plan is not None and plan.edge <= 0.06

    def planned(self, loop: Loop) -> Plan | None:
        copies = _copies(loop)
        fewer, operations = written_out(loop, copies)
        balance([(each, 1) for each in operations], self.costs)
        everywhere, here = uses(self.body), uses(loop.body)
        outside = {
            tensor
            for tensor in here.tensors
            if len(everywhere.of(tensor)) > len(here.of(tensor))
        }
        own = families(operations, fewer, outside)
        spent = [self.costs.of(each) for each in operations]
        depths = self.depths(own, spent)
        if depths is None:
            return None
        limits = constraints(operations, spent, fewer, own, depths)
        turns = min(PLAYED, fewer.count)
        found = order(spent, limits, turns, min(AHEAD, fewer.count - 1), WINDOW)
        if found is None or found.stages > min(fewer.count, AHEAD + 2):
            return None
        before = program_order(spent, limits, turns).ticks
        placed = Placement(own, depths)
        on_buffers = tuple(placed.operation(each) for each in operations)
        return Plan(fewer, on_buffers, found, before, found.ticks)

    def depths(
        self, own: Mapping[Tensor, Family], spent: Sequence[Spent]
    ) -> dict[Tensor, int] | None:
        """How many buffers each family has: one more where the wait for a buffer is longest.

        None if there is no room for the fewest that program order needs.
        """
        depths = {tensor: family.depths()[0] for tensor, family in own.items()}
        others = self.others(own)
        if not self.memory.holds(others.plus(_room(own, depths))):
            return None
        demands = {tensor: own[tensor].demand(spent) for tensor in own}
        full: set[Tensor] = set()
        while len(full) < len(own):
            left = [tensor for tensor in own if tensor not in full]
            tensor = max(left, key=lambda each: demands[each] / depths[each])
            more = [
                depth
                for depth in own[tensor].depths()
                if depths[tensor] < depth <= DEEPEST
            ]
            trial = {**depths, tensor: more[0]} if more else depths
            if more and self.memory.holds(others.plus(_room(own, trial))):
                depths = trial
            else:
                full.add(tensor)
        return depths

    def others(self, own: Mapping[Tensor, Family]) -> Room:
        """What the kernel holds besides these families while it holds any of them."""
        alive = Alive(self.body)
        # Its buffers are held throughout the node of the kernel's own body that has the loop.
        nodes = {
            node
            for buffers, node in zip(alive.together, alive.nodes, strict=True)
            if any(each.tensor in own for each in buffers)
        }
        most = Room()
        for buffers, node in zip(alive.together, alive.nodes, strict=True):
            if node in nodes:
                rest = [each for each in buffers if each.tensor not in own]
                most = most.most(alive.taken(rest))
        return most


def _room(own: Mapping[Tensor, Family], depths: Mapping[Tensor, int]) -> Room:
    total = Room()
    for tensor, depth in depths.items():
        total = total.plus(own[tensor].room(depth))
    return total


def _copies(loop: Loop) -> int:
    """How many turns to write out: a divisor of the count that makes a step of some size."""
    each = size(loop.body)
    best = 1
    for copies in (2, 3, 4, 5, 6, 7, 8):
        fits = copies * each <= WANTED and loop.count // copies >= 4
        if loop.count % copies == 0 and fits:
            best = copies
    return best


# --- what has to come before what ---


def constraints(
    operations: Sequence[Operation],
    spent: Sequence[Spent],
    loop: Loop,
    own: Mapping[Tensor, Family],
    depths: Mapping[Tensor, int],
) -> list[Constraint]:
    """Every pair of operations that must keep their order, up to some turns apart."""
    found: dict[tuple[int, int, int], int] = {}

    def add(before: int, after: int, turns: int, ticks: int) -> None:
        key = before, after, turns
        found[key] = max(found.get(key, 0), ticks)

    touching: dict[Tensor, list[tuple[int, Access, bool]]] = {}
    for place, operation in enumerate(operations):
        for access in operation.writes:
            touching.setdefault(access.tensor, []).append((place, access, True))
        # A destination that is added to is written already: as a read it would wait for the sum
        # before to be done, for which the bank does not.
        for access in operation.reads:
            if isinstance(access, Access):
                touching.setdefault(access.tensor, []).append((place, access, False))
    for tensor, touches in touching.items():
        if not any(writes for _, _, writes in touches):
            continue
        family = own.get(tensor)
        farthest = 0 if family else min(AHEAD + 1, loop.count - 1)
        for before, access, writes in touches:
            for after, other, also in touches:
                if not (writes or also):
                    continue
                if family and member_of(access) != member_of(other):
                    continue
                for turns in range(after <= before, farthest + 1):
                    if _meet(access, other, loop, turns):
                        ticks = _ticks(operations, spent, before, after, writes, also)
                        add(before, after, turns, ticks)
        if family:
            _take_turns(family, depths[tensor], operations, spent, add)
    return [Constraint(*key, ticks) for key, ticks in found.items()]


def _meet(access: Access, other: Access, loop: Loop, turns: int) -> bool:
    around = frozenset(
        each
        for part in (access, other)
        for index in (*part.member, part.partition, part.offset)
        for each, _ in index.terms
    )
    if turns == 0:
        return may_meet(access, other, Distances(around | {loop}, {}))
    later = {loop: (turns, turns)}
    return may_meet(access, other, Distances(around - {loop}, later))


def _ticks(
    operations: Sequence[Operation],
    spent: Sequence[Spent],
    before: int,
    after: int,
    writes: bool,
    also: bool,
) -> int:
    """From the start of one to the start of the other."""
    one, other = operations[before], operations[after]
    if writes and also and other.accumulates and one.choice.instruction.partial:
        # Sums in a bank pipeline: they keep their order, and that is all.
        return 0
    if writes:
        return spent[before].latency
    return spent[before].busy


def _take_turns(
    family: Family,
    depth: int,
    operations: Sequence[Operation],
    spent: Sequence[Spent],
    add: Callable[[int, int, int, int], None],
) -> None:
    """A buffer's next instance is written once the one before is done with."""
    tensor = family.tensor
    number = len(family.instances)
    for q, member in enumerate(family.instances):
        turns, following = divmod(q + depth, number)
        if turns > AHEAD + 1:
            continue
        successor = family.instances[following]
        writers = [
            place
            for place in family.uses[successor]
            if any(
                access.tensor is tensor and member_of(access) == successor
                for access in operations[place].writes
            )
        ]
        for before in family.uses[member]:
            for after in writers:
                if before != after or turns:
                    add(before, after, turns, spent[before].latency)


# --- the new loop ---


def emitted(plan: Plan) -> Iterator[Node]:
    """The first turns' part, the loop, and the last turns' part."""
    stages = plan.order.stages
    stage = plan.order.stage
    count = plan.loop.count
    for step in range(stages - 1):
        yield from _step(plan, {k: step - k for k in range(stages)}, count)
    full = Loop(count - stages + 1, [], plan.loop.kind, plan.loop.place)
    turns = {
        k: Affine(stages - 1 - k, ((full, 1),)) if full.count > 1 else stages - 1 - k
        for k in range(stages)
    }
    for place in plan.order.sequence:
        values = {plan.loop: turns[stage[place]]}
        full.body.append(rewritten(plan.operations[place], values))
    if full.count > 1:
        yield full
    else:
        yield from full.body
    for step in range(count, count + stages - 1):
        yield from _step(plan, {k: step - k for k in range(stages)}, count)


def _step(plan: Plan, turns: Mapping[int, int], count: int) -> Iterator[Node]:
    """What a step has of turns that there are."""
    for place in plan.order.sequence:
        turn = turns[plan.order.stage[place]]
        if 0 <= turn < count:
            yield rewritten(plan.operations[place], {plan.loop: turn})


__all__ = ["NAME", "NONE", "apply"]
