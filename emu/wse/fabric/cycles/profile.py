"""What every PE did in each cycle, and what every link carried: counters of the cycle stepper.

A cycle of a PE is one of `STATES`, so these add up to all cycles. `OVERLAPPING` counts what happens
within them, under the names that the vendor's traces give stalls.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from emu.wse.fabric.cycles.rows import Rows, zeros
from emu.wse.fabric.cycles.tables import Shape
from emu.wse.fabric.directions import RAMP

STATES = ("datapath", "set-up", "code", "waiting for wavelets", "queue full", "idle")
OVERLAPPING = ("bank conflict", "datapath busy")
COUNTERS = STATES + OVERLAPPING
LOW_BITS = 20  # of the counts over all PEs, which outgrow 32 bits; a wafer has fewer PEs than that


def counters(shape: Shape) -> dict[str, Any]:
    """All zero: `int32[counters or directions, PEs]`, and what `by_color` reads."""
    n, ways = shape.pes, sum(map(len, shape.sides))
    return {
        "pes": zeros(len(COUNTERS), n, jnp.int32),
        "links": zeros(RAMP + 1, n, jnp.int32),
        "low": jnp.zeros(ways, jnp.int32),
        "high": jnp.zeros(ways, jnp.int32),
    }


def count(
    shape: Shape, kept: dict[str, Any], seen: dict[str, Any], t: Any
) -> dict[str, Any]:
    """The counters after one more cycle.

    Args:
      shape: of the machine.
      kept: the counters.
      seen: what `cycle.step` saw.
      t: the cycle.
    """
    s, issues = seen["before"], seen["issues"]
    on = s["thread_on"]
    nothing = jnp.zeros(shape.pes, bool)
    starved = seen["starved"].any() if shape.colors else nothing
    full = seen["full"].any() if shape.colors else nothing
    busy = issues.any()
    setting_up = (on & (s["thread_wake"] > t)).any()
    code = seen["due"] | ((s["wake"] > t) & ~on[0])
    states, free = [], ~nothing
    for happens in (busy, setting_up, code, starved, full):
        states.append(free & happens)
        free = free & ~happens
    conflict = (
        issues & (s["thread_flags"] >> 16 & 1).same(1) & (s["thread_left"] & 1).same(1)
    )
    rows = Rows([*states, free, conflict.any(), seen["lost"].any()])
    out = kept | {"pes": kept["pes"] + rows.astype(jnp.int32)}
    if shape.colors:
        out["links"] = kept["links"] + Rows(
            (seen["go"] & (seen["send"] >> side & 1).same(1)).astype(jnp.int32).sum()
            for side in range(RAMP + 1)
        )
    if crossed := _crossed(shape, seen):
        low = kept["low"] + jnp.stack(crossed)
        out["low"] = low & ((1 << LOW_BITS) - 1)
        out["high"] = kept["high"] + (low >> LOW_BITS)
    return out


def _crossed(shape: Shape, seen: dict[str, Any]) -> list[Any]:
    """Wavelets that crossed links in a cycle, of each color and direction in which it sends."""
    return [
        (seen["go"][color] & ((seen["send"][color] >> side & 1) == 1)).sum(
            dtype=jnp.int32
        )
        for color, sides in enumerate(shape.sides)
        for side in sides
    ]


def by_color(shape: Shape, kept: dict[str, np.ndarray]) -> dict[tuple[int, int], int]:
    """Wavelets that crossed links, over all PEs, by color index and direction."""
    ways = [(color, side) for color, sides in enumerate(shape.sides) for side in sides]
    total = kept["low"].astype(np.int64) + (kept["high"].astype(np.int64) << LOW_BITS)
    return dict(zip(ways, total.tolist(), strict=True))


__all__ = ["COUNTERS", "OVERLAPPING", "STATES", "by_color", "count", "counters"]
