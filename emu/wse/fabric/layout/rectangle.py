"""Where the PEs of a rectangle are: rows and columns, counted in it."""

import numpy as np

from emu.wse.fabric.layout.line import Within
from emu.wse.fabric.program import FabricProgram

OUTSIDE = -1


def coordinates(
    program: FabricProgram, within: Within
) -> tuple[np.ndarray, np.ndarray]:
    """`int[height, width]` each: row and column in the rectangle, `OUTSIDE` elsewhere."""
    row = np.full(program.shape, OUTSIDE)
    column = np.full(program.shape, OUTSIDE)
    height, width = row[within].shape
    row[within] = np.arange(height)[:, None]
    column[within] = np.arange(width)
    return row, column


__all__ = ["OUTSIDE", "coordinates"]
