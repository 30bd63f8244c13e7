"""Branches, timed per core: each core walks the branch that its own known index picks."""

import dataclasses
from typing import Any

import numpy as np

from emu.clock import names
from emu.clock.ticks import same, select
from emu.clock.tiles import Value
from emu.errors import BranchBufferMismatch, DataDependentBranch
from emu.tracing import jaxpr as jx


def branch(
    line: Any, eqn: Any, xs: list[Value], active: np.ndarray | None
) -> list[Value]:
    """Walks every branch that some active core takes, on the cores that take it."""
    pick, *xs = xs
    if pick.known is None:
        raise DataDependentBranch(
            "cond: the branch depends on data, so its time is unknown; give the clock the "
            "integers it depends on as emu.Known",
            jx.location(eqn),
        )
    bodies = jx.branches(eqn)
    which = np.clip(pick.known.astype(np.int64), 0, len(bodies) - 1)
    if active is None:
        taken = np.unique(which)
    else:
        each, on = np.broadcast_arrays(which, active)
        taken = np.unique(each[on])
    if len(taken) == 1:
        return _walk(line, bodies, int(taken[0]), xs, active)
    merged: list[Value] | None = None
    for b in taken:
        mask = which == b if active is None else (which == b) & active
        outs = _walk(line, bodies, int(b), xs, mask)
        merged = outs if merged is None else _merge(eqn, mask, outs, merged)
    assert merged is not None
    return merged


def _walk(
    line: Any, bodies: list[jx.Body], b: int, xs: list[Value], active: np.ndarray | None
) -> list[Value]:
    outer = line.path
    line.path = outer, b
    outs = line.walk(bodies[b], xs, active)
    line.path = outer
    return outs


def _merge(
    eqn: Any, mask: np.ndarray, new: list[Value], old: list[Value]
) -> list[Value]:
    """`new` on the cores in `mask`, `old` elsewhere."""
    out = []
    for i, (n, o) in enumerate(zip(new, old, strict=True)):
        if n.buffer is not o.buffer:
            raise BranchBufferMismatch(
                f"cond: output {i} is a different buffer in each branch; write both results "
                "into one destination",
                jx.location(eqn),
            )
        known = None
        if n.known is not None and o.known is not None:
            own = mask.reshape(*mask.shape, *(1,) * len(n.shape))
            known = np.where(own, n.known, o.known)
        version = select(mask, n.version, o.version)
        ready = n.ready if same(n.ready, o.ready) else np.where(mask, n.ready, o.ready)
        source = names.choose(mask, n.source, o.source)
        out.append(
            dataclasses.replace(
                n, ready=ready, version=version, known=known, source=source
            )
        )
    return out
