"""One GEMV over a rectangle of PEs: as a kernel for the timeline, as a program for the fabric.

Row i of PEs holds x[i * depth :], column j the outputs y[j * width :]; x starts in the first column
and y ends in the first row.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from emu.datasheet import Device
from emu.program import Program
from emu.wse import fmac_map, multicast, reduce, trees
from emu.wse.collectives import programs
from emu.wse.fabric import ops
from emu.wse.fabric.program import FabricProgram
from emu.wse.pe.laws import call_cycles
from kernels.wse.decode.sums import zeros

PE = ("row", "col")


@dataclasses.dataclass(frozen=True)
class WaferGemv:
    """`y = x @ w` with `w` `[k, n]`, padded with zeros to the rectangle.

    Attributes:
      k, n: sizes of the matrix.
      rows, cols: of the rectangle of PEs.
      dtype: of x and w; y is accumulated and sent in float32.
    """

    k: int
    n: int
    rows: int
    cols: int
    dtype: str = "float16"

    @property
    def depth(self) -> int:
        """Elements of x in a row of PEs."""
        return -(-self.k // self.rows)

    @property
    def width(self) -> int:
        """Elements of y in a column of PEs."""
        return -(-self.n // self.cols)

    @property
    def group(self) -> int:
        """Rows that are summed in a chain first: a divisor, so that no group ends before others."""
        divisors = [d for d in range(1, self.rows + 1) if self.rows % d == 0]
        return min(divisors, key=lambda d: abs(d - self.rows**0.5))

    def tree(self, device: Device) -> trees.Tree:
        """To the first row, in about `2 sqrt(rows)` dependent stages where no streams meet.

        The far group's sum crosses the group before it, whose last stream may still be on its last
        link; it is through before the other has come so far unless it is long. Long sums go
        through one chain, which costs them little.
        """
        if self.width > self.group * device.hop_cycles:
            return trees.chain(self.rows)
        return trees.two_phase(self.rows, self.group)

    def tiles(self, x: Any, w: Any) -> tuple[np.ndarray, np.ndarray]:
        """`x` `[k]` as `[rows, depth]`, `w` `[k, n]` as `[rows, cols, depth, width]`."""
        x = np.pad(np.asarray(x), (0, self.rows * self.depth - self.k))
        more = (
            (0, self.rows * self.depth - self.k),
            (0, self.cols * self.width - self.n),
        )
        w = np.pad(np.asarray(w), more)
        w = w.reshape(self.rows, self.depth, self.cols, self.width)
        return x.reshape(self.rows, self.depth), np.ascontiguousarray(w.swapaxes(1, 2))


def kernel(tree: trees.Tree, width: int, x: jax.Array, w: jax.Array) -> jax.Array:
    """This PE's part of the GEMV.

    Dimensions: `x` `[depth]`, of which the first column's is used; `w` `[depth, width]`; returns
    float32 `[width]`, complete in the first row.
    """
    y = zeros((width,))
    x = multicast(x, x, axis="col")
    y = fmac_map(y, w, x)
    return reduce(y, y, axis="row", tree=tree)


def kernel_program(g: WaferGemv, device: Device) -> Program:
    """`kernel` on its mesh: arguments `x` `[rows, depth]` and `w` `[rows, cols, depth, width]`."""
    part = functools.partial(kernel, g.tree(device), g.width)
    return Program(part, {"row": g.rows, "col": g.cols}, (("row",), PE), PE)


def arguments(g: WaferGemv) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """Shapes in place of data for `kernel_program(g).read`."""
    dtype = jnp.dtype(g.dtype)
    return (
        jax.ShapeDtypeStruct((g.rows, g.depth), dtype),
        jax.ShapeDtypeStruct((g.rows, g.cols, g.depth, g.width), dtype),
    )


def fabric_program(g: WaferGemv, device: Device) -> FabricProgram:
    """The same for the stepper: buffers `x` `[depth]`, `w` `[depth * width]` and `y` `[width]`."""
    p = FabricProgram(g.cols, g.rows)
    x = p.buffer("x", g.depth, g.dtype)
    w = p.buffer("w", g.depth * g.width, g.dtype)
    y = p.buffer("y", g.width)
    rows = programs.Line(p, "x")
    columns = programs.Line(p, "y")
    call = programs.everywhere(p, ops.Code(int(call_cycles(device)), "call"))
    clear = programs.everywhere(p, ops.Load(1), ops.copy(y[:], 0.0))
    multiply = programs.everywhere(p, ops.Load(3), ops.Map(y[:], w[:], x[:]))
    code = (
        clear
        + call
        + programs.multicast(rows, x[:], "x")
        + multiply
        + call
        + programs.reduce(columns, y[:], g.tree(device), "y", routes="fixed")
    )
    code.declare(p, "gemv", start=True)
    return p


__all__ = ["WaferGemv", "arguments", "fabric_program", "kernel", "kernel_program"]
