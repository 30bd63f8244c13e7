"""What each PE does, as a few sequences of operations and a map that says which PE runs which.

Collectives give `Code`; `a + b` does one after the other on every PE, and `declare` makes a task of
it. On a wafer of 883,350 PEs most do the same: a two-phase reduce has about ten sequences.
"""

import dataclasses
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np

from emu.errors import LimitExceeded
from emu.wse.fabric import ops
from emu.wse.fabric.arrays import Grid
from emu.wse.fabric.errors import first_of
from emu.wse.fabric.layout.line import Line
from emu.wse.fabric.program import ALL, FabricProgram, Place

Operations: TypeAlias = tuple[ops.Op, ...]
"""What a PE does, one after the other."""

_Same = TypeVar("_Same", bound=Hashable)

NOTHING = 0  # the first sequence is empty


@dataclasses.dataclass(frozen=True)
class Code:
    """Operations per PE.

    Attributes:
      which: `int32[height, width]`, the sequence that each PE runs.
      sequences: the different ones; the first is empty.
    """

    which: Grid
    sequences: tuple[Operations, ...]

    def __add__(self, other: "Code") -> "Code":
        """This code and then the other's."""
        # A pair of sequences as one number, `first * others + second`: of 10 and 4 sequences the
        # pair (2, 3) is 11, and only pairs that some PE runs become sequences.
        others = len(other.sequences)
        first_of_pe = self.which.astype(np.int64)
        pair_of_pe = first_of_pe * others + other.which
        pairs = len(self.sequences) * others
        number_of_pair = np.zeros(pairs, np.int32)
        numbers: dict[Operations, int] = {(): NOTHING}
        for pair in np.unique(pair_of_pe).tolist():
            first, second = divmod(pair, others)
            sequence = self.sequences[first] + other.sequences[second]
            number_of_pair[pair] = numbers.setdefault(sequence, len(numbers))
        return Code(number_of_pair[pair_of_pe], tuple(numbers))

    def __iter__(self) -> Iterator[tuple[Grid, Operations]]:
        """Pairs of a mask of PEs and what they run; PEs that do nothing are left out."""
        for number, sequence in enumerate(self.sequences):
            if number != NOTHING:
                yield self.which == number, sequence

    def declare(self, program: FabricProgram, task: str, **how: Any) -> None:
        """Declares a task with this code on every PE that does something.

        Args:
          program: of the same shape.
          task: its name.
          how: as `FabricProgram.task` takes it; `start=True` is the usual one.
        """
        for place, sequence in self:
            program.task(task, sequence, place, **how)


def code(
    program: FabricProgram, pairs: Iterable[tuple[Place, Sequence[ops.Op]]]
) -> Code:
    """Code from places and operations.

    Raises:
      LimitExceeded: two places share a PE.
    """
    which = np.zeros(program.shape, np.int32)
    numbers: dict[Operations, int] = {(): NOTHING}
    for where, sequence in pairs:
        place = program.place(where)
        if not place.any():
            continue
        if which[place].any():
            taken = place & (which != NOTHING)
            at = first_of(taken)
            raise LimitExceeded(
                f"code: PE {at} is in two places, must be in one; add "
                "the two codes with +"
            )
        # Equal sequences at different places are one, so that PEs which do the same are one task.
        which[place] = numbers.setdefault(tuple(sequence), len(numbers))
    return Code(which, tuple(numbers))


def everywhere(program: FabricProgram, *sequence: ops.Op, where: Place = ALL) -> Code:
    """The same operations on every PE of a place."""
    return code(program, [(where, sequence)])


def on_line(line: Line, by_place: Mapping[int, Sequence[ops.Op]]) -> Code:
    """Code from what the PE at each place of a line does; places that are left out do nothing."""
    sequences = {place: tuple(sequence) for place, sequence in by_place.items()}
    pairs = []
    for sequence, places in alike(sequences).items():
        pairs.append((line.at(places), sequence))
    return code(line.program, pairs)


def alike(by_place: Mapping[int, _Same]) -> dict[_Same, list[int]]:
    """For each different value the places that have it, in the order in which they come."""
    places: dict[_Same, list[int]] = {}
    for place, value in by_place.items():
        places.setdefault(value, []).append(place)
    return places


__all__ = ["Code", "alike", "code", "everywhere", "on_line"]
