"""When a reduce along a tree is done, on every PE, for any skew of their starts.

A PE that is dispatched at `armed` executes an operation's first element at

    max(dispatch + set-up, first element of the sender's operation + latency of the way),

one element a cycle from then on, and dispatches the next operation a drain after the last one.
Chains, in which each member streams what the next one adds, are a cumulative maximum.

Exact: when every operation starts, and the root's end. Streams never thin out on the way, since
every stage of the fabric holds enough to go on at full rate after a stall. A sender that stalls on
full queues is exact as long as its words wait for nothing but the receiver. Neglected: streams of
different colours that meet on a link. With `stream_cycles` other than 1, queues are counted as if
words came one a cycle.

Arrays are `int64[groups, pes, lines]` ticks (a tick is a cycle): groups and lines of the mesh do
the same at once.
"""

import dataclasses
import functools

import numpy as np

from emu.wse.timeline.lines import latest
from emu.wse.timeline.wires import Wires
from emu.wse.trees import Tree

NEVER = np.int64(-(1 << 60))


@dataclasses.dataclass(frozen=True)
class Batch:
    """Chains of one length: each member streams the next one through, the last sends from memory.

    Attributes:
      members: `[chains, length]`, the one nearest to the root first.
      hops: `[chains, length]` from a member to the one before; the first one's to its receiver.
      side: `[chains, length, most]`, the children added into memory before; -1 is none.
    """

    members: np.ndarray
    hops: np.ndarray
    side: np.ndarray


@functools.lru_cache(maxsize=512)
def batches(tree: Tree) -> tuple[Batch, ...]:
    """A tree's chains, those first whose streams others add, else from west to east."""
    level: dict[int, int] = {}
    chains: dict[tuple[int, int], list[list[int]]] = {}
    heads = [tree.root, *(c for aside in tree.aside for c in aside)]
    at = {i: n for n, i in enumerate(tree.order)}
    # A side chain's head comes after its parent.
    for head in sorted(heads, key=lambda i: -at[i]):
        chain = [head]
        while tree.streamed[chain[-1]]:
            chain += tree.streamed[chain[-1]]
        side = [level[c] for i in chain for c in tree.aside[i]]
        level[head] = 1 + max(side, default=0)
        chains.setdefault((level[head], len(chain)), []).append(chain)
    return tuple(_batch(tree, sorted(chains[key])) for key in sorted(chains))


def _batch(tree: Tree, chains: list[list[int]]) -> Batch:
    most = max(len(tree.aside[i]) for chain in chains for i in chain)
    side = [[[*tree.aside[i], *[-1] * most][:most] for i in chain] for chain in chains]
    members = np.array(chains)
    return Batch(
        members,
        np.array(tree.hops)[members],
        np.array(side, int).reshape(*members.shape, most),
    )


def reduce(
    armed: np.ndarray, words: np.ndarray, tree: Tree, w: Wires, turned: bool = False
) -> np.ndarray:
    """When each PE can dispatch what follows the reduce.

    Args:
      armed: when each PE could dispatch its first operation.
      words: wavelets of each stream, `[groups or 1, 1, lines or 1]`.
      tree: over the group's PEs.
      w: the fabric.
      turned: routers are turned to a PE's next stream by a control wavelet that the sender of the
        one before sends in an operation of its own. The times are those before that operation.
    """
    if tree.pes == 1:
        return armed
    words = np.broadcast_to(words, (armed.shape[0], 1, armed.shape[2]))
    first, taken = _starts(armed, words, tree, w, turned)
    last = np.empty_like(first)
    for batch in batches(tree):
        last[:, batch.members] = _ends(first, taken, words, batch, w)
    last[:, tree.root] = first[:, tree.root] + w.span(words)[:, 0]
    return last + 1 + w.drain_cycles


def _sent(words: np.ndarray, tree: Tree, places: np.ndarray, w: Wires) -> np.ndarray:
    """From the first to the last element that each of some PEs sends."""
    memory = np.array([not tree.streamed[i] for i in places.tolist()])[:, None]
    return np.where(memory, w.sending(words), w.span(words))


def _turned(
    came: np.ndarray, words: np.ndarray, tree: Tree, places: np.ndarray, w: Wires
) -> np.ndarray:
    """When to dispatch the next receive after those of some PEs' streams, as routers turn to it.

    A PE that stores sends next after its last receive, and no router turns to that.
    """
    last = {tree.children[i][-1] for i in tree.stores}
    receives = np.array([i not in last for i in places.tolist()])[:, None]
    # behind the last word, a set-up for the control wavelet and one for ours
    turn = came + _sent(words, tree, places, w) + 2 + w.drain_cycles
    return np.where(receives, turn, NEVER)


def _starts(
    armed: np.ndarray, words: np.ndarray, tree: Tree, w: Wires, turned: bool
) -> tuple[np.ndarray, np.ndarray]:
    """First elements of each PE's last operation, and of the operation that takes its stream."""
    first = np.empty_like(armed)
    taken = np.full_like(armed, NEVER)
    hops = np.array(tree.hops)
    through = w.span(words)[:, None] + 1 + w.drain_cycles
    for b in batches(tree):
        dispatch = armed[:, b.members]
        for k in range(b.side.shape[2]):
            child = b.side[:, :, k]
            some = np.nonzero(child >= 0)
            here = child[some]
            came = first[:, here] + w.latency(hops[here])[:, None]
            at = np.maximum(dispatch[:, *some] + w.setup_cycles, came)
            taken[:, here] = at
            dispatch[:, *some] = at + through[:, 0]
            if turned:
                turn = _turned(came, words, tree, here, w)
                dispatch[:, *some] = np.maximum(dispatch[:, *some], turn)
        offset = w.latency(b.hops)
        offset[:, 0] = 0
        offset = np.cumsum(offset, axis=1)[..., None]
        reach = (dispatch + w.setup_cycles + offset)[:, :, ::-1]
        own = np.maximum.accumulate(reach, axis=2)[:, :, ::-1] - offset
        first[:, b.members] = own
        taken[:, b.members[:, 1:]] = own[:, :, :-1]
    return first, taken


def _ends(
    first: np.ndarray, taken: np.ndarray, words: np.ndarray, b: Batch, w: Wires
) -> np.ndarray:
    """Last elements of the members' last operations, `[groups, chains, length, lines]`.

    Words that do not fit between a member and its receiver wait for the receiver to take them, and
    those that do not fit between that one and its own receiver for it in turn.
    """
    own = first[:, b.members]
    span = w.span(words)[:, None]
    last = own + span
    last[:, :, -1] = own[:, :, -1] + w.sending(words)
    for count in np.unique(words):
        if count - 1 < w.room(1):
            continue
        stalled = _stalled(own, taken[:, b.members[:, :1]], int(count), b, w) + span
        last = np.where((words == count)[:, None], np.maximum(last, stalled), last)
    return last


def _stalled(
    own: np.ndarray, taker: np.ndarray, words: int, b: Batch, w: Wires
) -> np.ndarray:
    """When each member's first element would be if its last one waited for a receiver."""
    room = np.cumsum(np.pad(w.room(b.hops), ((0, 0), (1, 0))), axis=1)
    ahead = np.cumsum(
        np.pad(w.room(b.hops) - w.credit(b.hops), ((0, 0), (1, 0))), axis=1
    )
    start = np.array([np.searchsorted(r, r - (words - 1)) for r in room])[:, 1:]
    # The receiver, in an array that begins with the taker.
    last = np.arange(start.shape[1])
    at = np.concatenate([taker, own[:, :, :-1]], axis=2) + ahead[:, :-1, None]
    reached = latest(at, np.minimum(start, last)[None]) - ahead[:, 1:, None]
    return np.where((start <= last)[..., None], reached, NEVER)


def relay(armed: np.ndarray, words: int, between_cycles: int, w: Wires) -> np.ndarray:
    """The same of a chain in which each PE takes everything in, works on it and then sends.

    Args:
      armed: as in `reduce`; PE 0 is the root.
      words: wavelets of each stream, few enough that nobody stalls.
      between_cycles: scalar code between the receive and the send.
      w: the fabric.
    """
    pes = armed.shape[1]
    through = int(w.span(words)) + 1 + w.drain_cycles
    if pes == 1:
        return armed
    sent = armed[:, -1:] + w.setup_cycles  # the last PE's first element
    done = np.empty_like(armed)
    done[:, -1:] = sent + w.sending(words) + 1 + w.drain_cycles
    for i in range(pes - 2, -1, -1):
        taken = np.maximum(armed[:, i : i + 1] + w.setup_cycles, sent + w.latency(1))
        free = taken + through + between_cycles
        sent = free + w.setup_cycles
        done[:, i : i + 1] = sent + w.sending(words) + 1 + w.drain_cycles if i else free
    return done


__all__ = ["Batch", "NEVER", "batches", "reduce", "relay"]
