"""Look-ups in arrays that a function holds: one entry for each element of a tile."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from emu.lower import Constant, Operand, Operation, Slot
from emu.wse.lower.nodes import (
    ARRIVING,
    EXACT,
    FLOAT,
    KEPT,
    Bounds,
    Leaf,
    Node,
    Several,
    SlotTable,
    Table,
    Value,
)

if TYPE_CHECKING:
    from emu.wse.lower.building import Builder


def looked_up(build: "Builder", operation: Operation, operand: Slot) -> Value:
    """The node of a look-up, with its whole table as a leaf.

    Raises:
      CannotLower: it takes more than one entry, or of what is no constant table.
    """
    table, *rest = operation.operands
    array = build.value(table)
    sizes = operation.equation.params["slice_sizes"]
    if not isinstance(array, Table | Leaf) or set(sizes) != {1}:
        build.refuse(
            operand,
            f"{operation.name} takes more than one entry of a constant table; look one value "
            "up for each score",
        )
    constant = table if isinstance(table, Constant) else None
    if constant is None:
        build.refuse(operand, "looks up in what is no constant table")
    shape = np.shape(constant.value)
    indices, bounds = _indices(build, operation, rest)
    if operation.name == "gather":
        _check_gather(build, operation, operand, indices, bounds, shape)
    kept = np.asarray(constant.value)
    held = build.held(operand)
    by_slot = _by_slot(build, operand, constant, indices, held)
    if by_slot is not None:
        return by_slot
    key = f"{build.prefix}table {operand.index}"
    flat = Leaf(key, constant, KEPT, (False, False), held, flat=True)
    build.leaves[key] = flat
    place: Value | None = None
    for index, size in zip(indices, kept.shape, strict=True):
        place = _next_axis(build, place, index, size, kept.size)
    assert place is not None
    node = build.node("lookup", flat, place, held=held, arithmetic="int32")
    return node


def _by_slot(
    build: "Builder",
    operand: Slot,
    constant: Constant,
    indices: Sequence[Value],
    held: np.dtype,
) -> Value | None:
    """The row that arrives, of a table that is dealt as slots are; None: it cannot be.

    Of `table[h, q, k]` a PE holds the entries of its own heads and slots, for every q.
    """
    leaves = [x for x in indices if isinstance(x, Leaf) and not x.flat]
    if len(leaves) < len(indices):
        return None
    of_slots = [x for x in leaves if x.shape[1]]
    arriving = [x for x in leaves if x.when == ARRIVING]
    if not of_slots or not arriving or any(x.shape[0] for x in of_slots):
        return None
    axes = tuple(None if x.when == ARRIVING else x.operand for x in leaves)
    rows = any(x.shape[0] for x in leaves if x.when == KEPT)
    key = f"{build.prefix}table {operand.index}"
    table = SlotTable(key, constant, KEPT, (rows, True), held, axes=axes)
    build.leaves[key] = table
    place: Value | None = None
    for index, size in zip(leaves, np.shape(constant.value), strict=True):
        if index.when != ARRIVING:
            continue
        place = _next_axis(build, place, index, size, table.entries)
    assert place is not None
    return build.node("row", table, place, held=held)


def _next_axis(
    build: "Builder", place: Value | None, index: Value, size: int, most: int
) -> Value:
    """The place in a table of `most` entries, with an axis of so many more."""
    if place is None:
        return index
    extent = build.number(size, np.dtype("int32"))
    return _whole(build, "add", most, _whole(build, "mul", most, place, extent), index)


def _whole(build: "Builder", op: str, most: int, *operands: Value) -> Node:
    """Arithmetic on places in a table of `most` entries."""
    held = FLOAT if most <= EXACT else np.dtype("int32")
    return build.node(op, *operands, held=held, arithmetic="int32")


def _indices(
    build: "Builder", operation: Operation, rest: Sequence[Operand]
) -> tuple[tuple[Value, ...], list[Bounds | None]]:
    values = [build.value(x) for x in rest]
    bounds = [build.bounds.of(x) for x in rest]
    if len(values) == 1 and isinstance(values[0], Several):
        several = values[0].values
        return several, [None] * len(several)
    return tuple(values), bounds


def _check_gather(
    build: "Builder",
    operation: Operation,
    operand: Slot,
    indices: tuple[Value, ...],
    bounds: list[Bounds | None],
    shape: tuple[int, ...],
) -> None:
    """Refuses what is more than one entry, by indices in the order of the axes."""
    params = operation.equation.params
    numbers = params["dimension_numbers"]
    rank = len(shape)
    every_axis = tuple(range(rank))
    in_order = (
        numbers.collapsed_slice_dims == every_axis
        and numbers.start_index_map == every_axis
    )
    if not in_order or len(indices) != rank:
        build.refuse(
            operand,
            "gather takes more than one entry; look one value up for each score",
        )
    inside = all(
        x is not None and 0 <= x[0] and x[1] < size
        for x, size in zip(bounds, shape, strict=True)
    )
    if "FILL" in str(params["mode"]) and not inside:
        build.refuse(
            operand,
            "looks up with a fill value for what lies outside the table; use `table[index]`, "
            "which takes the nearest entry",
        )


__all__ = ["looked_up"]
