"""When a ring all-reduce is done: reduce-scatter, then all-gather, on a ring folded onto the line.

The ring visits even positions one way and odd ones back, so its neighbours stand two PEs apart, one
at the ends. In each of `2 (P - 1)` steps a PE sends one chunk and receives one, each a synchronous
operation: even places of the ring send first and odd ones receive first, so that nobody waits for
somebody who waits for him. On a ring of an odd number of PEs the last place and the first are both
even; the last one then sends for as long as the first is busy sending itself, and still ends.

Exact under the same provisos as `arrival`. Arrays are `int64[groups, pes, lines]` ticks.
"""

import functools

import numpy as np

from emu.wse.collectives.reduce.arrival import NEVER
from emu.wse.timeline.wires import Wires


@functools.lru_cache(maxsize=256)
def places(pes: int) -> np.ndarray:
    """The PE at each place of the ring: 0, 2, 4, ... to the end, and the odd ones back."""
    even, odd = np.arange(0, pes, 2), np.arange(1, pes, 2)
    return np.concatenate([even, odd[::-1]])


def ring_hops(pes: int) -> np.ndarray:
    """Hops from each place of the ring to the next one."""
    line = places(pes)
    return np.abs(np.roll(line, -1) - line)


def ring_all_reduce(armed: np.ndarray, words: int, w: Wires) -> np.ndarray:
    """When each PE can dispatch what follows.

    Args:
      armed: when each PE could dispatch its first operation.
      words: wavelets of a chunk, a P-th of the vector.
      w: the fabric.
    """
    pes = armed.shape[1]
    if pes == 1:
        return armed
    line = places(pes)
    ring = _Ring(armed[:, line], ring_hops(pes), words, w)
    for _ in range(2 * (pes - 1)):
        ring.step()
    done = np.empty_like(armed)
    done[:, line] = ring.at
    return done


def shift(armed: np.ndarray, words: int, by: int, w: Wires) -> np.ndarray:
    """One step of a ring whose places the PEs' numbers are, to the next place or the one before."""
    pes = armed.shape[1]
    if pes == 1:
        return armed
    # Place 0 is even either way.
    way = np.arange(pes) if by == 1 else -np.arange(pes) % pes
    hops = np.roll(ring_hops(pes), 0 if by == 1 else 1)[way]
    ring = _Ring(armed[:, way], hops, words, w)
    ring.step()
    done = np.empty_like(armed)
    done[:, way] = ring.at
    return done


class _Ring:
    """Dispatch times by place, and when the last chunks of each were taken, newest first.

    A chunk that fits beside earlier ones that nobody has taken yet leaves at once. `held` is the
    chunk, counted back from the newest, of which some word has to be taken before the last word of
    the newest one fits on its way.
    """

    def __init__(self, armed: np.ndarray, hops: np.ndarray, words: int, w: Wires):
        pes = armed.shape[1]
        self.at = armed
        self.hops = hops
        self.words = words
        self.w = w
        self.held = -(-(w.room(hops) + 1) // words) - 1
        self.even = np.arange(0, pes, 2)
        self.odd = np.arange(1, pes, 2)
        self.taken: list[np.ndarray] = []

    def step(self) -> None:
        """One send and one receive of every place."""
        self.taken = [np.full_like(self.at, NEVER), *self.taken[: int(self.held.max())]]
        first = self.at + self.w.setup_cycles
        wraps = self.at.shape[1] % 2 == 1
        # Even places whose receiver is odd.
        early = self.even[:-1] if wraps else self.even
        self._pass_on(early, first)
        if wraps:  # place 0 has sent and takes the last place's chunk
            self._pass_on(self.even[-1:], first)
        self._pass_on(self.odd, self.at + self.w.setup_cycles)

    def _pass_on(self, senders: np.ndarray, first: np.ndarray) -> None:
        """A chunk of each sender, whose first element is known, to the next place."""
        w = self.w
        hops = self.hops[senders][:, None]
        to = (senders + 1) % self.at.shape[1]
        came = first[:, senders] + w.latency(hops)
        taken = np.maximum(self.at[:, to] + w.setup_cycles, came)
        self.taken[0][:, senders] = taken
        last = first[:, senders] + w.sending(self.words)
        for back in np.unique(self.held[senders]):
            if back < len(self.taken):
                # Of that chunk, counted from 1.
                word = (back + 1) * self.words - w.room(hops)
                waits = self.taken[back][:, senders] + w.span(word) + w.credit(hops)
                here = (self.held[senders] == back)[:, None]
                last = np.where(here, np.maximum(last, waits), last)
        self.at[:, to] = taken + w.span(self.words) + 1 + w.drain_cycles
        self.at[:, senders] = last + 1 + w.drain_cycles


__all__ = ["places", "ring_all_reduce", "ring_hops", "shift"]
