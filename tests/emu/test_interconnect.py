"""The hand-off link: every law by hand on a made-up link, in exact fractions of a second.

The link carries 10 bytes/s a NIC, 4 operations/s of at most 5 bytes each, 25 bytes/s into the
wafer's one port, and everything arrives 1/8 s later.
"""

import dataclasses
from fractions import Fraction as F

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu import BANDS, Quantity
from emu.efa import EFA
from emu.interconnect import Entry, Message, send
from emu.link_clock import Server, take_together

LAW = settings(max_examples=50, derandomize=True, deadline=None)


def made_up(**values):
    return {k: Quantity(v, "published", "made up") for k, v in values.items()}


SHEET = dataclasses.replace(
    EFA,
    **made_up(
        latency_s=0.125,
        nic_bytes_per_s=10,
        nic_operations_per_s=4,
        operation_bytes=5,
        read_share=0.5,
        first_submit_s=7,
    ),
)
LINK = SHEET.at()
LATENCY = F(1, 8)


def message(t, chip, n, rate=25, **more):
    """Through port 0 of wafer 0, in operations of 5 bytes."""
    entry = Entry((0, 0), n, F(n, rate))
    return Message(F(t), chip, n, -(-n // 5), (entry,), **more)


def arrivals(*messages, link=LINK, rate=25, **how):
    sent = [message(t, chip, n, rate) for t, chip, n in messages]
    return send(link, sent, **how).arrived_s


def test_one_message_is_bound_by_its_nic():
    """100 bytes in 20 operations: 10 s of bytes, 5 s of operations, 4 s of ingress."""
    transfer = send(LINK, [message(3, 0, 100)])
    assert transfer.arrived_s == [3 + 10 + LATENCY]
    assert (transfer.nbytes, transfer.operations) == (100, 20)
    assert (transfer.started_s, transfer.finished_s) == (3, 13 + LATENCY)


def test_small_operations_are_bound_by_their_rate():
    """One byte takes a whole operation, 1/4 s, where its bytes take 1/10 s."""
    assert arrivals((0, 0, 1)) == [F(1, 4) + LATENCY]
    # Two operations, 1/2 s; six bytes, 3/5 s.
    assert arrivals((0, 0, 6)) == [F(3, 5) + LATENCY]


def test_a_nic_sends_in_order():
    assert arrivals((0, 0, 10), (0, 0, 20)) == [1 + LATENCY, 3 + LATENCY]
    assert arrivals((0, 0, 10), (5, 0, 20)) == [1 + LATENCY, 7 + LATENCY]


def test_nics_send_side_by_side():
    assert arrivals((0, 0, 10), (0, 1, 10)) == [1 + LATENCY] * 2


def test_many_nics_are_bound_by_the_ingress():
    """Ten of 10 bytes: each NIC is done after 1 s, the wafer counts 100 bytes in 4 s."""
    every = arrivals(*((0, chip, 10) for chip in range(10)))
    assert every == [max(F(1), F(10 * (i + 1), 25)) + LATENCY for i in range(10)]


def test_order_is_by_readiness_then_chip():
    """Results stand in the order given, whatever the order sent."""
    assert arrivals((5, 0, 20), (0, 0, 10)) == [7 + LATENCY, 1 + LATENCY]
    first, second = arrivals((0, 1, 1000), (0, 0, 1000))
    assert first == second == 100 + LATENCY
    assert arrivals((0, 1, 10), (0, 0, 10), rate=1) == [20 + LATENCY, 10 + LATENCY]


def test_parts_that_are_taken_together_are_each_taken():
    """Free at 5 and at 0, from 3 on for 2 and for 9 units: done at 7 and at 12."""
    ways = [(Server(), 2), (Server(), 9)]
    ways[0][0].free = 5
    assert take_together(ways, 3) == 12
    assert [(each.free, each.busy) for each, _ in ways] == [(7, 2), (12, 9)]
    assert take_together([], 3) == 3


def test_times_are_exact():
    third = F(1, 3)
    assert arrivals((third, 0, 10)) == [third + 1 + LATENCY]


def test_nothing_to_send():
    with pytest.raises(ValueError, match="no messages"):
        send(LINK, [])
    with pytest.raises(ValueError, match="0 bytes from chip 3"):
        arrivals((0, 3, 0))
    with pytest.raises(ValueError, match="0 operations from chip 3"):
        Message(F(0), 3, 1, 0, ())
    with pytest.raises(ValueError, match="7 bytes of a message .* must be all 8"):
        Message(F(0), 3, 8, 1, (Entry((0, 0), 7),))
    with pytest.raises(ValueError, match="'throw', must be one of push, pull"):
        arrivals((0, 0, 1), mode="throw")


def test_reads_are_slower_and_their_requests_travel_first():
    """At half of 10 bytes/s, 100 bytes take 20 s; the request is there after 1/8 s."""
    assert arrivals((0, 0, 100), mode="pull") == [LATENCY + 20 + LATENCY]


def test_a_cold_nic_sets_up_once():
    """7 s before the first operation of each chip, and of no other."""
    cold = arrivals((0, 0, 10), (0, 0, 10), (0, 1, 10), is_cold=True)
    assert cold == [8 + LATENCY, 9 + LATENCY, 8 + LATENCY]


def test_bytes_are_gathered_while_they_are_sent():
    """Ten bytes take a second to send; what takes 3 s to bring into order takes 3 s."""
    (slow,) = send(LINK, [message(0, 0, 10, gather_s=F(3))]).arrived_s
    assert slow == 3 + LATENCY


def test_what_waits_for_one_wafer_is_one_operation():
    """Messages of a byte, 1/4 s an operation; the second and third wait for the first one."""

    def ends(*ready, is_coalesced=True, wafers=(0, 0, 0)):
        each = [
            Message(F(t), 0, 1, 1, (Entry((wafer, 0), 1),))
            for t, wafer in zip(ready, wafers, strict=True)
        ]
        done = send(LINK, each, is_coalesced=is_coalesced)
        return done.operations, [each - LATENCY for each in done.arrived_s]

    quarter = F(1, 4)
    early = F(1, 8), F(1, 5)
    assert ends(0, *early) == (2, [quarter, 2 * quarter, 2 * quarter])
    apart = (3, [quarter, 2 * quarter, 3 * quarter])
    assert ends(0, *early, is_coalesced=False) == apart
    assert ends(0, *early, wafers=(0, 0, 1)) == apart
    # What is ready only later has an operation of its own.
    assert ends(0, F(1, 8), F(3)) == (3, [quarter, 2 * quarter, 3 + quarter])


def test_ports_are_entered_side_by_side():
    """Half of 100 bytes through each of two ports, of 5 bytes/s: 10 s each, as the NIC's; behind
    one of them a stream takes 15 s, and another 1 s."""
    streams = {0: F(15), 1: F(1)}
    entries = Entry((0, 0), 50, F(10)), Entry((1, 0), 50, F(10), streams)
    transfer = send(LINK, [Message(F(0), 0, 100, 20, entries, tail_s=F(2))])
    assert transfer.arrived_s == [15 + LATENCY + 2]
    assert transfer.alone_s == {
        "NIC's bytes": 10,
        "NIC's operations": 5,
        "chip's gathering": 0,
        "wafer's links": 10,
        "wafer's fabric": 15,
    }
    assert transfer.bound == "wafer's fabric"


def test_streams_of_a_link_go_side_by_side():
    """Two chips' bytes behind one link, each 4 s on a stream: both at once, or one by one."""

    def done(*streams):
        both = [
            Message(F(0), chip, 10, 2, (Entry((0, 0), 10, F(1), {stream: F(4)}),))
            for chip, stream in enumerate(streams)
        ]
        return send(LINK, both).arrived_s

    assert done(0, 1) == [4 + LATENCY] * 2
    assert done(0, 0) == [4 + LATENCY, 8 + LATENCY]


def test_messages_enter_in_the_order_in_which_their_chips_begin():
    """Each chip sends ten of 10 bytes, a second each, and the link takes 1/5 s of each: what enters
    at the same time is not behind all of another chip's."""
    several = arrivals(*((0, chip, 10) for chip in (0, 1) for _ in range(10)), rate=50)
    assert several == [1 + i + LATENCY for i in range(10)] * 2


@LAW
@given(
    st.lists(
        st.tuples(st.integers(0, 20), st.integers(0, 3), st.integers(1, 100)),
        min_size=1,
        max_size=12,
    )
)
def test_bounds(messages):
    """No sooner than any one resource allows, no later than all of them one after another."""
    transfer = send(LINK, [message(t, c, n) for t, c, n in messages])
    total = sum(n for _, _, n in messages)
    start = min(t for t, _, _ in messages)
    assert transfer.started_s == start
    assert transfer.finished_s == max(transfer.arrived_s)
    assert transfer.finished_s >= start + F(total, 25) + LATENCY
    for chip in {c for _, c, _ in messages}:
        own = sum(n for _, c, n in messages if c == chip)
        assert transfer.finished_s >= start + F(own, 10) + LATENCY
    alone = sum(max(F(n, 10), F(-(-n // 5), 4), F(n, 25)) for _, _, n in messages)
    assert transfer.finished_s <= max(t for t, _, _ in messages) + alone + LATENCY


def test_the_sheet_gives_the_published_rates():
    """Sixteen NICs at the line's 365 GB/s, and 1.47 million operations a second."""
    assert 16 * EFA.nic_bytes_per_s.value == pytest.approx(365e9, rel=1e-3)
    assert 16 * EFA.nic_operations_per_s.value == pytest.approx(1.47e6, rel=2e-3)

    def banded_s(band):
        link, n = EFA.at(band), 10**9
        operations = -(-n // link.operation_bytes)
        whole = Message(F(0), 0, n, operations, (Entry((0, 0), n),))
        return send(link, [whole]).finished_s

    times = [banded_s(band) for band in BANDS]
    assert times == sorted(times) and times[0] < times[2]
