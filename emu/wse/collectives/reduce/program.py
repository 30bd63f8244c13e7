"""Sums along a line of PEs by any tree: what each PE adds, in which order, where it sends it."""

from emu.errors import LimitExceeded
from emu.wse.fabric import ops
from emu.wse.fabric.layout import streams
from emu.wse.fabric.layout.code import Code, code
from emu.wse.fabric.layout.line import Line
from emu.wse.fabric.layout.streams import Streams
from emu.wse.fabric.ops import Control, Memory, Vector, copy, receive, send
from emu.wse.trees import Tree

ROUTES = {
    "turned": streams.turned,
    "fixed": lambda tree, prefix: streams.fixed(tree.parent, prefix),
}


def reduce(
    line: Line,
    x: Memory,
    tree: Tree,
    prefix: str,
    *,
    routes: str = "turned",
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
    """
    laid = _streams(line, tree, prefix, routes)
    laid.lay(line)
    places: dict[tuple[ops.Op, ...], list[int]] = {}
    for i in range(line.pes):
        places.setdefault(tuple(_operations(i, x, tree, laid, op)), []).append(i)
    return code(line.program, [(line.at(at), made) for made, at in places.items()])


def _streams(line: Line, tree: Tree, prefix: str, routes: str) -> Streams:
    if tree.pes != line.pes:
        raise LimitExceeded(f"reduce: a tree of {tree.pes} PEs on a line of {line.pes}")
    if routes not in ROUTES:
        raise LimitExceeded(
            f"reduce: routes is {routes!r}, must be one of {', '.join(ROUTES)}"
        )
    return ROUTES[routes](tree, prefix)


def _operations(i: int, x: Memory, tree: Tree, laid: Streams, op: str) -> list[ops.Op]:
    """What the PE at place `i` does."""
    out: list[ops.Op] = []
    outward = send(laid.color[i], x.elements) if i != tree.root else x
    for children, dst in ((tree.aside[i], x), (tree.streamed[i], outward)):
        out += [
            Vector(op, dst, receive(laid.color[c], x.elements), x) for c in children
        ]
    if not tree.streamed[i] and i != tree.root:
        out.append(copy(outward, x))
    if laid.turn[i] != ops.DATA:
        out.append(Control(laid.color[i], laid.turn[i]))
    return out


def rearm(line: Line, tree: Tree, prefix: str) -> Code:
    """Turns the routers of a reduce by turned routes back, so that it can be done again.

    It must follow something that reaches a PE only after all streams have passed it, such as the
    broadcast of the result.
    """
    laid = _streams(line, tree, prefix, "turned")
    places: dict[int, list[ops.Op]] = {}
    for (color, place), ways in sorted(laid.routes.items()):
        if len(ways) > 1:
            places.setdefault(place, []).append(ops.Switch(color, 0))
    alike: dict[tuple[ops.Op, ...], list[int]] = {}
    for place, made in places.items():
        alike.setdefault(tuple(made), []).append(place)
    return code(line.program, [(line.at(at), made) for made, at in alike.items()])


__all__ = ["reduce", "rearm"]
