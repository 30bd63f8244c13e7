"""Lanes: independent pieces of work issued in turns, so that no engine waits for its last result.

A lane is a generator that issues instructions and yields where its next instruction would wait for
its last one. Engines issue in program order, so the turns taken while a kernel is traced are its
software pipeline: nothing of them is left when it runs.
"""

from collections.abc import Generator, Iterable
from typing import TypeAlias, TypeVar

Result = TypeVar("Result")

Lane: TypeAlias = Generator[None, None, Result]
"""Issues instructions up to each `yield`, and at its end returns a result."""


def abreast(lanes: Iterable[Lane[Result]]) -> list[Result]:
    """Runs lanes to their ends, one more of them each round; in a round the oldest goes first.

    Three lanes a, b and c of three pieces each, such as scores (Tensor Engine), softmax (Vector and
    Scalar), products (Tensor), are issued as

        round 1   a.scores
        round 2   a.softmax    b.scores
        round 3   a.products   b.softmax    c.scores
        round 4                b.products   c.softmax
        round 5                             c.products

    so that the Tensor Engine has b's scores to compute while a is in its softmax. Starting one lane
    a round keeps them apart: lanes that started together would all want the same engine at once.

    Returns:
      What each lane returned, in order.
    """
    waiting = list(enumerate(lanes))
    running: list[tuple[int, Lane[Result]]] = []
    results: dict[int, Result] = {}
    while waiting or running:
        running += waiting[:1]
        del waiting[:1]
        for place, lane in list(running):
            try:
                next(lane)
            except StopIteration as done:
                results[place] = done.value
                running.remove((place, lane))
    return [results[place] for place in sorted(results)]


def in_turn(lanes: Iterable[Lane[Result]]) -> list[Result]:
    """Runs lanes to their ends, one after the other; returns what each returned."""
    return [result for lane in lanes for result in abreast([lane])]


__all__ = ["Lane", "abreast", "in_turn"]
