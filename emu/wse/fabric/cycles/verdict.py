"""How a stepped program ended: done, or what is stuck where."""

import numpy as np

from emu.wse.fabric.cycles.machine import IDLE, NEVER, TAKES, Final
from emu.wse.fabric.cycles.run import QUIET, Cycles
from emu.wse.fabric.encoding.encode import Encoded
from emu.wse.fabric.encoding.instructions import NONE
from emu.wse.fabric.errors import (
    Deadlock,
    Endless,
    FabricError,
    TwoArrivals,
    Unread,
)


def check(encoded: Encoded, run: Cycles) -> None:
    """Raises unless every task is done and every wavelet read.

    Raises:
      TwoArrivals, Endless, Deadlock, Unread: with the PE, the color and the cycle.
    """
    names = list(encoded.program.colors)
    if names:
        _check_arrivals(encoded, run, names)
    # Stopped by the limit, not by itself: something had happened just before.
    if run.steps - run.last < QUIET:
        raise Endless(
            f"still running after {run.steps} cycles: raise the stepper's limit_cycles, or look "
            "for tasks that start one another or wavelets that come round again"
        )
    # In this order: what is nearest the cause of a deadlock is told first.
    _check_threads(encoded, run, names)
    _check_main_threads(encoded, run)
    _check_tasks(encoded, run)
    if names:
        _check_inputs(encoded, run, names)
        of_channels = [names[color] for color, _ in run.shape.channels]
        queued = run.state.channels
        _check_stranded(encoded, run, "router", queued, of_channels)
        _check_stranded(encoded, run, "output queue", run.state.outputs, names)
        _check_apart(encoded, run, names)


def _name(encoded: Encoded, pe: int) -> str:
    return f"PE {encoded.program.coordinates(pe)}"


def _check_arrivals(encoded: Encoded, run: Cycles, names: list[str]) -> None:
    # Told first of all, for what came after it may be its consequence.
    cycle, pe, color = run.state.clash.tolist()
    if cycle != NEVER:
        raise TwoArrivals(
            f"two wavelets on color '{names[color]}' reached {_name(encoded, pe)} in cycle "
            f"{cycle}; its route receives from several directions"
        )


def _check_threads(encoded: Encoded, run: Cycles, names: list[str]) -> None:
    state = run.state
    thread, pe = np.nonzero(state.on)
    if not len(pe):
        return
    # A thread that waits for wavelets is nearer to the cause than one that waits for room.
    starves = _starves(state, thread, pe)
    nearest = np.lexsort((pe, ~starves))[0]
    stuck = len(pe)
    thread = int(thread[nearest])
    pe = int(pe[nearest])
    inward = int(state.inward[thread, pe])
    outward = int(state.outward[thread, pe])
    left = int(state.left[thread, pe])
    on = "" if thread == 0 else f"microthread {thread} of "
    if inward != NONE and state.inputs[inward, pe] == 0:
        why = f"waits for {left} wavelets on color '{names[inward]}' that nobody sends"
    elif outward != NONE:
        why = f"cannot send {left} wavelets on color '{names[outward]}': its output queue is full"
    else:
        why = "waits for its datapath"
    raise Deadlock(
        f"deadlock in cycle {run.last}: {on}{_name(encoded, pe)} {why} "
        f"({stuck} operations are stuck)"
    )


def _starves(
    state: Final,
    thread: np.ndarray,
    pe: np.ndarray,
) -> np.ndarray:
    """Whether operations wait for wavelets that are not there."""
    inward = state.inward[thread, pe]
    if not len(state.inputs):
        return np.zeros(len(pe), bool)
    came = state.inputs[np.maximum(inward, 0), pe]
    return (inward != NONE) & (came == 0)


def _check_main_threads(encoded: Encoded, run: Cycles) -> None:
    held = np.flatnonzero(run.state.pc != IDLE)
    if not len(held):
        return
    # Nothing happens any more, so its wait is for no cycle, and what it dispatches next is all that
    # can lack: a microthread.
    pe = int(held[0])
    instruction = encoded.instructions[int(run.state.pc[pe])]
    raise Deadlock(
        f"deadlock in cycle {run.last}: {_name(encoded, pe)} waits for microthread "
        f"{instruction.thread}, which never ends",
        instruction.where,
    )


def _check_tasks(encoded: Encoded, run: Cycles) -> None:
    waiting = np.flatnonzero(run.state.active)
    if not len(waiting):
        return
    pe = int(waiting[0])
    bits = int(run.state.active[pe])
    lowest = bits & -bits  # tasks 2 and 4 active, 0b10100: its lowest bit, 0b00100
    task = lowest.bit_length() - 1
    name = list(encoded.program.tasks)[task]
    has_code = encoded.entry[task].reshape(-1)[pe] != NONE
    why = "is blocked and nobody unblocks it" if has_code else "has no code there"
    raise Deadlock(
        f"deadlock in cycle {run.last}: task '{name}' of {_name(encoded, pe)} is active but {why}"
    )


def _check_inputs(encoded: Encoded, run: Cycles, names: list[str]) -> None:
    waiting = run.state.inputs
    left = np.argwhere(waiting)
    if len(left):
        color, pe = left[0].tolist()
        raise Unread(
            f"{waiting[color, pe]} wavelets on color '{names[color]}' are unread in "
            f"the input queue of {_name(encoded, pe)} when all is done, in cycle "
            f"{run.last}"
        )


def _check_stranded(
    encoded: Encoded,
    run: Cycles,
    where: str,
    waiting: np.ndarray,
    names: list[str],
) -> None:
    """No wavelets are left in the queues `waiting` `[rows, PEs]`, whose colors are `names`."""
    left = np.argwhere(waiting)
    if len(left):
        row, pe = left[0].tolist()
        raise Unread(
            f"{waiting[row, pe]} wavelets on color '{names[row]}' are stuck in "
            f"the {where} of {_name(encoded, pe)} when all tasks are done, in cycle "
            f"{run.last}: no switch position takes them on"
        )


def _check_apart(encoded: Encoded, run: Cycles, names: list[str]) -> None:
    """Operations of a PE moved the words of a color one after another, never two at once."""
    cycle, pe, color, side, thread = run.state.mixed.tolist()
    if cycle == NEVER:
        return
    where = ""
    # The machine keeps no instruction of a thread, only its color and side: the first that fits is
    # told.
    for instruction in encoded.instructions:
        used = instruction.inward if side == TAKES else instruction.outward
        if used == color and instruction.thread == thread:
            where = instruction.where
            break
    raise FabricError(
        f"{_name(encoded, pe)}: two threads {'take' if side == TAKES else 'send'} words of color "
        f"'{names[color]}' at once, in cycle {cycle}; let one wait for the other, or give each a "
        "color",
        where,
    )


__all__ = ["check"]
