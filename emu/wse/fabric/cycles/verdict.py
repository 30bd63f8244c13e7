"""How a stepped program ended: done, or what is stuck where."""

import numpy as np

from emu.wse.fabric.cycles.main_thread import IDLE
from emu.wse.fabric.cycles.run import QUIET, Cycles
from emu.wse.fabric.encoding.encode import Encoded
from emu.wse.fabric.encoding.instructions import NONE
from emu.wse.fabric.errors import Deadlock, Endless, TwoArrivals, Unread


def check(e: Encoded, run: Cycles) -> None:
    """Raises unless every task is done and every wavelet read.

    Raises:
      TwoArrivals, Endless, Deadlock, Unread: with the PE, the color and the cycle.
    """
    _check_arrivals(e, run)
    if run.steps - run.last < QUIET:
        raise Endless(
            f"still running after {run.steps} cycles: raise the stepper's limit_cycles, or look "
            "for tasks that start one another or wavelets that come round again"
        )
    names = list(e.program.colors)
    _check_threads(e, run, names)
    _check_tasks(e, run)
    if names:
        _check_queues(e, run, names)


def _check_arrivals(e: Encoded, run: Cycles) -> None:
    if not e.program.colors:
        return
    cycle, pe, color = run.state["two"].tolist()
    if cycle >= 0:
        name = list(e.program.colors)[color]
        raise TwoArrivals(
            f"two wavelets on color '{name}' reached PE {place(e, pe)} in cycle "
            f"{cycle}; its route receives from several directions"
        )


def place(e: Encoded, pe: int) -> str:
    """`(x=3, y=0)` of a flat index."""
    y, x = divmod(int(pe), e.program.width)
    return f"(x={x}, y={y})"


def _check_threads(e: Encoded, run: Cycles, names: list[str]) -> None:
    s = run.state
    stuck = np.argwhere(s["thread_on"])
    if not len(stuck):
        return
    stuck = stuck[np.lexsort((stuck[:, 1], _waits_for_room(s, stuck)))]
    thread, pe = stuck[0]
    inward = int(s["thread_inward"][thread, pe])
    outward = int(s["thread_outward"][thread, pe])
    on = "" if thread == 0 else f"microthread {thread} of "
    left = int(s["thread_left"][thread, pe])
    if inward != NONE and s["in"][inward, pe] == 0:
        why = f"waits for {left} wavelets on color '{names[inward]}' that nobody sends"
    elif outward != NONE:
        why = f"cannot send {left} wavelets on color '{names[outward]}': its output queue is full"
    else:
        why = "waits for its datapath"
    raise Deadlock(
        f"deadlock in cycle {run.last}: {on}PE {place(e, pe)} {why} "
        f"({len(stuck)} operations are stuck)"
    )


def _waits_for_room(s: dict[str, np.ndarray], stuck: np.ndarray) -> np.ndarray:
    """False where a thread waits for wavelets: those are nearer to the cause, and told first."""
    thread, pe = stuck.T
    inward = s["thread_inward"][thread, pe]
    return ~((inward != NONE) & (s["in"][np.maximum(inward, 0), pe] == 0))


def _check_tasks(e: Encoded, run: Cycles) -> None:
    s = run.state
    tasks = list(e.program.tasks)
    held = np.argwhere(s["pc"] != IDLE)
    if len(held):
        pe = held[0, 0]
        at = e.instructions[int(s["pc"][pe])]
        raise Deadlock(
            f"deadlock in cycle {run.last}: PE {place(e, pe)} waits for microthread "
            f"{at.thread}, which never ends",
            at.where,
        )
    waiting = np.argwhere(s["active"])
    if len(waiting):
        pe = waiting[0, 0]
        bits = int(s["active"][pe])
        name = tasks[(bits & -bits).bit_length() - 1]
        code = e.entry[(bits & -bits).bit_length() - 1].reshape(-1)[pe]
        why = (
            "is blocked and nobody unblocks it" if code != NONE else "has no code there"
        )
        raise Deadlock(
            f"deadlock in cycle {run.last}: task '{name}' of PE {place(e, pe)} is active but {why}"
        )


def _check_queues(e: Encoded, run: Cycles, names: list[str]) -> None:
    s = run.state
    unread = np.argwhere(s["in"])
    if len(unread):
        color, pe = unread[0]
        raise Unread(
            f"{int(s['in'][color, pe])} wavelets on color '{names[color]}' are unread in "
            f"the input queue of PE {place(e, pe)} when all is done, in cycle "
            f"{run.last}"
        )
    color_of = np.array([c for c, _ in run.shape.channels])
    for what, rows, colors in (
        ("router", s["fifo"], color_of),
        ("output queue", s["out"], None),
    ):
        left = np.argwhere(rows)
        if len(left):
            row, pe = left[0]
            color = row if colors is None else colors[row]
            raise Unread(
                f"{int(rows[row, pe])} wavelets on color '{names[color]}' are stuck in "
                f"the {what} of PE {place(e, pe)} when all tasks are done, in cycle "
                f"{run.last}: no switch position takes them on"
            )


__all__ = ["check", "place"]
