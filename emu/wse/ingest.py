"""When words that enter at a wafer's edge stand in a region's PEs: one row's words after another's.

A stream from the edge goes down the routers of a region's first column. Each of them passes a row's
words to the east, where every router forwards them and hands its PE those that a filter lets in; a
control wavelet behind them turns the router, to pass on what follows to the south. So a word passes
each link once, however many PEs of a row take it, and rows are reached one after another:

    edge -> [ turned  ]
            [ turned  ]
            [ row 2   ] -> PE -> PE -> PE
            [ row 3   ]

That is a scatter over rows, whose blocks are multicast along each. Two rows of a WSE-3, three
columns, five words each, the edge one hop from row 0: a set-up takes 4 cycles, the way to the first
PE 1 + 2 ramps of 2 + a hop of 2 = 7, each further hop 2, a drain 4.

    row                                0                     1
    sent, first and last element       4, 6                  20 + 4 = 24, 26
    at its first PE, last element      4 + 7 + 4 = 15        24 + 9 + 4 = 37
    at its last PE                     15 + 2 * 2 = 19       37 + 2 * 2 = 41

The sender dispatches what follows 5 cycles after an element: the control wavelet behind row 0 in
cycle 11, and behind its one element, 4 cycles later, row 1 in 20. It is free in cycle 31, and the
last PE has all 10 cycles later.

Exact where every PE is ready to take what comes. What the edge really looks like is not published;
it is taken to send as a PE does.
"""

from typing import NamedTuple

import numpy as np

from emu.wse.timeline.wires import Wires


class Ingested(NamedTuple):
    """Cycles of streams from the edge, of arrays' leading dimensions.

    Attributes:
      busy: from a stream's first dispatch until the edge can dispatch the next one.
      done: until the last PE has taken its last word.
    """

    busy: np.ndarray
    done: np.ndarray

    def further(self, hops: np.ndarray, wires: Wires) -> "Ingested":
        """The same streams from an edge that is so many hops further away, int `[...]`.

        Every word is there so much later, and the edge is as busy: of the two rows above, from an
        edge three hops further, the last PE has all at 41 + 3 * 2 = 47.
        """
        done = np.where(self.busy > 0, self.done + wires.hop_cycles * hops, 0)
        return Ingested(self.busy, done)


def ingest(
    words: np.ndarray,
    wires: Wires,
    *,
    columns: int,
    edge_cycles: float = 1.0,
) -> Ingested:
    """Times of streams, each over some rows of a region, from an edge at its first router.

    Args:
      words: int `[..., rows]`, wavelets of each row, in the order in which a stream reaches them;
        a row without any is passed by.
      wires: of the fabric.
      columns: of the region.
      edge_cycles: distance of two wavelets as they enter.
    """
    counts = np.asarray(words, np.int64)
    some = counts > 0
    hops = np.arange(1, counts.shape[-1] + 1)
    # The edge may be slower than a PE that sends.
    spans = np.ceil(np.maximum(counts - 1, 0) * edge_cycles).astype(np.int64)
    sending = np.maximum(wires.sending(counts), spans if edge_cycles > 1 else 0)
    taking = np.maximum(wires.span(counts), spans)
    of_block = wires.setup_cycles + sending + 1 + wires.drain_cycles
    of_control = wires.gap_cycles + 1
    each = np.where(some, of_block + of_control, 0)
    ends = np.cumsum(each, axis=-1)
    dispatched = ends - each
    to_last_column = wires.hop_cycles * (columns - 1)
    came = dispatched + wires.setup_cycles + wires.latency(hops) + to_last_column
    done = np.where(some, came + taking, 0).max(axis=-1)
    # Behind the last row's words no router is left to be turned.
    busy = np.maximum(ends[..., -1] - of_control, 0)
    return Ingested(busy, done)


__all__ = ["Ingested", "ingest"]
