"""Operations and loops while they are rolled: structure apart from addresses.

An operation's addresses are one list of whole numbers: for each tensor that it touches, writes
first, the member's indices, the first partition and the offset, and then its registers that hold
numbers. Each loop around it has a list of as many coefficients. Registers that say yes or no are
kept apart, as `Flag`s.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from emu.trainium.nki.tree import (
    Access,
    Affine,
    Choice,
    Loop,
    Node,
    Operation,
    Place,
    Tensor,
)

NO, YES = Affine(0), Affine(1)
"""Registers that say no and yes, told from numbers by being these two objects."""

Flag: TypeAlias = "tuple[int, ...] | None"
"""None says yes. Else it says no exactly when all loops that have a 1 are in their first turn.

Innermost loop first: `(1, 0)` is no in the first turn of the inner loop, whatever the outer one
does; `()` and `(0, 0)` are always no. As a register the ones are coefficients: a sum of indices is
0 exactly when all of them are.
"""


class Step:
    """An operation, or a loop that was rolled, whose addresses are not yet `Affine`.

    Attributes:
      operation: which says everything that is not an address; None of a loop.
      static: number that stands for all of that.
      tensors: that it touches, in order, and `depths`, each one's number of block dimensions.
      values: addresses at the first turns of all loops around it.
      rises: for each loop around it, innermost first, what a turn adds to each of the addresses.
      flags: of its registers that say yes or no.
      loop: (turns, kind, place) of a loop.
      body: of a loop.
    """

    __slots__ = (
        "operation",
        "static",
        "tensors",
        "values",
        "rises",
        "flags",
        "loop",
        "body",
    )

    def __init__(
        self,
        operation: Operation | None = None,
        loop: tuple[int, str, Place] | None = None,
        body: "list[Step] | None" = None,
    ):
        self.operation = operation
        self.loop = loop
        self.body = body or []
        self.static: Hashable = None
        self.tensors: list[Tensor] = []
        self.values: list[int] = []
        self.rises: list[list[int]] = []
        self.flags: list[Flag] = []

    def copied(self) -> "Step":
        """A copy whose addresses can be changed."""
        copy = Step(self.operation, self.loop, [step.copied() for step in self.body])
        copy.static = self.static
        copy.tensors = self.tensors
        copy.values = self.values
        copy.rises = list(self.rises)
        copy.flags = self.flags
        return copy

    def renamed(self, owners: Mapping[Tensor, tuple[Tensor, int]]) -> None:
        """Puts families in place of their members: one more block dimension in front."""
        for step in self.body:
            step.renamed(owners)
        place = 0
        changed = False
        for number, tensor in enumerate(self.tensors):
            while (owner := owners.get(tensor)) is not None:
                if not changed:
                    # Copies share their lists.
                    self.tensors = list(self.tensors)
                    self.values = list(self.values)
                    self.rises = [list(rise) for rise in self.rises]
                    changed = True
                tensor, member = owner
                self.tensors[number] = tensor
                self.values.insert(place, member)
                for rise in self.rises:
                    rise.insert(place, 0)
            place += len(tensor.block) + 2

    def structure(self, numbers: dict[Hashable, int]) -> int:
        """A number that is equal for steps that do the same at different addresses."""
        if self.loop is not None:
            key: Hashable = (
                self.loop,
                *[step.structure(numbers) for step in self.body],
            )
        else:
            tensors = tuple([id(tensor) for tensor in self.tensors])
            rises = tuple([tuple(rise) for rise in self.rises])
            key = self.static, tensors, rises
        return numbers.setdefault(key, len(numbers))

    def put(
        self, values: np.ndarray, place: int, flags: Sequence[Flag], mark: int
    ) -> tuple[int, int]:
        """Takes its addresses from a vector from `place` on, and flags from `mark` on."""
        if self.loop is not None:
            for step in self.body:
                place, mark = step.put(values, place, flags, mark)
            return place, mark
        end, last = place + len(self.values), mark + len(self.flags)
        self.values = values[place:end].tolist()
        self.flags = list(flags[mark:last])
        return end, last

    def inside(
        self, rises: np.ndarray, place: int, marks: Sequence[int], mark: int
    ) -> tuple[int, int]:
        """Stands in one more loop, a turn of which adds `rises` to the addresses."""
        if self.loop is not None:
            for step in self.body:
                place, mark = step.inside(rises, place, marks, mark)
            return place, mark
        end, last = place + len(self.values), mark + len(self.flags)
        self.rises.append(rises[place:end].tolist())
        self.flags = [
            None if flag is None else (*flag, rise)
            for flag, rise in zip(self.flags, marks[mark:last], strict=True)
        ]
        return end, last


def vector(steps: Sequence[Step]) -> tuple[np.ndarray, tuple[Flag, ...]]:
    """All addresses of steps as one vector, and all their flags."""
    values: list[int] = []
    flags: list[Flag] = []
    pending = list(reversed(steps))
    while pending:
        step = pending.pop()
        if step.loop is None:
            values.extend(step.values)
            flags.extend(step.flags)
        else:
            pending.extend(reversed(step.body))
    return np.array(values, np.int64), tuple(flags)


def stepped(operation: Operation) -> Step:
    """A recorded operation, whose addresses are constants, as a step."""
    step = Step(operation)
    values: list[int] = []
    tensors: list[Tensor] = []
    flags: list[Flag] = []
    parts: list[Hashable] = []
    for access in (*operation.writes, *operation.reads):
        if isinstance(access, Affine):
            if access is NO or access is YES:
                flags.append(() if access is NO else None)
                parts.append("flag")
            else:
                values.append(access.constant)
                parts.append("number")
            continue
        tensors.append(access.tensor)
        for index in access.member:
            values.append(index.constant)
        values.append(access.partition.constant)
        values.append(access.offset.constant)
        parts.append(
            (
                access.partitions,
                access.partition_step,
                access.axes,
                access.form,
                access.cast,
            )
        )
    step.values, step.tensors, step.flags = values, tensors, flags
    step.static = (
        operation.name,
        id(operation.place),
        operation.implicit,
        operation.chosen,
        len(operation.writes),
        tuple([choice_key(choice) for choice in operation.choices]),
        *parts,
    )
    return step


def choice_key(choice: Choice) -> Hashable:
    """What two equal choices have in common."""
    parameters = tuple(choice.parameters.items())
    try:
        hash(parameters)
    except TypeError:
        parameters = repr(parameters)
    return choice.engine, id(choice.instruction), choice.operands, parameters


def built(step: Step, loops: tuple[Loop, ...]) -> Node:
    """The step as a part of the tree, inside `loops`, outermost first."""
    if step.loop is not None:
        count, kind, place = step.loop
        loop = Loop(count, [], kind, place)
        loop.body.extend([built(part, (*loops, loop)) for part in step.body])
        return loop
    operation = step.operation
    assert operation is not None
    inner = loops[::-1]
    numbers = [
        Affine(
            value,
            tuple(
                [
                    (loop, rise[place])
                    for loop, rise in zip(inner, step.rises, strict=True)
                    if rise[place]
                ]
            ),
        )
        for place, value in enumerate(step.values)
    ]
    flags = iter(step.flags)
    tensors = iter(step.tensors)
    place = 0
    parts: list[Access | Affine] = []
    for part in (*operation.writes, *operation.reads):
        if isinstance(part, Affine):
            if part is NO or part is YES:
                parts.append(register(next(flags), inner))
            else:
                parts.append(numbers[place])
                place += 1
            continue
        tensor = next(tensors)
        depth = len(tensor.block)
        member = tuple(numbers[place : place + depth])
        partition, offset = numbers[place + depth : place + depth + 2]
        place += depth + 2
        parts.append(
            Access(
                tensor,
                member,
                partition,
                part.partitions,
                offset,
                part.axes,
                part.partition_step,
                part.form,
                part.cast,
            )
        )
    writes = tuple(
        [part for part in parts[: len(operation.writes)] if isinstance(part, Access)]
    )
    return Operation(
        operation.name,
        operation.choices,
        writes,
        tuple(parts[len(operation.writes) :]),
        operation.place,
        operation.chosen,
        operation.implicit,
    )


def register(flag: Flag, inner: Sequence[Loop]) -> Affine:
    """A flag as a register: not 0 means yes."""
    if flag is None:
        return YES
    terms = tuple(
        [(loop, rise) for loop, rise in zip(inner, flag, strict=True) if rise]
    )
    return Affine(0, terms)
