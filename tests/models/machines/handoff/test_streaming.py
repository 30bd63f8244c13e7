"""A prompt's way to the wafers in time: by hand, and laws of random prompts."""

import dataclasses
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu import BANDS
from emu.efa import EFA
from kernels.formats.formats import FORMATS, of_activations
from models.machines.handoff import Way, evenly, handoff
from models.machines.handoff.fields import token_bytes
from models.machines.handoff.pages import Paging
from tests.models.machines.handoff.maps import (
    PLACEMENTS,
    REGIONS,
    landing,
    of_heads,
    of_latents,
    source,
)

LAW = settings(max_examples=20, derandomize=True, deadline=None)
LINK = EFA.at()
DONE = [0.1, 0.2, 0.3, 0.4]
# Two heads of 8, key and value, 2 bytes: 64 a token and layer.
LAYER = of_heads(rows=10, context=2000)
LANDINGS = [landing(LAYER)] * 4
WAFER_S = 5e-6  # more than the fabric takes from the edge to the last PE


def moved(way=Way(), landings=LANDINGS, band="nominal", sent=None, **given):
    given = {"done": DONE, "end": 0.41, **given}
    return handoff(source(**given), landings, way=way, band=band, sent=sent)


# --- by hand ---


@pytest.mark.parametrize("stream", ["layer", "bulk"])
def test_bytes(stream) -> None:
    """Tokens x layers x keys and values x KV heads x head size x bytes; padding is not sent."""
    assert token_bytes(LAYER, source().stored) == 2 * 2 * 8 * 2
    assert moved(Way(stream=stream), tokens=997).nbytes == 997 * 4 * 64


def test_a_layer_of_a_chip_is_an_operation_unless_several_wait() -> None:
    """Of 250 tokens a chip has 16 kB of each layer: sent at once, all four are one operation."""
    assert moved().operations == 4 * 4
    assert moved(Way(stream="bulk")).operations == 4
    apart = Way(stream="bulk", paging=Paging(64, is_coalesced=False))
    assert moved(apart).operations == 4 * 4 * 4
    # Chips without tokens send nothing.
    assert moved(tokens=2, chips=4, placement="striped").operations == 2 * 4


@pytest.mark.parametrize(
    ("layer", "tensor", "each"),
    [
        # Two chips with a head each, of all 250 tokens of a place.
        (LAYER, 2, 250 * 32),
        # Of four chips two have the same head, and send it of every second token.
        (LAYER, 4, 125 * 32),
        # Latents all have alike: 20 numbers of 2 bytes.
        (of_latents(rows=10, context=2000), 2, 125 * 40),
    ],
)
def test_chips_of_a_place_share_what_is_sent(layer, tensor, each) -> None:
    """Every byte once, by as many NICs as there are chips."""
    landings = [landing(layer)] * 4
    alone, shared = (moved(landings=landings, tensor=n) for n in (1, tensor))
    assert alone.nbytes == shared.nbytes
    assert shared.operations == 4 * 4 * tensor
    assert alone.transfer is not None and shared.transfer is not None
    busy = "NIC's bytes"
    assert alone.transfer.alone_s[busy] == tensor * shared.transfer.alone_s[busy]
    assert shared.transfer.alone_s[busy] == 4 * each / Fraction(LINK.nic_bytes_per_s)


def test_streaming_hides_all_but_the_last_layer() -> None:
    """Bulk waits for everything to be sent; streaming for what layer 4 sends after 0.4 s."""
    layer, bulk = moved(), moved(Way(stream="bulk"))
    assert layer.exposed_s == 0.0  # sent 10 ms before prefill ends
    # One operation a chip.
    assert 1 / 92_000 + 15e-6 < bulk.exposed_s < 1 / 92_000 + 15e-6 + WAFER_S
    assert layer.transfer is not None and bulk.transfer is not None
    assert layer.transfer.started_s == DONE[0]
    assert bulk.transfer.started_s == pytest.approx(0.41)


def test_exposed_is_from_the_end_of_prefill() -> None:
    """A last layer that is done as prefill ends exposes its own message."""
    late = moved(done=[0.1, 0.2, 0.3, 0.41])
    assert 0 < late.exposed_s - (1 / 92_000 + 15e-6) < WAFER_S
    assert late.time_s == pytest.approx(0.41 - 0.1 + late.exposed_s, rel=1e-9)


def test_many_bytes_are_bound_by_the_wafers_links() -> None:
    """Keys and values of 16 MB a layer from 64 chips, over two links of 12.5 GB/s."""
    layer = of_heads(rows=64, parts=4, kv_heads=8, head_dim=64, context=8192)
    whole = moved(
        Way(stream="bulk", links=2),
        [landing(layer)] * 4,
        tokens=8192,
        chips=64,
        placement="striped",
    )
    assert whole.nbytes == 4 * 8192 * 2048
    assert whole.bound == "wafer's links"
    least_s = whole.nbytes / 25e9
    assert least_s < whole.exposed_s < 1.02 * least_s + 15e-6 + WAFER_S


def test_pages_that_are_not_coalesced_are_bound_by_operations() -> None:
    """Of 16 tokens a page, 1,024 bytes: 16 a layer and chip, four layers, 92,000 a second."""
    way = Way(stream="bulk", paging=Paging(16, is_coalesced=False))
    pages = moved(way)
    assert pages.operations == 4 * 4 * 16
    assert pages.bound == "NIC's operations"
    assert pages.exposed_s == pytest.approx(64 / 92_000 + 15e-6, abs=WAFER_S)


def test_codes_made_by_chips_lengthen_prefill() -> None:
    """Fewer bytes, and each layer later by what the ones before it and its own took."""
    fp8 = of_activations(FORMATS["fp8"])
    wide, coded = moved(), moved(sent=fp8)
    assert coded.nbytes == 1000 * 4 * 2 * 2 * (8 + 4) < wide.nbytes
    assert coded.coding_s > 0 and wide.coding_s == 0
    assert coded.exposed_s >= coded.coding_s
    assert coded.transfer is not None
    first_s = float(coded.transfer.started_s)
    assert first_s == pytest.approx(DONE[0] + coded.coding_s / 4)


def test_codes_made_by_pes_take_them_time() -> None:
    """What arrives wide where the cache is in codes."""
    coded = [landing(of_heads(rows=10, context=2000, cache="fp8"))] * 4
    plain = moved(Way(stream="bulk"))
    kept = moved(Way(stream="bulk"), coded)
    assert kept.nbytes == plain.nbytes
    assert kept.keeping_s > 0
    assert kept.bound == "wafer's PEs"
    assert kept.exposed_s > plain.exposed_s + kept.keeping_s / 2


def test_several_wafers_have_links_of_their_own() -> None:
    """Four layers over four wafers go in at a quarter of the time, where links are what bounds."""
    layer = of_heads(rows=64, parts=4, kv_heads=8, head_dim=64, context=8192)
    given = {"tokens": 8192, "chips": 64, "placement": "striped"}
    way = Way(stream="bulk", links=1)
    one, four = (
        moved(way, [landing(layer, wafer % wafers) for wafer in range(4)], **given)
        for wafers in (1, 4)
    )
    assert one.bound == four.bound == "wafer's links"
    assert four.exposed_s < one.exposed_s / 3


def test_cold_nics_and_reads() -> None:
    bulk = Way(stream="bulk")
    warm = moved(bulk).exposed_s
    cold = moved(dataclasses.replace(bulk, is_cold=True)).exposed_s
    assert cold - warm == pytest.approx(26e-3)
    pulled = moved(dataclasses.replace(bulk, mode="pull")).exposed_s
    assert pulled - warm == pytest.approx(
        15e-6
    )  # operations are what bounds, not bytes


def test_what_the_wafers_have_is_not_sent() -> None:
    """Of 1,000 tokens, 900 from before."""
    way = Way(stream="bulk")
    rest = moved(way, reused=900)
    assert rest.nbytes == 100 * 4 * 64
    assert rest.exposed_s <= moved(way).exposed_s
    nothing = moved(way, reused=1000)
    assert (nothing.nbytes, nothing.operations, nothing.exposed_s) == (0, 0, 0)
    assert (nothing.time_s, nothing.bound) == (0, "nothing")


def test_a_prefill_of_which_the_end_is_known() -> None:
    assert evenly(1.0, 4) == [0.25, 0.5, 0.75, 1.0]


def test_refusals() -> None:
    with pytest.raises(ValueError, match="'token', must be one of layer, bulk"):
        Way(stream="token")
    with pytest.raises(ValueError, match="'sender', must be one of chip, wafer"):
        Way(order="sender")
    with pytest.raises(ValueError, match="3 layers' times, the wafers have 4"):
        moved(done=DONE[:3])
    with pytest.raises(ValueError, match="1001 tokens are reused, must be 0 to 1000"):
        moved(reused=1001)


def test_layers_that_pile_up_are_sent_together() -> None:
    """Twenty layers, a microsecond each: all that wait as the first operations end are the last."""
    done = [1e-6 * (layer + 1) for layer in range(20)]
    given: dict[str, Any] = {"done": done, "end": 2e-5, "landings": LANDINGS[:1] * 20}
    layered, whole = moved(**given), moved(Way(stream="bulk"), **given)
    # Of a chip: the first layer's, the eleven that wait 10.9 us later, and the last eight.
    assert layered.operations == 4 * 3
    assert whole.operations == 4
    assert layered.exposed_s < whole.exposed_s + 1 / LINK.nic_operations_per_s


# --- laws ---

PROMPTS = st.fixed_dictionaries(
    {
        "tokens": st.integers(1, 40),
        "chips": st.integers(1, 5),
        "placement": PLACEMENTS,
        "end": st.sampled_from([0.2, 0.21]),
    }
)
WAYS = st.builds(
    Way,
    stream=st.sampled_from(["layer", "bulk"]),
    mode=st.sampled_from(["push", "pull"]),
    is_cold=st.booleans(),
    links=st.sampled_from([None, 1, 2, 5]),
    spread=st.sampled_from(["striped", "nearest"]),
    order=st.sampled_from(["chip", "wafer"]),
    paging=st.builds(Paging, st.integers(1, 9), st.booleans()),
)
TWO: dict[str, Any] = {"done": (0.1, 0.2)}


def lands(layer):
    return [landing(layer, 0), landing(layer, 1, x=3, y=9)]


@LAW
@given(PROMPTS, REGIONS, WAYS, st.integers(0, 40))
def test_bytes_that_leave_are_bytes_that_enter(prompt, layer, way, reused) -> None:
    """On any way each token that is sent leaves one chip once, for one row of each layer."""
    reused = min(reused, prompt["tokens"])
    given = source(**prompt, **TWO, reused=reused)
    rows = given.rows(layer.rows)
    left = np.arange(reused, prompt["tokens"])
    assert rows.sum() == len(left)
    expected = np.bincount(left % layer.rows, minlength=layer.rows)
    assert (rows.sum(axis=0) == expected).all()
    done = handoff(given, lands(layer), way=way)
    each = token_bytes(layer, given.stored)
    assert done.nbytes == 2 * each * len(left)
    if done.transfer is not None:
        entered = done.transfer.alone_s["wafer's links"] * 12_500_000_000
        # The busiest link has no more than all, and at least its part of one wafer's.
        assert each * len(left) / 12 <= entered <= done.nbytes


@LAW
@given(PROMPTS, REGIONS, WAYS)
def test_nothing_is_sooner_than_its_parts(prompt, layer, way) -> None:
    done = handoff(source(**prompt, **TWO), lands(layer), way=way)
    assert done.transfer is not None
    ready_s = prompt["end"] if way.stream == "bulk" else 0.2
    assert done.finished_s > ready_s + LINK.latency_s
    late_s = max(0.0, done.finished_s - prompt["end"])
    assert done.exposed_s == pytest.approx(late_s, abs=1e-12)
    longest = max(done.transfer.alone_s.values())
    assert done.finished_s - float(done.transfer.started_s) > float(longest)


@LAW
@given(PROMPTS, REGIONS, WAYS)
def test_laws(prompt, layer, way) -> None:
    """Slower ways are never sooner, nor are more tokens, nor fewer links."""

    def end_s(given=prompt, band="nominal", reused=0, **other) -> float:
        own = source(**given, **TWO, reused=reused)
        changed = dataclasses.replace(way, **other)
        return handoff(own, lands(layer), way=changed, band=band).finished_s

    pushed = end_s(mode="push", is_cold=False)
    assert pushed <= end_s(mode="pull", is_cold=False)
    assert pushed <= end_s(mode="push", is_cold=True)
    assert end_s(reused=prompt["tokens"] // 2) <= end_s()
    bands = [end_s(band=band) for band in BANDS]
    assert bands == sorted(bands)
    # Links stand elsewhere if there are more: a way of so many hops is no matter of their number.
    hops_s = 2 * (1170 + 755) / WAFER_HZ
    for few in (1, 2, 3, 6):
        assert end_s(links=2 * few) <= end_s(links=few) + hops_s
    # An operation that has begun is not broken off for what is ready as prefill ends.
    one_s = max(1 / LINK.nic_operations_per_s, LINK.operation_bytes / 18e9)
    coalesced = dataclasses.replace(way.paging, is_coalesced=True)
    layered, whole = (
        end_s(stream=stream, paging=coalesced, is_cold=False)
        for stream in ("layer", "bulk")
    )
    assert layered <= whole + one_s


WAFER_HZ = 1.1e9


def test_latents_go_once_whatever_groups_take_them() -> None:
    """A region with four copies of a cache is sent as much as one with one."""
    few, many = (
        moved(landings=[landing(of_latents(rows=10, groups=groups, context=2000))] * 4)
        for groups in (1, 4)
    )
    assert few.nbytes == many.nbytes == 1000 * 4 * 20 * 2
