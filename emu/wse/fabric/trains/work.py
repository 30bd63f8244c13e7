"""Operations of a fabric program done as soon as all words that they take were sent.

All PEs that have come to the same operation do it at once; those that have not got their words
are left until they hear some.
"""

import dataclasses

import numpy as np

from emu.wse.fabric import ops
from emu.wse.fabric.arrays import Codes, Mask, PEs
from emu.wse.fabric.encoding.encode import Encoded
from emu.wse.fabric.encoding.instructions import NONE, SWITCH, Instruction
from emu.wse.fabric.errors import Deadlock, FabricError, Unread
from emu.wse.fabric.events import DONE, HEARD, Dispatches, Turns
from emu.wse.fabric.program import Task, is_static
from emu.wse.fabric.trains import values
from emu.wse.fabric.trains.clock import Clock
from emu.wse.fabric.trains.routing import check_operations, static_routes
from emu.wse.fabric.trains.sequence import Lanes, Ordered, Straight
from emu.wse.fabric.trains.streams import Stream
from emu.wse.fabric.trains.switching import Switched

ELEMENTS = 1 << 20  # worked on together, so that intermediate arrays stay small
FEWEST_PES = 256  # worked on together however wide the operation is


class WordByWord(FabricError):
    """Operations that feed each other within one operation, of which this cannot tell the end."""


class Work:
    """A program in the middle of being worked out.

    Attributes:
      static, switched: streams by color index.
      streams: both.
      takes: `int32[instructions + 1]`, the color that each takes words from, or NONE; the last
        entry is that of NONE itself.
      hears: by task, its parts that wavelets start.
      alike: `int64[instructions]`, of each the first that is the same operation: PEs that come to
        it in different sequences do it together.
      queued: `bool[lanes]`, which are to be looked at anyway.

    Args:
      encoded: the program.
      sram: what the PEs hold; None works out no values.
      timed: whether a clock will follow.
      order, merges: of a stepped run; None for a straight program.
    """

    def __init__(
        self,
        encoded: Encoded,
        sram: values.Sram | None,
        timed: bool,
        order: Dispatches | None,
        merges: Turns | None,
    ):
        self.encoded = encoded
        self.sram = sram
        self.clock: Clock | None = None
        self.pes = encoded.entry[0].size
        self.sequence = Straight(encoded) if order is None else Ordered(encoded, order)
        routes = static_routes(encoded)
        check_operations(encoded, routes)
        totals = self.sequence.words_sent()
        self.static: dict[int, Stream] = {}
        for color, of_color in routes.items():
            self.static[color] = Stream(
                encoded,
                of_color,
                totals[color],
                values=sram is not None,
                timed=timed,
            )
        turns = Turns.empty() if merges is None else merges
        self.switched: dict[int, Switched] = {}
        for name, color in encoded.program.colors.items():
            if not is_static(color):
                self.switched[color.index] = Switched(encoded, name, color, turns)
        self.streams: dict[int, Stream | Switched]
        self.streams = {**self.static, **self.switched}
        inward = [instruction.inward for instruction in encoded.instructions]
        # A lane that is done has come to NONE, -1, and so finds the last entry.
        self.takes = np.array([*inward, NONE], np.int32)
        self.alike = _alike(encoded)
        self.hears: list[list[Task]] = []
        for declared in encoded.program.tasks.values():
            self.hears.append([task for task in declared if task.color is not None])
        self.queued = np.zeros(len(self.sequence.pc), bool)

    def go(self, clock: Clock | None) -> None:
        """Does operations until none can be done."""
        self.clock = clock
        todo = [np.flatnonzero(self.sequence.pc != NONE)]
        self.queued[todo[0]] = True
        while any(map(len, todo)):
            front = np.concatenate(todo)
            # Lanes that have come to the same, main threads and microthreads apart.
            # A main thread that comes to a microthread's operation only hands it over, which takes
            # no words.
            is_microthread = front >= self.pes
            code = self.sequence.pc[front].astype(np.int64)
            code = np.where(code >= 0, self.alike[np.maximum(code, 0)], code)
            group = code * 2 + is_microthread
            order = np.argsort(group, kind="stable")
            front = front[order]
            cuts = np.flatnonzero(np.diff(group[order])) + 1
            # What these wake is looked at in the next round, together again.
            todo = []
            for lanes in np.split(front, cuts):
                todo += self._group(int(self.sequence.pc[lanes[0]]), lanes)

    def _group(self, code: int, lanes: Lanes) -> list[Lanes]:
        """Lanes that have come to `code` do it if they can; returns those to look at next."""
        self.queued[lanes] = False
        sequence = self.sequence
        if code > HEARD:
            thread = self.encoded.instructions[code].thread
            on_main = lanes[0] < self.pes
            if not (on_main and thread):
                return self._instruction(code, self.encoded.instructions[code], lanes)
            assert isinstance(sequence, Ordered)
            on = sequence.start_thread(lanes, code, thread)
        elif code > DONE:
            on = sequence.advance(self._hear(HEARD - code, lanes), None)
        else:
            assert isinstance(sequence, Ordered)
            on = sequence.advance(sequence.ended(lanes, DONE - code), None)
        self.queued[on] = True
        return [on]

    def _instruction(
        self,
        number: int,
        instruction: Instruction,
        lanes: Lanes,
    ) -> list[Lanes]:
        """Those that have their words do an instruction: who goes on, and who wakes."""
        if instruction.inward != NONE:
            # All of its words or none: lanes that lack some are woken when more are sent.
            # Whole operations keep this exact and fast: an operation's times then follow from
            # vectors of complete times. What it costs is loops within an operation (`WordByWord`).
            available = self.streams[instruction.inward].available(lanes % self.pes)
            lanes = lanes[available >= instruction.time.issues]
        chunk = max(FEWEST_PES, ELEMENTS // _width(instruction))
        heard: list[PEs] = []
        for begin in range(0, len(lanes), chunk):
            some = lanes[begin : begin + chunk] % self.pes
            hearers = self._do(number, instruction, some)
            if hearers is not None:
                heard.append(hearers)
        on = self.sequence.advance(lanes, instruction)
        # Whoever is looked at next anyway must not be queued twice: it would do its operation
        # twice.
        self.queued[on] = True  # not to be woken as well
        color = instruction.outward
        if color == NONE:
            color = instruction.target  # of a switch, which sets parked words free
        next_lanes = [on]
        for pes in heard:
            next_lanes.append(self._woken(color, pes))
        return next_lanes

    def _woken(self, color: int, pes: PEs) -> Lanes:
        """Of the lanes of PEs that hear new words of a color, those that wait for some."""
        woken: list[Lanes] = []
        # Any thread of a PE may be the one that waits, so all lanes of those that hear are looked
        # at.
        for first in range(0, len(self.sequence.pc), self.pes):
            lanes = pes + first
            lanes = lanes[~self.queued[lanes]]
            code = self.sequence.pc[lanes]
            waits_for_words = self.takes[np.maximum(code, NONE)] == color
            waits_for_start = (code <= HEARD) & (code > DONE)
            lanes = lanes[waits_for_words | waits_for_start]
            self.queued[lanes] = True
            woken.append(lanes)
        return np.concatenate(woken)

    def _do(
        self,
        number: int,
        instruction: Instruction,
        pes: PEs,
    ) -> PEs | None:
        """Does an operation; returns the PEs that hear what it sends."""
        count = instruction.time.issues
        where = words = None
        if instruction.inward != NONE:
            source = self.streams[instruction.inward]
            where = source.take(pes, count)
            if self.sram is not None:
                words = source.content(where)
        # The clock needs what was sent before, so it is told ahead of `put`.
        if self.clock is not None:
            self.clock.done(number, pes, where)
        if self.sram is not None:
            some = values.as_slice(pes)
            words = values.perform(self.sram, instruction, some, words)
        if instruction.kind == SWITCH:
            assert isinstance(instruction.op, ops.Switch)
            position = instruction.op.position
            return self.streams[instruction.target].switch(pes, position)
        if instruction.outward == NONE:
            return None
        into = self.streams[instruction.outward]
        if instruction.control:
            return into.control(pes, instruction.control)
        return into.put(pes, count, words)

    def _hear(self, number: int, pes: PEs) -> PEs:
        """Data tasks take the word that starts them; returns the PEs that have one."""
        started = [pes[:0]]
        for task in self.hears[number]:
            assert task.color is not None
            color = self.encoded.program.colors[task.color].index
            stream = self.streams[color]
            has_task = task.place.reshape(-1)[pes]
            mine = pes[has_task]
            has_word = stream.available(mine) > 0
            mine = mine[has_word]
            if not len(mine):
                continue
            words = stream.content(stream.take(mine, 1))
            if task.argument is not None and self.sram is not None:
                word = values.from_words(words, 1, task.argument.dtype)
                self.sram.write(task.argument, mine, word)
            started.append(mine)
        return np.concatenate(started)

    # --- the end ---

    def words_moved(self) -> tuple[dict[str, int], dict[str, int]]:
        """Words sent and words read, per color."""
        sent: dict[str, int] = {}
        read: dict[str, int] = {}
        for stream in self.static.values():
            sent[stream.name] = int(stream.sent.sum())
            read[stream.name] = int(stream.taken.sum())
        for stream in self.switched.values():
            sent[stream.name] = stream.total_sent
            read[stream.name] = stream.total_taken
        return sent, read

    def check(self) -> None:
        """Everybody must be done, and everything read.

        Raises:
          WordByWord: those that are not done pass words on that have come in part.
          Deadlock, Unread: with PE and color.
        """
        stuck = np.flatnonzero(self.sequence.pc != NONE)
        if len(stuck):
            self._check_whole(stuck)
            self._deadlock(stuck)
        for stream in self.streams.values():
            count, pe = stream.unread()
            if count:
                raise Unread(
                    f"{count} wavelets on color '{stream.name}' are never read at "
                    f"{self._name(pe)}: their sender waits for room for ever, or they are left "
                    "when all is done"
                )

    def _name(self, pe: int) -> str:
        return f"PE {self.encoded.program.coordinates(pe)}"

    def _check_whole(self, stuck: Lanes) -> None:
        """Whether those that wait could do nothing with the words that they have."""
        codes = self.sequence.pc[stuck]
        for code in np.unique(codes[codes >= 0]).tolist():
            instruction = self.encoded.instructions[code]
            if NONE in (instruction.inward, instruction.outward):
                continue
            stream = self.streams[instruction.inward]
            # Say PE 1 sends back each of 8 words, and PE 0 sends one and then passes on the 7 that
            # come first. The machine runs it word by word; here PE 1 waits for all 8, of which it
            # has one.
            pes = stuck[codes == code] % self.pes
            some = pes[stream.available(pes) > 0]
            if len(some):
                raise WordByWord(
                    f"{self._name(some[0])} passes on color '{stream.name}' "
                    "word by word to where its own next words come from; cut the operation in "
                    "parts that wait for whole operations",
                    instruction.where,
                )

    def _deadlock(self, stuck: Lanes) -> None:
        """Tells of PEs that wait for ever one whose sender is done: it is nearest the cause.

        Raises:
          Deadlock: always, unless no stuck lane waits for words.
        """
        waits = _Waiting.of(self, stuck)
        waits = waits[waits.color != NONE]
        if not len(waits.pe):
            raise FabricError(
                "the order of the stepped run does not fit the program's streams"
            )
        senders = []
        for color, pe in zip(waits.color.tolist(), waits.pe.tolist(), strict=True):
            senders.append(self.streams[color].sender(pe))
        sender_of = np.array(senders)
        # PE 3 waits for PE 2, PE 2 for PE 1, and PE 1 for PE 0, which is done: it is PE 1 that
        # lacks words, and naming PE 3 would send the reader down the whole chain.
        sender_is_done = (sender_of == NONE) | (self.sequence.pc[sender_of] == NONE)
        told = int(sender_is_done.argmax())  # the first; 0 if there is none
        pe = waits.pe[told]
        sender = senders[told]
        stream = self.streams[int(waits.color[told])]
        instruction = self.encoded.instructions[waits.code[told]]
        (came,) = stream.available(np.array([pe])).tolist()
        who = "others" if sender == NONE else self._name(sender)
        raise Deadlock(
            f"deadlock: {self._name(pe)} waits for {instruction.time.issues} wavelets "
            f"on color '{stream.name}', {came} came, {who} cannot send more "
            f"({len(waits.pe)} operations are stuck)",
            instruction.where,
        )


@dataclasses.dataclass(frozen=True)
class _Waiting:
    """Stuck lanes: their PEs, what they have come to, and the color they wait for."""

    pe: PEs
    code: Codes
    color: np.ndarray

    @classmethod
    def of(cls, work: Work, lanes: Lanes) -> "_Waiting":
        code = work.sequence.pc[lanes]
        color = work.takes[np.maximum(code, NONE)]
        return cls(pe=lanes % work.pes, code=code, color=color)

    def __getitem__(self, which: Mask) -> "_Waiting":
        return _Waiting(self.pe[which], self.code[which], self.color[which])


def _alike(encoded: Encoded) -> np.ndarray:
    """Of each instruction the first with the same operation that ends its task as it does."""
    first: dict[tuple[int, bool], int] = {}
    found = np.zeros(max(1, len(encoded.instructions)), np.int64)
    for number, instruction in enumerate(encoded.instructions):
        key = id(instruction.op), instruction.last
        found[number] = first.setdefault(key, number)
    return found


def _width(instruction: Instruction) -> int:
    """Elements that an operation moves on each PE."""
    widest = instruction.time.issues
    for name in ("dst", "a", "b", "x", "weights"):
        operand = getattr(instruction.op, name, None)
        elements = getattr(operand, "elements", None) or 1  # a number has none
        widest = max(widest, elements)
    return widest


__all__ = ["WordByWord", "Work"]
