"""A ring folded onto a line, and when its PEs have done a step of it.

The ring visits even positions one way and odd ones back, so its neighbours stand two PEs apart, one
at the ends. In a step a PE sends one chunk and receives one, each a synchronous operation: even
places of the ring send first and odd ones receive first, so that nobody waits for somebody who
waits for him. On a ring of an odd number of PEs the last place and the first are both even; the
last one then sends for as long as the first is busy sending itself, and still ends.

Four PEs of a WSE-3 that start together, one word. A set-up takes 4 cycles, a drain 4, a way over
one hop 7 and over two 9:

    place                0              1              2              3
    PE                   0              2              3              1
    hops to the next     2              1              2              1
    sends, element at    4              18 + 4 = 22    4              22
    takes, element at    22 + 7 = 29    4 + 9 = 13     22 + 7 = 29    13
    next dispatch        29 + 5 = 34    22 + 5 = 27    34             27

Places 0 and 2 send, in cycle 4, before they take; places 1 and 3 take in cycle 13, dispatch their
send in 18, and its element follows in 22.

The fabric programs know the same ring by a derivation of their own
(`emu.wse.fabric.layout.folded_ring`), so that a mistake in either shows.
"""

import functools

import numpy as np

from emu.wse.timeline.stretches import NEVER
from emu.wse.timeline.times import Times
from emu.wse.timeline.wires import Wires


@functools.lru_cache(maxsize=256)
def places(pes: int) -> np.ndarray:
    """The PE at each place of the ring: 0, 2, 4, ... to the end, and the odd ones back."""
    even = np.arange(0, pes, 2)
    odd = np.arange(1, pes, 2)
    return np.concatenate([even, odd[::-1]])


def ring_hops(pes: int) -> np.ndarray:
    """Hops from each place of the ring to the next one."""
    line = places(pes)
    return np.abs(np.roll(line, -1) - line)


class Ring:
    """Dispatch times by place, and when the last chunks of each were taken, newest first.

    A chunk that fits beside earlier ones that nobody has taken yet leaves at once. `held` is the
    chunk, counted back from the newest, of which some word has to be taken before the last word of
    the newest one fits on its way.

    Args:
      armed: `int64[groups, places, lines]`, when each place could dispatch its first operation.
      hops: from each place to the next.
      words: wavelets of a chunk.
      wires: of the fabric.
    """

    def __init__(self, armed: Times, hops: np.ndarray, words: int, wires: Wires):
        self.dispatch = armed
        self.hops = hops
        self.words = words
        self.wires = wires
        # The last word takes the place of the one `room` before it.
        # Room for 27 words, as over two hops of a WSE-3, and chunks of 10: the last word of a chunk
        # has the place of the one 27 before it, the third of the chunk two back (27 // 10 = 2).
        self.held = wires.room(hops) // words
        self.taken: list[Times] = []

    @property
    def pes(self) -> int:
        return self.dispatch.shape[1]

    def step(self) -> None:
        """One send and one receive of every place."""
        back = int(self.held.max())
        earlier = self.taken[:back]
        nobody_yet = np.full_like(self.dispatch, NEVER)
        self.taken = [nobody_yet, *earlier]
        even = np.arange(0, self.pes, 2)
        odd = np.arange(1, self.pes, 2)
        # From where all stand as the step begins: `_pass_on` moves its senders on, and its
        # receivers too.
        first = self.dispatch + self.wires.setup_cycles
        last_sends_to_even = self.pes % 2 == 1
        if last_sends_to_even:
            self._pass_on(even[:-1], first)
            # Place 0 has sent and takes the last place's chunk.
            self._pass_on(even[-1:], first)
        else:
            self._pass_on(even, first)
        # These have received by now, so their dispatch is that of the send.
        self._pass_on(odd, self.dispatch + self.wires.setup_cycles)

    def _pass_on(self, senders: np.ndarray, first: Times) -> None:
        """A chunk of each sender, whose first element is known, to the next place."""
        wires = self.wires
        hops = self.hops[senders][:, None]
        receivers = (senders + 1) % self.pes
        sent = first[:, senders]
        came = sent + wires.latency(hops)
        ready = self.dispatch[:, receivers] + wires.setup_cycles
        taken = np.maximum(ready, came)
        self.taken[0][:, senders] = taken
        last = sent + wires.sending(self.words)
        for back in np.unique(self.held[senders]):
            if back >= len(self.taken):
                continue  # the first chunks wait for nobody
            # Of that chunk, counted from 1.
            # Two back of chunks of 10 with room for 27: word 3 * 10 - 27 = 3.
            word = (back + 1) * self.words - wires.room(hops)
            first_taken = self.taken[back][:, senders]
            word_taken = first_taken + wires.span(word)
            held_until = word_taken + wires.credit(hops)
            held_last = np.maximum(last, held_until)
            these = (self.held[senders] == back)[:, None]
            last = np.where(these, held_last, last)
        received = taken + wires.span(self.words)
        self.dispatch[:, receivers] = wires.dispatch_after(received)
        self.dispatch[:, senders] = wires.dispatch_after(last)


__all__ = ["Ring", "places", "ring_hops"]
