"""Sums along a line of PEs by any tree: what each PE adds, in which order, where it sends it."""

from emu import given
from emu.wse.fabric import ops
from emu.wse.fabric.layout import streams
from emu.wse.fabric.layout.code import Code, on_line
from emu.wse.fabric.layout.line import Line
from emu.wse.fabric.layout.streams import Streams
from emu.wse.fabric.ops import (
    Control,
    Fabric,
    Memory,
    Switch,
    Vector,
    copy,
    receive,
    send,
)
from emu.wse.trees.tree import Tree

TURNED = "turned"
FIXED = "fixed"
ROUTES = (TURNED, FIXED)


def reduce(
    line: Line,
    x: Memory,
    tree: Tree,
    prefix: str,
    *,
    routes: str = TURNED,
    op: str = "add",
) -> Code:
    """The root's `x` becomes the sum of all; that of a PE with several children a partial sum.

    Each PE adds the streams of all its children but the last into its memory and streams the last
    one through: `fabric in + x -> fabric out`. One that stores adds all of them, then sends.

    Args:
      line: of PEs; all hold `x`.
      x: what each PE adds.
      tree: over the places of the line.
      prefix: of the names of its colors, for this reduce alone.
      routes: `"turned"` by control wavelets, two colors a direction; such a reduce runs once
        unless `rearm` follows it. `"fixed"` takes as many colors as streams meet at a router.
      op: `"add"` or `"max"`.

    Raises:
      LimitExceeded: the tree is of another size, `routes` is none of these, or turned routes
        cannot serve the tree.
    """
    laid = _streams(line, tree, prefix, routes)
    laid.lay(line)
    operations = {}
    for place in range(line.pes):
        operations[place] = _operations(place, x, tree, laid, op)
    return on_line(line, operations)


def _streams(line: Line, tree: Tree, prefix: str, routes: str) -> Streams:
    if not isinstance(tree, Tree):
        given.refuse(
            f"reduce: tree is {given.told(tree)}, must be one of trees, such as chain"
        )
    if tree.pes != line.pes:
        given.refuse(
            f"reduce: a tree of {tree.pes} PEs on a line of {line.pes}; build it for {line.pes}"
        )
    given.one_of("reduce: routes", routes, ROUTES)
    if routes == FIXED:
        return streams.fixed(tree.parent, prefix)
    return streams.turned(tree, prefix)


def _operations(
    place: int,
    x: Memory,
    tree: Tree,
    laid: Streams,
    op: str,
) -> list[ops.Op]:
    """What the PE at a place does."""
    is_root = place == tree.root
    outward = x if is_root else send(laid.color[place], x.elements)
    operations: list[ops.Op] = []

    def add_stream(child: int, dst: Memory | Fabric) -> None:
        stream = receive(laid.color[child], x.elements)
        operations.append(Vector(op, dst, stream, x))

    for child in tree.into_memory[place]:
        add_stream(child, x)
    for child in tree.streamed[place]:
        add_stream(child, outward)
    sends_from_memory = not tree.streamed[place] and not is_root
    if sends_from_memory:
        operations.append(copy(outward, x))
    turn = laid.turn[place]
    if turn != ops.DATA:
        operations.append(Control(laid.color[place], turn))
    return operations


def rearm(line: Line, tree: Tree, prefix: str) -> Code:
    """Turns the routers of a reduce by turned routes back, so that it can be done again.

    It must follow something that reaches a PE only after all streams have passed it, such as the
    multicast of the result.
    """
    laid = _streams(line, tree, prefix, TURNED)
    switches: dict[int, list[ops.Op]] = {}
    for (color, place), ways in sorted(laid.routes.items()):
        if len(ways) > 1:
            switches.setdefault(place, []).append(Switch(color, 0))
    return on_line(line, switches)


__all__ = ["reduce", "rearm"]
