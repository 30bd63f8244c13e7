"""What each PE does, as a few sequences of operations and a map that says which PE runs which.

Collectives give `Code`; `a + b` does one after the other on every PE, and `declare` makes a task of
it.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from emu.errors import LimitExceeded
from emu.wse.fabric import ops
from emu.wse.fabric.program import ALL, FabricProgram, Place

NOTHING = 0  # the first sequence is empty


@dataclasses.dataclass(frozen=True)
class Code:
    """Operations per PE.

    Attributes:
      which: `int32[height, width]`, the sequence that each PE runs.
      sequences: the different ones; the first is empty.
    """

    which: np.ndarray
    sequences: tuple[tuple[ops.Op, ...], ...]

    def __add__(self, other: "Code") -> "Code":
        """This code and then the other's."""
        both = self.which.astype(np.int64) * len(other.sequences) + other.which
        used = np.unique(both)
        number = np.zeros(len(self.sequences) * len(other.sequences), np.int32)
        made: dict[tuple[ops.Op, ...], int] = {(): NOTHING}
        for pair in used.tolist():
            first, second = divmod(pair, len(other.sequences))
            sequence = self.sequences[first] + other.sequences[second]
            number[pair] = made.setdefault(sequence, len(made))
        return Code(number[both], tuple(made))

    def __iter__(self) -> Iterator[tuple[np.ndarray, tuple[ops.Op, ...]]]:
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
    made: dict[tuple[ops.Op, ...], int] = {(): NOTHING}
    for where, sequence in pairs:
        place = program.place(where)
        if not place.any():
            continue
        if which[place].any():
            y, x = np.argwhere(place & (which != NOTHING))[0]
            raise LimitExceeded(
                f"code: PE (x={x}, y={y}) is in two places, must be in one; add "
                "the two codes with +"
            )
        which[place] = made.setdefault(tuple(sequence), len(made))
    return Code(which, tuple(made))


def everywhere(program: FabricProgram, *sequence: ops.Op, where: Place = ALL) -> Code:
    """The same operations on every PE of a place."""
    return code(program, [(where, sequence)])


__all__ = ["Code", "code", "everywhere"]
