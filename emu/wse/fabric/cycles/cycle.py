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

from emu.wse.fabric.cycles import datapath, main_thread, router
from emu.wse.fabric.cycles.datapath import Issues
from emu.wse.fabric.cycles.machine import IDLE, Live
from emu.wse.fabric.cycles.router import Heads, Moves
from emu.wse.fabric.cycles.rows import PerPE, materialize
from emu.wse.fabric.cycles.tables import Tables


@dataclasses.dataclass(frozen=True)
class Seen:
    """What one cycle showed.

    Attributes:
      alive: `bool[]`, whether anything happened or is still to come.
      pc: the instruction that each main thread had come to when it could dispatch.
      due: who dispatched it.
      heard: the data task that each PE started, or NONE.
      before: the machine after dispatch, before the datapaths were served.
      issues: of the datapaths.
      heads, moves: of the routers; None without colors.
    """

    alive: jax.Array
    pc: PerPE
    due: PerPE
    heard: PerPE
    before: Live
    issues: Issues
    heads: Heads | None
    moves: Moves | None


def step(tables: Tables, state: Live, now: jax.Array) -> tuple[Live, Seen]:
    """One cycle; also who dispatched, heard, issued and sent in it."""
    shape = tables.shape
    begun = state
    came = heads = moves = None
    if shape.colors:
        state, came = router.arrive(state)
        heads = router.heads(tables, state)
    # Routers decide by this state, as if they knew nothing of what the PEs do in the same cycle.
    start = state
    selected, heard = main_thread.select(tables, start, now)
    pc = selected.pc
    before, due = main_thread.dispatch(tables, selected, now)
    state, issues = datapath.issue(tables, before, now)
    happened = issues.issued.any()
    if heads is not None and came is not None:
        moves = _decide(tables, before, heads, start)
        clash = router.first_clash(tables, start, came, now)
        state = dataclasses.replace(state, clash=clash)
        state = datapath.exchange(shape, state, issues.wavelets)
        state = router.move(tables, state, heads, moves)
        happened |= moves.forwarded.any() | moves.entered.any()
    # In nearly every cycle some PE issues or some router forwards. Only where none does need all
    # the rest be looked through for what may yet happen.
    alive = lax.cond(
        happened.any(),
        lambda: jnp.bool_(True),
        lambda: _may_happen(begun, selected, start, now, due, heard),
    )
    seen = Seen(
        alive=alive,
        pc=pc,
        due=due,
        heard=heard,
        before=before,
        issues=issues,
        heads=heads,
        moves=moves,
    )
    return state, seen


def _may_happen(
    begun: Live,
    selected: Live,
    start: Live,
    now: jax.Array,
    due: PerPE,
    heard: PerPE,
) -> jax.Array:
    """Whether anything but issues and moves happened, or is still to come: `bool[]`.

    Args:
      begun: the machine when the cycle began.
      selected: once its tasks were selected.
      start: once wavelets had arrived.
      now: the cycle.
      due, heard: as in `Seen`.
    """
    threads = begun.threads
    # What waits for a cycle that is known counts as alive. Else a run would end in the middle of
    # scalar code of 500 cycles, in which nothing else happens.
    sets_up = (threads.on & (threads.wake > now)).any()
    # While a synchronous operation is on the datapath, `wake` is no cycle but its drain.
    waits = (begun.wake > now) & ~threads.on[0]
    # What arrives in this cycle counts as having been in flight: an arrival is an event.
    alive = sets_up | waits | router.flying(begun)
    # A selected task counts, though its first instruction is dispatched only after the switch.
    alive |= (selected.pc != IDLE) & (start.pc == IDLE)
    return (alive | due | (heard >= 0)).any()


def _decide(tables: Tables, before: Live, heads: Heads, start: Live) -> Moves:
    """Which wavelets leave queues and routers, as the state was before the datapaths' turn."""
    entered = router.leave_queues(tables, before)
    # What a data task took from its queue makes room from the next cycle on.
    forwarded = router.forward(tables, before, heads, start.inputs.held)
    forwarded, entered = materialize(tables.on, forwarded, entered)
    return Moves(forwarded=forwarded, entered=entered)


__all__ = ["Seen", "step"]
