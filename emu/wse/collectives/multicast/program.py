"""A multicast along a line: each router passes the words on and into its PE at once."""

from emu import given
from emu.wse.fabric import ops
from emu.wse.fabric.layout.code import Code, on_line
from emu.wse.fabric.layout.line import Line
from emu.wse.fabric.ops import Memory, copy, receive, send
from emu.wse.fabric.program import FREE


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
    given.whole("multicast: root", root, 0, line.pes - 1)
    operations: dict[int, list[ops.Op]] = {root: []}

    def one_way(receivers: range, name: str, away: str, back: str) -> None:
        if not receivers:
            return
        _lay(line, name, root, receivers, away, back)
        outward = send(name, x.elements)
        operations[root].append(copy(outward, x))
        stream = receive(name, x.elements)
        for place in receivers:
            operations[place] = [copy(x, stream)]

    lower = range(root - 1, -1, -1)
    higher = range(root + 1, line.pes)
    one_way(lower, f"{color}-", line.near, line.far)
    one_way(higher, color, line.far, line.near)
    return on_line(line, operations)


def _lay(
    line: Line,
    color: str,
    root: int,
    receivers: range,
    away: str,
    back: str,
) -> None:
    """Routes one way: away from the root, forking into each PE, and ending in the last."""
    *passing, last = receivers
    line.program.color(color, FREE, FREE)
    route = line.program.route
    route(color, line.at(root), receive="ramp", send=away)
    route(color, line.at(passing), receive=back, send=(away, "ramp"))
    route(color, line.at(last), receive=back, send="ramp")


__all__ = ["multicast"]
