"""Colors and routes for streams along a line: turned as a reduce goes on, or fixed.

A stream leaves a PE, passes the routers between and ends at its receiver. Streams of one color must
not need a router both ways at once. *Turned* routes make do with two colors a direction: behind its
data a PE sends a control wavelet that turns its own router, to pass on what comes from farther out,
or its receiver's, to take the stream from the other side or, as it has taken its last one, to pass
on too. *Fixed* routes give streams that meet at a router different colors, as few as there are, and
need no control.

A star of four PEs. Turned, all three streams share one color; fixed, all meet at PE 0's router and
on the way, and take three:

    turned   PE 1: ramp -> near, then far -> near; behind its data it turns its own router
             PE 2: the same; its data pass PE 1's router, which is turned by now
             PE 3: ramp -> near
    fixed    PE 1 on color 0; PE 2 on color 1, which PE 1's router passes; PE 3 on color 2
"""

import dataclasses
import itertools
from collections.abc import Sequence

from emu.errors import LimitExceeded
from emu.wse.fabric import ops
from emu.wse.fabric.layout.line import Line
from emu.wse.fabric.program import FREE, POSITIONS
from emu.wse.trees.tree import NO_PARENT, Tree

NEAR = "near"  # the side of a router on which the lower places of the line are
FAR = "far"
RAMP = "ramp"
OPPOSITE = {NEAR: FAR, FAR: NEAR}

Way = tuple[str, str]
"""A router's (receive, send): `(FAR, NEAR)` passes on what goes to a lower place."""

Ways = tuple[Way, ...]
"""One for each position of a router's switch."""

INWARD = (FAR, NEAR)
OUTWARD = (NEAR, FAR)


@dataclasses.dataclass(frozen=True)
class Streams:
    """How the streams along a line travel.

    Attributes:
      color: per place, the color it sends on; empty for one that does not send.
      turn: per place, the reach of the control wavelet it sends behind its data; `DATA` is none.
      routes: (color, place) to the positions of the router's switch.
    """

    color: tuple[str, ...]
    turn: tuple[int, ...]
    routes: dict[tuple[str, int], Ways]

    def lay(self, line: Line) -> None:
        """Declares the routes on every line of a rectangle."""
        side = {NEAR: line.near, FAR: line.far, RAMP: RAMP}
        places_of: dict[tuple[str, Ways], list[int]] = {}
        for (color, place), ways in self.routes.items():
            places_of.setdefault((color, ways), []).append(place)
        for (color, ways), places in sorted(places_of.items()):
            line.program.color(color, FREE, FREE)
            sides = [(side[receive], side[send]) for receive, send in ways]
            (receive, send), *then = sides
            where = line.at(places)
            line.program.route(color, where, receive=receive, send=send, then=then)


def _through(sender: int, receiver: int) -> Way:
    """How the routers between pass on a stream."""
    return INWARD if receiver < sender else OUTWARD


def _between(sender: int, receiver: int) -> range:
    low, high = sorted((sender, receiver))
    return range(low + 1, high)


# --- fixed ---


def fixed(receivers: Sequence[int], prefix: str) -> Streams:
    """As many colors as streams meet at one router, and no control wavelets.

    Streams are taken from the near end on; each gets the first color whose last stream has ended
    before it begins, ends included.

    Args:
      receivers: per place, the one it sends to, or `NO_PARENT`; a tree's parents, or a ring's next
        places.
      prefix: of the colors' names.
    """
    color = [""] * len(receivers)
    routes: dict[tuple[str, int], Ways] = {}
    ends: list[int] = []  # per color, the last place that its streams have reached
    extents: list[tuple[int, int, int]] = []
    for sender, receiver in enumerate(receivers):
        if receiver != NO_PARENT:
            begin, end = sorted((sender, receiver))
            extents.append((begin, end, sender))
    for begin, end, sender in sorted(extents):
        # Not `<=`: streams 2 -> 1 and 1 -> 0 meet at PE 1's router, which sends the one into its
        # ramp and takes the other from it, two routes of one color.
        free = [number for number, last in enumerate(ends) if last < begin]
        if free:
            number = free[0]
            ends[number] = end
        else:
            # Every color so far reaches `begin`, where all these streams meet: with fewer colors it
            # cannot be done.
            number = len(ends)
            ends.append(end)
        name = f"{prefix}{number}"
        color[sender] = name
        receiver = receivers[sender]
        receive, send = _through(sender, receiver)
        for place in _between(sender, receiver):
            routes[name, place] = ((receive, send),)
        routes[name, sender] = ((RAMP, send),)
        routes[name, receiver] = ((receive, RAMP),)
    return Streams(tuple(color), (ops.DATA,) * len(receivers), routes)


# --- turned ---


def turned(tree: Tree, prefix: str) -> Streams:
    """One color for all streams that a PE adds: two in all, or three where roots are inside.

    Raises:
      LimitExceeded: a PE adds a farther stream before a nearer one of the same side, or a router
        would have to turn more often than a switch can.
    """
    _check_order(tree)
    name_of_adder = [f"{prefix}{number}" for number in _color_of_adder(tree)]
    passed = _passed(tree, name_of_adder)
    color = [""] * tree.pes
    routes: dict[tuple[str, int], Ways] = {}
    turn = [ops.DATA] * tree.pes
    for adder, children in enumerate(tree.children):
        if not children:
            continue
        name = name_of_adder[adder]
        # In the order in which they are added, which is that in which the router has to turn.
        takes: list[Way] = []
        for child in children:
            receive, _ = _through(child, adder)
            takes.append((receive, RAMP))
        passes_on = passed.get((name, adder), ())
        routes[name, adder] = (*_without_repeats(takes), *passes_on)
        for nth, child in enumerate(children):
            color[child] = name
            child_passes_on = passed.get((name, child), ())
            _, send = _through(child, adder)
            routes[name, child] = ((RAMP, send), *child_passes_on)
            # Behind its last stream the adder's router turns to what it passes on, if anything;
            # before that, to the next stream if that comes from its other side.
            is_last = nth + 1 == len(children)
            adder_turns = bool(passes_on) if is_last else takes[nth + 1] != takes[nth]
            if adder_turns:
                turn[child] = ops.ALL
            elif child_passes_on:
                turn[child] = ops.OWN
    for at, ways in passed.items():
        routes.setdefault(
            at, ways
        )  # of routers whose PEs neither send nor add on the color
    _check_switches(routes)
    return Streams(tuple(color), tuple(turn), routes)


def _without_repeats(ways: Sequence[Way]) -> list[Way]:
    """A switch turns only where the next stream comes from another side."""
    return [way for way, _ in itertools.groupby(ways)]


def _color_of_adder(tree: Tree) -> list[int]:
    """For each PE the color of what it adds.

    It differs from that on which it sends, and from those of the PEs that its own stream passes
    and that it still waits for.
    """
    apart: list[set[int]] = [set() for _ in range(tree.pes)]
    # What is below a PE in the tree is added before the PE's own stream ends.
    number, size = _numbered(tree)
    for pe in tree.order[1:]:
        parent = tree.parent[pe]
        differs_from = {pe}
        for passed in _between(pe, parent):
            waits_for = 0 < number[passed] - number[pe] < size[pe]
            if waits_for:
                differs_from |= {passed, tree.parent[passed]}
        for other in differs_from:
            apart[parent].add(other)
            apart[other].add(parent)
    color = [-1] * tree.pes
    for pe in tree.order:
        # Those that have no color yet are -1, which takes none.
        taken = {color[other] for other in apart[pe]}
        color[pe] = _first_free(taken)
    return color


def _first_free(taken: set[int]) -> int:
    number = 0
    while number in taken:
        number += 1
    return number


def _numbered(tree: Tree) -> tuple[list[int], list[int]]:
    """Numbers in which a PE's subtree follows it, and the sizes of the subtrees.

    `b` is below `a` if `0 < number[b] - number[a] < size[a]`.
    """
    size = [1] * tree.pes
    number = [0] * tree.pes
    # Children come after their parents in `order`, so backwards every subtree is complete.
    for pe in reversed(tree.order):
        size[pe] += sum(size[child] for child in tree.children[pe])
    for pe in tree.order:
        following = number[pe] + 1
        for child in tree.children[pe]:
            number[child] = following
            following += size[child]
    return number, size


def _passed(tree: Tree, color: Sequence[str]) -> dict[tuple[str, int], Ways]:
    """(color, place) to the ways in which streams pass a router.

    `color` of what each PE adds.
    """
    ways: dict[tuple[str, int], set[Way]] = {}
    for sender in tree.order[1:]:
        adder = tree.parent[sender]
        through = _through(sender, adder)
        for place in _between(sender, adder):
            ways.setdefault((color[adder], place), set()).add(through)
    return {at: tuple(sorted(some)) for at, some in ways.items()}


def _check_order(tree: Tree) -> None:
    for adder, children in enumerate(tree.children):
        near = [adder - child for child in children if child < adder]
        far = [child - adder for child in children if child > adder]
        if near != sorted(near) or far != sorted(far):
            raise LimitExceeded(
                f"reduce: PE {adder} adds the streams of {children}, a farther one before a nearer "
                "one of the same side, whose routers cannot turn back; add the nearer one first "
                "or use fixed routes"
            )


def _check_switches(routes: dict[tuple[str, int], Ways]) -> None:
    for (_, place), ways in routes.items():
        if len(ways) > POSITIONS or {INWARD, OUTWARD} <= set(ways):
            raise LimitExceeded(
                f"reduce: the router of PE {place} would have to turn through "
                f"{ways}, a switch has 4 positions; use fixed routes"
            )


__all__ = ["Streams", "fixed", "turned"]
