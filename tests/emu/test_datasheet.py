"""Quantities say where they come from; a device's clock is exact or refused."""

import dataclasses

import pytest

from emu import BANDS, Quantity
from emu.errors import LimitExceeded
from tests.helpers import TICKS, TOY, ToySheet, toy


@pytest.mark.parametrize(
    "args, message",
    [
        ((1, "guessed", "x"), "kind is 'guessed', must be one of published"),
        ((1, "published", ""), "needs a source"),
        ((1, "published", "x", 1), "both ends"),
        ((1, "published", "x", None, 1), "both ends"),
        ((1, "fitted", "x"), "fitted needs a band"),
        ((1, "assumed", "x"), "assumed needs a band"),
    ],
)
def test_invalid_quantities(args, message):
    with pytest.raises(ValueError, match=message):
        Quantity(*args)


def test_bands():
    q = Quantity(5, "fitted", "points 1 and 2", 0, 9)  # a bound of zero is a bound
    assert [q.at(b) for b in BANDS] == [0, 5, 9]
    assert [Quantity(5, "published", "x").at(b) for b in BANDS] == [5, 5, 5]
    with pytest.raises(
        LimitExceeded, match="band is 'middle', must be one of low, nominal, high"
    ):
        ToySheet().at("middle")


def test_clocks():
    assert TOY.ticks_per_cycle == TICKS
    with pytest.raises(
        ValueError, match="mul at 5000000000 Hz does not divide 12000000000"
    ):
        _ = ToySheet(mul_hz=toy(5_000_000_000)).at().ticks_per_cycle


def test_single_clock_with_a_band():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Wafer(ToySheet):
        clock_hz: Quantity = toy(900_000_000, 1_100_000_000, 800_000_000)

    sheet = Wafer(tick_hz=None, engines={"pe": "clock_hz"})
    assert [sheet.at(b).tick_hz for b in BANDS] == [
        1_100_000_000,
        900_000_000,
        800_000_000,
    ]
    assert all(sheet.at(b).ticks_per_cycle == {"pe": 1} for b in BANDS)


def test_seconds_round_up_to_ticks():
    assert TOY.ticks(1e-9) == 12 and TOY.ticks(1.01e-9) == 13 and TOY.ticks(0) == 0
    assert TOY.ticks(0.1 + 0.2) == 3_600_000_000  # 0.30000000000000004 s


def test_quantities_and_capacity():
    assert set(ToySheet().quantities()) == {
        "mul_hz",
        "add_hz",
        "io_hz",
        "sbuf_bytes",
        "load_latency_cycles",
        "mul_throttle_window_s",
        "mul_throttle_share",
        "mul_throttle_slowdown",
    }
    assert TOY.capacity_bytes == {"hbm": None, "sbuf": 1 << 20}
    assert TOY.load_latency_cycles == 100 and TOY.core == "core"
    with pytest.raises(AttributeError):
        _ = TOY.no_such_field
