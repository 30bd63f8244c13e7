"""A gather: each PE's block passes routers that those before have turned, to the first PE."""

from emu.wse import trees
from emu.wse.fabric import ops
from emu.wse.fabric.layout.blocks import block_of, check_blocks
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
    outward = send(color, size)
    stream = receive(color, size)
    own = block_of(dst, 0, size)
    first: list[ops.Op] = [copy(own, x)]
    operations: dict[int, list[ops.Op]] = {0: first}
    for place in range(1, line.pes):
        block = block_of(dst, place, size)
        first.append(copy(block, stream))
        operations[place] = [copy(outward, x)]
        is_last = place + 1 == line.pes
        if not is_last:
            turn = Control(color, ops.OWN)
            operations[place].append(turn)
    return on_line(line, operations)


__all__ = ["gather"]
