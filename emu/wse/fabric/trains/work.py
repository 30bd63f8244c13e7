"""Operations of a fabric program done as soon as all words that they take were sent.

All PEs that have come to the same operation do it at once; those that have not got their words
are left until they hear some.
"""

from typing import Any

import numpy as np

from emu.wse.fabric import ops
from emu.wse.fabric.encoding.encode import Encoded
from emu.wse.fabric.encoding.instructions import NONE, SWITCH, Instruction
from emu.wse.fabric.errors import Deadlock, FabricError, Unread
from emu.wse.fabric.program import is_static
from emu.wse.fabric.trains import values
from emu.wse.fabric.trains.clock import Clock
from emu.wse.fabric.trains.routing import (
    check_operations,
    place,
    static_routes,
)
from emu.wse.fabric.trains.sequence import DONE, HEARD, Ordered, Straight
from emu.wse.fabric.trains.streams import Stream
from emu.wse.fabric.trains.switching import Switched

ELEMENTS = 1 << 20  # worked on together, so that intermediate arrays stay small


class WordByWord(FabricError):
    """Operations that feed each other within one operation, of which this cannot tell the end."""


class Work:
    """A program in the middle of being worked out.

    Attributes:
      static, switched: streams by color index.
      streams: both.
    """

    def __init__(
        self,
        encoded: Encoded,
        sram: values.Sram | None,
        timed: bool,
        order: np.ndarray | None,
        merges: np.ndarray | None,
    ):
        self.e = encoded
        self.sram = sram
        self.clock = None
        self.pes = encoded.entry[0].size
        self.sequence = Straight(encoded) if order is None else Ordered(encoded, order)
        routes = static_routes(encoded)
        check_operations(encoded, routes)
        totals = self.sequence.words_sent()
        self.static = {
            c: Stream(encoded, r, totals[c], values=sram is not None, timed=timed)
            for c, r in routes.items()
        }
        rows = np.zeros((0, 3), np.int64) if merges is None else merges
        self.switched = {
            c.index: Switched(encoded, name, c, rows[rows[:, 1] == c.index][:, [0, 2]])
            for name, c in encoded.program.colors.items()
            if not is_static(c)
        }
        self.streams: dict[int, Any] = {**self.static, **self.switched}
        self.takes = np.array(
            [i.inward for i in encoded.instructions] + [NONE], np.int32
        )
        self.hears = {
            task: [t for t in declared if t.color is not None]
            for task, declared in enumerate(encoded.program.tasks.values())
        }
        self.queued = np.zeros(len(self.sequence.pc), bool)

    def go(self, clock: Clock | None) -> None:
        """Does operations until none can be done."""
        self.clock = clock
        todo = [np.flatnonzero(self.sequence.pc != NONE)]
        self.queued[todo[0]] = True
        while sum(map(len, todo)):
            front = np.concatenate(todo)
            key = self.sequence.pc[front].astype(np.int64) * 2 + (front >= self.pes)
            order = np.argsort(key, kind="stable")
            front, key = front[order], key[order]
            todo = []
            for lanes in np.split(front, np.flatnonzero(np.diff(key)) + 1):
                todo += self._group(int(self.sequence.pc[lanes[0]]), lanes)

    def _group(self, at: int, lanes: np.ndarray) -> list[np.ndarray]:
        """Lanes that have come to `at` do it if they can; returns those to look at next."""
        self.queued[lanes] = False
        main, heard = lanes[0] < self.pes, []
        if at <= DONE:
            lanes = self.sequence.ended(lanes, DONE - at)  # type: ignore[union-attr]
            on = self.sequence.advance(lanes, None)
        elif at <= HEARD:
            on = self.sequence.advance(self._hear(HEARD - at, lanes), None)
        elif main and self.e.instructions[at].thread:
            thread = self.e.instructions[at].thread
            on = self.sequence.start_thread(lanes, at, thread)  # type: ignore[union-attr]
        else:
            on, heard = self._instruction(at, self.e.instructions[at], lanes)
        self.queued[on] = True
        return [on, *heard]

    def _instruction(
        self, at: int, i: Instruction, lanes: np.ndarray
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Those that have their words do an instruction: who goes on, and who wakes."""
        if i.inward != NONE:
            enough = self.streams[i.inward].available(lanes % self.pes) >= i.time.issues
            lanes = lanes[enough]
        chunk = max(256, ELEMENTS // _width(i))
        parts = [lanes[k : k + chunk] % self.pes for k in range(0, len(lanes), chunk)]
        heard = [self._do(at, i, some) for some in parts]
        on = self.sequence.advance(lanes, i)
        self.queued[on] = True  # not to be woken as well
        color = i.outward if i.outward != NONE else i.target
        return on, [self._woken(color, x) for x in heard if x is not None]

    def _woken(self, color: int, pes: np.ndarray) -> np.ndarray:
        """Of the lanes of PEs that hear new words of a color, those that wait for some."""
        woken = []
        for first in range(0, len(self.sequence.pc), self.pes):
            lanes = pes + first
            lanes = lanes[~self.queued[lanes]]
            at = self.sequence.pc[lanes]
            waits = self.takes[np.maximum(at, NONE)] == color  # of NONE: the last entry
            waits |= (at <= HEARD) & (at > DONE)
            woken.append(lanes[waits])
            self.queued[woken[-1]] = True
        return np.concatenate(woken)

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
        if i.kind == SWITCH:
            assert isinstance(i.op, ops.Switch)
            return self.streams[i.target].switch(pes, i.op.position)
        if i.control:
            return self.streams[i.outward].control(pes, i.control)
        if i.outward == NONE:
            return None
        return self.streams[i.outward].put(pes, i.time.issues, words)

    def _hear(self, task: int, pes: np.ndarray) -> np.ndarray:
        """Data tasks take the word that starts them; returns the PEs that have one."""
        done = []
        for t in self.hears[task]:
            assert t.color is not None
            stream = self.streams[self.e.program.colors[t.color].index]
            mine = pes[t.place.reshape(-1)[pes]]
            mine = mine[stream.available(mine) > 0]
            if not len(mine):
                continue
            words = stream.content(stream.take(mine, 1))
            if t.argument is not None and self.sram is not None:
                word = values.from_words(words, 1, t.argument.dtype)
                self.sram.write(t.argument, mine, word)
            done.append(mine)
        return np.concatenate(done) if done else pes[:0]

    # --- the end ---

    def words(self) -> tuple[dict[str, int], dict[str, int]]:
        """Words sent and words read, per color."""
        sent = {s.routes.name: int(s.sent.sum()) for s in self.static.values()}
        read = {s.routes.name: int(s.taken.sum()) for s in self.static.values()}
        sent |= {s.name: s.total_sent for s in self.switched.values()}
        return sent, read | {s.name: s.total_taken for s in self.switched.values()}

    def check(self) -> None:
        """Everybody must be done, and everything read.

        Raises:
          WordByWord: those that are not done pass words on that have come in part.
          Deadlock, Unread: with PE and color.
        """
        stuck = np.flatnonzero(self.sequence.pc != NONE)
        if len(stuck):
            self._check_whole(stuck)
            raise Deadlock(*self._stuck(stuck))
        for s in self.streams.values():
            count, pe = s.unread()
            if count:
                raise Unread(
                    f"{count} wavelets unread on color '{s.name}' at "
                    f"{place(self.e, pe)} when all tasks are done"
                )

    def _check_whole(self, stuck: np.ndarray) -> None:
        """Whether those that wait could do nothing with the words that they have."""
        for at in np.unique(self.sequence.pc[stuck]).tolist():
            i = self.e.instructions[at] if at >= 0 else None
            if i is None or NONE in (i.inward, i.outward):
                continue
            pes = stuck[self.sequence.pc[stuck] == at] % self.pes
            some = pes[self.streams[i.inward].available(pes) > 0]
            if len(some):
                raise WordByWord(
                    f"{place(self.e, some[0])} passes on color '{self.streams[i.inward].name}' "
                    "word by word to where its own next words come from; cut the operation in "
                    "parts that wait for whole operations",
                    i.where,
                )

    def _stuck(self, stuck: np.ndarray) -> tuple[str, str]:
        """What to say of PEs that wait for ever; one whose sender is done is nearest the cause."""
        at = self.sequence.pc[stuck]
        color = self.takes[np.maximum(at, NONE)]
        stuck, at, color = (x[color != NONE] for x in (stuck, at, color))
        if not len(stuck):
            raise FabricError(
                "the order of the stepped run does not fit the program's streams"
            )
        pes = stuck % self.pes
        sender = np.array(
            [self.streams[c].sender(n) for c, n in zip(color, pes, strict=True)]
        )
        done = (sender == NONE) | (self.sequence.pc[sender] == NONE)
        k = int(np.flatnonzero(done)[0]) if done.any() else 0
        i = self.e.instructions[at[k]]
        s = self.streams[int(color[k])]
        has = int(s.available(pes[k : k + 1])[0])
        who = "others" if sender[k] == NONE else place(self.e, sender[k])
        return (
            f"deadlock: {place(self.e, pes[k])} waits for {i.time.issues} wavelets on color "
            f"'{s.name}', {has} came, {who} cannot send more ({len(stuck)} operations are "
            "stuck)"
        ), i.where


def _width(i: Instruction) -> int:
    """Elements that an operation moves on each PE."""
    held = [getattr(i.op, name, None) for name in ("dst", "a", "b", "x", "weights")]
    return max(i.time.issues, *(getattr(x, "elements", None) or 1 for x in held))


__all__ = ["WordByWord", "Work"]
