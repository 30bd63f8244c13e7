"""Several bands in one pass: each is to the tick what a reading of it alone is."""

import dataclasses
import functools

import numpy as np
import pytest
from hypothesis import given, settings

from emu import BANDS, Program
from emu.clock import bands, timeline
from emu.trainium import TRN2, TRN2_48XLARGE, TRN3, TRN3_GEN2, on_system
from kernels import ContextAttention, masks
from tests import helpers
from tests.helpers import F32, MESH, ToySheet, toy

LAW = settings(max_examples=15, derandomize=True, deadline=None)

# A machine whose engines are at other speeds under each band, some faster, some slower.
SPEEDS = [
    ToySheet(),
    ToySheet(mul_hz=toy(3_000_000_000), io_hz=toy(6_000_000_000)),
    ToySheet(mul_hz=toy(2_000_000_000), add_hz=toy(12_000_000_000)),
]
THROTTLES = {"mul": "mul_throttle"}


def alone(reading):
    """What a reading says, as plain arrays over its mesh; waits of no time left out."""

    def here(ticks):
        return np.broadcast_to(ticks, reading.grid).tolist()

    outputs = [
        (here(value.ready), [here(ticks) for ticks in value.steps or []])
        for value in reading.outputs
    ]
    return {
        "end": here(reading.end),
        "last": {engine: here(ticks) for engine, ticks in reading.last.items()},
        "spent": {k: here(t) for k, t in reading.spent.items() if np.any(t)},
        "sums": {key: n for key, n in reading.tally.sums.items() if n},
        "issued": reading.issued,
        "outputs": outputs,
    }


def check(program, devices, *args):
    traced, arguments = program.trace(args)
    together = timeline.read_bands(traced, arguments, program.mesh, devices)
    for device, reading in zip(devices, together, strict=True):
        assert reading.device is device
        assert alone(reading) == alone(program.read(device, *args))


@LAW
@given(helpers.programs())
@pytest.mark.parametrize("throttles", [{}, THROTTLES], ids=["plain", "throttled"])
def test_random_programs(throttles, program):
    sheets = [dataclasses.replace(sheet, throttles=throttles) for sheet in SPEEDS]
    kernel = functools.partial(helpers.kernel_of, program)
    check(Program(kernel, MESH, ((),)), [sheet.at() for sheet in sheets], F32)


def test_one_core_is_read_band_by_band():
    """Its times stay plain numbers, which is faster."""
    kernel = functools.partial(helpers.kernel_of, [])
    readings = Program(kernel, {"r": 1, "c": 1}, ((),)).read_bands(ToySheet(), F32)
    assert all(type(reading.end) is int for reading in readings.values())


@pytest.mark.parametrize(
    "sheet", [on_system(TRN2, TRN2_48XLARGE), on_system(TRN3, TRN3_GEN2)]
)
def test_a_ring_of_chips(sheet):
    """With prices from a datasheet, loops read class by class, and links that are shared."""
    ring = ContextAttention(
        mask=masks.causal, tokens=2048, ranks=4, heads=2, kv_heads=1, head_dim=64
    )
    check(ring.program, [sheet.at(band) for band in BANDS], *ring.abstract())


def test_a_band_that_throttles_otherwise_is_read_alone():
    sheets = [ToySheet(), ToySheet(throttles=THROTTLES)]
    devices = [sheet.at() for sheet in sheets]
    assert not bands.can_be_read_together(tuple(devices))
    kernel = functools.partial(helpers.kernel_of, [])
    check(Program(kernel, MESH, ((),)), devices, F32)


def test_bands_by_name():
    kernel = functools.partial(helpers.kernel_of, [])
    clocks = Program(kernel, MESH, ((),)).read_bands(ToySheet(), F32)
    assert tuple(clocks) == BANDS
    assert [clock.device.band for clock in clocks.values()] == list(BANDS)
