"""What a layer's matrices are held in, and what shares a scale in a PE's tile of one.

A PE has a slice of a matrix, and of every block of numbers that the slice touches the scale. How
many numbers of a tile share one must be the same on all PEs, which run one program. MXFP8 has a
scale for 32 consecutive rows of a column: of a residual stream in slices of 24, the second slice's
rows 24 to 47 begin in the first block and end in the second,

    rows   0 to 23    24 to 47    48 to 71
    block  0          0 0 0 1 1 1  ...

but no block ends within 8 rows from a multiple of 8, so that every PE has three scales a column. In
slices of 16 or 32 it has one.

Slices that would end within blocks are cut where blocks end, if there are PEs enough: 2,048 hidden
features in slices of 3 take 683 columns one behind the other, and 704 with eleven for each block of
32, the last of them two features. Then every slice has one scale a column, where it had three.
The residual stream is cut for rows likewise, see `kernels.wse.decode.residual`.
"""

import dataclasses
import math

from emu.annotations import DType, Shape
from emu.wse.pe.nibbles import words_of
from kernels.formats.formats import POWER_OF_TWO, Format
from kernels.wse.decode.dealing import sliced

PIECE_CODES = 1024
"""Fewest codes of a matrix that a PE makes wide at once: each piece begins some operations."""

SHORT_PIECE_CODES = 256
"""The same where a PE has no room for larger ones."""


@dataclasses.dataclass(frozen=True)
class Held:
    """What is held in codes.

    Attributes:
      weights: of a layer's matrices but its experts'; None: these are in the region's dtype.
      experts: of its experts'; None: likewise.
      cache: of keys and values, see `kernels.wse.decode.coded_cache`; None: likewise.
    """

    weights: Format | None = None
    experts: Format | None = None
    cache: Format | None = None


WIDE = Held()
"""Nothing in codes."""


@dataclasses.dataclass(frozen=True)
class MatrixTile:
    """A PE's tile of a matrix, whose rows are contracted.

    Attributes:
      rows, columns: of the tile.
      rows_in_order, columns_in_order: how many of them follow each other in the matrix, from a
        multiple of as many on.
      one_rows: rows of each of several matrices that lie one below the other; None: it is one.
      one_columns: columns of each of several that lie side by side; None: as many as are in order.
      packed_columns: columns whose codes of 4 bits are packed together; None: all.
      is_turned: whether the rows of the model's matrix, which its products contract, are the tile's
        columns: blocks are turned with it, and each row has scales of its own.
      rows_cut, columns_cut: numbers of a block, where none of those in order reaches over its end,
        see `cut_of`; None: they reach over blocks.
      piece_codes: the fewest codes that a PE makes wide at once.
    """

    rows: int
    columns: int
    rows_in_order: int
    columns_in_order: int
    one_rows: int | None = None
    one_columns: int | None = None
    packed_columns: int | None = None
    is_turned: bool = False
    rows_cut: int | None = None
    columns_cut: int | None = None
    piece_codes: int = PIECE_CODES

    def below(self, count: int) -> "MatrixTile":
        """The tile of so many matrices of this one's sizes, one below the other."""
        rows = self.one_rows or self.rows
        return dataclasses.replace(self, rows=count * self.rows, one_rows=rows)

    def beside(self, count: int) -> "MatrixTile":
        """The tile of so many side by side."""
        packed = self.packed_columns or self.columns
        columns = count * self.columns
        return dataclasses.replace(self, columns=columns, packed_columns=packed)

    @property
    def one(self) -> "MatrixTile":
        """The tile of one of the matrices that lie one below the other."""
        return dataclasses.replace(self, rows=self.one_rows or self.rows, one_rows=None)

    def alike(self, held: Format) -> tuple[int, int]:
        """Rows and columns of the tile that share a scale on every PE."""
        assert held.block is not None
        down, across = held.block
        if self.is_turned:
            columns = self.columns
            return 1, columns if down is None else math.gcd(self.columns_in_order, down)
        if down is None:
            rows = self.one_rows or self.rows
        else:
            rows = _in_one_block(self.rows_in_order, self.rows_cut, down)
        if across is None:
            columns = self.one_columns or self.columns_in_order
        else:
            columns = _in_one_block(self.columns_in_order, self.columns_cut, across)
        return rows, columns

    def scales(self, held: Format) -> Shape:
        """How many scales a tile has, down and across."""
        rows, columns = self.alike(held)
        return self.rows // rows, self.columns // columns

    def shapes(self, name: str, held: Format | None) -> dict[str, Shape]:
        """Of what a PE holds for the matrix of that name."""
        if held is None:
            return {name: (self.rows, self.columns)}
        columns = self.columns
        if held.element_bits == 4:
            packed = self.packed_columns or columns
            columns = columns // packed * words_of(packed)
        return {name: (self.rows, columns), scale_of(name): self.scales(held)}

    def dtypes(self, name: str, held: Format) -> dict[str, DType]:
        """Their dtypes; codes of 4 bits are in words."""
        codes = "uint16" if held.element_bits == 4 else held.element
        scales = POWER_OF_TWO if held.scale == POWER_OF_TWO else "float32"
        return {name: codes, scale_of(name): scales}


def _in_one_block(in_order: int, cut: int | None, block: int) -> int:
    """How many of a slice's numbers are in one block on every PE."""
    if cut is not None and block % cut == 0:
        return in_order
    return math.gcd(in_order, block)


def cut_of(held: Format | None, elements: int, each: int, pes: int) -> int | None:
    """Numbers of a block, where slices are to end with blocks; None: they follow each other.

    They are where they would end within blocks otherwise, and as many PEs hold them all as well.

    Args:
      held: of a matrix whose rows, which are contracted, are dealt so.
      elements: to be dealt.
      each: of a slice, at the most.
      pes: that there are.
    """
    if held is None or held.block is None:
        return None
    block, _ = held.block
    if block is None or each % block == 0 or block % each == 0:
        return None
    return block if sliced(elements, block, each) <= pes else None


def scale_of(name: str) -> str:
    """What the scales of a matrix are called."""
    return f"{name}_scale"


__all__ = [
    "PIECE_CODES",
    "SHORT_PIECE_CODES",
    "WIDE",
    "Held",
    "MatrixTile",
    "cut_of",
    "scale_of",
]
