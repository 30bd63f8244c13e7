"""Colors and routes for the streams of a reduce tree: turned as it goes on, or fixed.

A stream leaves a PE, passes the routers between and ends at its parent. Streams of one color must
not need a router both ways at once. *Turned* routes make do with two colors a direction, the parity
of the sender's depth: behind its data a PE sends a control wavelet that turns its own router, to
pass on what comes from farther out, or its parent's, to take the stream from the other side or, as
it has taken its last one, to pass on too. *Fixed* routes give streams
that meet at a router different colors, as few as there are, and need no control.
"""

import dataclasses
from collections.abc import Sequence

from emu.errors import LimitExceeded
from emu.wse.fabric import ops
from emu.wse.fabric.layout.line import Line
from emu.wse.fabric.program import POSITIONS
from emu.wse.trees import Tree

Ways = tuple[tuple[str, str], ...]  # (receive, send) of each switch position


@dataclasses.dataclass(frozen=True)
class Streams:
    """How a tree's streams travel.

    Attributes:
      color: per place, the color it sends on; empty for the root.
      turn: per place, whose routers the control wavelet behind its data turns; `DATA` is none.
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


def turned(tree: Tree, prefix: str) -> Streams:
    """One color for all streams that a PE adds: two in all, or three where roots are inside.

    Raises:
      LimitExceeded: a PE adds a farther stream before a nearer one of the same side, or a router
        would have to turn more often than a switch can.
    """
    _check_order(tree)
    color, passed = _adders(tree), _passed(tree)
    name = tuple("" if p < 0 else f"{prefix}{color[p]}" for p in tree.parent)
    routes: dict[tuple[str, int], Ways] = {}
    turn = [ops.DATA] * tree.pes
    for i, children in enumerate(tree.children):
        ends = [(_sides(tree, c)[0], "ramp") for c in children]
        changes = tuple(e for n, e in enumerate(ends) if ends[n - 1 : n] != [e])
        passing = [passed.get((color[i], at), ()) for at in (i, *children)]
        if children:
            routes[f"{prefix}{color[i]}", i] = (*changes, *passing[0])
        for n, c in enumerate(children):
            routes[name[c], c] = (("ramp", _sides(tree, c)[1]), *passing[1 + n])
            others = ends[n + 1] != ends[n] if n + 1 < len(ends) else bool(passing[0])
            turn[c] = ops.ALL if others else ops.OWN if passing[1 + n] else ops.DATA
    for (k, place), ways in passed.items():
        routes.setdefault((f"{prefix}{k}", place), ways)
    for (_, place), ways in routes.items():
        if len(ways) > POSITIONS or {("far", "near"), ("near", "far")} <= set(ways):
            raise LimitExceeded(
                f"reduce: the router of PE {place} would have to turn through "
                f"{ways}, a switch has 4 positions; use fixed routes"
            )
    return Streams(name, tuple(turn), routes)


def _adders(tree: Tree) -> list[int]:
    """For each PE the color of what it adds.

    It differs from that on which it sends, and from those of the PEs that its own stream passes
    and that it still waits for.
    """
    apart: list[set[int]] = [set() for _ in range(tree.pes)]
    number, size = _numbered(tree)
    for i in tree.order[1:]:
        parent = tree.parent[i]
        own = [j for j in _between(tree, i) if 0 < number[j] - number[i] < size[i]]
        for j in {i, *own, *(tree.parent[j] for j in own)}:
            apart[parent].add(j)
            apart[j].add(parent)
    color = [-1] * tree.pes
    for i in tree.order:
        color[i] = next(
            k for k in range(tree.pes) if k not in {color[j] for j in apart[i]}
        )
    return color


def _numbered(tree: Tree) -> tuple[list[int], list[int]]:
    """Numbers in which a PE's subtree follows it, and the sizes of the subtrees."""
    size, number = [1] * tree.pes, [0] * tree.pes
    for i in reversed(tree.order):
        size[i] += sum(size[c] for c in tree.children[i])
    for i in tree.order:
        following = number[i] + 1
        for c in tree.children[i]:
            number[c], following = following, following + size[c]
    return number, size


def _passed(tree: Tree) -> dict[tuple[int, int], Ways]:
    """(color, place) to the ways in which streams pass a router."""
    color = _adders(tree)
    ways: dict[tuple[int, int], set[tuple[str, str]]] = {}
    for i in tree.order[1:]:
        for j in _between(tree, i):
            ways.setdefault((color[tree.parent[i]], j), set()).add(_sides(tree, i))
    return {key: tuple(sorted(some)) for key, some in ways.items()}


def _check_order(tree: Tree) -> None:
    for i, own in enumerate(tree.children):
        for side in ([i - c for c in own if c < i], [c - i for c in own if c > i]):
            if side != sorted(side):
                raise LimitExceeded(
                    f"reduce: PE {i} adds the streams of {own}, a farther one before a nearer one "
                    "of the same side, whose routers cannot turn back; add the nearer one first "
                    "or use fixed routes"
                )


def fixed(receivers: Sequence[int], prefix: str) -> Streams:
    """As many colors as streams meet at one router, and no control wavelets.

    Args:
      receivers: per place, the one it sends to, or -1; a tree's parents, or a ring's next places.
      prefix: of the colors' names.
    """
    color = [""] * len(receivers)
    routes: dict[tuple[str, int], Ways] = {}
    until: list[
        int
    ] = []  # per color, the last place that its streams have reached so far
    reach = [(*sorted((i, to)), i) for i, to in enumerate(receivers) if to >= 0]
    for begin, end, i in sorted(reach):
        k = next((k for k, last in enumerate(until) if last < begin), len(until))
        until[k : k + 1] = [end]
        color[i] = f"{prefix}{k}"
        back, on = ("far", "near") if receivers[i] < i else ("near", "far")
        routes |= {(color[i], j): ((back, on),) for j in range(begin + 1, end)}
        routes[color[i], i] = (("ramp", on),)
        routes[color[i], receivers[i]] = ((back, "ramp"),)
    return Streams(tuple(color), (ops.DATA,) * len(receivers), routes)


__all__ = ["Streams", "fixed", "turned"]
