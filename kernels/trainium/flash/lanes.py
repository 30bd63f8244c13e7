"""Lanes: independent pieces of work issued in turns, so that no engine waits for its last result.

A lane is a generator that issues instructions and yields where its next instruction would wait for
its last one. Engines issue in program order, so the turns taken while a kernel is traced are its
software pipeline: nothing of them is left when it runs.
"""

import functools
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, TypeAlias, TypeVar

from emu.annotations import PyTree
from emu.tracing import alike
from emu.tracing.side_by_side import is_in_order

Shared = TypeVar("Shared")
State = TypeVar("State", bound=PyTree)
Result = TypeVar("Result")

Lanes: TypeAlias = Any
"""The states of all lanes: a list of pytrees, or where only values count one of stacked arrays."""

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
    running: dict[int, Lane[Result]] = {}
    results: dict[int, Result] = {}
    while waiting or running:
        # One more a round: after r rounds the oldest has run r pieces and the newest one.
        if waiting:
            place, lane = waiting.pop(0)
            running[place] = lane
        # A dictionary keeps the order in which lanes came: the oldest is first.
        for place, lane in list(running.items()):
            try:
                next(lane)
            except StopIteration as done:
                results[place] = done.value
                del running[place]
    return [results[place] for place in sorted(results)]


def sharing(
    begin: Callable[[int, State, Shared], Lane[State]],
    states: Lanes,
    count: int,
    share: Callable[[], Shared],
) -> Lanes:
    """Takes lanes a step on, abreast, which share tiles.

    Where only values count they are one lane of more rows.

    Args:
      begin: `(lane, its state, shared) -> lane`, which differ in the arrays they take and in
        nothing else.
      states: of all lanes, from `together` or from here.
      count: lanes.
      share: makes the tiles that all of them use in turn, such as PSUM's banks.

    Returns:
      The state of each after its step, in the form of `states`.
    """
    if is_in_order():
        shared = share()
        lanes = [begin(lane, state, shared) for lane, state in enumerate(states)]
        return abreast(lanes)

    def alone(lane: int, state: State) -> State:
        # Nothing has to wait for a tile, so each lane has its own.
        (result,) = abreast([begin(lane, state, share())])
        return result

    return alike.along(
        [functools.partial(alone, lane) for lane in range(count)], states
    )


def together(states: Sequence[State]) -> Lanes:
    """The states of lanes as `sharing` takes them: as they are, or stacked to be one's."""
    return list(states) if is_in_order() else alike.together(states)


def apart(states: Lanes, count: int) -> list[Any]:
    """The state of each lane again."""
    return states if is_in_order() else alike.apart(states, count)


def in_turn(lanes: Iterable[Lane[Result]]) -> list[Result]:
    """Runs lanes to their ends, one after the other; returns what each returned."""
    results = []
    for lane in lanes:
        # Alone a lane runs on through its yields: the same instructions as abreast, in another
        # order.
        (result,) = abreast([lane])
        results.append(result)
    return results


__all__ = ["Lane", "Lanes", "abreast", "apart", "in_turn", "sharing", "together"]
