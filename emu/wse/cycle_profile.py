"""What every PE did in each cycle, and what every link carried: counters of the cycle stepper.

A cycle of a PE is one of `STATES`, so these add up to all cycles. `OVERLAPPING` counts what happens
within them, under the names that the vendor's traces give stalls.
"""

from typing import Any

import jax.numpy as jnp

from emu.wse.layout import Shape
from emu.wse.program import RAMP

STATES = ("datapath", "set-up", "code", "waiting for wavelets", "queue full", "idle")
OVERLAPPING = ("bank conflict", "datapath busy")
COUNTERS = STATES + OVERLAPPING


def counters(shape: Shape) -> dict[str, Any]:
    """All zero, `int32[counters or directions, PEs]`."""
    zero = lambda rows: jnp.zeros((rows, shape.pes), jnp.int32)  # noqa: E731
    return {"pes": zero(len(COUNTERS)), "links": zero(RAMP + 1)}


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
    starved = seen["starved"].any(0) if shape.colors else nothing
    full = seen["full"].any(0) if shape.colors else nothing
    busy = issues.any(0)
    setting_up = (on & (s["thread_wake"] > t)).any(0)
    code = seen["due"] | ((s["wake"] > t) & ~on[0])
    states, free = [], ~nothing
    for happens in (busy, setting_up, code, starved, full):
        states.append(free & happens)
        free = free & ~happens
    conflict = issues & (s["thread_flags"] >> 16 & 1 == 1) & (s["thread_left"] & 1 == 1)
    rows = [*states, free, conflict.any(0), seen["lost"].any(0)]
    out = {"pes": kept["pes"] + jnp.stack(rows).astype(jnp.int32), "links": kept["links"]}
    if shape.colors:
        sent = [
            (seen["go"] & ((seen["send"] >> side & 1) == 1)).sum(0, dtype=jnp.int32)
            for side in range(RAMP + 1)
        ]
        out["links"] = kept["links"] + jnp.stack(sent)
    return out


__all__ = ["COUNTERS", "OVERLAPPING", "STATES", "count", "counters"]
