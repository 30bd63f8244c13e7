"""What is computed from an element's place: patterns of numbers, masks by position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from emu.annotations import DType
from emu.trainium import isa
from emu.trainium.nki.functions import operators
from emu.trainium.nki.functions.checks import refuse
from emu.trainium.nki.functions.engines import offer, way
from emu.trainium.nki.functions.operands import (
    column,
    masked,
    number,
    on_chip,
    shaped,
)
from emu.trainium.nki.functions.produce import produce
from emu.trainium.nki.tree import Access, Affine

if TYPE_CHECKING:
    from emu.trainium.nki.handles import Handle

Pattern: TypeAlias = Sequence[Sequence[int]]
"""(step, count) of each free axis: element `[a, b]` has `a · step_a + b · step_b`."""

# What range_select puts where it does not select; the hardware takes no other value.
LOWEST = float(np.finfo(np.float32).min)


def _pattern(
    pattern: Pattern, function: str
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Steps and counts."""
    pairs = [tuple(int(part) for part in pair) for pair in pattern]
    if not pairs or any(len(pair) != 2 for pair in pairs):
        refuse(function, f"pattern is {pattern!r}, must be [[step, count], ...]")
    return tuple(step for step, _ in pairs), tuple(count for _, count in pairs)


def iota(
    dst: Handle | None,
    pattern: Pattern,
    offset: int = 0,
    channel_multiplier: int = 0,
    *,
    partitions: int = 128,
    dtype: DType = np.int32,
    mask: object = None,
    name: str = "nki.isa.iota",
) -> Handle:
    """`dst[p, a, ...] = offset + p · channel_multiplier + a · step + ...`.

    `partitions` is of a fresh tile.
    """
    steps, counts = _pattern(pattern, name)
    rows = partitions
    if dst is not None:
        rows = dst.access(masked(mask, name)).shape[0]
    choice = way("gpsimd", isa.iota, steps=steps, multiplier=int(channel_multiplier))
    return produce(
        name,
        offer(None, name, choice),
        dst,
        (rows, *counts),
        (rows, *counts),
        dtype,
        (Affine(int(offset)),),
        mask=mask,
    )


def affine_select(
    dst: Handle | None,
    pattern: Pattern,
    channel_multiplier: int,
    on_true_tile: Handle,
    on_false_value: float,
    cmp_op: object = "equal",
    offset: int = 0,
    *,
    dtype: DType | None = None,
    mask: object = None,
    name: str = "nki.isa.affine_select",
) -> Handle:
    """`dst = on_true_tile` where `offset + p · channel_multiplier + a · step + ...` passes.

    What passes compares with 0 as `cmp_op` asks; elsewhere is `on_false_value`.
    """
    steps, counts = _pattern(pattern, name)
    given = on_chip(on_true_tile, name, "on_true_tile", mask)
    source = _with_counts(given, counts, name)
    choice = way(
        "gpsimd",
        isa.affine_select,
        fill=number(on_false_value, name, "on_false_value"),
        steps=steps,
        multiplier=int(channel_multiplier),
        compare=operators.binary(cmp_op, name, "cmp_op"),
    )
    return produce(
        name,
        offer(None, name, choice),
        dst,
        given.shape,
        source.shape,
        given.dtype if dtype is None else dtype,
        (source, Affine(int(offset))),
        mask=mask,
    )


def _with_counts(access: Access, counts: tuple[int, ...], function: str) -> Access:
    """The tile with a pattern's free axes."""
    found = shaped(access, (access.shape[0], *counts))
    if found is None:
        refuse(
            function,
            f"pattern has {list(counts)} elements a partition, the tile is "
            f"{list(access.shape)}: must be as many",
        )
    return found


def range_select(
    dst: Handle | None,
    on_true_tile: Handle,
    comp_op0: object,
    comp_op1: object,
    bound0: Handle,
    bound1: Handle,
    *,
    reduce_res: Handle | None = None,
    reduce_op: object = "max",
    range_start: int = 0,
    on_false_value: float = LOWEST,
    dtype: DType | None = None,
    mask: object = None,
    name: str = "nki.isa.range_select",
) -> Handle:
    """`dst = on_true_tile` where `range_start + place` compares with both bounds, else the least.

    `reduce_res` `[p, 1]` gets the largest of what comes out.
    """
    from emu.trainium.nki.handles import fresh

    if operators.reduction(reduce_op, name, "reduce_op") != "max":
        refuse(name, f"reduce_op is {reduce_op!r}, must be nl.maximum")
    if not number(on_false_value, name, "on_false_value") <= LOWEST:
        refuse(
            name,
            f"on_false_value is {on_false_value}, must be {LOWEST}: the hardware has no other",
        )
    source = on_chip(on_true_tile, name, "on_true_tile", mask)
    low = column(bound0, source, name, "bound0")
    high = column(bound1, source, name, "bound1")
    highest = reduce_res
    if highest is None:
        # The instruction has this result whether the kernel wants it or not.
        highest = fresh((source.shape[0], 1), np.float32, "sbuf")
    choice = way(
        "vector",
        isa.range_select,
        compare0=operators.binary(comp_op0, name, "comp_op0"),
        compare1=operators.binary(comp_op1, name, "comp_op1"),
        start=int(range_start),
    )
    return produce(
        name,
        offer(None, name, choice),
        dst,
        source.shape,
        source.shape,
        source.dtype if dtype is None else dtype,
        (source, low, high),
        mask=mask,
        more=(column(highest, source, name, "reduce_res"),),
    )
