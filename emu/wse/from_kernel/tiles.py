"""Tiles of a kernel and views of them: which elements of which buffer an operand is.

A view is an index, `int[shape]`, into the tile's elements in row-major order, and an offset that
may differ from PE to PE. Columns 2 and 3 of a tile `[3, 4]` are

    index  [[2, 3], [6, 7], [10, 11]], offset 0

and two columns from the PE's own place on `[[0, 1], [4, 5], [8, 9]]` with the place as offset.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import TypeAlias

import jax.numpy as jnp
import numpy as np

from emu.annotations import Shape
from emu.tracing import jaxpr as jx
from emu.wse.fabric.operands import DTYPES, Buffer

Known: TypeAlias = np.ndarray
"""What is known as the program is made, `[*mesh, *shape]`, dimensions of the mesh full or 1."""


@dataclasses.dataclass(eq=False)
class Tile:
    """A buffer of the kernel: an argument, a constant or a tile that it declares.

    Attributes:
      shape, dtype: of its elements.
      given: its place among the program's data, or None: the kernel declares it.
      first, last: the first and last step that touches it.
      by_column: a matrix that lies column by column, so that its first columns are in one piece.
      buffer: in SRAM, once it has been given one.
    """

    shape: Shape
    dtype: np.dtype
    given: int | None = None
    first: int = -1
    last: int = -1
    by_column: bool = False
    buffer: Buffer | None = None

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def stored_dtype(self) -> str:
        """A dtype that the fabric's buffers have and whose elements are as wide, or two as wide."""
        name = str(self.dtype)
        if name in DTYPES:
            return name
        return "float32" if self.dtype.itemsize == 4 else "int16"

    @property
    def stored_elements(self) -> int:
        """Elements of that dtype which hold the tile."""
        itemsize = jnp.dtype(self.stored_dtype).itemsize
        return max(1, -(-self.size * self.dtype.itemsize // itemsize))

    def touched(self, step: int) -> None:
        """Notes that a step reads or writes it."""
        if self.first < 0:
            self.first = step
        self.last = max(self.last, step)

    def stored(self, index: np.ndarray) -> np.ndarray:
        """Where elements lie, given their places in row-major order."""
        if not self.by_column:
            return index
        rows = math.prod(self.shape[:-1])
        row, column = np.divmod(index, self.shape[-1])
        return column * rows + row


@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """A part of a tile, or all of it.

    Attributes:
      tile: whose.
      index: `int[shape]`, see above.
      offset: added to it, `int[*mesh]` with dimensions full or 1, or 0.
    """

    tile: Tile
    index: np.ndarray
    offset: np.ndarray | int = 0

    @classmethod
    def whole(cls, tile: Tile) -> "View":
        return cls(tile, np.arange(tile.size).reshape(tile.shape))

    @property
    def shape(self) -> Shape:
        return self.index.shape

    def same_place(self, other: "View") -> bool:
        """Whether both are the same elements on every PE."""
        return (
            self.tile is other.tile
            and self.shape == other.shape
            and bool((self.index == other.index).all())
            and np.array_equal(np.asarray(self.offset), np.asarray(other.offset))
        )

    def viewed(self, eqn: jx.Equation, starts: Sequence[Known]) -> "View | None":
        """The result of a view's equation; None: it is none that an index can tell."""
        params = eqn.params
        match eqn.primitive.name:
            case "reshape" | "squeeze" | "expand_dims":
                shape = eqn.outvars[0].aval.shape
                return dataclasses.replace(self, index=self.index.reshape(shape))
            case "broadcast_in_dim":
                own = [1] * len(params["shape"])
                for size, place in zip(
                    self.shape, params["broadcast_dimensions"], strict=True
                ):
                    own[place] = size
                spread = np.broadcast_to(self.index.reshape(own), params["shape"])
                return dataclasses.replace(self, index=spread)
            case "slice":
                limits = params["limit_indices"]
                steps = params["strides"] or (1,) * len(limits)
                ranges = zip(params["start_indices"], limits, steps, strict=True)
                cut = tuple(slice(*each) for each in ranges)
                return dataclasses.replace(self, index=self.index[cut])
            case "dynamic_slice":
                return self._sliced(params["slice_sizes"], starts)
        return None

    def _sliced(self, sizes: Sequence[int], starts: Sequence[Known]) -> "View | None":
        """A slice from a place that each PE knows."""
        offset = self.offset
        for axis, (start, size) in enumerate(zip(starts, sizes, strict=True)):
            length = self.shape[axis]
            # As XLA does, a slice that would leave the operand is moved to where it just fits.
            first = np.clip(np.asarray(start, np.int64), 0, length - size)
            if not first.any():
                continue
            apart = np.unique(np.diff(self.index, axis=axis))
            if len(apart) != 1:
                return None
            offset = offset + first * apart[0]
        cut = self.index[tuple(slice(size) for size in sizes)]
        return View(self.tile, cut, offset)


Value: TypeAlias = View | Known
"""What a variable of the kernel is: a part of a tile, or known."""

__all__ = ["Known", "Tile", "Value", "View"]
