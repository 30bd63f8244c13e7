"""Codes of many steps put together: PEs that do the same in every step share one sequence."""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from emu.errors import LimitExceeded
from emu.wse.fabric import ops
from emu.wse.fabric.arrays import Grid
from emu.wse.fabric.layout.code import Code


@dataclasses.dataclass(frozen=True)
class Free:
    """What takes no cycles: it is done with the operation that comes next."""

    code: ops.Code


def joined(codes: Sequence[Code]) -> Code:
    """One code after another on every PE.

    `sum` of codes would hash all operations so far at every step. Here each PE's way through the
    steps is a row of small numbers, and equal rows are one sequence.
    """
    rows = np.stack([code.which.reshape(-1) for code in codes], axis=1)
    distinct, which = np.unique(rows, axis=0, return_inverse=True)
    sequences: list[tuple[ops.Op, ...]] = [()]
    made: dict[tuple[int, ...], ops.Code] = {}
    numbers = np.zeros(len(distinct), np.int32)
    for row, choice in enumerate(distinct.tolist()):
        parts = [
            code.sequences[number] for code, number in zip(codes, choice, strict=True)
        ]
        sequence = _with_free(itertools.chain.from_iterable(parts), made)
        if sequence:
            numbers[row] = len(sequences)
            sequences.append(sequence)
    shape: Grid = codes[0].which
    return Code(numbers[which.reshape(-1)].reshape(shape.shape), tuple(sequences))


def _with_free(
    taken: Iterable[Any], made: dict[tuple[int, ...], ops.Code]
) -> tuple[ops.Op, ...]:
    """A sequence with what is free put into the code that follows it.

    Args:
      taken: operations, and those that are `Free`.
      made: what was put together so far, by the identities of its parts.
    """
    sequence: list[ops.Op] = []
    free: list[ops.Code] = []
    for op in taken:
        if isinstance(op, Free):
            free.append(op.code)
            continue
        if free and isinstance(op, ops.Code):
            key = (*map(id, free), id(op))
            if key not in made:
                made[key] = dataclasses.replace(op, first=tuple(free))
            op = made[key]
            free = []
        sequence.append(op)
        if free:
            raise LimitExceeded(
                f"{free[0].what}: takes no cycles on some PEs and no code follows it there, in "
                "whose cycles it could be done; let another instruction follow"
            )
    return tuple(sequence)


__all__ = ["joined"]
