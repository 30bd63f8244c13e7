"""One GEMV over a rectangle of PEs: as a kernel for the timeline, as a program for the fabric.

Row i of PEs holds x[i * depth :], column j the outputs y[j * width :]; x starts in the first column
and y ends in the first row. A matrix of 1024 x 1024 on 32 x 32 PEs gives each a tile of 32 x 32:
x goes along its row, every PE multiplies, and the 32 parts of each output are added up a column.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jax import ShapeDtypeStruct

from emu.datasheet import Device
from emu.program import Program
from emu.wse import fmac_map, multicast, reduce, trees
from emu.wse.collectives import programs
from emu.wse.fabric import ops
from emu.wse.fabric.program import FabricProgram
from emu.wse.pe.laws import call_cycles
from emu.wse.spaces import Sram
from kernels.wse.decode.mapping import PE, share_of
from kernels.wse.decode.sums import zeros


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
        return share_of(self.k, self.rows)

    @property
    def width(self) -> int:
        """Elements of y in a column of PEs."""
        return share_of(self.n, self.cols)

    @property
    def group(self) -> int:
        """Rows that are summed in a chain first: a divisor, so that no group ends before others."""
        square_root = self.rows**0.5
        divisors = [size for size in range(1, self.rows + 1) if self.rows % size == 0]
        # 24 rows have a root of 4.9 and the divisors 4 and 6, of which 4 is nearer.
        return min(divisors, key=lambda size: abs(size - square_root))

    def tree(self, device: Device) -> trees.Tree:
        """To the first row, in about `2 sqrt(rows)` dependent stages where no streams meet.

        The far group's sum crosses the group before it, whose last stream may still be on its last
        link; it is through before the other has come so far unless it is long. Long sums go
        through one chain, which costs them little. With 32 rows in groups of 4 on a WSE-3, whose
        hops take 2 cycles, sums of up to 8 words go through groups.
        """
        cycles_to_next_leader = self.group * device.hop_cycles
        if self.width > cycles_to_next_leader:
            return trees.chain(self.rows)
        return trees.two_phase(self.rows, self.group)

    def tiles(self, x: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`x` `[k]` as `[rows, depth]`, `w` `[k, n]` as `[rows, cols, depth, width]`."""
        # Zeros of x and w add nothing to a sum, and outputs beyond `n` are sums of zeros.
        more_k = (0, self.rows * self.depth - self.k)
        more_n = (0, self.cols * self.width - self.n)
        padded_x = np.pad(np.asarray(x), more_k)
        padded_w = np.pad(np.asarray(w), (more_k, more_n))
        split = padded_w.reshape(
            self.rows,
            self.depth,
            self.cols,
            self.width,
        )
        x_tiles = padded_x.reshape(self.rows, self.depth)
        w_tiles = split.swapaxes(1, 2)
        return x_tiles, np.ascontiguousarray(w_tiles)


def kernel(tree: trees.Tree, width: int, x: Sram, w: Sram) -> Sram:
    """This PE's part of the GEMV.

    Dimensions: `x` `[depth]`, of which the first column's is used; `w` `[depth, width]`; returns
    float32 `[width]`, complete in the first row.
    """
    y = zeros((width,))
    x = multicast(x, x, axis="col")
    y = fmac_map(y, w, x)
    return reduce(y, y, axis="row", tree=tree)


def kernel_program(gemv: WaferGemv, device: Device) -> Program:
    """`kernel` on its mesh: arguments `x` `[rows, depth]` and `w` `[rows, cols, depth, width]`."""
    tree = gemv.tree(device)

    def part(x: Sram, w: Sram) -> Sram:
        return kernel(tree, gemv.width, x, w)

    mesh = {"row": gemv.rows, "col": gemv.cols}
    return Program(part, mesh, (("row",), PE), PE)


def arguments(gemv: WaferGemv) -> tuple[ShapeDtypeStruct, ShapeDtypeStruct]:
    """Shapes in place of data for `kernel_program(gemv).read`."""
    dtype = jnp.dtype(gemv.dtype)
    x_shape = (gemv.rows, gemv.depth)
    x = ShapeDtypeStruct(x_shape, dtype)
    w_shape = (gemv.rows, gemv.cols, gemv.depth, gemv.width)
    w = ShapeDtypeStruct(w_shape, dtype)
    return x, w


def fabric_program(gemv: WaferGemv, device: Device) -> FabricProgram:
    """The same for the stepper: buffers `x` `[depth]`, `w` `[depth * width]` and `y` `[width]`."""
    program = FabricProgram(gemv.cols, gemv.rows)
    x = program.buffer("x", gemv.depth, gemv.dtype)
    w = program.buffer("w", gemv.depth * gemv.width, gemv.dtype)
    y = program.buffer("y", gemv.width)
    rows = programs.Line(program, "x")
    columns = programs.Line(program, "y")

    call = ops.Code(int(call_cycles(device)), "call")
    # Each of the two collectives begins with its own, as in `kernel`.
    calls = programs.everywhere(program, call)
    clear = programs.everywhere(program, ops.Load(1), ops.copy(y[:], 0.0))
    spread = programs.multicast(rows, x[:], "x")
    multiply = programs.everywhere(program, ops.Load(3), ops.Map(y[:], w[:], x[:]))
    # Fixed routes need no control wavelets, and the arrival formula of `reduce` times none.
    add = programs.reduce(columns, y[:], gemv.tree(device), "y", routes="fixed")
    code = clear + calls + spread + multiply + calls + add
    code.declare(program, "gemv", start=True)
    return program


__all__ = ["WaferGemv", "arguments", "fabric_program", "kernel", "kernel_program"]
