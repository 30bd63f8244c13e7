"""The hand-off link: every law by hand on a made-up link, in exact fractions of a second.

The link carries 10 bytes/s a NIC, 4 operations/s of at most 5 bytes each, 25 bytes/s into the
wafer, and everything arrives 1/8 s later.
"""

import dataclasses
from fractions import Fraction as F

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu import BANDS, Quantity
from emu.interconnect import EFA, Message, send

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
        ingress_bytes_per_s=25,
    ),
)
LINK = SHEET.at()


def arrivals(*messages, link=LINK):
    return send(link, [Message(F(t), chip, n) for t, chip, n in messages]).arrived_s


LATENCY = F(1, 8)


def test_one_message_is_bound_by_its_nic():
    """100 bytes in 20 operations: 10 s of bytes, 5 s of operations, 4 s of ingress."""
    transfer = send(LINK, [Message(F(3), 0, 100)])
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
    narrow = dataclasses.replace(SHEET, **made_up(ingress_bytes_per_s=1)).at()
    assert arrivals((0, 1, 10), (0, 0, 10), link=narrow) == [20 + LATENCY, 10 + LATENCY]


def test_times_are_exact():
    third = F(1, 3)
    assert arrivals((third, 0, 10)) == [third + 1 + LATENCY]


def test_nothing_to_send():
    with pytest.raises(ValueError, match="no messages"):
        send(LINK, [])
    with pytest.raises(ValueError, match="0 bytes from chip 3"):
        arrivals((0, 3, 0))


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
    transfer = send(LINK, [Message(F(t), c, n) for t, c, n in messages])
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
    assert EFA.ingress_bytes_per_s.value == 12 * 100e9 / 8
    times = [arrivals((0, 0, 10**9), link=EFA.at(band))[0] for band in BANDS]
    assert times == sorted(times) and times[0] < times[2]
