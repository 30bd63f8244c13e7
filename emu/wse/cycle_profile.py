"""What every PE did in each cycle, and what every link carried: counters of the cycle stepper.

A cycle of a PE is one of `STATES`, so these add up to all cycles. `OVERLAPPING` counts what happens
within them, under the names that the vendor's traces give stalls.
"""

from typing import Any

import jax.numpy as jnp

from emu.wse.layout import Shape
from emu.wse.program import RAMP
from emu.wse.rows import Rows, zeros

STATES = ("datapath", "set-up", "code", "waiting for wavelets", "queue full", "idle")
OVERLAPPING = ("bank conflict", "datapath busy")
COUNTERS = STATES + OVERLAPPING


def counters(shape: Shape) -> dict[str, Any]:
    """All zero, `int32[counters or directions, PEs]`."""
    n = shape.pes
    return {"pes": zeros(len(COUNTERS), n, jnp.int32), "links": zeros(RAMP + 1, n, jnp.int32)}


def count(shape: Shape, kept: dict[str, Any], seen: dict[str, Any], t: Any) -> dict[str, Any]:
    """The counters after one more cycle.

    Args:
      shape: of the machine.
      kept: the counters.
      seen: what `cycle.step` saw.
      t: the cycle.
    """
    s, issues = seen["before"], seen["issues"]
    on, nothing = s["thread_on"], jnp.zeros(shape.pes, bool)
    starved = seen["starved"].any() if shape.colors else nothing
    full = seen["full"].any() if shape.colors else nothing
    busy = issues.any()
    setting_up = (on & (s["thread_wake"] > t)).any()
    code = seen["due"] | ((s["wake"] > t) & ~on[0])
    states, free = [], ~nothing
    for happens in (busy, setting_up, code, starved, full):
        states.append(free & happens)
        free = free & ~happens
    conflict = issues & (s["thread_flags"] >> 16 & 1).same(1) & (s["thread_left"] & 1).same(1)
    rows = Rows([*states, free, conflict.any(), seen["lost"].any()])
    out = {"pes": kept["pes"] + rows.astype(jnp.int32), "links": kept["links"]}
    if shape.colors:
        out["links"] = kept["links"] + Rows(
            (seen["go"] & (seen["send"] >> side & 1).same(1)).astype(jnp.int32).sum()
            for side in range(RAMP + 1)
        )
    return out


__all__ = ["COUNTERS", "OVERLAPPING", "STATES", "count", "counters"]
