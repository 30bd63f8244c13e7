"""A function as a PE's instructions: lowered onto tiles, and issued."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from emu.annotations import KnownInt
from emu.datasheet import Device
from emu.lower import CannotLower, Elementwise
from emu.wse.lower.building import Builder
from emu.wse.lower.nodes import Argument, Data, Leaf, Node, Several, Table, Tiles, Value
from emu.wse.lower.placement import Placement, Step, in_order, ordered, sharing
from emu.wse.pe import elementwise
from emu.wse.pe.isa import sram_tile
from emu.wse.spaces import Sram


@dataclasses.dataclass(frozen=True, eq=False)
class Lowered:
    """A function as it is carried out on a PE.

    Attributes:
      function: that was lowered.
      leaves: what is kept and what arrives, by key.
      steps: instructions, in order.
      result: the function's value.
      cycles: of all steps on full tiles, as estimated when they were placed.
    """

    function: Elementwise
    leaves: Mapping[str, Leaf]
    steps: tuple[Step, ...]
    result: Value
    cycles: float

    @property
    def is_identity(self) -> bool:
        """Whether the function gives the tile itself."""
        return isinstance(self.result, Data)

    @property
    def has_scalar_code(self) -> bool:
        return any(not step.vector for step in self.steps)

    @property
    def data(self) -> frozenset[str]:
        """Names of the `DATA` arguments that are read."""
        values = [self.result, *(x for step in self.steps for x in step.node.operands)]
        return frozenset(x.name for x in values if isinstance(x, Data))

    def run(
        self,
        data: Tiles,
        leaves: Tiles,
        live: KnownInt,
        overwrite: bool = True,
    ) -> Sram:
        """The function's value for the first `live` slots of every row.

        Args:
          data: its `DATA` arguments by name, float32 `[rows or 1, slots or 1]`.
          leaves: the tiles of all leaves, by key.
          live: known number of slots in use.
          overwrite: whether results may go into the tiles of `data`.

        Returns:
          `[rows or 1, slots or 1]`: float32 or an int16 mask, or a tile of `data` itself.
        """
        held: dict[Value, Sram] = {}

        def value_of(value: Value) -> Sram:
            if isinstance(value, Leaf):
                return leaves[value.key]
            if isinstance(value, Data):
                return data[value.name]
            return held[value]

        for step in self.steps:
            node = step.node
            operands = [value_of(x) for x in node.operands]
            kept = isinstance(step.into, Data) and not overwrite
            if step.into is not None and not kept:
                dst = value_of(step.into)
            else:
                dst = sram_tile(shape=_shape(node, operands), dtype=node.held.name)
            count = live if node.shape[1] else jnp.int32(1)
            held[node] = _issued(step, dst, operands, count)
        return value_of(self.result)


def _shape(node: Node, operands: Sequence[Sram]) -> tuple[int, int]:
    """Of a tile for a node's result."""
    rows, slots = [], []
    for value, tile in zip(node.operands, operands, strict=True):
        if tile.ndim == 2:
            entries = value.entries if isinstance(value, Leaf) else 1
            rows.append(tile.shape[0] // entries)
            slots.append(tile.shape[1])
    return max(rows), max(slots)


def _issued(step: Step, dst: Sram, operands: Sequence[Sram], live: KnownInt) -> Sram:
    """The instruction of a step."""
    node = step.node
    # Which takes how many operands only the step knows.
    call: Any
    of_one = len(operands) == 1
    if node.moves_rows:
        table, place = operands
        (of, _) = node.operands
        assert isinstance(of, Leaf)
        return elementwise.row_live(dst, table, place, live, entries=of.entries)
    if step.vector:
        if node.op == "select":
            call = elementwise.select_live
            return call(dst, *operands, live)
        call = elementwise.vector_of_one_live if of_one else elementwise.vector_live
        return call(dst, *operands, live, op=node.op)
    settings: dict[str, Any] = {"opens": step.opens}
    if node.op == "lookup":
        call = elementwise.lookup_live
        return call(dst, *operands, live, **settings)
    settings["arithmetic"] = node.arithmetic.name
    if node.op == "select":
        call = elementwise.scalar_select_live
        return call(dst, *operands, live, **settings)
    settings["op"] = node.op
    call = elementwise.scalar_of_one_live if of_one else elementwise.scalar_of_two_live
    return call(dst, *operands, live, **settings)


def lower(
    function: Elementwise,
    arguments: Mapping[str, Argument],
    *,
    rows: int,
    slots: int,
    device: Device,
    prefix: str = "",
) -> Lowered:
    """Lowers a scalar function onto tiles of a PE.

    Args:
      function: of named arguments.
      arguments: how each lies on a PE.
      rows, slots: of the tile, by which vector operations and scalar code are compared.
      device: on which they are.
      prefix: of the keys of what it keeps, where several functions share a PE.

    Raises:
      CannotLower: an operation that a PE has not, with the user's line.
    """
    builder = Builder(function, arguments, prefix, rows)
    result = builder.value(function.result)
    if isinstance(result, Several | Table):
        raise CannotLower(f"{function.name}: gives more than one value")
    nodes = ordered(result)
    steps: list[Step] = []
    cycles = 0.0
    # What is the same for all rows first: everything else may need it.
    for shape in dict.fromkeys(sorted(node.shape for node in nodes)):
        own = [node for node in nodes if node.shape == shape]
        elements = (rows if shape[0] else 1) * (slots if shape[1] else 1)
        placement = Placement(own, elements, device)
        scalar, of_shape = placement.best()
        cycles += of_shape
        steps += in_order(own, scalar, placement.loops(scalar))
    used = {leaf.key: leaf for leaf in _leaves_of(nodes, result)}
    shared = tuple(sharing(steps, result))
    return Lowered(function, used, shared, result, cycles)


def _leaves_of(nodes: Iterable[Node], result: Value) -> Iterable[Leaf]:
    for node in nodes:
        for operand in node.operands:
            if isinstance(operand, Leaf):
                yield operand
    if isinstance(result, Leaf):
        yield result


__all__ = ["Lowered", "lower"]
