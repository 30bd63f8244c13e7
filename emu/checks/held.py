"""What is known of a value before a program runs: where it is, who wrote it, where it begins."""

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from emu.clock.tiles import Value
from emu.tracing import integers
from emu.tracing import jaxpr as jx

REGISTER = "register"
RANK = 1
"""Dimensions of the mesh that known values are of: one core."""

LARGEST_KNOWN = 4096
"""Elements of a known table; they are compared each time that a body is met."""


@dataclasses.dataclass(frozen=True, eq=False)
class Held:
    """What is known of a value before the program runs.

    Attributes:
      space: the memory it is in; `"register"` for an integer or an immediate.
      fresh: whether certainly nobody has written it since its declaration.
      start: the partition in which it begins; None where that depends on a loop.
      stacks: how many leading dimensions number tiles, before that of the partitions: the results
        of a loop are a stack of one tile a turn.
      integer: whether the clock may know its value.
      known: that value, `[1, *shape]` as on a mesh of one core, where it is already known here.
    """

    space: str
    fresh: bool = False
    start: int | None = 0
    stacks: int = 0
    integer: bool = False
    known: np.ndarray | None = None

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for values of which the same is known."""
        bits = None if self.known is None else self.known.tobytes()
        return self.space, self.fresh, self.start, self.stacks, self.integer, bits

    def written(self) -> "Held":
        """The same once something was written to it."""
        return dataclasses.replace(self, fresh=False) if self.fresh else self

    def forgotten(self) -> "Held":
        """The same without its value, which the next turn of a loop changes."""
        return self if self.known is None else dataclasses.replace(self, known=None)

    def slice_(self, number: int) -> "Held":
        """Slice `number` of a loop's stacked input."""
        known = None if self.known is None else self.known[:, number]
        return dataclasses.replace(self, known=known, stacks=max(self.stacks - 1, 0))

    def stacked(self, partitioned: bool) -> "Held":
        """The results of a loop, of which this is one; in HBM they are an array like any other."""
        stacks = self.stacks + 1 if partitioned else 0
        return dataclasses.replace(self, fresh=False, known=None, stacks=stacks)


Values: TypeAlias = Sequence[Held]


def is_integer(aval: jx.Aval) -> bool:
    return aval.dtype.kind in "iub"


def argument(home: str, aval: jx.Aval) -> Held:
    """A kernel's argument: the clock takes an integer one for data or, as `Known`, for numbers."""
    return Held(home, integer=is_integer(aval))


def literal(atom: jx.Atom) -> Held:
    return constant(REGISTER, jx.literal_value(atom))


def constant(home: str, value: np.ndarray) -> Held:
    if value.dtype.kind not in "iub":
        return Held(home)
    return integer(value[None])


def integer(known: np.ndarray | None = None) -> Held:
    """An integer in a register, known here or to the clock only."""
    if known is not None and known.size > LARGEST_KNOWN:
        known = None
    return Held(REGISTER, integer=True, known=known)


def evaluated(eqn: jx.Equation, operands: Values) -> np.ndarray | None:
    """The value of an equation on known integers; None where one is not known."""
    known = [held.known for held in operands if held.known is not None]
    if len(known) < len(operands):
        return None
    return integers.evaluate(eqn.primitive.name, eqn.params, known, RANK)


def as_value(aval: jx.Aval, held: Held) -> Value:
    """The value as a cost rule's operand; an integer that is not known here stands as 0."""
    known = held.known
    if known is None and held.integer:
        known = np.zeros((1, *aval.shape), aval.dtype)
    return Value(aval.shape, aval.dtype, held.space, 0, known=known)


def either(cases: Values) -> Held:
    """What is known of a value that is one of several, by the branch taken."""
    first = cases[0]
    if len({held.key for held in cases}) == 1:
        return first
    starts = {held.start for held in cases}
    return Held(
        first.space,
        # Written by one branch, it may have been written.
        fresh=all(held.fresh for held in cases),
        start=first.start if len(starts) == 1 else None,
        stacks=first.stacks,
        integer=all(held.integer for held in cases),
    )


__all__ = [
    "RANK",
    "REGISTER",
    "Held",
    "Values",
    "argument",
    "as_value",
    "constant",
    "either",
    "evaluated",
    "integer",
    "is_integer",
    "literal",
]
