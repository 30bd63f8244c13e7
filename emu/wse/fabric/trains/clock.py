"""Cycles of a straight program's operations, taken as they are worked out: trains of words."""

import numpy as np

from emu.wse.fabric.encoding.encode import Encoded
from emu.wse.fabric.encoding.instructions import NONE, STAMP, VECTOR, Instruction
from emu.wse.fabric.trains import contention, queue_room, trains
from emu.wse.fabric.trains.streams import Stream


class Clock:
    """When each PE dispatches next, and what it saw of time so far.

    Attributes:
      now: `int64[PEs]`, the next dispatch.
      ends: `int64[PEs]`, when each PE was done.
      stamps: `int64[stamps, PEs]`, -1 where not read.
    """

    def __init__(
        self, encoded: Encoded, streams: dict[int, Stream], traced: np.ndarray | None
    ):
        n = encoded.entry[0].size
        self.e, self.streams = encoded, streams
        self.now = np.full(n, int(encoded.device.task_switch_cycles), np.int64)
        self.ends = np.zeros(n, np.int64)
        self.stamps = np.full((len(encoded.stamps), n), -1, np.int64)
        self.traced = np.zeros(n, bool)
        if traced is not None:
            self.traced[traced] = True
        self.log: list[np.ndarray] = []

    def done(self, at: int, pes: np.ndarray, words: np.ndarray | None) -> None:
        """PEs do instruction `at`, taking the words at `words`; before these are sent on."""
        i = self.e.instructions[at]
        now = self.now[pes]
        ready = now + i.time.setup_cycles
        first = last = np.full(len(pes), -1)
        if i.kind == VECTOR:
            if i.inward == i.outward == NONE:
                first, last = ready, ready + i.time.issues - 1
            else:
                first, last = self._stream(i, pes, ready, words)
            self.now[pes] = last + 1 + i.time.drain_cycles
        else:
            self.now[pes] = ready
        if i.kind == STAMP:
            self.stamps[i.target, pes] = now
        if i.last:
            self.ends[pes] = self.now[pes]
            self.now[pes] += int(self.e.device.task_switch_cycles)
        kept = self.traced[pes]
        if kept.any():
            rows = (pes, np.full(len(pes), at), now, first, last)
            self.log.append(np.stack(rows, axis=1)[kept].astype(np.int64))

    def _stream(
        self,
        i: Instruction,
        pes: np.ndarray,
        ready: np.ndarray,
        words: np.ndarray | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """First and last issue of an operation on the fabric."""
        out = self.streams[i.outward] if i.outward != NONE else None
        if out is not None and i.time.words > 1:
            when, leaves = trains.several(i, ready, out.before(pes), out.out_capacity)
            out.pushed(pes, when, leaves)
            return when[:, 0], when[:, -1]
        arrivals = None
        if words is not None:
            arrivals = self.streams[i.inward].arrivals(pes, words)
        if out is None:
            when = trains.issues(i, ready, arrivals, None)
        else:
            previous = out.previous(pes)
            full = (previous >= ready).any()  # the queue may still hold words
            when = trains.issues(
                i, ready, arrivals, out.before(pes) + 1 if full else None
            )
            out.pushed(pes, when, trains.departures(when, previous))
        if words is not None:
            self.streams[i.inward].was_read(pes, when)
        return when[:, 0], when[:, -1]

    def doubts(self) -> str:
        """Who would wait for room or for a link, in which case the times are not the machine's."""
        waits = (queue_room.held_up(self.e, s) for s in self.streams.values())
        return next(filter(None, waits), "") or contention.clash(
            self.e, list(self.streams.values())
        )

    def dispatches(self) -> np.ndarray:
        """`int64[events, 5]` of the traced PEs: PE, instruction, dispatch, first and last issue."""
        log = np.concatenate(self.log) if self.log else np.zeros((0, 5), np.int64)
        return log[np.lexsort((log[:, 0], log[:, 2]))]


__all__ = ["Clock"]
