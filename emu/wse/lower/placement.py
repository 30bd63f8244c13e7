"""Where each operation is carried out: vector operations or scalar code, by the clock."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from emu.datasheet import Device
from emu.wse.lower.nodes import Leaf, Node, Value
from emu.wse.pe import elementwise
from emu.wse.pe.elementwise import VECTOR_CYCLES


@dataclasses.dataclass(frozen=True)
class Step:
    """One instruction of the lowered function.

    Attributes:
      node: what it does.
      vector: whether as vector operations; else scalar code.
      opens: whether a loop begins with it.
      into: a value that nobody reads any more, in whose tile the result goes; None: a new tile.
    """

    node: Node
    vector: bool
    opens: bool = False
    into: Value | None = None


class Placement:
    """Vector operations or scalar code, for the operations of one shape.

    Scalar code runs in one loop as long as no vector operation stands between; so three ways are
    compared: each operation as a vector operation if it can be one; those between scalar code in
    its loop too; everything in one loop.
    """

    def __init__(self, nodes: Sequence[Node], elements: int, device: Device):
        self._nodes = nodes
        self._elements = elements
        self._device = device

    def best(self) -> tuple[set[Node], float]:
        """The operations that are scalar code, and the cycles of all."""
        must = {node for node in self._nodes if not node.is_vector}
        ways = [must, {node for node in self._nodes if not node.moves_rows}]
        # In a loop an element takes less than a vector operation only where there are few, and all
        # of them are best in the loop then.
        if self._elements * self._device.scalar_cycles >= self._device.single_cycles:
            ways.append(must | self._between(must))
        costs = [self.cycles(way) for way in ways]
        cheapest = min(range(len(ways)), key=costs.__getitem__)
        return ways[cheapest], costs[cheapest]

    def _between(self, scalar: set[Node]) -> set[Node]:
        """Vector operations that need scalar code and that scalar code needs."""
        after: set[Node] = set()
        for node in self._nodes:
            if any(x in scalar or x in after for x in node.operands):
                after.add(node)
        before: set[Node] = set()
        for node in reversed(self._nodes):
            if node in scalar or node in before:
                before.update(x for x in node.operands if isinstance(x, Node))
        return {
            node
            for node in self._nodes
            if node in after and node in before and not node.moves_rows
        }

    def cycles(self, scalar: set[Node]) -> float:
        total = 0.0
        for node in self._nodes:
            if node in scalar:
                held = [x.held for x in (node, *node.operands)]
                if node.op == "lookup":
                    held = [node.operands[1].held]
                each = elementwise.scalar_cycles(
                    self._device, node.op, node.arithmetic, *held
                )
                total += each * self._elements
            else:
                total += float(VECTOR_CYCLES[node.op](self._device, self._elements))
        loops = max(self.loops(scalar).values(), default=0) if scalar else 0
        return total + loops * self._elements * self._device.loop_cycles

    def loops(self, scalar: set[Node]) -> dict[Node, int]:
        """The loop in which each operation runs, or behind which; before all of them it is 0."""
        number: dict[Node, int] = {}
        for node in self._nodes:
            found = 1 if node in scalar else 0
            for operand in node.operands:
                if not isinstance(operand, Node) or operand not in number:
                    continue
                # What waits for a vector operation behind a loop is in the next one.
                waits = node in scalar and operand not in scalar
                found = max(found, number[operand] + waits)
            number[node] = found
        return number


def ordered(result: Value) -> list[Node]:
    """All nodes that a value needs, operands first."""
    found: dict[Node, None] = {}

    def visit(value: Value) -> None:
        if not isinstance(value, Node) or value in found:
            return
        for operand in value.operands:
            visit(operand)
        found[value] = None

    visit(result)
    return list(found)


def in_order(
    nodes: Sequence[Node], scalar: set[Node], loops: Mapping[Node, int]
) -> list[Step]:
    """Loops in turn, each followed by the vector operations that wait for it."""
    order = sorted(nodes, key=lambda node: (loops[node], node not in scalar))
    opened: set[int] = set()
    steps = []
    for node in order:
        is_scalar = node in scalar
        opens = is_scalar and loops[node] not in opened
        if opens:
            opened.add(loops[node])
        steps.append(Step(node, not is_scalar, opens))
    return steps


def sharing(steps: Sequence[Step], result: Value) -> Iterable[Step]:
    """The steps, each in the tile of an operand that is read for the last time there."""
    last: dict[Value, int] = {}
    for place, step in enumerate(steps):
        for operand in step.node.operands:
            last[operand] = place
    for place, step in enumerate(steps):
        into = None
        for operand in step.node.operands:
            alike = operand.shape == step.node.shape and operand.held == step.node.held
            is_own = not isinstance(operand, Leaf) and operand is not result
            if alike and is_own and last[operand] == place:
                into = operand
                break
        yield dataclasses.replace(step, into=into)


__all__ = ["Placement", "Step", "in_order", "ordered", "sharing"]
