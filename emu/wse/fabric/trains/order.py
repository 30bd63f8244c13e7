"""What a program's values depend on of the times of a stepped run: who was first where.

A main thread's dispatches tell the order of its operations and tasks; the end of a microthread's
operation tells what could know of it. Two operations of a PE that move words of one color at once
would share them out by the cycle, which no kernel means: that is an error.
"""

import numpy as np

from emu.wse.fabric.encoding.encode import Encoded
from emu.wse.fabric.encoding.instructions import NONE, VECTOR
from emu.wse.fabric.errors import FabricError
from emu.wse.fabric.trains.routing import place
from emu.wse.fabric.trains.sequence import DONE

FAR = np.iinfo(np.int64).max


def with_ends(
    encoded: Encoded, order: np.ndarray, issues: np.ndarray, watch: np.ndarray
) -> np.ndarray:
    """The order of a stepped run with the ends of what microthreads did.

    Args:
      encoded: the program.
      order: `int64[events, 3]`, (cycle, flat PE, instruction) of each dispatch.
      issues: `int8[steps, watched]`, the thread that each watched PE's datapath served.
      watch: the flat PEs watched, all that `order` tells of.

    Returns:
      `order` with a row (cycle after the last issue, PE, `DONE - thread`) for each, sorted.

    Raises:
      FabricError: two operations of a PE moved words of one color at once.
    """
    thread = np.array(
        [i.thread if i.kind == VECTOR else NONE for i in encoded.instructions]
    )
    code = order[:, 2]
    own = np.where(code >= 0, thread[np.maximum(code, 0)], NONE)
    if not (own > 0).any():
        return order
    ends, windows = [], []
    for u in np.unique(own[own >= 0]).tolist():
        rows = order[own == u]
        rows = rows[np.lexsort((rows[:, 0], rows[:, 1]))]
        first, last = _issued(rows, issues == u, watch)
        windows.append(np.column_stack([rows, first, last]))
        if u:
            ends.append(
                np.stack([last + 1, rows[:, 1], np.full(len(rows), DONE - u)], axis=1)
            )
    _check_apart(encoded, np.concatenate(windows))
    # An end is seen before what is dispatched in its cycle.
    rows = np.concatenate([*ends, order])
    return rows[np.argsort(rows[:, 0], kind="stable")]


def _issued(
    rows: np.ndarray, served: np.ndarray, watch: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """First and last issue of each operation of one thread, sorted by PE and cycle."""
    cycles = len(served) + 1
    step, column = np.nonzero(served)
    at = np.sort(watch[column].astype(np.int64) * cycles + step)
    begun = rows[:, 1] * cycles + rows[:, 0]
    first = at[np.searchsorted(at, begun)]
    # Before the next one begins.
    last = at[np.searchsorted(at, np.append(begun[1:], FAR)) - 1]
    return first % cycles, last % cycles


def _check_apart(encoded: Encoded, windows: np.ndarray) -> None:
    """Operations that move one color at a PE must do so one after another, as dispatched."""
    for side, does in (("inward", "take"), ("outward", "send")):
        color = np.array([getattr(i, side) for i in encoded.instructions])[
            windows[:, 2]
        ]
        used, of = windows[color != NONE], color[color != NONE]
        sort = np.lexsort((used[:, 0], used[:, 1], of))
        used, of = used[sort], of[sort]
        same = (of[1:] == of[:-1]) & (used[1:, 1] == used[:-1, 1])
        mixed = np.flatnonzero(same & (used[:-1, 4] >= used[1:, 3]))
        if len(mixed):
            row = used[mixed[0] + 1]
            name = list(encoded.program.colors)[of[mixed[0] + 1]]
            raise FabricError(
                f"{place(encoded, row[1])}: two threads {does} words of color '{name}' at once, in "
                f"cycle {row[3]}; let one wait for the other, or give each a color",
                encoded.instructions[row[2]].where,
            )


__all__ = ["with_ends"]
