"""A fabric program worked out without stepping: values and, for straight programs, cycles.

Operations are done in the order of dependencies, never in the order of time; a program whose
tasks or streams are a matter of time is told their order by a stepped run.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from emu.errors import LimitExceeded
from emu.wse.fabric.encoding.encode import Encoded
from emu.wse.fabric.events import Dispatches, Operations, Turns
from emu.wse.fabric.trains import contention
from emu.wse.fabric.trains.clock import Clock
from emu.wse.fabric.trains.values import Sram
from emu.wse.fabric.trains.work import WordByWord, Work


@dataclasses.dataclass(frozen=True)
class Times:
    """The cycles of a straight program, those of the machine.

    Attributes:
      ends: `int64[height, width]`, when each PE was done.
      stamps: stamp name to `int64[height, width]`, -1 where it is never read.
      links: `int64[5, height, width]`, words sent north, east, south, west and into the ramp.
      operations: of the PEs asked for, by dispatch.
    """

    ends: np.ndarray
    stamps: dict[str, np.ndarray]
    links: np.ndarray
    operations: Operations


@dataclasses.dataclass(frozen=True)
class Flow:
    """What working a program out gave.

    Attributes:
      values: buffer name to `[height, width, elements]`, NaN where nothing was written.
      sent, consumed: words per color, over all senders and over all readers.
      times: None if they were not asked for or may not be believed.
      why: in the latter case, who would wait for what.
    """

    values: dict[str, np.ndarray]
    sent: dict[str, int]
    consumed: dict[str, int]
    times: Times | None = None
    why: str = ""


def run(
    encoded: Encoded,
    data: Mapping[str, Any] | None,
    *,
    timed: bool,
    order: Dispatches | None = None,
    merges: Turns | None = None,
    traced: np.ndarray | None = None,
) -> Flow:
    """Works a program out.

    Args:
      encoded: the program.
      data: buffer name to its content, `[height, width, elements]` or what broadcasts to it; None
        works out no values.
      timed: cycles too, which a straight program alone has.
      order: of a stepped run, with the ends of microthreads' operations (`order.with_ends`); a
        straight program needs none.
      merges: of that run, whose turn it was at routers that merge.
      traced: flat PEs whose operations are kept.

    Raises:
      FabricError: operations and routes do not go together.
      Deadlock, Unread: as the machine would.
      WordByWord: untimed, if operations wait for words of each other's that are still to come.
    """
    if order is None and not encoded.straight:
        raise LimitExceeded(
            "flow: the program is not straight, must be given the order of a stepped run"
        )
    if order is not None and timed:
        raise LimitExceeded(
            "flow: timed, with the order of a stepped run; that run has the times"
        )
    sram = None if data is None else Sram(encoded, data)
    work = Work(encoded, sram, timed, order, merges)
    clock = Clock(encoded, work.static, traced) if timed else None
    # Order of dependencies, not of time: a receive that has its words needs nothing else of the
    # future, so PEs may be worked out far ahead of others, and the clock of each is its own.
    work.go(clock)
    try:
        work.check()
    except WordByWord as unknown:
        # Who asked for times can still step the program, and is told why it has to; for values
        # alone there is no other way.
        if timed:
            return Flow(values={}, sent={}, consumed={}, why=str(unknown))
        raise
    sent, consumed = work.words_moved()
    times = None
    why = ""
    if clock is not None:
        # Only when all is worked out: the checks need the times of every read.
        why = clock.doubts()
        times = None if why else _times(encoded, work, clock)
    return Flow(
        values={} if sram is None else sram.contents(),
        sent=sent,
        consumed=consumed,
        times=times,
        why=why,
    )


def _times(encoded: Encoded, work: Work, clock: Clock) -> Times:
    shape = encoded.program.shape
    stamps = clock.stamps.reshape(-1, *shape)
    links = contention.crossings(list(work.static.values()), clock.ends.size)
    return Times(
        ends=clock.ends.reshape(shape),
        stamps=dict(zip(encoded.stamps, stamps, strict=True)),
        links=links.reshape(-1, *shape),
        operations=clock.operations(),
    )


__all__ = ["Flow", "Times", "run"]
