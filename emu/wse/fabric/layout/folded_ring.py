"""A ring folded onto a line: cyclic shift, and all-reduce chunk by chunk.

The ring visits even positions of the line one way and odd ones back, so neighbours stand two PEs
apart and three colors serve. Even places of the ring send first and then receive, odd ones receive
first, so that nobody waits for somebody who waits for him.
"""

from collections.abc import Callable

import numpy as np

from emu.errors import LimitExceeded
from emu.wse.fabric import ops
from emu.wse.fabric.layout.code import Code, code
from emu.wse.fabric.layout.line import Line
from emu.wse.fabric.layout.streams import Streams, fixed
from emu.wse.fabric.ops import Buffer, Memory, Vector, copy, receive, send
from emu.wse.timeline.folded_ring import places

# What is sent, and what takes what comes.
Step = tuple[Memory, Callable[[ops.Fabric], Vector]]


def shift(
    line: Line,
    dst: Memory,
    x: Memory,
    prefix: str,
    by: int = 1,
    *,
    threads: tuple[int, int] | None = None,
    activate: str | None = None,
) -> Code:
    """Place `i` of the ring gets in `dst` the `x` of place `i - by`, `by` being 1 or -1.

    Args:
      line: of PEs; all hold `dst` and `x`.
      dst, x: apart from one another.
      prefix: of the names of its colors.
      by: how far.
      threads: microthreads of the send and of the receive, which then go on beside the main thread
        and each other; None is one after the other on the main thread.
      activate: with threads, the task that the receive's end activates.
    """
    if by not in (1, -1):
        raise LimitExceeded(f"shift: by is {by}, must be 1 or -1; shift again for more")
    if activate is not None and threads is None:
        raise LimitExceeded(
            f"shift: activates '{activate}' but runs on the main thread; give it "
            "threads, or go on behind it"
        )
    sends, takes = threads or (None, None)

    def steps(place: int) -> list[Step]:
        return [(x, lambda stream: copy(dst, stream, thread=takes, activate=activate))]

    return _around(line, prefix, by, steps, sends)


def ring_all_reduce(line: Line, x: Buffer, prefix: str, op: str = "add") -> Code:
    """Every PE's `x` becomes the sum of all.

    It is cut into a chunk for each PE. Chunk c starts one place beyond place c, goes round once
    and is added to at every place, and goes round again as it is.
    """
    pes = line.pes
    if x.elements % pes:
        raise LimitExceeded(
            f"ring_all_reduce: '{x.name}' has {x.elements} elements, must be a multiple of the "
            f"ring's {pes} PEs; pad it"
        )
    chunk = x.elements // pes

    def at(c: int) -> Memory:
        return x[c % pes * chunk : (c % pes + 1) * chunk]

    def step(place: int, n: int) -> Step:
        into = at(place - 2 - n)
        if n < pes - 1:
            return at(place - 1 - n), lambda stream: Vector(op, into, stream, into)
        return at(place - 1 - n), lambda stream: copy(into, stream)

    def steps(place: int) -> list[Step]:
        return [step(place, n) for n in range(2 * (pes - 1))]

    return _around(line, prefix, 1, steps)


def around(pes: int, prefix: str, by: int = 1) -> Streams:
    """The streams of a ring of two or more PEs, on three colors: each sends to the next one.

    Args:
      pes: on the line.
      prefix: of the colors' names.
      by: 1, or -1 where each sends to the one before.
    """
    ring = places(pes)
    receivers = np.empty(pes, int)
    receivers[ring] = np.roll(ring, -by)
    return fixed(receivers.tolist(), prefix)


def _around(
    line: Line,
    prefix: str,
    by: int,
    steps: Callable[[int], list[Step]],
    thread: int | None = None,
) -> Code:
    """Steps in which every PE sends to the next place of the ring and takes from the one before."""
    pes = line.pes
    position = places(pes).tolist()
    if pes == 1:
        return code(line.program, [])
    laid = around(pes, prefix, by)
    laid.lay(line)
    alike: dict[tuple[ops.Op, ...], list[int]] = {}
    for place in range(pes):
        here = position[place]
        before = position[(place - by) % pes]
        first = (place * by) % pes % 2 == 0
        made = tuple(_operations(steps(place), laid, here, before, first, thread))
        alike.setdefault(made, []).append(here)
    return code(line.program, [(line.at(at), made) for made, at in alike.items()])


def _operations(
    steps: list[Step],
    laid: Streams,
    here: int,
    before: int,
    sends_first: bool,
    thread: int | None,
) -> list[ops.Op]:
    out: list[ops.Op] = []
    for x, take in steps:
        both = [
            copy(send(laid.color[here], x.elements), x, thread=thread),
            take(receive(laid.color[before], x.elements)),
        ]
        out += both if sends_first else both[::-1]
    return out


__all__ = ["around", "ring_all_reduce", "shift"]
