"""A gather: each PE's block passes routers that those before have turned, to the first PE."""

from emu.wse import trees
from emu.wse.fabric import ops
from emu.wse.fabric.layout.blocks import check_blocks
from emu.wse.fabric.layout.code import Code, on_line
from emu.wse.fabric.layout.line import Line
from emu.wse.fabric.layout.streams import turned
from emu.wse.fabric.ops import Buffer, Control, Memory, copy, receive, send


def gather(line: Line, dst: Buffer, x: Memory, prefix: str) -> Code:
    """The first PE gets every PE's `x` in `dst`, in their order; the nearest arrives first.

    Args:
      line: of PEs; all hold `x`, the first one `dst`.
      dst: one block for each PE.
      x: a PE's block.
      prefix: of the name of its color, for this gather alone.
    """
    check_blocks("gather", line, dst, x)
    laid = turned(trees.star(line.pes), prefix)
    laid.lay(line)
    size = x.elements
    color = laid.color[-1]
    first: list[ops.Op] = [copy(dst[:size], x)]
    operations: dict[int, list[ops.Op]] = {0: first}
    for place in range(1, line.pes):
        block = dst[place * size : (place + 1) * size]
        first.append(copy(block, receive(color, size)))
        operations[place] = [copy(send(color, size), x)]
        if place + 1 < line.pes:
            operations[place].append(Control(color, ops.OWN))
    return on_line(line, operations)


__all__ = ["gather"]
