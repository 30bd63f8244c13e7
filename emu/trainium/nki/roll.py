"""Puts loops back into a kernel that was run iteration by iteration.

While a kernel runs, its operations come in one by one, and its loops say where an iteration begins.
An iteration that is over is kept as two things: its *structure* (which operations, on which
tensors, with which loops inside), as one number, and its *addresses*, as one vector of whole
numbers. Iterations of equal structure whose vectors go on evenly are one `Loop`: where vector `k`
is `first + k · step`, each address is affine in the loop's index, with its entry of `step` as the
coefficient.

    for i in range(3):            structure 7, addresses [  0, 0]     loop of 3:
        load(tile, x[128 * i:])   structure 7, addresses [128, 0]  →    load(tile, x[128·i])
                                  structure 7, addresses [256, 0]

Iterations that do not fit, such as a first one that reads another tensor or a last one that a mask
cuts short, stay apart, before and after. Where an iteration is not like the next but like the next
but one, as with two buffers in turn, two of them make one turn of the loop; so do up to eight.

Tensors that are made anew in every iteration, at one line, are one family: the n-th of them is its
member n, which is an address like others. A tile that the next iteration reads is then member
`i - 1` there. `families` takes apart what no loop goes through.

Unrolling what comes out gives exactly what came in, which the tests check with random programs.

The older generation's compiler runs the body of an affine or sequential loop once, whatever its
count, so nothing in it can depend on the index but addresses, and those are affine. There it is
enough to run the first two turns and the last (`Block.left_out`): where these three go on evenly,
all of them do. Where they do not, as with a row tail that a mask cuts, `Uneven` says so and the
kernel is run once more with every turn of that loop.
"""

import dataclasses
from collections.abc import Hashable, Iterator, Sequence
from typing import TypeAlias

import numpy as np

from emu.trainium.nki import families
from emu.trainium.nki.steps import Flag, Step, built, stepped, vector
from emu.trainium.nki.tree import Node, Operation, Place, Tensor

GROUPS = (1, 2, 3, 4, 6, 8)
"""How many iterations may make one turn of a loop. Eight is as many as PSUM has banks."""

SAMPLED = 3
"""Turns that are run of a loop in which nothing but addresses can change: two and the last."""

Open: TypeAlias = "Operation | Step"


class Uneven(Exception):
    """The turns that were run of a loop do not tell of those that were left out."""

    def __init__(self, place: Place):
        super().__init__(str(place))
        self.place = place


@dataclasses.dataclass(eq=False)
class Iteration:
    """An iteration that is over: its structure's number, its addresses and flags."""

    structure: int
    values: np.ndarray
    flags: tuple[Flag, ...]


@dataclasses.dataclass(eq=False)
class Block:
    """A loop that runs, or the kernel itself; what its current iteration has done so far.

    Attributes:
      declared: tensors and families made in this iteration.
      families: by line, shape and so on, the family of the tensors made there, and how many.
      structures: of each structure that came up, its first iteration's steps.
      left_out: turns between the second and the last that are not run; 0 runs all.
    """

    kind: str
    place: Place
    nodes: list[Open] = dataclasses.field(default_factory=list)
    declared: list[Tensor] = dataclasses.field(default_factory=list)
    families: dict[Hashable, Tensor] = dataclasses.field(default_factory=dict)
    iterations: list[Iteration] = dataclasses.field(default_factory=list)
    structures: dict[int, list[Step]] = dataclasses.field(default_factory=dict)
    left_out: int = 0
    over: bool = False


class Roll:
    """The operations of a kernel as they come in, rolled whenever a loop is over."""

    def __init__(self) -> None:
        self.stack = [Block("kernel", Place("", 0))]
        self.owners: dict[Tensor, tuple[Tensor, int]] = {}
        self.numbers: dict[Hashable, int] = {}
        self.made: dict[Tensor, int] = {}
        self.uneven: Place | None = None

    @property
    def open(self) -> list[Open]:
        """What the current iteration of the innermost loop has done so far."""
        return self.stack[-1].nodes

    def declare(self, tensor: Tensor) -> None:
        """A tensor is made here."""
        self.stack[-1].declared.append(tensor)

    def is_of_this_turn(self, tensor: Tensor) -> bool:
        """Whether a tensor was made in the current iteration of the innermost loop."""
        return tensor in self.stack[-1].declared

    def add(self, operation: Operation) -> None:
        """An operation is done here.

        Raises:
          Uneven: a loop that is over has turns that were not run and are needed.
        """
        self.check_even()
        self.stack[-1].nodes.append(operation)

    def check_even(self) -> None:
        """Raises `Uneven` where a loop was."""
        if self.uneven is not None:
            raise Uneven(self.uneven)

    def begin(self, kind: str, place: Place, left_out: int = 0) -> Block:
        """A loop begins; `turn` begins each of its iterations, but those that are left out."""
        block = Block(kind, place, left_out=left_out)
        self.stack.append(block)
        return block

    def turn(self, block: Block) -> None:
        """The loop's next iteration begins."""
        if block.over:
            return
        # Two loops that a kernel advances together, as with zip: the inner one is then only a
        # counter.
        while self.stack[-1] is not block:
            self.end(self.stack[-1])
        if block.nodes or block.declared:
            self.close(block)

    def end(self, block: Block) -> None:
        """The loop is over, by itself, by `break`, `return` or an error."""
        if block.over:
            return
        while self.stack[-1] is not block:
            self.end(self.stack[-1])
        self.close(block)
        block.over = True
        self.stack.pop()
        outer = self.stack[-1]
        if not block.left_out:
            outer.nodes.extend(rolled(block))
        else:
            # Where a loop ends, by `break` too, Python lets nothing be raised: the next operation
            # does.
            try:
                outer.nodes.extend(sampled(block))
            except Uneven as error:
                self.uneven = error.place
        outer.declared.extend(block.families.values())

    def finish(
        self, outputs: Sequence[Tensor] = ()
    ) -> tuple[list[Node], dict[Tensor, Tensor]]:
        """All of the kernel, and of each output the tensor that it is in there."""
        while len(self.stack) > 1:
            self.end(self.stack[-1])
        self.check_even()
        steps = self.steps(self.stack[0].nodes)
        nodes = [built(step, ()) for step in steps]
        members = {tensor: self.owner(tensor) for tensor in outputs}
        return nodes, families.split(nodes, self.made, members)

    def owner(self, tensor: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """The outermost family that a tensor is in, and which member of it."""
        member: list[int] = []
        while (found := self.owners.get(tensor)) is not None:
            tensor = found[0]
            member.insert(0, found[1])
        return tensor, tuple(member)

    def steps(self, nodes: list[Open]) -> list[Step]:
        """What an iteration did, with families in place of their members."""
        steps = [
            stepped(node) if isinstance(node, Operation) else node for node in nodes
        ]
        for step in steps:
            step.renamed(self.owners)
        return steps

    def close(self, block: Block) -> None:
        """An iteration is over: only its structure's number and its addresses are kept."""
        # The first tensor that an iteration makes at a line belongs to the first ones that others
        # make there, its second one to their second ones.
        seen: dict[Hashable, int] = {}
        for tensor in block.declared:
            slot = families.slot(tensor)
            again = seen[slot] = seen.get(slot, -1) + 1
            family = block.families.get((slot, again))
            if family is None:
                family = dataclasses.replace(tensor, block=(0, *tensor.block))
                block.families[slot, again] = family
                self.made[family] = self.made.get(tensor, 0) + 1
            member = family.block[0]
            if block.left_out and member == SAMPLED - 1:
                member += block.left_out
            self.owners[tensor] = family, member
            family.block = (member + 1, *family.block[1:])
        block.declared = []
        if not block.nodes:
            return
        steps = self.steps(block.nodes)
        block.nodes = []
        number = self.number(tuple([step.structure(self.numbers) for step in steps]))
        block.structures.setdefault(number, steps)
        values, flags = vector(steps)
        block.iterations.append(Iteration(number, values, flags))

    def number(self, key: Hashable) -> int:
        """The number of a structure."""
        return self.numbers.setdefault(key, len(self.numbers))


def rolled(block: Block) -> Iterator[Step]:
    """What a loop's iterations did, as loops where they did the same."""
    iterations = block.iterations
    count = len(iterations)
    first = 0
    while first < count:
        group, turns = longest(iterations, first)
        if turns == 2 and group == 1 and first + 2 < count:
            # Any two iterations of equal structure go on evenly. Unless the second begins
            # something longer.
            if longest(iterations, first + 1)[1] > 2:
                turns = 1
        head = iterations[first : first + group]
        body = unrolled(block, head)
        if turns == 1:
            yield from body
        else:
            following = iterations[first + group : first + 2 * group]
            yield looped(block, body, head, following, turns)
        first += group * turns


def unrolled(block: Block, iterations: Sequence[Iteration]) -> list[Step]:
    """The steps of some iterations, one after another."""
    body: list[Step] = []
    for iteration in iterations:
        copies = [step.copied() for step in block.structures[iteration.structure]]
        place = 0
        mark = 0
        for step in copies:
            place, mark = step.put(iteration.values, place, iteration.flags, mark)
        body.extend(copies)
    return body


def looped(
    block: Block,
    body: list[Step],
    head: Sequence[Iteration],
    following: Sequence[Iteration],
    turns: int,
) -> Step:
    """A loop whose first turn is `body`, of `head`, and whose second is `following`."""
    place = mark = 0
    differences = joined(following) - joined(head)
    rises = tuple(
        0 if flag == other else 1
        for flag, other in zip(marks(head), marks(following), strict=True)
    )
    for step in body:
        place, mark = step.inside(differences, place, rises, mark)
    return Step(loop=(turns, block.kind, block.place), body=body)


def sampled(block: Block) -> list[Step]:
    """The loop of which the first two turns and the last were run.

    Raises:
      Uneven: they do not go on evenly, or one of them did nothing.
    """
    iterations = block.iterations
    if not iterations:
        return []
    if len(iterations) != SAMPLED or evenly(iterations, 0, 1) < 2:
        raise Uneven(block.place)
    first, second, last = iterations
    turns = SAMPLED + block.left_out
    rise = second.values - first.values
    is_even = (
        last.structure == first.structure
        and last.flags == second.flags
        and np.array_equal(last.values, first.values + (turns - 1) * rise)
    )
    if not is_even:
        raise Uneven(block.place)
    return [looped(block, unrolled(block, [first]), [first], [second], turns)]


def joined(iterations: Sequence[Iteration]) -> np.ndarray:
    """Their addresses, as one vector."""
    if len(iterations) == 1:
        return iterations[0].values
    return np.concatenate([iteration.values for iteration in iterations])


def marks(iterations: Sequence[Iteration]) -> tuple[Flag, ...]:
    """Their flags, one after another."""
    return tuple([flag for iteration in iterations for flag in iteration.flags])


def longest(iterations: list[Iteration], first: int) -> tuple[int, int]:
    """The best (iterations a turn, turns) of a loop that begins at an iteration."""
    best = 1, 1
    for group in GROUPS:
        if group * 2 > len(iterations) - first:
            break
        turns = evenly(iterations, first, group)
        if turns > 1 and turns * group > best[0] * best[1]:
            best = group, turns
        if best[0] * best[1] + first == len(iterations):
            break
    return best


def evenly(iterations: list[Iteration], first: int, group: int) -> int:
    """Turns of `group` iterations from one on that do the same at addresses that go on evenly."""
    head = iterations[first : first + group]
    structure = [iteration.structure for iteration in head]
    before, flags = joined(head), marks(head)
    difference: np.ndarray | None = None
    later: tuple[Flag, ...] = ()
    turns = 1
    for at in range(first + group, len(iterations) - group + 1, group):
        part = iterations[at : at + group]
        if [iteration.structure for iteration in part] != structure:
            break
        values, marked = joined(part), marks(part)
        if difference is None:
            difference, later = values - before, marked
            # A flag may go from no to yes once, after the first turn: an index that is not 0.
            if any(
                new != old and new is not None
                for new, old in zip(later, flags, strict=True)
            ):
                break
        elif marked != later or not np.array_equal(values - before, difference):
            break
        before = values
        turns += 1
    return turns
