"""Colors and routes for the streams of a reduce tree: turned as it goes on, or fixed.

A stream leaves a PE, passes the routers between and ends at its parent. Streams of one color must
not need a router both ways at once. *Turned* routes make do with two colors a direction, the parity
of the parent's depth: a router that has sent its own stream, or taken its last one, is turned by a
control wavelet behind the data to pass on what comes from farther out. *Fixed* routes give streams
that meet at a router different colors, as few as there are, and need no control.
"""

import dataclasses

from emu.errors import LimitExceeded
from emu.wse import ops
from emu.wse.collectives.line import Line
from emu.wse.trees import Tree

Ways = tuple[tuple[str, str], ...]  # (receive, send) of each switch position


@dataclasses.dataclass(frozen=True)
class Streams:
    """How a tree's streams travel.

    Attributes:
      color: per place, the color it sends on; empty for the root.
      turn: per place, the reach of the control wavelet it sends behind its data; LOCAL is none.
      routes: (color, place) to the positions of the router's switch.
    """

    color: tuple[str, ...]
    turn: tuple[int, ...]
    routes: dict[tuple[str, int], Ways]

    def lay(self, line: Line) -> None:
        """Declares the routes on every line of a rectangle."""
        alike: dict[tuple[str, Ways], list[int]] = {}
        for (color, place), ways in self.routes.items():
            alike.setdefault((color, ways), []).append(place)
        for (color, ways), places in sorted(alike.items()):
            (rx, tx), *then = ((_side(line, a), _side(line, b)) for a, b in ways)
            line.program.route(color, line.at(places), receive=rx, send=tx, then=then)


def _side(line: Line, name: str) -> str:
    return {"near": line.near, "far": line.far}.get(name, name)


def _sides(tree: Tree, sender: int) -> tuple[str, str]:
    """Where a PE's stream comes from and goes to, as the routers on its way see it."""
    return ("far", "near") if tree.parent[sender] < sender else ("near", "far")


def _between(tree: Tree, sender: int) -> range:
    a, b = sorted((sender, tree.parent[sender]))
    return range(a + 1, b)


def _depths(tree: Tree) -> list[int]:
    depth = [0] * tree.pes
    for i in tree.order[1:]:
        depth[i] = depth[tree.parent[i]] + 1
    return depth


def turned(tree: Tree, prefix: str) -> Streams:
    """Two colors for each direction in which streams go.

    Raises:
      LimitExceeded: a PE adds a farther stream before a nearer one of the same side.
    """
    _check_order(tree)
    depth = _depths(tree)
    color = [""] * tree.pes
    routes: dict[tuple[str, int], Ways] = {}
    passed = set()
    for i in tree.order[1:]:
        back, on = _sides(tree, i)
        color[i] = f"{prefix}{on[0]}{depth[i] % 2}"
        routes[color[i], i] = (("ramp", on),)
        routes[color[i], tree.parent[i]] = ((back, "ramp"),)
        passed |= {(color[i], j) for j in _between(tree, i)}
    turn = [ops.LOCAL] * tree.pes
    for i in tree.order[1:]:
        at, parent = (color[i], i), (color[i], tree.parent[i])
        last = [c for c in tree.children[parent[1]] if color[c] == color[i]][-1] == i
        if last and parent in passed:
            turn[i] = ops.ALL
        elif at in passed:
            turn[i] = ops.OWN
    for color_, place in passed:
        way = ("far", "near") if color_[-2] == "n" else ("near", "far")
        routes[color_, place] = (*routes.get((color_, place), ()), way)
    return Streams(tuple(color), tuple(turn), routes)


def _check_order(tree: Tree) -> None:
    for i, own in enumerate(tree.children):
        for side in ([i - c for c in own if c < i], [c - i for c in own if c > i]):
            if side != sorted(side):
                raise LimitExceeded(
                    f"reduce: PE {i} adds the streams of {own}, a farther one before a nearer one "
                    "of the same side, whose routers cannot turn back; add the nearer one first "
                    "or use fixed routes"
                )


def fixed(tree: Tree, prefix: str) -> Streams:
    """As many colors as streams meet at one router, and no control wavelets."""
    color = [""] * tree.pes
    routes: dict[tuple[str, int], Ways] = {}
    until: list[int] = []  # per color, the last place that its streams have reached so far
    reach = {i: sorted((i, tree.parent[i])) for i in tree.order[1:]}
    for i, (begin, end) in sorted(reach.items(), key=lambda item: (item[1], item[0])):
        free = [k for k, last in enumerate(until) if last < begin]
        k = free[0] if free else len(until)
        until[k:k + 1] = [end]  # fmt: skip
        back, on = _sides(tree, i)
        color[i] = f"{prefix}{k}"
        routes[color[i], i] = (("ramp", on),)
        routes[color[i], tree.parent[i]] = ((back, "ramp"),)
        routes |= {(color[i], j): ((back, on),) for j in _between(tree, i)}
    return Streams(tuple(color), (ops.LOCAL,) * tree.pes, routes)


__all__ = ["Streams", "fixed", "turned"]
