"""A scatter: control wavelets turn each receiver's router to pass on the blocks behind its own."""

from emu.wse.fabric import ops
from emu.wse.fabric.layout.blocks import block_of, check_blocks
from emu.wse.fabric.layout.code import Code, on_line
from emu.wse.fabric.layout.line import Line
from emu.wse.fabric.ops import Buffer, Control, Memory, copy, receive, send
from emu.wse.fabric.program import FREE


def scatter(line: Line, dst: Memory, x: Buffer, color: str) -> Code:
    """PE i gets in `dst` block i of the first PE's `x`; the nearest one's leaves first.

    Behind each block a control wavelet turns its receiver's router, to pass on what follows.

    Args:
      line: of PEs; all hold `dst`, the first one `x`.
      dst: a PE's block.
      x: one block for each PE.
      color: name of the color, for this scatter alone.
    """
    check_blocks("scatter", line, x, dst)
    _lay(line, color)
    size = dst.elements
    outward = send(color, size)
    stream = receive(color, size)
    own = block_of(x, 0, size)
    first: list[ops.Op] = [copy(dst, own)]
    operations: dict[int, list[ops.Op]] = {0: first}
    for place in range(1, line.pes):
        block = block_of(x, place, size)
        first.append(copy(outward, block))
        is_last = place + 1 == line.pes
        if not is_last:
            turn = Control(color, ops.ALL)
            first.append(turn)
        operations[place] = [copy(dst, stream)]
    return on_line(line, operations)


def _lay(line: Line, color: str) -> None:
    """Routers take a block in and, once turned, pass on what follows."""
    near = line.near
    far = line.far
    last = line.pes - 1
    between = range(1, last)
    line.program.color(color, FREE, FREE)
    route = line.program.route
    route(color, line.at(0), receive="ramp", send=far)
    if between:
        turned = (near, far)
        route(color, line.at(between), receive=near, send="ramp", then=[turned])
    route(color, line.at(last), receive=near, send="ramp")


__all__ = ["scatter"]
