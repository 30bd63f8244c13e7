"""Collectives over a rectangle: a broadcast as one stream, reduces row by row or along a snake."""

import numpy as np

from emu.wse.collectives.reduce.program import reduce
from emu.wse.fabric.layout.code import Code, code
from emu.wse.fabric.layout.line import Line
from emu.wse.fabric.ops import Memory, Vector, copy, receive, send
from emu.wse.fabric.program import ALL, FabricProgram
from emu.wse.trees import Tree

Within = tuple[slice, slice]
WEST = "west"
NORTH = "north"
EAST = "east"
BACK = {WEST: EAST, EAST: WEST, NORTH: "south"}


def broadcast_2d(
    program: FabricProgram, x: Memory, color: str, within: Within = ALL
) -> Code:
    """Every PE's `x` becomes that of the north-western one.

    One stream: routers of the first row forward it to the east, to the south and to their PE.
    """
    row, column = _coordinates(program, within)
    first, inside = (row == 0) & (column == 0), row >= 0
    if inside.sum() == 1:
        return code(program, [])
    east = (row == 0) & (column < column.max())
    south = inside & (row < row.max())
    for goes_east in (False, True):
        for goes_south in (False, True):
            on = [
                side
                for side, goes in ((EAST, goes_east), ("south", goes_south))
                if goes
            ]
            alike = inside & (east == goes_east) & (south == goes_south)
            for back, place in (
                ("ramp", alike & first),
                (WEST, alike & (row == 0) & ~first),
                (NORTH, alike & (row > 0)),
            ):
                sends = on if back == "ramp" else [*on, "ramp"]
                if place.any() and sends:
                    program.route(color, place, receive=back, send=sends)
    return code(
        program,
        [
            (first, [copy(send(color, x.elements), x)]),
            (inside & ~first, [copy(x, receive(color, x.elements))]),
        ],
    )


def reduce_2d(
    program: FabricProgram,
    x: Memory,
    rows: Tree,
    column: Tree,
    prefix: str,
    within: Within = ALL,
    *,
    routes: str = "turned",
    op: str = "add",
) -> Code:
    """Along every row, then along the column of the rows' roots, to one PE.

    Args:
      program: of the rectangle.
      x: what each PE adds.
      rows, column: trees over a row's PEs, and over the rows.
      prefix: of the colors' names.
      within: the rectangle.
      routes, op: as `reduce` takes them.
    """
    line = Line(program, "x", within)
    roots = np.flatnonzero(line.at(rows.root).any(0))
    down = Line(program, "y", (within[0], slice(int(roots[0]), int(roots[0]) + 1)))
    sums = reduce(line, x, rows, f"{prefix}x", routes=routes, op=op)
    return sums + reduce(down, x, column, f"{prefix}y", routes=routes, op=op)


def reduce_snake(
    program: FabricProgram,
    x: Memory,
    prefix: str,
    within: Within = ALL,
    *,
    op: str = "add",
) -> Code:
    """A chain through every PE to the north-western one, row by row to and fro; two colors."""
    row, column = _coordinates(program, within)
    place = snake(program, within)
    begins = (row > 0) & (column == np.where(row % 2 == 0, 0, column.max()))
    side = np.select([begins, row % 2 == 0], [NORTH, WEST], EAST)
    sends = place > 0
    for k in (0, 1):
        for on, back in BACK.items():
            here = sends & (place % 2 == k) & (side == on)
            program.route(f"{prefix}{k}", here, receive="ramp", send=on)
            before = np.isin(place, place[here] - 1) & (place >= 0)
            program.route(f"{prefix}{k}", before, receive=back, send="ramp")
    n, pairs = x.elements, []
    for k in (0, 1):
        into = receive(f"{prefix}{1 - k}", n)
        out = send(f"{prefix}{k}", n)
        mine = sends & (place % 2 == k)
        pairs.append((mine & (place < place.max()), [Vector(op, out, into, x)]))
        pairs.append((mine & (place == place.max()), [copy(out, x)]))
    if place.max() > 0:
        pairs.append((place == 0, [Vector(op, x, receive(f"{prefix}1", n), x)]))
    return code(program, pairs)


def snake(program: FabricProgram, within: Within = ALL) -> np.ndarray:
    """`int[height, width]`: each PE's place along the snake, -1 outside."""
    row, column = _coordinates(program, within)
    width = column.max() + 1
    along = np.where(row % 2 == 0, column, width - 1 - column)
    return np.where(row < 0, -1, row * width + along)


def _coordinates(
    program: FabricProgram, within: Within
) -> tuple[np.ndarray, np.ndarray]:
    """`int[height, width]` each: rows and columns counted in the rectangle, -1 outside."""
    row = np.full(program.shape, -1)
    column = np.full(program.shape, -1)
    height, width = row[within].shape
    row[within], column[within] = np.arange(height)[:, None], np.arange(width)
    return row, column


__all__ = ["broadcast_2d", "reduce_2d", "reduce_snake", "snake"]
