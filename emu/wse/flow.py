"""A fabric program worked out operation by operation: values and, for straight programs, cycles.

An operation is done once all words that it takes were sent: in the order of dependencies, never
in the order of time, and at once for all PEs that have come to the same operation.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from emu.wse import contention, values, verdict
from emu.wse.clock import Clock
from emu.wse.encode import NONE, Encoded, Instruction
from emu.wse.routing import check_operations, place, static_routes
from emu.wse.sequence import Straight
from emu.wse.streams import Stream

ELEMENTS = 1 << 20  # worked on together, so that intermediate arrays stay small


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
    encoded: Encoded, data: Mapping[str, Any] | None, *, timed: bool,
    order: np.ndarray | None = None, traced: np.ndarray | None = None,
) -> Flow:  # fmt: skip
    """Works a program out.

    Args:
      encoded: the program.
      data: buffer name to its content, `[height, width, elements]` or what broadcasts to it; None
        works out no values.
      timed: cycles too, which a straight program alone has.
      order: `int64[events, 3]`, the rows (cycle, flat PE, instruction) of a stepped run, which a
        program that is not straight needs.
      traced: flat PEs whose dispatches are kept.

    Raises:
      FabricError: operations and routes do not go together.
      Deadlock, Unread: as the machine would.
    """
    del order  # straight programs need none
    work = _Work(encoded, data, timed, traced)
    work.go()
    work.check()
    return work.result()


class _Work:
    """A program in the middle of being worked out."""

    def __init__(
        self, encoded: Encoded, data: Mapping[str, Any] | None, timed: bool,
        traced: np.ndarray | None,
    ):  # fmt: skip
        self.e = encoded
        self.sequence = Straight(encoded)
        self.sram = None if data is None else values.Sram(encoded, data)
        routes = static_routes(encoded)
        check_operations(encoded, routes)
        totals = self.sequence.words_sent()
        self.streams = {
            c: Stream(encoded, r, totals[c], values=data is not None, timed=timed)
            for c, r in routes.items()
        }  # fmt: skip
        self.clock = Clock(encoded, self.streams, traced) if timed else None
        self.queued = np.zeros(encoded.entry[0].size, bool)

    def go(self) -> None:
        """Does operations until none can be done."""
        todo = [np.flatnonzero(self.sequence.pc != NONE)]
        self.queued[todo[0]] = True
        while sum(map(len, todo)):
            front = np.concatenate(todo)
            at = self.sequence.pc[front]
            order = np.argsort(at, kind="stable")
            front, at = front[order], at[order]
            todo = []
            for pes in np.split(front, np.flatnonzero(np.diff(at)) + 1):
                todo += self._group(int(self.sequence.pc[pes[0]]), pes)

    def _group(self, at: int, pes: np.ndarray) -> list[np.ndarray]:
        """PEs that have come to instruction `at` do it; returns those to look at next."""
        i = self.e.instructions[at]
        self.queued[pes] = False
        if i.inward != NONE:
            pes = pes[self.streams[i.inward].available(pes) >= i.time.issues]
        chunk = max(256, ELEMENTS // _width(i))
        parts = [pes[k : k + chunk] for k in range(0, len(pes), chunk)]
        heard = [self._do(at, i, some) for some in parts]
        on = self.sequence.advance(pes, i)
        self.queued[on] = True
        return [on, *(self._woken(i.outward, x) for x in heard if x is not None)]

    def _woken(self, color: int, pes: np.ndarray) -> np.ndarray:
        """Of the PEs that hear new words of a color, those that have come to read it."""
        pes = pes[~self.queued[pes]]
        pes = pes[self.sequence.waits_for(pes, color)]
        self.queued[pes] = True
        return pes

    def _do(self, at: int, i: Instruction, pes: np.ndarray) -> np.ndarray | None:
        """Does an operation; returns the PEs that hear what it sends."""
        where = words = None
        if i.inward != NONE:
            where = self.streams[i.inward].take(pes, i.time.issues)
        if self.clock is not None:
            self.clock.done(at, pes, where)
        if self.sram is not None:
            if where is not None:
                words = self.streams[i.inward].content(where)
            words = values.perform(self.sram, i, values.rows_of(pes), words)
        if i.outward == NONE:
            return None
        return self.streams[i.outward].put(pes, i.time.issues, words)

    def check(self) -> None:
        """Everybody must be done, and everything read.

        Raises:
          Deadlock, Unread: with PE and color.
        """
        stuck = np.flatnonzero(self.sequence.pc != NONE)
        if len(stuck):
            raise verdict.Deadlock(*self._stuck(stuck))
        for s in self.streams.values():
            r = s.routes
            left = s.sent[r.source[r.receivers]] - s.taken[r.receivers]
            if left.any():
                at = int(np.flatnonzero(left)[0])
                raise verdict.Unread(
                    f"{left[at]} wavelets unread on color '{r.name}' at "
                    f"{place(self.e, r.receivers[at])} when all tasks are done"
                )

    def _stuck(self, stuck: np.ndarray) -> tuple[str, str]:
        """What to say of PEs that wait for ever; one whose sender is done is nearest the cause."""
        at = self.sequence.pc[stuck]
        color = np.array([i.inward for i in self.e.instructions])[at]
        sender = np.array([self.streams[c].routes.source[n] for c, n in zip(color, stuck)])
        done = self.sequence.pc[sender] == NONE
        k = int(np.flatnonzero(done)[0]) if done.any() else 0
        i, s = self.e.instructions[at[k]], self.streams[int(color[k])]
        has = int(s.available(stuck[k : k + 1])[0])
        return (f"deadlock: {place(self.e, stuck[k])} waits for {i.time.issues} wavelets on color "
                f"'{s.routes.name}', has {has}, and {place(self.e, sender[k])} sends no more "
                f"({len(stuck)} PEs are stuck)"), i.where  # fmt: skip

    def result(self) -> Flow:
        """What was worked out."""
        streams = list(self.streams.values())
        shape = self.e.program.shape
        out = Flow(
            {} if self.sram is None else self.sram.out(),
            {s.routes.name: int(s.sent.sum()) for s in streams},
            {s.routes.name: int(s.taken.sum()) for s in streams},
        )
        if self.clock is None:
            return out
        clock, why = self.clock, self.clock.doubts()
        stamps = clock.stamps.reshape(-1, *shape)
        return dataclasses.replace(
            out, exact=not why, why=why, ends=clock.ends.reshape(shape),
            stamps=dict(zip(self.e.stamps, stamps, strict=True)),
            links=contention.crossings(streams, clock.ends.size).reshape(5, *shape),
            dispatches=clock.dispatches(),
        )  # fmt: skip


def _width(i: Instruction) -> int:
    """Elements that an operation moves on each PE."""
    held = [getattr(i.op, name, None) for name in ("dst", "a", "b", "x", "weights")]
    return max(i.time.issues, *(getattr(x, "elements", None) or 1 for x in held))


__all__ = ["Flow", "run"]
