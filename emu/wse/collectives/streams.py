"""Colors and routes for the streams of a reduce tree: turned as it goes on, or fixed.

A stream leaves a PE, passes the routers between and ends at its parent. Streams of one color must
not need a router both ways at once. *Turned* routes make do with two colors a direction, the parity
of the sender's depth: behind its data a PE sends a control wavelet that turns its own router, to
pass on what comes from farther out, or its parent's, to take the stream from the other side or, as
it has taken its last one, to pass on too. *Fixed* routes give streams
that meet at a router different colors, as few as there are, and need no control.
"""

import dataclasses

from emu.errors import LimitExceeded
from emu.wse import ops
from emu.wse.collectives.line import Line
from emu.wse.program import POSITIONS
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
    """Two colors; two for each direction where streams of one color would pass a router both ways.

    Raises:
      LimitExceeded: a PE adds a farther stream before a nearer one of the same side.
    """
    _check_order(tree)
    made = _turned(tree, prefix, split=False)
    several = any(len(ways) > POSITIONS or _both(ways) for ways in made.routes.values())
    return _turned(tree, prefix, split=True) if several else made


def _both(ways: Ways) -> bool:
    return {("far", "near"), ("near", "far")} <= set(ways)


def _turned(tree: Tree, prefix: str, split: bool) -> Streams:
    depth = _depths(tree)
    color = [""] * tree.pes
    own: dict[tuple[str, int], list[tuple[str, str]]] = {}
    passed: dict[tuple[str, int], set[tuple[str, str]]] = {}
    turn = [ops.LOCAL] * tree.pes
    for i in tree.order[1:]:
        _, on = _sides(tree, i)
        color[i] = f"{prefix}{depth[i] % 2}" + (on[0] if split else "")
        own.setdefault((color[i], i), []).append(("ramp", on))
        for j in _between(tree, i):
            passed.setdefault((color[i], j), set()).add(_sides(tree, i))
    for i, children in enumerate(tree.children):
        for c, following in zip(children, (*children[1:], None), strict=False):
            ends = (_sides(tree, c)[0], "ramp")
            at = own.setdefault((color[c], i), [])
            if at[-1:] != [ends]:
                at.append(ends)
            turn[c] = _reach(color, passed, c, following, i, tree)
    routes = {key: (*own.get(key, ()), *sorted(passed.get(key, ()))) for key in {*own, *passed}}
    return Streams(tuple(color), tuple(turn), routes)


def _reach(
    color: list[str], passed: dict, sender: int, following: int | None, parent: int, tree: Tree
) -> int:
    """Whose routers a PE's control wavelet turns: all that take part, its own, or none."""
    if following is None:
        last = (color[sender], parent) in passed
    else:
        alike = color[following] == color[sender]
        last = alike and _sides(tree, following) != _sides(tree, sender)
    if last:
        return ops.ALL
    return ops.OWN if (color[sender], sender) in passed else ops.LOCAL


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
