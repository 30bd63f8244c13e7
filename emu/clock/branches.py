"""Branches, timed per core: each core walks the branch that its own known index picks."""

import numpy as np

from emu.clock.state import ClockState, Walk
from emu.clock.ticks import Active
from emu.clock.tiles import Value, choose_value
from emu.errors import BranchBufferMismatch, DataDependentBranch
from emu.tracing import jaxpr as jx


def branch(
    walk: Walk,
    state: ClockState,
    eqn: jx.Equation,
    operands: list[Value],
    active: Active,
) -> list[Value]:
    """Walks every branch that some active core takes, on the cores that take it."""
    pick, *values = operands
    if pick.known is None:
        raise DataDependentBranch(
            "cond: the branch depends on data, so its time is unknown; give the clock the "
            "integers it depends on as emu.Known",
            jx.location(eqn),
        )
    bodies = jx.branches(eqn)
    choice = np.clip(pick.known.astype(np.int64), 0, len(bodies) - 1)
    taken = _taken(choice, active)
    outer = state.path
    merged: list[Value] | None = None
    for number in taken:
        mask = active
        # Where all take one branch nothing has to be chosen, and times may stay plain numbers.
        if len(taken) > 1:
            mask = choice == number
            if active is not None:
                mask = mask & active
        # With the branch's own number: else the first equations of two branches would be at one
        # path, and their tiles in one ring.
        state.path = outer, number
        outs = walk(state, bodies[number], values, mask)
        merged = outs if merged is None else _merge(eqn, mask, outs, merged)
    state.path = outer
    assert merged is not None
    return merged


def _taken(choice: np.ndarray, active: Active) -> list[int]:
    """The branches that some active core takes."""
    if active is not None:
        each, here = np.broadcast_arrays(choice, active)
        # A core that takes no part may have any index, even that of a branch which nobody walks.
        choice = each[here]
    return np.unique(choice).tolist()


def _merge(
    eqn: jx.Equation, mask: Active, new: list[Value], old: list[Value]
) -> list[Value]:
    """`new` on the cores in `mask`, `old` elsewhere."""
    assert mask is not None
    merged: list[Value] = []
    for place, (ours, others) in enumerate(zip(new, old, strict=True)):
        # Times and versions may differ between cores, but a value is in one buffer on all of them.
        if ours.buffer is not others.buffer:
            raise BranchBufferMismatch(
                f"cond: output {place} is a different buffer in each branch; write both "
                "results into one destination",
                jx.location(eqn),
            )
        merged.append(choose_value(mask, ours, others))
    return merged


__all__ = ["branch"]
