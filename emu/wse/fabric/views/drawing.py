"""A few PEs of a stepped run over time, in text: a row a thread, a character per share of it."""

import dataclasses

import numpy as np

from emu.wse.fabric.cycles import states as thread_states
from emu.wse.fabric.cycles.run import Cycles
from emu.wse.fabric.cycles.states import THREAD_STATES
from emu.wse.fabric.encoding.encode import Encoded


@dataclasses.dataclass(frozen=True)
class Mark:
    """A character, what it says, and the states of a thread that it is drawn for."""

    character: str
    meaning: str
    states: tuple[int, ...]
    issues: bool = False


MARKS = (  # of as many cycles, the earlier wins
    Mark("▓", "bank conflict", (thread_states.CONFLICT,), issues=True),
    Mark("█", "issuing", (thread_states.ISSUING,), issues=True),
    Mark("▒", "set-up, code or drain", (thread_states.SET_UP, thread_states.CODE)),
    Mark("░", "waiting for wavelets", (thread_states.NO_WAVELETS,)),
    Mark("▚", "queue full", (thread_states.FULL,)),
    Mark(
        "·",
        "another thread's turn",
        (thread_states.DATAPATH_BUSY, thread_states.THREAD_BUSY),
    ),
    Mark(" ", "idle", (thread_states.IDLE,)),
)
IDLE = len(MARKS) - 1


@dataclasses.dataclass(frozen=True)
class Bar:
    """One thread's row.

    Attributes:
      name: in front of it.
      marks: `int[columns]`, indices of `MARKS`.
      share: of the run, in which the thread issued.
    """

    name: str
    marks: np.ndarray
    share: float


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
    bars = _bars(encoded, stepped, columns)
    width = max((len(bar.name) for bar in bars), default=0)
    characters = np.array([mark.character for mark in MARKS])
    lines: list[str] = []
    used: set[int] = set()
    for bar in bars:
        drawing = "".join(characters[bar.marks])
        lines.append(f"{bar.name:<{width}} {drawing} {bar.share:4.0%}")
        used |= set(bar.marks.tolist())
    told_end = f"{end:,} cycles"
    scale = f"0{told_end:>{columns - 1}}"
    lines.append(f"{'':<{width}} {scale}")
    legend: list[str] = []
    for number, mark in enumerate(MARKS):
        if number in used and number != IDLE:
            legend.append(f"{mark.character} {mark.meaning}")
    lines.append("  ".join(legend))
    return "\n".join(lines)


def _bars(encoded: Encoded, stepped: Cycles, columns: int) -> list[Bar]:
    """A row for each traced PE's main thread, and each of its microthreads that did anything."""
    mark_of = np.zeros(len(THREAD_STATES), np.int64)
    for number, mark in enumerate(MARKS):
        mark_of[list(mark.states)] = number
    issues = [number for number, mark in enumerate(MARKS) if mark.issues]
    bars: list[Bar] = []
    for column, pe in enumerate(stepped.traced.tolist()):
        for thread in range(stepped.states.shape[1]):
            marks = mark_of[stepped.states[: stepped.cycles, thread, column]]
            if thread and (marks == IDLE).all():
                continue
            at = encoded.program.coordinates(pe)
            name = f"  thread {thread}" if thread else at
            share = np.isin(marks, issues).mean() if len(marks) else 0.0
            bars.append(Bar(name, _most(marks, columns), share))
    return bars


def _most(marks: np.ndarray, columns: int) -> np.ndarray:
    """`int[columns]`: the mark of most cycles of each column, idle only if all of it is."""
    column = np.arange(len(marks)) * columns // max(1, len(marks))
    counts = np.zeros((columns, len(MARKS)), np.int64)
    np.add.at(counts, (column, marks), 1)
    counts[:, IDLE] = 0  # a PE that works a few cycles of a long run is to be seen
    all_idle = counts.sum(axis=1) == 0
    return np.where(all_idle, IDLE, counts.argmax(axis=1))


__all__ = ["drawn"]
