"""A scatter: control wavelets turn each receiver's router to pass on the blocks behind its own."""

from emu.wse.fabric import ops
from emu.wse.fabric.layout.blocks import check_blocks
from emu.wse.fabric.layout.code import Code, on_line
from emu.wse.fabric.layout.line import Line
from emu.wse.fabric.ops import Buffer, Control, Memory, copy, receive, send


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
    size = dst.elements
    near = line.near
    far = line.far
    last = line.pes - 1
    between = range(1, last)
    route = line.program.route
    route(color, line.at(0), receive="ramp", send=far)
    if between:
        then = [(near, far)]
        route(color, line.at(between), receive=near, send="ramp", then=then)
    route(color, line.at(last), receive=near, send="ramp")
    first: list[ops.Op] = [copy(dst, x[:size])]
    operations: dict[int, list[ops.Op]] = {0: first}
    for place in range(1, line.pes):
        block = x[place * size : (place + 1) * size]
        first.append(copy(send(color, size), block))
        if place < last:
            first.append(Control(color, ops.ALL))
        operations[place] = [copy(dst, receive(color, size))]
    return on_line(line, operations)


__all__ = ["scatter"]
