"""A scalar function as nodes: what is kept, what arrives, the tiles it is of, and what is run."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from emu.lower import Constant, Elementwise, Operand
from emu.wse.pe.elementwise import MASK, VECTOR_CYCLES
from emu.wse.spaces import Sram

FLOAT = np.dtype("float32")
EXACT = 2**24
"""Whole numbers up to here are float32."""

KEPT, ARRIVING, DATA = range(3)
"""When an argument is known: before any token, with the token, as the tile is there."""

Bounds: TypeAlias = tuple[int, int]
"""Least and greatest value of a whole number."""

Shape: TypeAlias = tuple[bool, bool]
"""Whether a value differs between rows, and between slots."""

Tiles: TypeAlias = dict[str, Sram]
"""By name, of one PE: `[1 or rows, 1 or slots]`, or `[n]` for a look-up."""


@dataclasses.dataclass(frozen=True)
class Argument:
    """How an argument of the function lies on a PE.

    Attributes:
      when: `KEPT`, `ARRIVING` or `DATA`.
      rows, slots: whether it differs between the rows, and the slots, of a tile.
      bounds: least and greatest value, of an integer.
      aligned: whether the rows of a tile begin at a whole multiple of their number, as four query
        heads of one key/value head do: `h // 4` is then one number for all of them.
    """

    when: int
    rows: bool = False
    slots: bool = False
    bounds: Bounds | None = None
    aligned: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Leaf:
    """A value that is not worked out for the tile: kept, or arriving with the token.

    Attributes:
      key: its name among tables or numbers.
      operand: of the function.
      when: `KEPT` or `ARRIVING`.
      shape: along what it differs.
      held: dtype in SRAM.
      inverted: whether its reciprocal is held.
      flat: whether it is a whole array to look up in, `[n]`.
    """

    key: str
    operand: Operand
    when: int
    shape: Shape
    held: np.dtype
    inverted: bool = False
    flat: bool = False

    @property
    def entries(self) -> int:
        """How many rows its tile has for each row of those that the function is of."""
        return 1

    def depends_on(self, function: Elementwise, name: str) -> bool:
        """Whether what is held depends on an argument of this name."""
        return function.depends_on(self.operand, name)

    def values(self, function: Elementwise, along: Mapping[str, Any]) -> np.ndarray:
        """What is held, for every value of the arguments in `along`, an axis each."""
        if isinstance(self.operand, Constant) and self.flat:
            found = np.asarray(self.operand.value).reshape(-1)
        else:
            found = _over(function, self.operand, along)
        held = self._as_held(found)
        with np.errstate(divide="ignore"):
            return np.reciprocal(held) if self.inverted else held

    def _as_held(self, found: np.ndarray) -> np.ndarray:
        if self.held == MASK:
            return -found.astype(bool).astype(MASK)
        return found.astype(self.held)


@dataclasses.dataclass(frozen=True, eq=False)
class SlotTable(Leaf):
    """Of an array, what belongs to the slots of a tile: `table[h, q, k]` dealt as keys are.

    Attributes:
      axes: of the array, the operand that is known before any token and says which entry belongs to
        a slot or row; None of those axes whose index arrives.
    """

    axes: tuple[Operand | None, ...] = ()

    @property
    def entries(self) -> int:
        """Of the axes whose index arrives."""
        pairs = zip(self._array.shape, self.axes, strict=True)
        return math.prod(size for size, operand in pairs if operand is None)

    @property
    def _array(self) -> np.ndarray:
        assert isinstance(self.operand, Constant)
        return np.asarray(self.operand.value)

    def depends_on(self, function: Elementwise, name: str) -> bool:
        """Whether an index that is known before any token does."""
        return any(x is not None and function.depends_on(x, name) for x in self.axes)

    def values(self, function: Elementwise, along: Mapping[str, Any]) -> np.ndarray:
        """What is held, with one axis more, of `entries`."""
        array = self._array
        behind = [n for n, x in enumerate(self.axes) if x is None]
        before = [n for n, x in enumerate(self.axes) if x is not None]
        ordered = array.transpose(*before, *behind)
        ordered = ordered.reshape(*ordered.shape[: len(before)], -1)
        places = []
        for axis in before:
            operand = self.axes[axis]
            assert operand is not None
            place = _over(function, operand, along)
            places.append(np.clip(place, 0, array.shape[axis] - 1))
        return self._as_held(ordered[tuple(places)])


def _over(
    function: Elementwise, operand: Operand, along: Mapping[str, Any]
) -> np.ndarray:
    """An operand's values, an axis for each argument in `along`."""
    if isinstance(operand, Constant):
        found = np.asarray(operand.value)
        return np.broadcast_to(
            found.reshape(()), [len(values) for values in along.values()]
        )
    found = np.asarray(function.over(operand, along))
    return found.reshape([len(values) for values in along.values()])


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
    """A tile that the function is of."""

    name: str
    shape: Shape
    held: np.dtype = FLOAT


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
    """An operation that is run.

    Attributes:
      op: a key of `elementwise.SCALAR_CYCLES`, and perhaps of `VECTOR_CYCLES`.
      operands: what it reads.
      shape: along what the result differs.
      held: dtype of the result in SRAM.
      arithmetic: dtype in which scalar code does it.
    """

    op: str
    operands: tuple["Value", ...]
    shape: Shape
    held: np.dtype
    arithmetic: np.dtype

    @property
    def moves_rows(self) -> bool:
        """Whether it copies a row of a table, for which there is no scalar code."""
        return self.op == "row"

    @property
    def is_vector(self) -> bool:
        """Whether a PE has vector operations for it."""
        if self.moves_rows:
            return True
        held = [x.held for x in (self, *self.operands)]
        if self.op not in VECTOR_CYCLES or any(x not in (FLOAT, MASK) for x in held):
            return False
        of_masks = self.op in ("and", "or", "xor", "not")
        if of_masks:
            return all(x == MASK for x in held)
        if self.op == "select":
            return held[0] == FLOAT
        return all(x.held == FLOAT for x in self.operands)


Value: TypeAlias = Leaf | Data | Node


@dataclasses.dataclass(frozen=True)
class Several:
    """Indices that a look-up takes together."""

    values: tuple[Value, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """An array that the function holds, which only look-ups may take."""

    constant: Constant


def truth(value: Value) -> bool | None:
    """What a mask is that is the same everywhere and always."""
    if not isinstance(value, Leaf) or not isinstance(value.operand, Constant):
        return None
    return bool(value.operand.number) if value.held == MASK else None


__all__ = [
    "ARRIVING",
    "Argument",
    "Bounds",
    "DATA",
    "Data",
    "EXACT",
    "FLOAT",
    "KEPT",
    "Leaf",
    "Node",
    "Several",
    "Shape",
    "SlotTable",
    "Table",
    "Tiles",
    "Value",
    "truth",
]
