"""A ring of PEs folded onto a line: out along the even ones, back along the odd ones.

Neighbours stand two PEs apart, one at the turns, so that no stream crosses the whole line, and
three colors serve however long it is. Seven PEs:

    place   0  1  2  3  4  5  6
    PE      0  2  4  6  5  3  1      and from PE 1 back to PE 0

Even places of the ring send first and then receive, odd ones receive first, so that nobody waits
for somebody who waits for him.

The arrival formulas know the same ring by a derivation of their own
(`emu.wse.timeline.folded_ring`), so that a mistake in either shows.
"""

from collections.abc import Callable, Sequence

from emu.wse.fabric import ops
from emu.wse.fabric.layout.code import Code, code, on_line
from emu.wse.fabric.layout.line import Line
from emu.wse.fabric.layout.streams import Streams, fixed
from emu.wse.fabric.ops import Fabric, Memory, Vector, copy, receive, send

Step = tuple[Memory, Callable[[Fabric], Vector]]
"""What a PE sends, and the operation that takes the stream that comes meanwhile."""


def next_pe(pe: int, pes: int) -> int:
    """The PE that follows on the ring: two on from an even one, two back from an odd one."""
    outward = pe % 2 == 0
    if not outward:
        return max(pe - 2, 0)
    if pe + 2 < pes:
        return pe + 2
    # Of six PEs the last even one is 4 and turns at 5; of seven it is 6, the end itself, and 5
    # follows.
    turns_at_last_pe = pes % 2 == 0
    return pes - 1 if turns_at_last_pe else max(pes - 2, 0)


def ring_places(pes: int) -> list[int]:
    """The PE at each place of the ring, followed from PE 0 until it comes round."""
    ring = [0]
    while (following := next_pe(ring[-1], pes)) != 0:
        ring.append(following)
    return ring


def ring_streams(pes: int, prefix: str, by: int = 1) -> Streams:
    """The streams of a ring of two or more PEs, on three colors: each sends to the next one.

    Args:
      pes: on the line.
      prefix: of the colors' names.
      by: 1, or -1 where each sends to the one before.
    """
    receivers = [0] * pes
    for pe in range(pes):
        following = next_pe(pe, pes)
        sender, receiver = (pe, following) if by == 1 else (following, pe)
        receivers[sender] = receiver
    return fixed(receivers, prefix)


def round_the_ring(
    line: Line,
    prefix: str,
    by: int,
    steps: Callable[[int], Sequence[Step]],
    thread: int | None = None,
) -> Code:
    """Steps in which every PE sends to the next place of the ring and takes from the one before.

    Args:
      line: onto which the ring is folded.
      prefix: of the names of its colors.
      by: 1, or -1 for the other way round.
      steps: of the PE at a place of the ring, one after the other.
      thread: microthread of the sends; None is the main thread.
    """
    pes = line.pes
    ring = ring_places(pes)
    if pes == 1:
        return code(line.program, [])
    streams = ring_streams(pes, prefix, by)
    streams.lay(line)
    by_pe: dict[int, list[ops.Op]] = {}
    for place, pe in enumerate(ring):
        sender = ring[(place - by) % pes]
        out = streams.color[pe]
        into = streams.color[sender]
        # Backwards, places count from 0 the other way: 0, pes - 1, ..., 1.
        counted = (place * by) % pes
        sends_first = counted % 2 == 0
        by_pe[pe] = []
        for sent, take in steps(place):
            both: list[ops.Op] = [
                copy(send(out, sent.elements), sent, thread=thread),
                take(receive(into, sent.elements)),
            ]
            # If all sent first, each would be busy sending while its own receive waits behind that:
            # with more words than fit on the way, 23 over one hop of a WSE-3, nobody would ever
            # end.
            by_pe[pe] += both if sends_first else both[::-1]
    return on_line(line, by_pe)


__all__ = ["Step", "next_pe", "ring_places", "ring_streams", "round_the_ring"]
