"""A cycle of every datapath: which thread it serves, and what moves in and out of its queues."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp

from emu.wse.fabric.cycles import fields, turns
from emu.wse.fabric.cycles.machine import NEVER, SENDS, TAKES, Live
from emu.wse.fabric.cycles.rows import NO_ROWS, PerPE, Rows, materialize, where
from emu.wse.fabric.cycles.shape import Shape
from emu.wse.fabric.cycles.tables import Tables


@dataclasses.dataclass(frozen=True)
class Issues:
    """What the datapaths did in a cycle, a row a thread.

    Attributes:
      issued: `bool`, who was served.
      wavelets: `int8`, how many it moved; cycles of a local operation count as such.
      starved, full, lost: `bool`, who could have been but had no wavelets, no room for what it
        sends, or lost to another thread.
    """

    issued: Rows
    wavelets: Rows
    starved: Rows
    full: Rows
    lost: Rows


def issue(tables: Tables, state: Live, now: jax.Array) -> tuple[Live, Issues]:
    """Each PE's datapath serves one thread."""
    shape = tables.shape
    threads = state.threads
    ready: list[PerPE] = []
    moved: list[PerPE] = []
    starved: list[PerPE] = []
    full: list[PerPE] = []
    free = tables.output_capacity - state.outputs
    for thread in range(shape.threads):
        is_set_up = threads.wake[thread] <= now
        due = threads.on[thread] & is_set_up
        pace = threads.pace[thread].astype(jnp.int32)
        wavelets = fields.WAVELETS_PER_ISSUE.get(pace)
        wavelets = jnp.minimum(wavelets, threads.left[thread])
        wavelets = wavelets.astype(jnp.int8)
        if shape.colors:
            inward = threads.inward[thread]
            outward = threads.outward[thread]
            takes = inward >= 0
            sends = outward >= 0
            came = _at_color(state.inputs.waiting, inward)
            room = _at_color(free, outward)
            # A wide receive takes as many as have come: of 4 that it could take, 3 if 3 are there.
            # With none there it counts as one, so that it is told to be starved, not done.
            at_least_one = jnp.maximum(came, 1)
            taken = jnp.minimum(wavelets, at_least_one)
            wavelets = jnp.where(takes, taken, wavelets)
            starves = due & takes & (came <= 0)
            fills = due & ~starves & sends & (room < wavelets)
            # One that misses wavelets is not also said to miss room.
            due &= ~starves & ~fills
            starved.append(starves)
            full.append(fills)
        ready.append(due)
        moved.append(wavelets)
    # Turns are by the last issue, not by dispatch: a thread that has long waited for words goes
    # first when they come.
    issued = Rows(ready)
    if shape.threads > 1:
        both = itertools.combinations(range(shape.threads), 2)
        pairs = {(one, other): ready[one] & ready[other] for one, other in both}
        issued = turns.settled(ready, pairs, threads.ahead)
    wavelets = where(issued, Rows(moved), jnp.int8(0))
    issued, wavelets = materialize(tables.on, issued, wavelets)
    left = threads.left - wavelets.astype(jnp.int32)
    done = issued & left.same(0)
    # The thread is free from the next cycle on; the main thread looked before this, in `dispatch`.
    on = threads.on & ~done
    threads = dataclasses.replace(threads, left=left, on=on)
    # A main thread alone never sits out: wide streams, which do, are for microthreads.
    if shape.threads > 1:
        idle = fields.IDLE_CYCLES.get(threads.pace)
        again = idle.astype(jnp.int32) + (now + 1)
        threads = dataclasses.replace(
            threads,
            ahead=turns.after(threads.ahead, turns.as_set(list(issued))),
            wake=where(issued, again, threads.wake),
        )
    seen = Issues(
        issued=issued,
        wavelets=wavelets,
        starved=Rows(starved),
        full=Rows(full),
        lost=Rows(ready) & ~issued,
    )
    mixed = _first_mixed(shape, state, issued, now)
    state = dataclasses.replace(state, threads=threads, mixed=mixed)
    return _complete(shape, state, done, now), seen


def _first_mixed(shape: Shape, state: Live, issued: Rows, now: jax.Array) -> jax.Array:
    """The first time that an operation moves words of a color on which an earlier one is not done.

    Two operations of a PE would share the color's words out by the cycle, which no program means.
    """
    threads = state.threads
    found = state.mixed
    for side, colors, pairs in (
        (TAKES, threads.inward, shape.taking_pairs),
        (SENDS, threads.outward, shape.sending_pairs),
    ):
        for first, second in pairs:
            both = threads.on[first] & threads.on[second]
            both &= (colors[first] == colors[second]) & (colors[first] >= 0)
            # A PE dispatches one operation a cycle, so no two began in the same.
            first_is_later = threads.begun[first] > threads.begun[second]
            for later, is_later in ((first, first_is_later), (second, ~first_is_later)):
                mixes = both & is_later & issued[later]
                # Of several PEs in one cycle the first is told; `mixes.any()` says whether there is
                # one.
                pe = jnp.argmax(mixes)
                seen = [now, pe, colors[later][pe], jnp.int32(side), jnp.int32(later)]
                told = jnp.stack([each.astype(jnp.int32) for each in seen])
                new = (found[0] == NEVER) & mixes.any()
                found = jnp.where(new, told, found)
    return found


def _at_color(rows: Rows, color: PerPE) -> PerPE:
    """Each PE's entry in the row of its color; 0 where the color is NONE."""
    # Rows are arrays of their own (`rows.py`): a look-up by index would have to stack them first.
    found = jnp.zeros_like(rows[0])
    for number, row in enumerate(rows):
        found = jnp.where(color == number, row, found)
    return found


def _complete(shape: Shape, state: Live, done: Rows, now: jax.Array) -> Live:
    """The main thread goes on after a synchronous operation; microthreads set task flags."""
    synchronous = done[0]
    # While it waited, `wake` held the cycles of drain.
    drained = now + 1 + state.wake
    wake = jnp.where(synchronous, drained, state.wake)
    end = jnp.where(synchronous, wake, state.end)
    active = state.active
    blocked = state.blocked
    if shape.threads > 1:
        # A microthread may outlast its PE's last task, or end before it: the PE is done when both
        # are.
        later = jnp.maximum(end, now + 1)
        # Nothing is drained: the operation is done with its last issue.
        end = jnp.where(done[1:].any(), later, end)
        if shape.tasked:
            for thread in range(1, shape.threads):
                completion = state.threads.completion[thread]
                completion = jnp.where(done[thread], completion, 0)
                active |= _task_bit(fields.ACTIVATE.held(completion))
                blocked &= ~_task_bit(fields.UNBLOCK.held(completion))
    return dataclasses.replace(
        state,
        wake=wake,
        end=end,
        active=active,
        blocked=blocked,
    )


def _task_bit(held: PerPE) -> PerPE:
    """The bit of task `held - 1`; of NONE, held as 0, no bit."""
    task = jnp.maximum(held - 1, 0)
    return jnp.where(held > 0, 1 << task, 0)


def exchange(shape: Shape, state: Live, wavelets: Rows) -> Live:
    """Issues take their wavelets from input queues and put theirs into output queues."""
    threads = state.threads
    none = jnp.int8(0)
    # At most one thread of a PE issued, so these sums have one term that is not zero.
    taken: list[PerPE] = []
    put: list[PerPE] = []
    for color in range(shape.colors):
        takes = threads.inward.same(color)
        sends = threads.outward.same(color)
        taken.append(where(takes, wavelets, none).sum())
        put.append(where(sends, wavelets, none).sum())
    inputs = dataclasses.replace(
        state.inputs,
        waiting=state.inputs.waiting - Rows(taken),
        held=state.inputs.held - Rows(taken),
    )
    kinds = state.output_kinds
    if shape.control:
        kinds = kinds | _kinds_put(shape, state, wavelets)
    outputs = state.outputs + Rows(put)
    return dataclasses.replace(
        state,
        inputs=inputs,
        outputs=outputs,
        output_kinds=kinds,
    )


def _kinds_put(shape: Shape, state: Live, wavelets: Rows) -> Rows:
    """The kinds of what is put into the output queues, behind what is there.

    With 3 wavelets in a queue, a control wavelet of kind 1 adds 1 << 6.
    """
    threads = state.threads
    issued = wavelets.differs(0)
    control = where(issued, threads.control, jnp.int8(0))
    control = control.astype(jnp.int32)
    rows: list[PerPE] = []
    for color in range(shape.colors):
        sends = threads.outward.same(color)
        kind = where(sends, control, 0).sum()
        before = state.outputs[color].astype(jnp.int32)
        # Kinds of data are 0 and change nothing: only an operation that sends a control wavelet, of
        # which it sends one, puts any bits.
        rows.append(kind << before * fields.KIND_BITS)
    return Rows(rows) if rows else NO_ROWS


__all__ = ["Issues", "exchange", "issue"]
