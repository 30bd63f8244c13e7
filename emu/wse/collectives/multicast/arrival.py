"""When what one PE sends to others has arrived: multicast from any PE, over a mesh, scatter.

A router hands a wavelet to the PE and on down the line in one cycle or not at all, so a PE that is
late holds up those behind it at once, and those before it when the routers between have filled up.

Exact: every time of a multicast along a line whose links carry nothing else. Neglected: words of
the first direction still in the output queue when the second one starts; that a late receiver holds
up others in a multicast over a mesh; that it holds up blocks behind its own in a scatter.

Arrays are `int64[groups, pes, lines]` ticks, as in `emu.wse.collectives.reduce.arrival`.
"""

import numpy as np

from emu.wse.collectives.reduce.arrival import NEVER
from emu.wse.timeline.lines import latest
from emu.wse.timeline.wires import Wires


def multicast(armed: np.ndarray, words: np.ndarray, root: int, w: Wires) -> np.ndarray:
    """When each PE can dispatch what follows a multicast from PE `root`.

    A root inside the line sends to the west first, then to the east.

    Args:
      armed: when each PE could dispatch its operation.
      words: wavelets sent, `[groups or 1, 1, lines or 1]`.
      root: the PE that sends.
      w: the fabric.
    """
    done, dispatch = armed.copy(), armed[:, root]
    sides = [np.arange(root - 1, -1, -1), np.arange(root + 1, armed.shape[1])]
    for side in (s for s in sides if s.size):
        own, sent = _one_way(dispatch[:, None], armed[:, side], words, w)
        done[:, side] = own + 1 + w.drain_cycles
        dispatch = sent[:, 0] + 1 + w.drain_cycles
    done[:, root] = dispatch
    return done


def _one_way(
    root: np.ndarray, armed: np.ndarray, words: np.ndarray, w: Wires
) -> tuple[np.ndarray, np.ndarray]:
    """Last elements of the receivers, nearest first, and of the root, `[groups, 1, lines]`."""
    hops = np.arange(1, armed.shape[1] + 1)[:, None]
    first = root + w.setup_cycles
    could = armed + w.setup_cycles
    span = w.span(words)
    last = np.maximum(could, first + w.latency(hops)) + span
    sent = first + w.sending(words)
    for count in np.unique(words):
        if count <= w.inlet_words:
            continue
        held, back = _held(could, hops, int(count), w)
        here = words == count
        last = np.where(here, np.maximum(last, held + span), last)
        sent = np.where(here, np.maximum(sent, back + span), sent)
    return last, sent


def _held(
    could: np.ndarray, hops: np.ndarray, words: int, w: Wires
) -> tuple[np.ndarray, ...]:
    """When each receiver's and the root's first element would be if the last waited for others."""
    # When a router passes on what it passes first, if it waits.
    late = could - w.inlet_words + 1
    behind = (
        np.maximum.accumulate(late - w.hop_cycles * hops, axis=1) + w.hop_cycles * hops
    )
    step = w.link_words - 1  # a link's words less the cycle in which its credit returns
    reach = (words - 1 - w.inlet_words) // w.link_words
    n = could.shape[1]
    flipped = (late - step * hops)[:, ::-1]  # those further away come first
    start = np.maximum(np.arange(n) - reach, 0)[None]
    before = latest(flipped, start)[:, ::-1] + step * hops
    between = w.out_words + 1 + w.router_words + w.ramp_cycles
    near = hops * w.link_words + w.inlet_words + between <= words - 1
    back = np.where(near, late - step * hops - between + 2, NEVER).max(
        axis=1, keepdims=True
    )
    return np.maximum(behind, before) + w.ramp_cycles, back


def multicast_2d(armed: np.ndarray, words: int, w: Wires) -> np.ndarray:
    """The same from the corner PE to a mesh `[rows, cols]`: along row 0, and down every column.

    One stream: routers of row 0 forward it to the east, to the south and to their PE at once.
    """
    rows, cols = armed.shape
    hops = np.arange(rows)[:, None] + np.arange(cols)
    first = armed[0, 0] + w.setup_cycles
    last = np.maximum(armed + w.setup_cycles, first + w.latency(hops)) + w.span(words)
    last[0, 0] = first + w.sending(words)
    return last + 1 + w.drain_cycles


def scatter(
    armed: np.ndarray, words: np.ndarray, w: Wires, turned: bool = False
) -> np.ndarray:
    """When each PE has its own block of `words` from PE 0, which sends the nearest one's first.

    With `turned` routes a control wavelet, an operation of its own, follows each block but the last
    and turns its receiver's router to pass on the next one.
    """
    done, dispatch = armed.copy(), armed[:, :1]
    control = w.setup_cycles + 1 + w.drain_cycles if turned else 0
    for i in range(1, armed.shape[1]):
        first = dispatch + w.setup_cycles
        taken = np.maximum(armed[:, i : i + 1] + w.setup_cycles, first + w.latency(i))
        done[:, i : i + 1] = taken + w.span(words) + 1 + w.drain_cycles
        sent = first + w.sending(words)
        waits = taken + w.span(words) - w.room(i) + w.credit(i)
        sent = np.where(words > w.room(i), np.maximum(sent, waits), sent)
        dispatch = sent + 1 + w.drain_cycles + control * (i + 1 < armed.shape[1])
    done[:, :1] = dispatch
    return done


__all__ = ["multicast", "multicast_2d", "scatter"]
