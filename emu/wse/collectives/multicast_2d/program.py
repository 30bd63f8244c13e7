"""A multicast over a rectangle, from its north-western corner, as one stream that forks."""

import itertools

from emu.wse.fabric.layout.code import Code, code
from emu.wse.fabric.layout.line import Within
from emu.wse.fabric.layout.rectangle import OUTSIDE, coordinates
from emu.wse.fabric.ops import Memory, copy, receive, send
from emu.wse.fabric.program import ALL, FREE, FabricProgram

NORTH, EAST, SOUTH, WEST, RAMP = "north", "east", "south", "west", "ramp"


def multicast_2d(
    program: FabricProgram,
    x: Memory,
    color: str,
    within: Within = ALL,
) -> Code:
    """Every PE's `x` becomes that of the north-western one.

    One stream: routers of the first row forward it to the east, to the south and to their PE.

    Args:
      program: of the rectangle.
      x: what the corner sends, and where the others put it.
      color: name of the color, for this multicast alone.
      within: the rectangle.
    """
    row, column = coordinates(program, within)
    inside = row != OUTSIDE
    corner = (row == 0) & (column == 0)
    if inside.sum() == 1:
        return code(program, [])
    program.color(color, FREE, FREE)
    in_first_row = row == 0
    forwards_east = in_first_row & (column < column.max())
    forwards_south = inside & (row < row.max())
    comes_from = {
        RAMP: corner,
        WEST: in_first_row & ~corner,
        NORTH: row > 0,
    }
    # One declaration for all routers that take it from one side and send it the same ways on.
    for east, south in itertools.product((False, True), repeat=2):
        forks_alike = inside & (forwards_east == east) & (forwards_south == south)
        onward = [EAST] * east + [SOUTH] * south
        for side, receivers in comes_from.items():
            sends = onward if side == RAMP else [*onward, RAMP]
            place = forks_alike & receivers
            if place.any() and sends:
                program.route(color, place, receive=side, send=sends)
    put = copy(send(color, x.elements), x)
    take = copy(x, receive(color, x.elements))
    return code(program, [(corner, [put]), (inside & ~corner, [take])])


__all__ = ["multicast_2d"]
