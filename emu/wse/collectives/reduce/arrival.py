"""When a reduce along a tree is done, on every PE, for any skew of their starts.

A PE that is dispatched at `armed` executes an operation's first element at

    max(dispatch + set-up, first element of the sender's operation + latency of the way),

one element a cycle from then on, and dispatches the next operation a drain after the last one.
Chains, in which each member streams what the next one adds, are a cumulative maximum.

A chain of three PEs of a WSE-3 that start together, five words. The set-up takes 4 cycles, and so
does the drain; from an element of one PE to that of the next it is 1 + 2 ramps of 2 + a hop of 2,
that is 7:

    PE                     2               1                    0
    first element          0 + 4 = 4       max(4, 4 + 7) = 11   max(4, 11 + 7) = 18
    last element           6               15                   22
    next dispatch          6 + 1 + 4 = 11  20                   27

PE 2 sends from memory, two words a cycle into its output queue, and is done before the others.

Exact: when every operation starts, and the root's end. Streams never thin out on the way, since
every stage of the fabric holds enough to go on at full rate after a stall. A sender that stalls on
full queues is exact as long as its words wait for nothing but the receiver. Neglected: streams of
different colours that meet on a link. With `stream_cycles` other than 1, queues are counted as if
words came one a cycle.
"""

import numpy as np

from emu.datasheet import Device
from emu.instruction import Crossing, Operand
from emu.wse.collectives.reduce.chains import NOBODY, Chains, chains_of
from emu.wse.timeline.calls import Call, Ends, Mesh
from emu.wse.timeline.stretches import NEVER, latest
from emu.wse.timeline.times import Lengths, Times
from emu.wse.timeline.wires import Wires
from emu.wse.trees.tree import Tree


def arrival(
    device: Device,
    mesh: Mesh,
    crossing: Crossing,
    *operands: Operand,
    axis: str,
    op: str,
    tree: Tree,
    call: bool,
) -> Ends:
    """The arrival rule of `wse.reduce`."""
    _dst, x, _index, elements = operands
    here = Call.on(
        device,
        mesh,
        crossing,
        elements,
        axis=axis,
        group=tree.pes,
        call=call,
    )
    words = here.words(elements, x.dtype)
    return here.ends(reduce(here.armed, words, tree, here.wires))


def reduce(
    armed: Times,
    words: Lengths,
    tree: Tree,
    wires: Wires,
    turned: bool = False,
) -> Times:
    """When each PE can dispatch what follows the reduce.

    Args:
      armed: when each PE could dispatch its first operation.
      words: wavelets of each stream, `[groups or 1, 1, lines or 1]`.
      tree: over the group's PEs.
      wires: of the fabric.
      turned: routers are turned to a PE's next stream by a control wavelet that the sender of the
        one before sends in an operation of its own. The times are those before that operation.
    """
    if tree.pes == 1:
        return armed
    words = np.broadcast_to(words, (armed.shape[0], 1, armed.shape[2]))
    first, taken = _starts(armed, words, tree, wires, turned)
    last = np.empty_like(first)
    for chains in chains_of(tree):
        last[:, chains.members] = _ends(first, taken, words, chains, wires)
    last[:, tree.root] = first[:, tree.root] + wires.span(words)[:, 0]
    return wires.dispatch_after(last)


def _starts(
    armed: Times,
    words: Lengths,
    tree: Tree,
    wires: Wires,
    turned: bool,
) -> tuple[Times, Times]:
    """First elements of each PE's last operation, and of the operation that takes its stream."""
    first = np.empty_like(armed)
    taken = np.full_like(armed, NEVER)
    hops = np.array(tree.hops)
    # Levels come in order, so the streams that a chain adds into memory have their times by now.
    for chains in chains_of(tree):
        dispatch = armed[:, chains.members]
        most = chains.into_memory.shape[2]
        for nth in range(most):
            # Who adds an nth child, as (chain, place in it), and which child each adds.
            child = chains.into_memory[:, :, nth]
            adders = np.nonzero(child != NOBODY)
            children = child[adders]
            way = wires.latency(hops[children])
            came = first[:, children] + way[:, None]
            ready = dispatch[:, *adders] + wires.setup_cycles
            starts = np.maximum(ready, came)
            taken[:, children] = starts
            ends = starts + wires.span(words)
            free = wires.dispatch_after(ends)
            if turned:
                turn = _turned(came, words, tree, children, wires)
                free = np.maximum(free, turn)
            dispatch[:, *adders] = free
        ready = dispatch + wires.setup_cycles
        own = _along_chains(ready, chains, wires)
        first[:, chains.members] = own
        # Within a chain, a member's stream is taken by the last operation of the member before it.
        taken[:, chains.members[:, 1:]] = own[:, :, :-1]
    return first, taken


def _along_chains(ready: Times, chains: Chains, wires: Wires) -> Times:
    """First elements of the members' last operations, from when each is ready for its own.

    A member starts once it is ready and the first word of every one behind it has had time to come:
    the maximum over those behind, each with its distance added.
    """
    distance = wires.latency(chains.hops)
    # The first member's way leads out of the chain.
    distance[:, 0] = 0
    from_head = np.cumsum(distance, axis=1)[..., None]
    # Three that are ready in cycle 4, 7 cycles apart: 4, 11 and 18 at the head. The maxima from the
    # last member on are all 18, and less the distances 0, 7 and 14 they are 18, 11 and 4, as above.
    at_head = ready + from_head
    farthest_first = at_head[:, :, ::-1]
    latest_so_far = np.maximum.accumulate(farthest_first, axis=2)
    return latest_so_far[:, :, ::-1] - from_head


def _turned(
    came: Times,
    words: Lengths,
    tree: Tree,
    senders: np.ndarray,
    wires: Wires,
) -> Times:
    """When to dispatch the next receive after those of some PEs' streams, as routers turn to it.

    A PE that stores sends next after its last receive, and no router turns to that.
    """
    before_a_send = {tree.children[pe][-1] for pe in tree.stores}
    pes = senders.tolist()
    before_a_receive = np.array([pe not in before_a_send for pe in pes])
    from_memory = np.array([not tree.streamed[pe] for pe in pes])
    from_first_to_last = np.where(
        from_memory[:, None],
        wires.sending(words),
        wires.span(words),
    )
    last = came + from_first_to_last
    # Behind the last word, a set-up for the control wavelet and one for ours.
    turn = last + 2 + wires.drain_cycles
    return np.where(before_a_receive[:, None], turn, NEVER)


def _ends(
    first: Times,
    taken: Times,
    words: Lengths,
    chains: Chains,
    wires: Wires,
) -> Times:
    """Last elements of the members' last operations, `[groups, chains, length, lines]`.

    Words that do not fit between a member and its receiver wait for the receiver to take them, and
    those that do not fit between that one and its own receiver for it in turn.
    """
    own = first[:, chains.members]
    heads = chains.members[:, :1]
    taker = taken[:, heads]
    span = wires.span(words)[:, None]
    last = own + span
    # The last member sends from memory.
    last[:, :, -1] = own[:, :, -1] + wires.sending(words)
    for count in np.unique(words):
        # One hop is the shortest way and has the least room: such a stream fits even that.
        if count - 1 < wires.room(1):
            continue
        stalled = _stalled(own, taker, int(count), chains, wires) + span
        later = np.maximum(last, stalled)
        this_long = (words == count)[:, None]
        last = np.where(this_long, later, last)
    return last


def _stalled(
    own: Times,
    taker: Times,
    words: int,
    chains: Chains,
    wires: Wires,
) -> Times:
    """When each member's first element would be if its last one waited for a receiver.

    Word n of a stream leaves once the receiver has taken word n - room and the place it freed has
    been seen, a credit later: no sooner than if the member had started `room - credit` before the
    receiver. A receiver further down holds the member up likewise, through those between, if the
    `words - 1` before the last fill all the room up to it: from `first_that_counts` on.
    """
    # Over one hop of a WSE-3 room is 23 and credit 4. A member with 24 words or more may start 23 -
    # 4 = 19 cycles before its receiver and wait for nobody; one that starts 30 cycles before is 30
    # - 19 = 11 cycles late with its last word.
    room = wires.room(chains.hops)
    room_to = _from_taker(room)
    lead_to = _from_taker(room - wires.credit(chains.hops))
    # 50 words and three ways with room for 23 each: `to` is 0 23 46 69. For the last member 69 - 49
    # is 20, and the first place from there on is 1: from its receiver's receiver it has 46 words of
    # room, which 49 fill, but from the taker 69, which they do not.
    of_chains = [np.searchsorted(to, to - (words - 1)) for to in room_to]
    first_that_counts = np.array(of_chains)[:, 1:]
    # The receiver, in an array that begins with the taker.
    receiver = np.arange(first_that_counts.shape[1])
    receives = np.concatenate([taker, own[:, :, :-1]], axis=2)
    at_taker = receives + lead_to[:, :-1, None]
    start = np.minimum(first_that_counts, receiver)
    latest_ahead = latest(at_taker, start[None])
    reached = latest_ahead - lead_to[:, 1:, None]
    waits = (first_that_counts <= receiver)[..., None]
    return np.where(waits, reached, NEVER)


def _from_taker(per_way: np.ndarray) -> np.ndarray:
    """Sums of the ways from a chain's receiver to each of its members; 0 for the receiver."""
    return np.cumsum(np.pad(per_way, ((0, 0), (1, 0))), axis=1)


__all__ = ["arrival", "reduce"]
