"""Which iterations of a loop decide alike, and what is known of them before they are walked.

A loop may be jumped only across iterations whose branches and known costs are those of the period
it repeats; `emu.loops.foresight` evaluates every decision of every iteration at once.
"""

import dataclasses
import math

import numpy as np

from emu.clock.tiles import Value
from emu.loops.distinct import distinct
from emu.loops.foresight import (
    MAX_DECISIONS,
    Decisions,
    Known,
    Mesh,
    Opaque,
    carried,
    decides,
    in_every_iteration,
    iterations,
    sites,
)
from emu.tracing import jaxpr as jx


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is known of a loop's iterations before they are walked.

    Attributes:
      ids: an id per iteration, equal where decisions are; None if there is nothing to decide.
      carry: known value of each carry slot as each iteration begins, and after the last:
        `[length + 1 or 1, *mesh, *shape]`, or None.
    """

    ids: np.ndarray | None
    carry: list[Known]


def plan(
    mesh: Mesh,
    loop: jx.Scan,
    consts: list[Value],
    carry: list[Value],
    stacked: list[Value],
) -> Plan | None:
    """Evaluates every iteration's decisions ahead; None if the loop must be stepped."""
    knowns = [value.known for value in (*consts, *carry, *stacked)]
    if decides(loop.body) and _too_many(mesh, loop, knowns):
        return None
    try:
        rows, decisions = _evaluated(mesh, loop, knowns)
    except Opaque:
        return None
    # A decision that is the same in all iterations has a leading dimension of 1.
    each = [
        decision.reshape(loop.length, -1).astype(np.int64)
        for decision in decisions.values()
        if decision.shape[0] == loop.length
    ]
    if not each:
        return Plan(None, rows)
    table = np.concatenate(each, axis=1)
    # By whole rows, every decision of every core: three iterations that decide `[[1, 0], [1, 0],
    # [0, 0]]` have the ids 0, 0, 1.
    _, ids = distinct(table.T)
    return Plan(ids, rows)


def of_loop(mesh: Mesh, loop: jx.Scan, knowns: list[Known]) -> Decisions | None:
    """Every decision of every iteration, or None if they cannot be evaluated ahead.

    Args:
      mesh: of the cores that decide.
      loop: the `scan`.
      knowns: known values of its inputs, or None.
    """
    if _too_many(mesh, loop, knowns):
        return None
    try:
        return _evaluated(mesh, loop, knowns)[1]
    except Opaque:
        return None


def after(mesh: Mesh, loop: jx.Scan, knowns: list[Known]) -> list[Known] | None:
    """Known values of the carry after the loop, or None if they cannot be evaluated ahead."""
    consts, carry, stacked = loop.parts(knowns)
    # What a loop did to one core does not tell the integers of the others: those are worked out
    # here, for the whole mesh.
    if all(known is None for known in carry):
        return carry
    slices = [iterations(loop, known, mesh.rank, 0) for known in stacked]
    try:
        rows = carried(mesh, loop, consts, carry, slices, 0)
    except Opaque:
        return None
    return [None if row is None else row[-1] for row in rows]


def _evaluated(
    mesh: Mesh, loop: jx.Scan, knowns: list[Known]
) -> tuple[list[Known], Decisions]:
    """The carry at every iteration (see `Plan`), and every decision."""
    consts, carry, stacked = loop.parts(knowns)
    slices = [iterations(loop, known, mesh.rank, 0) for known in stacked]
    rows = carried(mesh, loop, consts, carry, slices, 0)
    decisions = Decisions()
    if decides(loop.body):
        in_every_iteration(mesh, loop, consts, rows, slices, 0, decisions)
    return rows, decisions


def _too_many(mesh: Mesh, loop: jx.Scan, knowns: list[Known]) -> bool:
    """Whether there are more decisions than are worth working out."""
    # Cores, or groups of them, that what is known tells apart at least.
    cores = [
        math.prod(known.shape[: mesh.rank]) for known in knowns if known is not None
    ]
    decisions = loop.length * sites(loop.body) * max(cores, default=1)
    return decisions > MAX_DECISIONS


__all__ = ["Plan", "after", "of_loop", "plan"]
