"""When the words of a stream move, as vectors of cycles: issues, and departures of a queue.

Arrays are `[PEs, words]`, cycles as int64. A stream moves one word a cycle at most, so a recursion
`time[k] = max(time[k-1] + 1, earliest[k])` is a running maximum of `earliest[k] - k`:

    earliest           7  7  7  12  12
    less k             7  6  5   9   8
    running maximum    7  7  7   9   9
    plus k             7  8  9  12  13
"""

import numpy as np

from emu.wse.fabric.arrays import CycleArray
from emu.wse.fabric.encoding.instructions import Instruction

NEVER = np.int64(-1) << 40
"""Long before cycle 0: when a word left that was never sent."""


def spaced(earliest: CycleArray) -> CycleArray:
    """The earliest times not before `earliest`, each at least one cycle after the one before."""
    words = earliest.shape[1]
    word = np.arange(words)
    # With u[k] = time[k] - k the recursion is u[k] = max(u[k-1], earliest[k] - k), and a maximum of
    # maxima needs no loop over the words.
    latest_so_far = np.maximum.accumulate(earliest - word, axis=1)
    return latest_so_far + word


def issues(
    instruction: Instruction,
    ready: CycleArray,
    arrivals: CycleArray | None,
    room: CycleArray | None,
) -> CycleArray:
    """Cycles in which an operation of one word an issue takes or sends each.

    Args:
      instruction: the operation.
      ready: `int64[PEs]`, from when it may issue.
      arrivals: when each word it takes is in its input queue; None if it takes none.
      room: when the output queue has room for each of its first words; None if that waits for none.
    """
    words = instruction.time.issues
    ready = ready[:, None]
    if arrivals is None:
        earliest = np.repeat(ready, words, axis=1)
    else:
        earliest = np.maximum(arrivals, ready)
    # The words after these always find room: word `capacity` is pushed after word `capacity - 1`,
    # for which the last of the earlier words had left, and from then on the queue sends one word a
    # cycle, as fast as they come.
    if room is not None:
        limited = min(words, room.shape[1])
        first_words = earliest[:, :limited]
        np.maximum(first_words, room[:, :limited], out=first_words)
    return spaced(earliest)


def departures(pushes: CycleArray, previous: CycleArray) -> CycleArray:
    """When each word leaves its output queue for the router, if nothing there is in its way.

    Args:
      pushes: when each is put in.
      previous: `int64[PEs]`, when the word before them leaves.
    """
    earliest = pushes + 1
    first_word = earliest[:, 0]
    np.maximum(first_word, previous + 1, out=first_word)
    return spaced(earliest)


def several(
    instruction: Instruction,
    ready: CycleArray,
    before: CycleArray,
    capacity: int,
) -> tuple[CycleArray, CycleArray]:
    """Pushes and departures of an operation that sends several words an issue.

    It issues only when the output queue takes all of an issue's words.

    Args:
      instruction: the operation.
      ready: `int64[PEs]`, from when it may issue.
      before: `int64[PEs, capacity]`, departures of the words sent before, the latest last.
      capacity: words that the output queue and the way into it hold.
    """
    pes = len(ready)
    words = instruction.time.issues
    per_issue = instruction.time.words
    latest = before[:, -1]
    # Only an empty queue that holds more than one issue never runs dry. With 2 words an issue and
    # room for 2, words 0 and 1 leave in cycles 1 and 2, words 2 and 3 are pushed in cycle 3, and
    # nothing leaves in that cycle: the closed form would be a cycle too early.
    if capacity > per_issue and (latest < ready).all():
        ready = ready[:, None]
        pushes = ready + _into_empty(words, per_issue, capacity)
        leaves = ready + 1 + np.arange(words)
        return pushes, leaves
    pushes = np.empty((pes, words), np.int64)
    # Departures of the words before and, from column `capacity` on, of these words.
    leaves = np.empty((pes, capacity + words), np.int64)
    leaves[:, :capacity] = before
    issue = ready - 1
    for begin in range(0, words, per_issue):
        end = min(begin + per_issue, words)
        # There is room once the word has left that is a whole queue before this issue's last one.
        freed = leaves[:, end - 1] + 1
        issue = np.maximum(issue + 1, freed)
        for word in range(begin, end):
            pushes[:, word] = issue
            column = capacity + word
            previous = leaves[:, column - 1]
            leaves[:, column] = np.maximum(issue, previous) + 1
    return pushes, leaves[:, capacity:]


def _into_empty(words: int, per_issue: int, capacity: int) -> CycleArray:
    """Pushes, after the first, into a queue that is empty and then never runs dry.

    Words leave one a cycle from cycle 1 on, word w in cycle 1 + w, and its place is free in the
    next. With 2 words an issue and room for 9 (a WSE-3), words are pushed in cycles

        0 0  1 1  2 2  3 3  4 4  5 5  6 6  8 8  10 10  12 12 ...

    Words 14 and 15 wait for cycle 8: a whole queue before word 15 is word 6, which leaves in cycle
    7.
    """
    issue = np.arange(words) // per_issue
    # An issue waits for all of its words, and the last of them finds room last. The last issue of
    # an odd number of words may be short.
    end = np.minimum((issue + 1) * per_issue, words)
    last_word = end - 1
    makes_room = last_word - capacity
    # Word w leaves in cycle 1 + w; the datapath sees the free place in the cycle after that.
    freed = np.where(makes_room >= 0, 2 + makes_room, 0)
    return np.maximum(issue, freed)


__all__ = ["NEVER", "departures", "issues", "several", "spaced"]
