"""A few PEs of a stepped run over time, in text: a row a thread, a character per share of it."""

import numpy as np

from emu.wse.fabric.cycles import states as cycle_states
from emu.wse.fabric.cycles.run import Cycles
from emu.wse.fabric.cycles.states import THREAD_STATES
from emu.wse.fabric.cycles.verdict import place
from emu.wse.fabric.encoding.encode import Encoded

MARKS = {  # of as many cycles, the earlier wins
    "▓": ("bank conflict", (cycle_states.CONFLICT,)),
    "█": ("issuing", (cycle_states.ISSUING,)),
    "▒": ("set-up, code or drain", (cycle_states.SET_UP, cycle_states.CODE)),
    "░": ("waiting for wavelets", (cycle_states.NO_WAVELETS,)),
    "▚": ("queue full", (cycle_states.FULL,)),
    "·": (
        "another thread's turn",
        (cycle_states.DATAPATH_BUSY, cycle_states.THREAD_BUSY),
    ),
    " ": ("idle", (cycle_states.IDLE,)),
}


def drawn(encoded: Encoded, stepped: Cycles, columns: int = 64) -> str:
    """The traced PEs: what each thread did most while it was not idle, and a legend.

    The number behind a row is the share of the run in which the thread issued.

    Args:
      encoded: the program.
      stepped: its run, with traced PEs.
      columns: characters a row, or one a cycle if there are fewer.
    """
    end = stepped.cycles
    columns = max(1, min(columns, end))
    mark_of = np.zeros(len(THREAD_STATES), np.int64)
    for mark, (_, states) in enumerate(MARKS.values()):
        mark_of[list(states)] = mark
    rows, seen = [], np.zeros(len(MARKS), bool)
    for column, pe in enumerate(stepped.traced.tolist()):
        name = place(encoded, pe)
        for u in range(stepped.states.shape[1]):
            marks = mark_of[stepped.states[:end, u, column]]
            if u and (marks == len(MARKS) - 1).all():
                continue
            bar = _most(marks, columns)
            seen[bar] = True
            share = np.isin(marks, (0, 1)).mean() if len(marks) else 0.0
            rows.append((name if not u else f"  thread {u}", bar, share))
    width = max((len(name) for name, _, _ in rows), default=0)
    lines = [
        f"{name:<{width}} {''.join(np.array(list(MARKS))[bar])} {share:4.0%}"
        for name, bar, share in rows
    ]
    scale = f"0{f'{end:,} cycles':>{columns - 1}}"
    legend = "  ".join(
        f"{m} {MARKS[m][0]}"
        for m, used in zip(MARKS, seen, strict=True)
        if used and m != " "
    )
    return "\n".join([*lines, f"{'':<{width}} {scale}", legend])


def _most(marks: np.ndarray, columns: int) -> np.ndarray:
    """`int[columns]`: the mark of most cycles of each column, idle only if all of it is."""
    at = np.arange(len(marks)) * columns // max(1, len(marks))
    counts = np.zeros((columns, len(MARKS)), np.int64)
    np.add.at(counts, (at, marks), 1)
    counts[:, -1] = 0  # a PE that works a few cycles of a long run is to be seen
    idle = counts.sum(axis=1) == 0
    return np.where(idle, len(MARKS) - 1, counts.argmax(axis=1))


__all__ = ["drawn"]
