"""A cycle of every main thread: which task runs, and what its next instruction starts."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from emu.wse.fabric.cycles import fields
from emu.wse.fabric.cycles.machine import IDLE, Live, Queues, Threads
from emu.wse.fabric.cycles.rows import PerPE, Rows, materialize, where
from emu.wse.fabric.cycles.shape import Shape
from emu.wse.fabric.cycles.tables import Tables
from emu.wse.fabric.encoding.instructions import (
    ACTIVATE,
    BLOCK,
    NONE,
    PAUSE,
    STAMP,
    SWITCH,
    UNBLOCK,
    VECTOR,
)


def select(tables: Tables, state: Live, now: jax.Array) -> tuple[Live, PerPE]:
    """Idle main threads take their lowest task that is ready.

    Returns:
      the state, and the data task that each PE started in this cycle, or NONE.
    """
    shape = tables.shape
    ready = state.active & ~state.blocked
    starts_data_task: list[PerPE] = []
    for number, (task, color) in enumerate(shape.data_tasks):
        came = state.inputs.waiting[color] > 0
        may_run = state.blocked >> task & 1 == 0
        # A data task is never activated: it is ready as long as its queue holds a wavelet.
        starts = came & tables.hears[number] & may_run
        starts_data_task.append(starts)
        ready |= jnp.where(starts, 1 << task, 0)
    # A task whose last instruction is a synchronous operation is not over before that is.
    idle = (state.pc == IDLE) & ~state.threads.on[0]
    pick = idle & (state.wake <= now) & (ready != 0)
    lowest = ready & -ready  # tasks 2 and 4 ready, 0b10100: its lowest bit, 0b00100
    pc = state.pc
    running = state.running
    for task in range(shape.tasks):
        taken = pick & (lowest == 1 << task)
        first = tables.entry[task]
        if PAUSE in shape.kinds:
            resume = state.resume[task]
            first = jnp.where(resume > 0, resume, first)
            running = where(taken, task, running)
        pc = jnp.where(taken, first, pc)
    # A data task reads the wavelet that starts it before any of its operations can.
    heard_task = jnp.full_like(pc, NONE)
    inputs = state.inputs
    for number, (task, color) in enumerate(shape.data_tasks):
        started = pick & (lowest == 1 << task) & starts_data_task[number]
        heard_task = jnp.where(started, task, heard_task)
        inputs = _take_one(shape, inputs, started, color)
    others = state.active & ~lowest
    switched = now + shape.task_switch_cycles
    state = dataclasses.replace(
        state,
        pc=pc,
        active=jnp.where(pick, others, state.active),
        wake=jnp.where(pick, switched, state.wake),
        running=running,
        inputs=inputs,
    )
    return state, heard_task


def _take_one(
    shape: Shape,
    inputs: Queues[Rows],
    started: PerPE,
    color: int,
) -> Queues[Rows]:
    """The wavelet that starts a data task leaves its queue."""
    one = started.astype(jnp.int8)
    taken = Rows(one * jnp.int8(row == color) for row in range(shape.colors))
    return dataclasses.replace(
        inputs,
        waiting=inputs.waiting - taken,
        held=inputs.held - taken,
    )


def dispatch(tables: Tables, state: Live, now: jax.Array) -> tuple[Live, PerPE]:
    """Main threads that are due dispatch their next instruction.

    Returns:
      the state, and `bool[PEs]`: who did.
    """
    shape = tables.shape
    # In most cycles of long operations nobody does, and then no instruction need be looked up.
    may = (state.pc >= 0) & ~state.threads.on[0] & (state.wake <= now)

    def nobody(state: Live) -> tuple[Live, PerPE]:
        return state, jnp.zeros(shape.pes, bool)

    def some(state: Live) -> tuple[Live, PerPE]:
        return _dispatch(tables, state, now)

    return lax.cond(may.any(), some, nobody, state)


def _dispatch(tables: Tables, state: Live, now: jax.Array) -> tuple[Live, PerPE]:
    """`dispatch` in a cycle in which some main thread may."""
    shape = tables.shape
    # Idle threads look up instruction 0, of which nothing is used.
    at = jnp.maximum(state.pc, 0)
    following = fields.unpack([word[at] for word in tables.instructions])
    has_next = (state.pc >= 0) & ~state.threads.on[0]
    due = has_next & (state.wake <= now)
    vector = following.kind == VECTOR
    for thread in range(1, shape.threads):  # a busy microthread stalls the main thread
        mine = vector & (following.thread == thread)
        due &= ~(mine & state.threads.on[thread])
    # All that follows reads these two: fused, every row that they change would look each PE's
    # instruction up again.
    due, starts = materialize(tables.on, due, due & vector)
    # A synchronous operation stops its thread until it completes; anything else only takes time.
    synchronous = starts & (following.thread == 0)
    others = due & ~synchronous
    cycles = jnp.where(starts, shape.async_cycles, following.setup_cycles)
    wake = jnp.where(others, now + cycles, state.wake)
    # Of a synchronous operation, what is added to the cycle in which it completes.
    # Dispatched in cycle 10 with a set-up of 4, 8 words and a drain of 4, it issues in cycles 14 to
    # 21; `_complete` adds 22 to the drain, and the next dispatch is in cycle 26.
    wake = jnp.where(synchronous, following.drain_cycles, wake)
    # The task is over when its last instruction is dispatched; `threads.on` keeps the next one
    # waiting.
    ends_task = following.last == 1
    next_pc = jnp.where(ends_task, IDLE, state.pc + 1)
    resume = state.resume
    if PAUSE in shape.kinds:
        resume = _resume(state, following, due & ends_task)
    dispatched = dataclasses.replace(
        state,
        wake=wake,
        pc=jnp.where(due, next_pc, state.pc),
        end=jnp.where(others, wake, state.end),
        threads=_start(shape, state.threads, following, starts, now),
        resume=resume,
    )
    return _scalar(shape, dispatched, following, due, now), due


def _resume(state: Live, following: fields.Instruction, ends: PerPE) -> Rows:
    """Where each task goes on when it runs next; 0 is at its start."""
    at = jnp.where(following.kind == PAUSE, state.pc + 1, 0)
    running = state.running[0]
    tasks = range(len(state.resume))
    # Ending in any other way than by a pause sets it back to 0, so that the task starts anew.
    mine = Rows(ends & (running == task) for task in tasks)
    return where(mine, at, state.resume)


def _start(
    shape: Shape,
    threads: Threads[Rows],
    following: fields.Instruction,
    starts: PerPE,
    now: jax.Array,
) -> Threads[Rows]:
    """Vector operations enter their threads."""
    pace = fields.WAVELETS_PER_ISSUE.put(following.wavelets_per_issue)
    pace |= fields.IDLE_CYCLES.put(following.idle_cycles)
    completion = fields.ACTIVATE.put(following.activate)
    completion |= fields.UNBLOCK.put(following.unblock)
    completion |= fields.CONFLICT.put(following.conflict)
    mine = Rows(
        starts & (following.thread == thread) for thread in range(shape.threads)
    )

    def entered(value: PerPE, rows: Rows) -> Rows:
        return where(mine, value.astype(rows[0].dtype), rows)

    return dataclasses.replace(
        threads,
        on=threads.on | mine,
        wake=entered(now + following.setup_cycles, threads.wake),
        left=entered(following.issues, threads.left),
        inward=entered(following.inward, threads.inward),
        outward=entered(following.outward, threads.outward),
        pace=entered(pace, threads.pace),
        completion=entered(completion, threads.completion),
        control=entered(following.control, threads.control),
        begun=entered(now, threads.begun) if len(threads.begun) else threads.begun,
    )


def _scalar(
    shape: Shape,
    state: Live,
    following: fields.Instruction,
    due: PerPE,
    now: jax.Array,
) -> Live:
    """Instructions that only set bits: stamps, task flags, switches."""
    if STAMP in shape.kinds:
        reads = due & (following.kind == STAMP)
        hit = _target(following, reads, shape.stamps)
        stamps = where(hit, now, state.stamps)
        state = dataclasses.replace(state, stamps=stamps)
    # Where no task is ever set on the way, its bits need no work.
    if shape.tasked:
        target = jnp.maximum(following.target, 0)
        bit = jnp.where(due, 1 << target, 0)
        activated = jnp.where(following.kind == ACTIVATE, bit, 0)
        blocked = jnp.where(following.kind == BLOCK, bit, 0)
        unblocked = jnp.where(following.kind == UNBLOCK, bit, 0)
        state = dataclasses.replace(
            state,
            active=state.active | activated,
            # An instruction blocks or unblocks, never both, so it does not matter which comes first
            # here.
            blocked=(state.blocked | blocked) & ~unblocked,
        )
    if SWITCH in shape.kinds and len(state.position):
        turns = due & (following.kind == SWITCH)
        hit = _target(following, turns, shape.colors)
        to = following.position.astype(jnp.int8)
        position = where(hit, to, state.position)
        state = dataclasses.replace(state, position=position)
    return state


def _target(following: fields.Instruction, does: PerPE, rows: int) -> Rows:
    """`bool[rows, PEs]`: the row that an instruction is about, where a PE does it."""
    return Rows(does & (following.target == row) for row in range(rows))


__all__ = ["dispatch", "select"]
