"""When the words of a stream move, as vectors of cycles: issues, and departures of a queue.

Arrays are `[PEs, words]`, cycles as int64. A stream moves one word a cycle at most, so a recursion
`t[k] = max(t[k-1] + 1, x[k])` is a running maximum of `x[k] - k`.
"""

import numpy as np

from emu.wse.fabric.encoding.instructions import Instruction

NEVER = np.int64(-1) << 40


def spaced(x: np.ndarray) -> np.ndarray:
    """The earliest times not before `x`, each at least one cycle after the one before."""
    k = np.arange(x.shape[1])
    return np.maximum.accumulate(x - k, axis=1) + k


def issues(
    i: Instruction,
    ready: np.ndarray,
    arrivals: np.ndarray | None,
    room: np.ndarray | None,
) -> np.ndarray:
    """Cycles in which an operation of one word an issue takes or sends each.

    Args:
      i: the operation.
      ready: `int64[PEs]`, from when it may issue.
      arrivals: when each word it takes is in its input queue; None if it takes none.
      room: when the output queue has room for each of its first words; None if that waits for none.
    """
    words = i.time.issues
    if arrivals is None:
        x = np.repeat(ready[:, None], words, axis=1)
    else:
        x = np.maximum(arrivals, ready[:, None])
    if room is not None:
        part = x[:, : room.shape[1]]
        np.maximum(part, room[:, :words], out=part)
    return spaced(x)


def departures(pushes: np.ndarray, previous: np.ndarray) -> np.ndarray:
    """When each word leaves its output queue for the router, if nothing there is in its way.

    Args:
      pushes: when each is put in.
      previous: `int64[PEs]`, when the word before them leaves.
    """
    x = pushes + 1
    np.maximum(x[:, 0], previous + 1, out=x[:, 0])
    return spaced(x)


def several(
    i: Instruction, ready: np.ndarray, before: np.ndarray, capacity: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pushes and departures of an operation that sends several words an issue.

    It issues only when the output queue takes all of an issue's words.

    Args:
      i: the operation.
      ready: `int64[PEs]`, from when it may issue.
      before: `int64[PEs, capacity]`, departures of the words sent before, the latest last.
      capacity: words that the output queue and the way into it hold.
    """
    words, per = i.time.issues, i.time.words
    out = np.concatenate([before, np.empty((len(ready), words), np.int64)], axis=1)
    if capacity > per and (before[:, -1] < ready).all():
        return _into_empty(ready, words, per, capacity), ready[:, None] + 1 + np.arange(
            words
        )
    pushes = np.empty((len(ready), words), np.int64)
    t = ready - 1
    for begin in range(0, words, per):
        end = min(begin + per, words)
        # A whole queue before its last word: it is gone.
        t = np.maximum(t + 1, out[:, end - 1] + 1)
        for j in range(begin, end):
            pushes[:, j] = t
            out[:, capacity + j] = np.maximum(t + 1, out[:, capacity + j - 1] + 1)
    return pushes, out[:, capacity:]


def _into_empty(ready: np.ndarray, words: int, per: int, capacity: int) -> np.ndarray:
    """Pushes into a queue that is empty and then never runs dry: words leave one a cycle."""
    issue = np.arange(words) // per
    last = np.minimum((issue + 1) * per, words) - 1
    offset = np.maximum(issue, np.where(last >= capacity, 2 + last - capacity, 0))
    return ready[:, None] + offset


__all__ = ["NEVER", "departures", "issues", "several", "spaced"]
