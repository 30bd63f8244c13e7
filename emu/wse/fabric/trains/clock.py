"""Cycles of a straight program's operations, taken as they are worked out: trains of words."""

import numpy as np

from emu.wse.fabric.arrays import CycleArray, PEs, WordPlaces
from emu.wse.fabric.encoding.encode import Encoded
from emu.wse.fabric.encoding.instructions import NONE, STAMP, VECTOR, Instruction
from emu.wse.fabric.events import Operations
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
        self,
        encoded: Encoded,
        streams: dict[int, Stream],
        traced: PEs | None,
    ):
        pes = encoded.entry[0].size
        self.encoded = encoded
        self.streams = streams
        self.task_switch_cycles = int(encoded.device.task_switch_cycles)
        # The first task of a PE is switched to as any other: selected in cycle 0, dispatched a
        # switch later.
        self.now = np.full(pes, self.task_switch_cycles, np.int64)
        self.ends = np.zeros(pes, np.int64)
        unread = (len(encoded.stamps), pes)
        self.stamps = np.full(unread, -1, np.int64)
        self.traced = np.zeros(pes, bool)
        if traced is not None:
            self.traced[traced] = True
        self.log = [Operations.empty()]

    def done(self, number: int, pes: PEs, words: WordPlaces | None) -> None:
        """PEs do an instruction, taking the words at `words`; before these are sent on."""
        instruction = self.encoded.instructions[number]
        dispatched = self.now[pes]
        ready = dispatched + instruction.time.setup_cycles
        first = last = np.full(len(pes), -1)
        # Of a synchronous operation the next dispatch waits for its last issue, and the drain.
        if instruction.kind == VECTOR:
            is_local = instruction.inward == instruction.outward == NONE
            if is_local:
                # Nothing but the datapath is needed, so it issues in every cycle.
                first = ready
                last = ready + instruction.time.issues - 1
            else:
                first, last = self._stream(instruction, pes, ready, words)
            self.now[pes] = last + 1 + instruction.time.drain_cycles
        else:
            self.now[pes] = ready
        if instruction.kind == STAMP:
            # A stamp reads the clock as it is dispatched; its own cycles come after what it shows.
            self.stamps[instruction.target, pes] = dispatched
        if instruction.last:
            self.ends[pes] = self.now[pes]
            # The last task of a PE adds this too, to a time that nobody reads.
            self.now[pes] += self.task_switch_cycles
        kept = self.traced[pes]
        if kept.any():
            operations = Operations(
                pe=pes,
                code=np.full(len(pes), number),
                dispatched=dispatched,
                first=first,
                last=last,
            )
            self.log.append(operations[kept])

    def _stream(
        self,
        instruction: Instruction,
        pes: PEs,
        ready: CycleArray,
        words: WordPlaces | None,
    ) -> tuple[CycleArray, CycleArray]:
        """First and last issue of an operation on the fabric."""
        outward = instruction.outward
        into = self.streams[outward] if outward != NONE else None
        if into is not None:
            depth = into.out_capacity[pes]
            # What is remembered of a queue has a column for each of its words (`Stream.before`), so
            # one array serves only PEs whose queues are equally deep.
            if (depth != depth[0]).any():
                return self._by_depth(instruction, pes, ready, words, depth)
        if into is not None and instruction.time.words > 1:
            return self._several(instruction, pes, ready, into)
        source = arrivals = None
        if words is not None:
            source = self.streams[instruction.inward]
            arrivals = source.arrivals(pes, words)
        if into is None:
            when = trains.issues(instruction, ready, arrivals, None)
        else:
            previous = into.previous(pes)
            # Otherwise the words before have all left the queue, and it has room at once.
            may_be_full = (previous >= ready).any()
            room = into.before(pes) + 1 if may_be_full else None
            when = trains.issues(instruction, ready, arrivals, room)
            leaves = trains.departures(when, previous)
            into.pushed(pes, when, leaves)
        if source is not None:
            source.was_read(pes, when)
        return when[:, 0], when[:, -1]

    def _by_depth(
        self,
        instruction: Instruction,
        pes: PEs,
        ready: CycleArray,
        words: WordPlaces | None,
        depth: np.ndarray,
    ) -> tuple[CycleArray, CycleArray]:
        """The same where PEs give the color output queues of different depths."""
        first = np.empty_like(ready)
        last = np.empty_like(ready)
        for each in np.unique(depth):
            some = depth == each
            own_words = None if words is None else words[some]
            own = self._stream(instruction, pes[some], ready[some], own_words)
            first[some], last[some] = own
        return first, last

    def _several(
        self,
        instruction: Instruction,
        pes: PEs,
        ready: CycleArray,
        into: Stream,
    ) -> tuple[CycleArray, CycleArray]:
        """The same of an operation that sends several words an issue."""
        before = into.before(pes)
        capacity = int(into.out_capacity[pes[0]])
        when, leaves = trains.several(instruction, ready, before, capacity)
        into.pushed(pes, when, leaves)
        return when[:, 0], when[:, -1]

    def doubts(self) -> str:
        """Who would wait for room or for a link, in which case the times are not the machine's."""
        # Rooms come first: the windows of `contention` take for granted that no reader holds up a
        # sender, or a router where ways part.
        for stream in self.streams.values():
            if waits := queue_room.held_up(self.encoded, stream):
                return waits
        streams = list(self.streams.values())
        return contention.clash(self.encoded, streams)

    def operations(self) -> Operations:
        """Those of the traced PEs, by dispatch."""
        log = Operations.joined(self.log)
        by_time = np.lexsort((log.pe, log.dispatched))
        return log[by_time]


__all__ = ["Clock"]
