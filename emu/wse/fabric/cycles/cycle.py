"""One cycle of every PE and router at once, in JAX: queues, links, arbitration, datapaths, tasks.

A cycle goes through these phases, each for all PEs:

1. *arrive*: what has come to the end of a link or a ramp is counted in its queue.
2. *heads*: what each router could forward, and whether it has room for more.
3. *select*: an idle main thread takes its lowest task that is ready.
4. *dispatch*: a main thread that is due starts its next instruction.
5. *issue*: each datapath serves one thread that has wavelets and room.
6. *leave*, *forward*: a wavelet of an output queue enters its router, those at routers go on.
7. *exchange*, *move*: the counts change by what the phases before decided.

Phases 2 to 6 look at queues as they were after the arrivals, so that it does not matter who decides
first: a place that becomes free in a cycle is taken in the next one at the earliest.

One word from PE 0 to its eastern neighbour on a WSE-3 (2 cycles a ramp, 2 a hop), sent in cycle 4:

    cycle 4    the datapath of PE 0 issues it: it is in the output queue
    cycle 5    it leaves the queue and is on the ramp
    cycle 7    it arrives at PE 0's router, which forwards it at once
    cycle 9    it arrives at PE 1's router, which forwards it into the ramp
    cycle 11   it arrives in PE 1's input queue, and may be read in this cycle

It is 2 ramps and a hop from cycle 5: `5 + 2 * 2 + 1 * 2 = 11`, as the trains have it.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from emu.wse.fabric.cycles import datapath, main_thread, router, sets
from emu.wse.fabric.cycles.datapath import Issues
from emu.wse.fabric.cycles.machine import Live
from emu.wse.fabric.cycles.main_thread import Acts
from emu.wse.fabric.cycles.router import Heads, Moves
from emu.wse.fabric.cycles.rows import PerPE, materialize
from emu.wse.fabric.cycles.tables import Tables


@dataclasses.dataclass(frozen=True)
class Seen:
    """What one cycle showed.

    Attributes:
      alive: `bool[]`, whether anything happened or is still to come.
      acts: of the main threads.
      start: the machine once wavelets had arrived.
      before: it after dispatch, before the datapaths were served.
      issues: of the datapaths.
      heads, moves: of the routers; None without colors.
    """

    alive: jax.Array
    acts: Acts
    start: Live
    before: Live
    issues: Issues
    heads: Heads | None
    moves: Moves | None


def step(tables: Tables, state: Live, now: jax.Array) -> tuple[Live, Seen]:
    """One cycle; also who dispatched, heard, issued and sent in it."""
    shape = tables.shape
    heads = moves = None
    came: list[PerPE] = []
    if shape.colors:
        state, came = router.arrive(state)
        heads = router.heads(tables, state)
    # Routers decide by this state, as if they knew nothing of what the PEs do in the same cycle.
    start = state
    before, acts = main_thread.act(tables, start, now)
    state, issues = datapath.issue(tables, before, now)
    happened = issues.issued.any()
    if heads is not None:
        moves = _decide(tables, before, heads, start)
        clash = router.first_clash(tables, start, came, now)
        state = dataclasses.replace(state, clash=clash)
        state = datapath.exchange(shape, state, issues.wavelets)
        state = router.move(tables, state, heads, moves, now)
        happened |= sets.some(moves.forwarded | moves.entered)
    # In nearly every cycle some PE issues or some router forwards. Only where none does need all
    # the rest be looked through for what may yet happen.
    alive = lax.cond(
        acts.any | sets.anywhere(happened),
        lambda: jnp.bool_(True),
        lambda: _may_happen(state, came, now),
    )
    seen = Seen(
        alive=alive,
        acts=acts,
        start=start,
        before=before,
        issues=issues,
        heads=heads,
        moves=moves,
    )
    return state, seen


def _may_happen(state: Live, came: list[PerPE], now: jax.Array) -> jax.Array:
    """Whether anything is still to come after a cycle in which nobody did anything: `bool[]`.

    Args:
      state: after the cycle, which has only brought wavelets nearer.
      came: those that arrived; an arrival is an event.
      now: the cycle.
    """
    threads = state.threads
    # What waits for a cycle that is known counts as alive. Else a run would end in the middle of
    # scalar code of 500 cycles, in which nothing else happens.
    sets_up = (threads.on & (threads.wake > now)).any()
    # While a synchronous operation is on the datapath, `wake` is no cycle but its drain.
    waits = (state.wake > now) & ~threads.on[0]
    alive = sets_up | waits
    if came:
        alive |= router.flying(state) | sets.some(sets.union(came))
    return sets.anywhere(alive)


def _decide(tables: Tables, before: Live, heads: Heads, start: Live) -> Moves:
    """Which wavelets leave queues and routers, as the state was before the datapaths' turn."""
    entered = router.leave_queues(tables, before, heads)
    # What a data task took from its queue makes room from the next cycle on.
    forwarded = router.forward(tables, before, heads, start.inputs.held)
    forwarded, entered = materialize(tables.on, forwarded, entered)
    return Moves(forwarded=forwarded, entered=entered)


__all__ = ["Seen", "step"]
