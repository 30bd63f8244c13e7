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
from emu.wse.fabric.trains import contention
from emu.wse.fabric.trains.clock import Clock
from emu.wse.fabric.trains.values import Sram
from emu.wse.fabric.trains.work import WordByWord, Work


@dataclasses.dataclass(frozen=True)
class Flow:
    """What working a program out gave.

    Attributes:
      values: buffer name to `[height, width, elements]`, NaN where nothing was written.
      sent, consumed: words per color, over all senders and over all readers.
      exact: whether the times below are those of the machine.
      why: if not, who would wait for what.
      ends: `int64[height, width]`, when each PE was done.
      stamps: stamp name to `int64[height, width]`, -1 where it is never read.
      links: `int64[5, height, width]`, words sent north, east, south, west and into the ramp.
      dispatches: `int64[events, 5]` of the PEs asked for: flat PE, instruction, cycles of dispatch,
        first and last issue, both -1 off the datapath.
    """

    values: dict[str, np.ndarray]
    sent: dict[str, int]
    consumed: dict[str, int]
    exact: bool = False
    why: str = ""
    ends: np.ndarray | None = None
    stamps: dict[str, np.ndarray] | None = None
    links: np.ndarray | None = None
    dispatches: np.ndarray | None = None


def run(
    encoded: Encoded,
    data: Mapping[str, Any] | None,
    *,
    timed: bool,
    order: np.ndarray | None = None,
    merges: np.ndarray | None = None,
    traced: np.ndarray | None = None,
) -> Flow:
    """Works a program out.

    Args:
      encoded: the program.
      data: buffer name to its content, `[height, width, elements]` or what broadcasts to it; None
        works out no values.
      timed: cycles too, which a straight program alone has.
      order: `int64[events, 3]`, the rows (cycle, flat PE, instruction) of a stepped run, with the
        ends of microthreads' operations (`order.with_ends`); a straight program needs none.
      merges: `int64[events, 3]`, (flat PE, color, direction) of each word that a router forwarded
        in a position with several receive directions, in the order of time.
      traced: flat PEs whose dispatches are kept.

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
    work.go(clock)
    try:
        work.check()
    except WordByWord as why:
        if timed:
            return Flow({}, {}, {}, why=str(why))
        raise
    sent, consumed = work.words()
    out = Flow({} if sram is None else sram.out(), sent, consumed)
    return out if clock is None else _timed(encoded, out, work, clock)


def _timed(encoded: Encoded, out: Flow, work: Work, clock: Clock) -> Flow:
    shape = encoded.program.shape
    why = clock.doubts()
    stamps = clock.stamps.reshape(-1, *shape)
    links = contention.crossings(list(work.static.values()), clock.ends.size)
    return dataclasses.replace(
        out,
        exact=not why,
        why=why,
        ends=clock.ends.reshape(shape),
        stamps=dict(zip(encoded.stamps, stamps, strict=True)),
        links=links.reshape(5, *shape),
        dispatches=clock.dispatches(),
    )


__all__ = ["Flow", "run"]
