"""A cycle of every datapath: which thread it serves, and what moves in and out of its queues."""

import dataclasses
from typing import TypeAlias

import jax
import jax.numpy as jnp

from emu.wse.fabric.cycles import counts, fields, sets, turns
from emu.wse.fabric.cycles.counts import Counts
from emu.wse.fabric.cycles.machine import NEVER, SENDS, TAKES, Kinds, Live, Threads
from emu.wse.fabric.cycles.rows import PerPE, Rows, materialize, only_if, where
from emu.wse.fabric.cycles.shape import Shape
from emu.wse.fabric.cycles.tables import Tables

MainThreads: TypeAlias = tuple[PerPE, PerPE, PerPE, PerPE]
"""`wake`, `end`, `active` and `blocked` of `Live`."""


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
    for thread in range(shape.threads):
        due = threads.on[thread] & (threads.wake[thread] <= now)
        # Worked out apart: what is fused with 32-bit words goes through few PEs at a time.
        due, wavelets = materialize(tables.on, due, _wanted(shape, threads, thread))
        if shape.colors:
            inward = threads.inward[thread]
            outward = threads.outward[thread]
            takes = sets.some(inward)
            came = _come(shape, state.inputs.waiting, inward)
            # A wide receive takes as many as have come: of 4 that it could take, 3 if 3 are there.
            # With none there it counts as one, so that it is told to be starved, not done.
            if shape.taken_words > 1:
                taken = jnp.minimum(wavelets, jnp.maximum(came, 1))
                wavelets = jnp.where(takes, taken, wavelets)
            starves = due & takes & (came == 0)
            room = _room(tables, state.outputs, outward)
            fills = due & ~starves & sets.some(outward) & (room < wavelets)
            # One that misses wavelets is not also said to miss room.
            due &= ~starves & ~fills
            starved.append(starves)
            full.append(fills)
        ready.append(due)
        moved.append(wavelets)
    # Turns are by the last issue, not by dispatch: a thread that has long waited for words goes
    # first when they come.
    issued = Rows(ready)
    if len(threads.served):
        lost = turns.losers([sets.of(ready)], threads.served)
        issued = Rows(
            one & ~sets.some(lost >> thread & 1) for thread, one in enumerate(ready)
        )
    wavelets = where(issued, Rows(moved), jnp.int8(0))
    issued, wavelets = materialize(tables.on, issued, wavelets)
    left = threads.left - wavelets.astype(jnp.int32)
    done = issued & left.same(0)
    # The thread is free from the next cycle on; the main thread looked before this, in `dispatch`.
    on = threads.on & ~done
    threads = dataclasses.replace(threads, left=left, on=on)
    if len(threads.served):
        served = turns.after(threads.served, sets.of(list(issued)), now)
        threads = dataclasses.replace(threads, served=served)
    # A main thread alone never sits out: wide streams, which do, are for microthreads.
    if shape.threads > 1 and shape.paced:
        idle = fields.IDLE_CYCLES.get(threads.pace)
        again = idle.astype(jnp.int32) + (now + 1)
        wake = where(issued, again, threads.wake)
        threads = dataclasses.replace(threads, wake=wake)
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
            both &= sets.some(colors[first] & colors[second])
            # A PE dispatches one operation a cycle, so no two began in the same.
            first_is_later = threads.begun[first] > threads.begun[second]
            for later, is_later in ((first, first_is_later), (second, ~first_is_later)):
                mixes = both & is_later & issued[later]
                # Of several PEs in one cycle the first is told; `mixes.any()` says whether there is
                # one.
                pe = jnp.argmax(mixes)
                color = sets.number_of(colors[later][pe])
                seen = [now, pe, color, jnp.int32(side), jnp.int32(later)]
                told = jnp.stack([each.astype(jnp.int32) for each in seen])
                new = (found[0] == NEVER) & mixes.any()
                found = jnp.where(new, told, found)
    return found


def _wanted(shape: Shape, threads: Threads, thread: int) -> PerPE:
    """`int8[PEs]`: wavelets that a thread moves in its next issue, if all are there."""
    left = threads.left[thread]
    if not shape.paced:
        return jnp.ones(left.shape, jnp.int8)
    words = fields.WAVELETS_PER_ISSUE.get(threads.pace[thread])
    return jnp.minimum(words.astype(jnp.int32), left).astype(jnp.int8)


def _come(shape: Shape, waiting: Counts, color: PerPE) -> PerPE:
    """`int8[PEs]`: wavelets that a thread could take; of one that takes single ones, if any."""
    if shape.taken_words == 1:
        return sets.some(counts.some(waiting) & color).astype(jnp.int8)
    return counts.at(waiting, color)


def _room(tables: Tables, outputs: Counts, color: PerPE) -> PerPE:
    """`int8[PEs]`: room for what a thread could send; of one that sends single words, if any."""
    capacity = tables.output_capacity
    if tables.shape.sent_words == 1:
        return sets.some(counts.differ(outputs, capacity) & color).astype(jnp.int8)
    return counts.at(counts.minus(capacity, outputs), color)


def _complete(shape: Shape, state: Live, done: Rows, now: jax.Array) -> Live:
    """The main thread goes on after a synchronous operation; microthreads set task flags."""

    def some(of_main: MainThreads) -> MainThreads:
        wake, end, active, blocked = of_main
        synchronous = done[0]
        # While it waited, `wake` held the cycles of drain.
        drained = now + 1 + wake
        wake = jnp.where(synchronous, drained, wake)
        end = jnp.where(synchronous, wake, end)
        if shape.threads > 1:
            # A microthread may outlast its PE's last task, or end before it: the PE is done when
            # both are.
            later = jnp.maximum(end, now + 1)
            # Nothing is drained: the operation is done with its last issue.
            end = jnp.where(done[1:].any(), later, end)
            if shape.tasked:
                for thread in range(1, shape.threads):
                    completion = state.threads.completion[thread]
                    completion = jnp.where(done[thread], completion, 0)
                    active |= _task_bit(fields.ACTIVATE.held(completion))
                    blocked &= ~_task_bit(fields.UNBLOCK.held(completion))
        return wake, end, active, blocked

    before = state.wake, state.end, state.active, state.blocked
    wake, end, active, blocked = only_if(sets.anywhere(done.any()), some, before)
    return dataclasses.replace(
        state, wake=wake, end=end, active=active, blocked=blocked
    )


def _task_bit(held: PerPE) -> PerPE:
    """The bit of task `held - 1`; of NONE, held as 0, no bit."""
    task = jnp.maximum(held - 1, 0)
    return jnp.where(held > 0, 1 << task, 0)


def exchange(shape: Shape, state: Live, wavelets: Rows) -> Live:
    """Issues take their wavelets from input queues and put theirs into output queues."""
    threads = state.threads
    taken = _moved(wavelets, threads.inward, shape.taken_words)
    put = _moved(wavelets, threads.outward, shape.sent_words)
    inputs = dataclasses.replace(
        state.inputs,
        waiting=counts.minus(state.inputs.waiting, taken),
        held=counts.minus(state.inputs.held, taken),
    )
    kinds = state.output_kinds
    if shape.control:
        kinds = _kinds_put(state, wavelets)
    return dataclasses.replace(
        state,
        inputs=inputs,
        outputs=counts.plus(state.outputs, put),
        output_kinds=kinds,
    )


def _moved(wavelets: Rows, colors: Rows, most: int) -> Rows:
    """What all threads move, as numbers by color.

    At most one thread of a PE issued, so of several that use a color one number is not zero.
    """
    of_threads = [
        counts.times(number, color, most)
        for number, color in zip(wavelets, colors, strict=True)
    ]
    return Rows(map(sets.union, zip(*of_threads, strict=True)))


def _kinds_put(state: Live, wavelets: Rows) -> Kinds:
    """The kinds of what is in the output queues and of what is put there, behind it.

    Data's bits are 0 and change nothing: only an operation that sends a control wavelet, of which
    it sends one, sets any.
    """
    threads = state.threads
    first = state.output_kinds[0]
    last = [counts.are(state.outputs, place) for place in range(len(first))]
    after: list[Rows] = []
    for bit, kinds in enumerate(state.output_kinds):
        put: list[PerPE] = []
        rows = zip(wavelets, threads.control, threads.outward, strict=True)
        for number, kind, color in rows:
            sets_bit = (number != 0) & ((kind >> bit & 1) == 1)
            put.append(sets.where(sets_bit, color))
        added = sets.union(put)
        rows = zip(kinds, last, strict=True)
        after.append(Rows(row | (added & here) for row, here in rows))
    return tuple(after)


__all__ = ["Issues", "exchange", "issue"]
