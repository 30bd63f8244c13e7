"""Blocks of a line's PEs to its first PE, and back: each passes routers turned by those before."""

from emu.errors import LimitExceeded
from emu.wse import trees
from emu.wse.fabric import ops
from emu.wse.fabric.layout.code import Code, code
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
    _check("gather", line, dst, x)
    laid = turned(trees.star(line.pes), prefix)
    laid.lay(line)
    n, color = x.elements, laid.color[-1]
    first = [copy(dst[:n], x)]
    first += [
        copy(dst[i * n : (i + 1) * n], receive(color, n)) for i in range(1, line.pes)
    ]
    sends = copy(send(color, n), x)
    return code(
        line.program,
        [
            (line.at(0), first),
            (line.at(range(1, line.pes - 1)), [sends, Control(color, ops.OWN)]),
            (line.at(line.pes - 1), [sends]),
        ],
    )


def scatter(line: Line, dst: Memory, x: Buffer, color: str) -> Code:
    """PE i gets in `dst` block i of the first PE's `x`; the nearest one's leaves first.

    Behind each block a control wavelet turns its receiver's router, to pass on what follows.

    Args:
      line: of PEs; all hold `dst`, the first one `x`.
      dst: a PE's block.
      x: one block for each PE.
      color: name of the color, for this scatter alone.
    """
    _check("scatter", line, x, dst)
    n = dst.elements
    last = line.pes - 1
    near = line.near
    far = line.far
    first: list[ops.Op] = [copy(dst, x[:n])]
    for i in range(1, line.pes):
        first.append(copy(send(color, n), x[i * n : (i + 1) * n]))
        if i < last:
            first.append(Control(color, ops.ALL))
    program = line.program
    program.route(color, line.at(0), receive="ramp", send=far)
    if last > 1:
        program.route(
            color,
            line.at(range(1, last)),
            receive=near,
            send="ramp",
            then=[(near, far)],
        )
    program.route(color, line.at(last), receive=near, send="ramp")
    takes = [copy(dst, receive(color, n))]
    return code(program, [(line.at(0), first), (line.at(range(1, line.pes)), takes)])


def _check(name: str, line: Line, many: Buffer, one: Memory) -> None:
    if many.elements != line.pes * one.elements or line.pes < 2:
        raise LimitExceeded(
            f"{name}: blocks of {one.elements} elements on {line.pes} PEs and '{many.name}' of "
            f"{many.elements}, must be {line.pes * one.elements}, and 2 PEs or more"
        )


__all__ = ["gather", "scatter"]
