"""The ring as programs follow it, PE by PE, against the ring as formulas list it."""

import pytest

from emu.wse.fabric.layout.folded_ring import next_pe, ring_places, ring_streams
from emu.wse.timeline.folded_ring import places, ring_hops


@pytest.mark.parametrize("pes", [*range(1, 30), 64, 755, 1170])
def test_two_derivations_of_one_ring(pes: int) -> None:
    ring = ring_places(pes)
    assert ring == places(pes).tolist()
    following = [next_pe(pe, pes) for pe in ring]
    assert following == [*ring[1:], ring[0]]
    hops = [abs(after - pe) for pe, after in zip(ring, following, strict=True)]
    assert hops == ring_hops(pes).tolist()


def test_seven_pes_by_hand() -> None:
    assert ring_places(7) == [0, 2, 4, 6, 5, 3, 1]
    streams = ring_streams(7, "r")
    # PE 1 sends to PE 0, one hop to the west; PE 0 to PE 2, past the router of PE 1.
    assert streams.routes[streams.color[1], 1] == (("ramp", "near"),)
    assert streams.routes[streams.color[0], 1] == (("near", "far"),)
    assert len(set(streams.color)) == 3
