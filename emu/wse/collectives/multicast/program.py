"""Broadcasts: one PE's words to all of its line, each router passing them on and taking them in."""

from emu.wse.fabric import ops
from emu.wse.fabric.layout.code import Code, code
from emu.wse.fabric.layout.line import Line
from emu.wse.fabric.ops import Memory, copy, receive, send


def broadcast(line: Line, x: Memory, color: str, root: int = 0) -> Code:
    """Every PE's `x` becomes the root's.

    A root at an end takes one color. One inside takes two, `color` towards the higher places and
    `color` with a minus towards the lower ones, and sends first to the lower, then to the higher.

    Args:
      line: of PEs; all hold `x`.
      x: what the root sends, and where the others put it.
      color: name of the color, for this broadcast alone.
      root: place of the PE that sends.
    """
    up = range(root + 1, line.pes)
    down = range(root - 1, -1, -1)
    sends: list[ops.Op] = []
    pairs = []
    for places, name, away, back in (
        (down, f"{color}-", line.near, line.far),
        (up, color, line.far, line.near),
    ):
        if not len(places):
            continue
        program = line.program
        program.route(name, line.at(root), receive="ramp", send=away)
        program.route(name, line.at(places[:-1]), receive=back, send=(away, "ramp"))
        program.route(name, line.at(places[-1]), receive=back, send="ramp")
        sends.append(copy(send(name, x.elements), x))
        pairs.append((line.at(places), [copy(x, receive(name, x.elements))]))
    return code(line.program, [(line.at(root), sends), *pairs])


__all__ = ["broadcast"]
