"""What each thread of some PEs does in a cycle, as a small code: what traces are made of."""

import jax
import jax.numpy as jnp

from emu.wse.fabric.cycles import fields
from emu.wse.fabric.cycles.cycle import Seen
from emu.wse.fabric.cycles.machine import IDLE as NO_INSTRUCTION
from emu.wse.fabric.cycles.rows import PerPE, Rows
from emu.wse.fabric.cycles.shape import Shape
from emu.wse.fabric.encoding.instructions import NONE

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


def states(shape: Shape, seen: Seen, now: jax.Array, traced: jax.Array) -> jax.Array:
    """`int8[threads, traced]`: indices of `THREAD_STATES`.

    `bank conflict` is the second of two issues that one element takes because of it.

    Args:
      shape: of the machine.
      seen: what `cycle.step` saw.
      now: the cycle.
      traced: flat indices of the traced PEs.
    """
    threads = seen.before.threads
    issues = seen.issues
    rows: list[jax.Array] = []
    for thread in range(shape.threads):

        def of(field: Rows, thread: int = thread) -> jax.Array:
            return field[thread][traced]

        conflicts = fields.CONFLICT.held(of(threads.completion))
        # As in `profile.is_second_issue`: with 6 issues for 3 elements, the second of each is met
        # with 5, 3 and 1 left.
        second = (conflicts & of(threads.left) & 1) == 1
        issuing = jnp.where(second, CONFLICT, ISSUING)
        # From the weakest reason to the strongest, as each overwrites those before: a thread that
        # issued was, whatever else is said of it, issuing.
        found = jnp.where(of(threads.wake) > now, SET_UP, IDLE)
        if shape.colors:
            found = jnp.where(of(issues.starved), NO_WAVELETS, found)
            found = jnp.where(of(issues.full), FULL, found)
        found = jnp.where(of(issues.lost), DATAPATH_BUSY, found)
        found = jnp.where(of(issues.issued), issuing, found)
        without = _off_datapath(seen, now, traced) if thread == 0 else IDLE
        found = jnp.where(of(threads.on), found, without)
        rows.append(found.astype(jnp.int8))
    return jnp.stack(rows)


def _off_datapath(seen: Seen, now: jax.Array, traced: jax.Array) -> PerPE:
    """What the main thread does while it has no operation on the datapath."""
    waits = seen.before.wake[traced] > now
    code = (seen.acts.code[traced] != NONE) | waits
    has_next = seen.before.pc[traced] != NO_INSTRUCTION
    # It has an instruction, is not waiting for a cycle and did not dispatch: only a busy
    # microthread stalls a main thread so.
    otherwise = jnp.where(has_next, THREAD_BUSY, IDLE)
    return jnp.where(code, CODE, otherwise)


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
    "states",
]
