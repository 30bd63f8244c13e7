"""Lanes: independent pieces of work issued in turns, so that no engine waits for its last result.

A lane is a generator that issues instructions and yields where its next instruction would wait for
its last one. Engines issue in program order, so turns taken while the kernel is traced are the
software pipeline.
"""

from collections.abc import Generator, Iterable
from typing import Any

Lane = Generator[None, None, Any]


def abreast(lanes: Iterable[Lane]) -> list[Any]:
    """Runs lanes to their ends, one more of them each round; in a round the oldest goes first.

    Returns:
      What each lane returned, in order.
    """
    waiting = list(enumerate(lanes))
    results, running = [None] * len(waiting), []
    while waiting or running:
        running += waiting[:1]
        del waiting[:1]
        for at, lane in list(running):
            try:
                next(lane)
            except StopIteration as done:
                results[at] = done.value
                running.remove((at, lane))
    return results


def in_turn(lanes: Iterable[Lane]) -> list[Any]:
    """Runs lanes to their ends, one after the other; returns what each returned."""
    return [abreast([lane])[0] for lane in lanes]
