"""When a multicast along a line has arrived, from any PE, on every PE.

A router hands a wavelet to the PE and on down the line in one cycle or not at all, so a PE that is
late holds up those behind it at once, and those before it when the routers between have filled up.

Three PEs of a WSE-3 that start together, five words from PE 0: a set-up takes 4 cycles, the way to
the first receiver 1 + 2 ramps of 2 + a hop of 2 = 7, each further hop 2. PE 0 sends two words a
cycle: the third push is 2 cycles after the first. The drain takes 4.

    PE                     0              1               2
    first element          0 + 4 = 4      4 + 7 = 11      4 + 9 = 13
    last element           6              15              17
    next dispatch          6 + 1 + 4 = 11 20              22

Exact: every time of a multicast along a line whose links carry nothing else. Neglected: words of
the first direction still in the output queue when the second one starts.
"""

import numpy as np

from emu.datasheet import Device
from emu.instruction import Crossing, Operand
from emu.wse.timeline.calls import Call, Ends, Mesh
from emu.wse.timeline.stretches import NEVER, latest
from emu.wse.timeline.times import Lengths, Times
from emu.wse.timeline.wires import Wires


def arrival(
    device: Device,
    mesh: Mesh,
    crossing: Crossing,
    *operands: Operand,
    axis: str,
    group: int,
    root: int,
    call: bool,
) -> Ends:
    """The arrival rule of `wse.multicast`."""
    _dst, x, _index, elements = operands
    here = Call.on(device, mesh, crossing, elements, axis=axis, group=group, call=call)
    words = here.words(elements, x.dtype)
    return here.ends(multicast(here.armed, words, root, here.wires))


def multicast(
    armed: Times,
    words: Lengths,
    root: int,
    wires: Wires,
) -> Times:
    """When each PE can dispatch what follows a multicast from PE `root`.

    A root inside the line sends to the west first, then to the east.

    Args:
      armed: when each PE could dispatch its operation.
      words: wavelets sent, `[groups or 1, 1, lines or 1]`.
      root: the PE that sends.
      wires: of the fabric.
    """
    done = armed.copy()
    dispatch = armed[:, root]
    west = np.arange(root - 1, -1, -1)
    east = np.arange(root + 1, armed.shape[1])
    for receivers in (west, east):
        if not receivers.size:
            continue
        received, sent = _one_way(dispatch[:, None], armed[:, receivers], words, wires)
        done[:, receivers] = wires.dispatch_after(received)
        dispatch = wires.dispatch_after(sent[:, 0])
    done[:, root] = dispatch
    return done


def _one_way(
    root: Times,
    armed: Times,
    words: Lengths,
    wires: Wires,
) -> tuple[Times, Times]:
    """Last elements of the receivers, nearest first, and of the root, `[groups, 1, lines]`."""
    hops = np.arange(1, armed.shape[1] + 1)[:, None]
    first = root + wires.setup_cycles
    ready = armed + wires.setup_cycles
    span = wires.span(words)
    came = first + wires.latency(hops)
    received = np.maximum(ready, came) + span
    sent = first + wires.sending(words)
    for count in np.unique(words):
        # However late a PE is, so few words wait at its own ramp and hold up nobody.
        if count <= wires.inlet_words:
            continue
        held, root_held = _held_up(ready, hops, int(count), wires)
        received_later = np.maximum(received, held + span)
        sent_later = np.maximum(sent, root_held + span)
        this_long = words == count
        received = np.where(this_long, received_later, received)
        sent = np.where(this_long, sent_later, sent)
    return received, sent


def _held_up(
    ready: Times,
    hops: np.ndarray,
    words: int,
    wires: Wires,
) -> tuple[Times, Times]:
    """When each receiver's and the root's first element would be if the last waited for others.

    A receiver's inlet takes `inlet_words` before it is ready; the word after those waits at its
    router, which passes it on to nobody until then. Those behind it get that word a hop later
    each. Those before it fill up, `link_words` a router, until they wait too.
    """
    # When a router passes on what it passes first, if it waits.
    # All times here are a word's less its number, so that one stands for the whole stream: on a
    # WSE-3 word n may pass once the PE has taken word n - 6, in ready + n - 6, a cycle later.
    passes_on = ready - wires.inlet_words + 1
    # Those behind a late one.
    hop_cycles = wires.hop_cycles * hops
    at_first_hop = passes_on - hop_cycles
    behind = np.maximum.accumulate(at_first_hop, axis=1) + hop_cycles
    # Those before it: a link's words less the cycle in which its credit returns.
    lead = (wires.link_words - 1) * hops
    at_root = passes_on - lead
    # Of 30 words, 29 are before the last; 6 of them wait at the late PE's ramp, and the other 23
    # fill 5 routers of 4 before it. The sixth has 3 and room for the last, and nobody before it
    # waits.
    reach = (words - 1 - wires.inlet_words) // wires.link_words
    places = np.arange(ready.shape[1])
    start = np.maximum(places - reach, 0)[None]
    farthest_first = at_root[:, ::-1]
    latest_beyond = latest(farthest_first, start)[:, ::-1]
    before = latest_beyond + lead
    receivers_held = np.maximum(behind, before) + wires.ramp_cycles
    # The root, if all that lies between is full.
    filled = hops * wires.link_words + wires.inlet_words + wires.outlet_words
    fills_up = filled <= words - 1
    first_of_root = at_root - wires.outlet_words + 2
    root_held = np.where(fills_up, first_of_root, NEVER)
    return receivers_held, root_held.max(axis=1, keepdims=True)


__all__ = ["arrival", "multicast"]
