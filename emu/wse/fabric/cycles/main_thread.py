"""A cycle of every main thread: which task runs, and what its next instruction starts."""

import dataclasses

import jax
import jax.numpy as jnp

from emu.wse.fabric.cycles import counts, fields, sets
from emu.wse.fabric.cycles.machine import IDLE, Live, Queues, Threads
from emu.wse.fabric.cycles.rows import PerPE, Rows, materialize, only_if, where
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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Acts:
    """What the main threads did in a cycle.

    Attributes:
      any: `bool[]`, whether any did anything.
      code: `int32[PEs]`, the instruction that each dispatched, or NONE.
      heard: `int32[PEs]`, the data task that each PE started, or NONE.
    """

    any: jax.Array
    code: PerPE
    heard: PerPE


def act(tables: Tables, state: Live, now: jax.Array) -> tuple[Live, Acts]:
    """Idle main threads take a task, and those that are due dispatch their next instruction."""
    # In many cycles of long operations nobody does, and then neither tasks nor instructions need be
    # looked at.
    ready = (state.active & ~state.blocked) != 0
    for starts in _data_tasks_ready(tables, state):
        ready |= starts
    free = ~state.threads.on[0] & (state.wake <= now)
    nobody = jnp.full(tables.shape.pes, NONE, jnp.int32)

    def select(at: tuple[Live, PerPE]) -> tuple[Live, PerPE]:
        return _select(tables, at[0], now)

    def some(at: tuple[Live, Acts]) -> tuple[Live, Acts]:
        state, acts = at
        picks = sets.anywhere(free & ready & (state.pc == IDLE))
        selected, heard = only_if(picks, select, (state, acts.heard))
        dispatched, due = _dispatch(tables, selected, now)
        code = jnp.where(due, selected.pc, NONE)
        acted = picks | sets.anywhere(due)
        return dispatched, Acts(any=acted, code=code, heard=heard)

    before = state, Acts(any=jnp.bool_(False), code=nobody, heard=nobody)
    return only_if(sets.anywhere(free & (ready | (state.pc >= 0))), some, before)


def _data_tasks_ready(tables: Tables, state: Live) -> list[PerPE]:
    """Where each of `Shape.data_tasks` may start."""
    shape = tables.shape
    if not shape.data_tasks:
        return []
    waiting = counts.some(state.inputs.waiting)
    found: list[PerPE] = []
    for number, (task, color) in enumerate(shape.data_tasks):
        came = sets.some(waiting & waiting.dtype.type(1 << color))
        may_run = state.blocked >> task & 1 == 0
        # A data task is never activated: it is ready as long as its queue holds a wavelet.
        found.append(came & tables.hears[number] & may_run)
    return found


def _select(tables: Tables, state: Live, now: jax.Array) -> tuple[Live, PerPE]:
    """Idle main threads take their lowest task that is ready.

    Returns:
      the state, and the data task that each PE started in this cycle, or NONE.
    """
    shape = tables.shape
    ready = state.active & ~state.blocked
    starts_data_task = _data_tasks_ready(tables, state)
    for (task, _), starts in zip(shape.data_tasks, starts_data_task, strict=True):
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
    read = jnp.zeros(shape.pes, sets.dtype_for(shape.colors))
    for number, (task, color) in enumerate(shape.data_tasks):
        started = pick & (lowest == 1 << task) & starts_data_task[number]
        heard_task = jnp.where(started, task, heard_task)
        read |= sets.where(started, read.dtype.type(1 << color))
    others = state.active & ~lowest
    switched = now + shape.task_switch_cycles
    state = dataclasses.replace(
        state,
        pc=pc,
        active=jnp.where(pick, others, state.active),
        wake=jnp.where(pick, switched, state.wake),
        running=running,
        inputs=_without(state.inputs, read) if shape.data_tasks else state.inputs,
    )
    return state, heard_task


def _without(inputs: Queues, read: PerPE) -> Queues:
    """The wavelets that start data tasks leave their queues."""
    return dataclasses.replace(
        inputs,
        waiting=counts.minus(inputs.waiting, [read]),
        held=counts.minus(inputs.held, [read]),
    )


def _dispatch(tables: Tables, state: Live, now: jax.Array) -> tuple[Live, PerPE]:
    """Main threads that are due dispatch their next instruction.

    Returns:
      the state, and `bool[PEs]`: who did.
    """
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
    threads: Threads,
    following: fields.Instruction,
    starts: PerPE,
    now: jax.Array,
) -> Threads:
    """Vector operations enter their threads."""
    pace = fields.WAVELETS_PER_ISSUE.put(following.wavelets_per_issue)
    pace |= fields.IDLE_CYCLES.put(following.idle_cycles)
    completion = fields.ACTIVATE.put(following.activate)
    completion |= fields.UNBLOCK.put(following.unblock)
    completion |= fields.CONFLICT.put(following.conflict)
    mine = Rows(
        starts & (following.thread == thread) for thread in range(shape.threads)
    )

    colors = sets.dtype_for(shape.colors)

    def entered(value: PerPE, rows: Rows) -> Rows:
        # Of what the program has no use for there are no rows.
        return where(mine, value.astype(rows[0].dtype), rows) if len(rows) else rows

    return dataclasses.replace(
        threads,
        on=threads.on | mine,
        wake=entered(now + following.setup_cycles, threads.wake),
        left=entered(following.issues, threads.left),
        inward=entered(sets.only(following.inward, colors), threads.inward),
        outward=entered(sets.only(following.outward, colors), threads.outward),
        pace=entered(pace, threads.pace),
        completion=entered(completion, threads.completion),
        control=entered(following.control, threads.control),
        begun=entered(now, threads.begun),
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
        hit = sets.only(following.target, sets.dtype_for(shape.colors))
        hit = sets.where(turns, hit)
        to = counts.times(following.position, hit, max(shape.positions) - 1)
        kept = state.position & ~hit
        state = dataclasses.replace(state, position=kept | Rows(to))
    return state


def _target(following: fields.Instruction, does: PerPE, rows: int) -> Rows:
    """`bool[rows, PEs]`: the row that an instruction is about, where a PE does it."""
    return Rows(does & (following.target == row) for row in range(rows))


__all__ = ["Acts", "act"]
