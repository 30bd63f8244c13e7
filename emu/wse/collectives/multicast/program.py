"""A multicast along a line: each router passes the words on and into its PE at once."""

from emu.wse.fabric import ops
from emu.wse.fabric.layout.code import Code, on_line
from emu.wse.fabric.layout.line import Line
from emu.wse.fabric.ops import Memory, copy, receive, send


def multicast(line: Line, x: Memory, color: str, root: int = 0) -> Code:
    """Every PE's `x` becomes the root's.

    A root at an end takes one color. One inside takes two, `color` towards the higher places and
    `color` with a minus towards the lower ones, and sends first to the lower, then to the higher.

    Args:
      line: of PEs; all hold `x`.
      x: what the root sends, and where the others put it.
      color: name of the color, for this multicast alone.
      root: place of the PE that sends.
    """
    nearer = range(root - 1, -1, -1)
    farther = range(root + 1, line.pes)
    operations: dict[int, list[ops.Op]] = {root: []}
    for places, name, away, back in (
        (nearer, f"{color}-", line.near, line.far),
        (farther, color, line.far, line.near),
    ):
        if not len(places):
            continue
        *passing, last = places
        route = line.program.route
        route(name, line.at(root), receive="ramp", send=away)
        route(name, line.at(passing), receive=back, send=(away, "ramp"))
        route(name, line.at(last), receive=back, send="ramp")
        operations[root].append(copy(send(name, x.elements), x))
        for place in places:
            operations[place] = [copy(x, receive(name, x.elements))]
    return on_line(line, operations)


__all__ = ["multicast"]
