"""Which iterations of a loop decide alike, and what is known of them before they are walked.

A loop may be jumped only across iterations whose branches and known costs are those of the period
it repeats; `emu.loops.foresight` evaluates every decision of every iteration at once.
"""

import dataclasses
import math
from typing import Any

import numpy as np

from emu.clock.tiles import Value
from emu.loops.foresight import (
    MAX_DECISIONS,
    Found,
    Mesh,
    Opaque,
    carried,
    decides,
    inside,
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
    carry: list[np.ndarray | None]


def plan(
    mesh: Mesh,
    s: jx.Scan,
    consts: list[Value],
    carry: list[Value],
    stacked: list[Value],
) -> Plan | None:
    """Evaluates every iteration's decisions ahead; None if the loop must be stepped."""
    knowns = [x.known for x in (*consts, *carry, *stacked)]
    decided = decides(s.body)
    if decided and s.length * sites(s.body) * _cells(knowns, mesh.rank) > MAX_DECISIONS:
        return None
    try:
        rows, found = _ahead(mesh, s, knowns)
    except Opaque:
        return None
    each = [d.reshape(s.length, -1) for d in found.values() if d.shape[0] == s.length]
    if not each:
        return Plan(None, rows)
    table = np.concatenate([d.astype(np.int64) for d in each], axis=1)
    return Plan(np.unique(table, axis=0, return_inverse=True)[1].reshape(-1), rows)


def found(mesh: Mesh, s: jx.Scan, knowns: list[Any]) -> Found | None:
    """Every decision of every iteration, or None if they cannot be evaluated ahead.

    Args:
      mesh: has the `rank` of the mesh and `core_index` along an axis.
      s: the loop.
      knowns: known values of its inputs, or None.
    """
    if s.length * sites(s.body) * _cells(knowns, mesh.rank) > MAX_DECISIONS:
        return None
    try:
        return _ahead(mesh, s, knowns)[1]
    except Opaque:
        return None


def after(mesh: Mesh, s: jx.Scan, knowns: list[Any]) -> list[Any] | None:
    """Known values of the carry after the loop, or None if they cannot be evaluated ahead."""
    fixed = knowns[: s.consts]
    start = knowns[s.consts : s.consts + s.carry]
    if all(x is None for x in start):
        return start
    slices = [iterations(s, x, mesh.rank, 0) for x in knowns[s.consts + s.carry :]]
    try:
        rows = carried(mesh, s, fixed, start, slices, 0)
    except Opaque:
        return None
    return [None if row is None else row[-1] for row in rows]


def _ahead(mesh: Mesh, s: jx.Scan, knowns: list[Any]) -> tuple[list[Any], Found]:
    """The carry at every iteration (see `Plan`), and every decision."""
    fixed = knowns[: s.consts]
    start = knowns[s.consts : s.consts + s.carry]
    slices = [iterations(s, x, mesh.rank, 0) for x in knowns[s.consts + s.carry :]]
    rows = carried(mesh, s, fixed, start, slices, 0)
    found = Found()
    if decides(s.body):
        inside(mesh, s, fixed, rows, slices, 0, found)
    return rows, found


def _cells(knowns: list[Any], rank: int) -> int:
    """Cores, or groups of them, that what is known tells apart at least."""
    return max((math.prod(k.shape[:rank]) for k in knowns if k is not None), default=1)


__all__ = ["Plan", "after", "decides", "found", "plan"]
