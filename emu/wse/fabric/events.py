"""What happened in a run, as tables with named columns: dispatches, operations, turns at routers.

events = Dispatches(cycle, pe, code)
events[events.pe == 3].cycle        # when PE 3 dispatched
"""

import dataclasses
from collections.abc import Sequence
from typing import Self

import numpy as np

HEARD = -2
"""`HEARD - task` stands for a data task that a wavelet started."""
DONE = -64
"""`DONE - thread` stands for the end of an operation on a microthread."""


@dataclasses.dataclass(frozen=True)
class Table:
    """Columns of equal length, `int64[rows]` each."""

    @property
    def columns(self) -> tuple[np.ndarray, ...]:
        names = [field.name for field in dataclasses.fields(self)]
        return tuple(getattr(self, name) for name in names)

    def __len__(self) -> int:
        return len(self.columns[0])

    def __getitem__(self, which: np.ndarray | slice) -> Self:
        """The rows at some indices, of a slice, or where a mask is true."""
        columns = [column[which] for column in self.columns]
        return type(self)(*columns)

    def rows(self) -> list[tuple[int, ...]]:
        """The same as tuples."""
        columns = [column.tolist() for column in self.columns]
        return list(zip(*columns, strict=True))

    @classmethod
    def empty(cls) -> Self:
        columns = len(dataclasses.fields(cls))
        return cls(*np.zeros((columns, 0), np.int64))

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """The rows of all parts, one part after another."""
        columns = [part.columns for part in parts]
        by_column = zip(*columns, strict=True)
        return cls(*map(np.concatenate, by_column))


@dataclasses.dataclass(frozen=True)
class Dispatches(Table):
    """What main threads dispatched, in the order of time.

    Attributes:
      cycle: when.
      pe: flat index.
      code: the instruction's number; or `HEARD - task`; or, where a caller has added the ends of
        what microthreads do, `DONE - thread`.
    """

    cycle: np.ndarray
    pe: np.ndarray
    code: np.ndarray


@dataclasses.dataclass(frozen=True)
class Operations(Table):
    """Instructions with the times of their issues.

    Attributes:
      pe: flat index.
      code: the instruction's number.
      dispatched: when.
      first, last: its first and last issue; -1 off the datapath.
    """

    pe: np.ndarray
    code: np.ndarray
    dispatched: np.ndarray
    first: np.ndarray
    last: np.ndarray


@dataclasses.dataclass(frozen=True)
class Turns(Table):
    """Wavelets that routers took in a position with several receive directions, in order of time.

    Attributes:
      pe: flat index.
      color: its index.
      direction: from which the wavelet came.
    """

    pe: np.ndarray
    color: np.ndarray
    direction: np.ndarray


__all__ = ["DONE", "Dispatches", "HEARD", "Operations", "Turns"]
