"""Reduces over a rectangle as programs: row by row and then a column, or along one snake."""

import numpy as np

from emu.wse.collectives.reduce.program import TURNED, reduce
from emu.wse.fabric import ops
from emu.wse.fabric.layout.code import Code, code
from emu.wse.fabric.layout.line import Line, Within
from emu.wse.fabric.layout.rectangle import OUTSIDE, coordinates
from emu.wse.fabric.ops import Memory, Vector, copy, receive, send
from emu.wse.fabric.program import ALL, FREE, FabricProgram, Place
from emu.wse.trees.tree import Tree

NORTH, EAST, SOUTH, WEST = "north", "east", "south", "west"
OPPOSITE = {WEST: EAST, EAST: WEST, NORTH: SOUTH}


def reduce_2d(
    program: FabricProgram,
    x: Memory,
    rows: Tree,
    column: Tree,
    prefix: str,
    within: Within = ALL,
    *,
    routes: str = TURNED,
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
    row = Line(program, "x", within)
    along_rows = reduce(row, x, rows, f"{prefix}x", routes=routes, op=op)
    rows_of_roots, _ = within
    has_root = row.at(rows.root).any(axis=0)
    (root_column,) = np.flatnonzero(has_root).tolist()
    column_of_roots = slice(root_column, root_column + 1)
    roots = Line(program, "y", (rows_of_roots, column_of_roots))
    along_roots = reduce(roots, x, column, f"{prefix}y", routes=routes, op=op)
    return along_rows + along_roots


def reduce_snake(
    program: FabricProgram,
    x: Memory,
    prefix: str,
    within: Within = ALL,
    *,
    op: str = "add",
) -> Code:
    """A chain through every PE to the north-western one, row by row to and fro; two colors.

    Of 2 rows and 3 columns PE 5, in the west of the second row, begins: 5 -> 4 -> 3 in the east,
    north to 2, then 2 -> 1 -> 0. Even places send on color 0, odd ones on color 1.
    """
    row, column = coordinates(program, within)
    place = snake(program, within)
    last = place.max()
    is_even = row % 2 == 0
    first_of_row = np.where(is_even, 0, column.max())
    goes_north = (row > 0) & (column == first_of_row)
    side = np.select([goes_north, is_even], [NORTH, WEST], EAST)
    sends = place > 0
    pairs: list[tuple[Place, list[ops.Op]]] = []
    for parity in (0, 1):
        color = f"{prefix}{parity}"
        program.color(color, FREE, FREE)
        mine = sends & (place % 2 == parity)
        for goes, comes_from in OPPOSITE.items():
            senders = mine & (side == goes)
            program.route(color, senders, receive="ramp", send=goes)
            before = place[senders] - 1
            receivers = np.isin(place, before) & (place >= 0)
            program.route(color, receivers, receive=comes_from, send="ramp")
        stream = receive(f"{prefix}{1 - parity}", x.elements)
        outward = send(color, x.elements)
        add_and_send = Vector(op, outward, stream, x)
        pairs.append((mine & (place < last), [add_and_send]))
        pairs.append((mine & (place == last), [copy(outward, x)]))
    if last > 0:
        stream = receive(f"{prefix}1", x.elements)
        add = Vector(op, x, stream, x)
        pairs.append((place == 0, [add]))
    return code(program, pairs)


def snake(program: FabricProgram, within: Within = ALL) -> np.ndarray:
    """`int[height, width]`: each PE's place along the snake, -1 outside."""
    row, column = coordinates(program, within)
    width = column.max() + 1
    is_even = row % 2 == 0
    along = np.where(is_even, column, width - 1 - column)
    place = row * width + along
    return np.where(row == OUTSIDE, OUTSIDE, place)


__all__ = ["reduce_2d", "reduce_snake", "snake"]
