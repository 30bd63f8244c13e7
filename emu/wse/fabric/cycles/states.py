"""What each thread of some PEs does in a cycle, as a small code: what traces are made of."""

from typing import Any

import jax.numpy as jnp

from emu.wse.fabric.cycles.tables import Shape

THREAD_STATES = (
    "idle",
    "issuing",
    "bank conflict",
    "set-up",
    "code",
    "waiting for wavelets",
    "queue full",
    "datapath busy",
    "microthread busy",
)
(
    IDLE,
    ISSUING,
    CONFLICT,
    SET_UP,
    CODE,
    NO_WAVELETS,
    FULL,
    DATAPATH_BUSY,
    THREAD_BUSY,
) = range(len(THREAD_STATES))
WAITING = (NO_WAVELETS, FULL, DATAPATH_BUSY, THREAD_BUSY)


def states(shape: Shape, seen: dict[str, Any], t: Any, at: Any) -> Any:
    """`int8[threads, traced]`: indices of `THREAD_STATES`.

    `bank conflict` is the second of two issues that one element takes because of it.

    Args:
      shape: of the machine.
      seen: what `cycle.step` saw.
      t: the cycle.
      at: flat indices of the traced PEs.
    """
    s = seen["before"]
    rows = []
    for u in range(shape.threads):
        on = s["thread_on"][u][at]
        again = (s["thread_flags"][u][at] >> 16 & s["thread_left"][u][at] & 1) == 1
        found = jnp.where(s["thread_wake"][u][at] > t, SET_UP, IDLE)
        stalls = (("starved", NO_WAVELETS), ("full", FULL)) if shape.colors else ()
        for why, state in (*stalls, ("lost", DATAPATH_BUSY)):
            found = jnp.where(seen[why][u][at], state, found)
        found = jnp.where(
            seen["issues"][u][at], jnp.where(again, CONFLICT, ISSUING), found
        )
        found = jnp.where(on, found, IDLE if u else _main(seen, t, at))
        rows.append(found.astype(jnp.int8))
    return jnp.stack(rows)


def _main(seen: dict[str, Any], t: Any, at: Any) -> Any:
    """What the main thread does while it has no operation on the datapath."""
    code = seen["due"][at] | (seen["before"]["wake"][at] > t)
    return jnp.where(code, CODE, jnp.where(seen["pc"][at] >= 0, THREAD_BUSY, IDLE))


__all__ = [
    "CODE",
    "CONFLICT",
    "DATAPATH_BUSY",
    "FULL",
    "IDLE",
    "ISSUING",
    "NO_WAVELETS",
    "SET_UP",
    "THREAD_BUSY",
    "THREAD_STATES",
    "WAITING",
    "states",
]
