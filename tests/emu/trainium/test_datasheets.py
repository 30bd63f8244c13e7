"""Trainium's datasheets: exact clocks, sums that agree with AWS's own, bands that point one way."""

import math
import re

import pytest

from emu import BANDS
from emu.errors import LimitExceeded
from emu.trainium.datasheets import (
    SYSTEMS,
    TRN1,
    TRN1_32XLARGE,
    TRN2,
    TRN2_48XLARGE,
    TRN2_ULTRASERVER,
    TRN3,
    TRN3_GEN1,
    TRN3_GEN2,
    with_cores,
)
from emu.trainium.datasheets.sheet import DMA_QUEUES

SHEETS = pytest.mark.parametrize("sheet", [TRN1, TRN2, TRN3], ids=lambda s: s.name)
CLOCKS = ("tensor_hz", "vector_hz", "scalar_hz", "gpsimd_hz")


@SHEETS
def test_a_tick_divides_every_cycle(sheet):
    for band in BANDS:
        device = sheet.at(band)
        hz = {
            e: getattr(device, f) if f else device.tick_hz
            for e, f in sheet.engines.items()
        }
        assert {
            e: n * hz[e] for e, n in device.ticks_per_cycle.items()
        } == dict.fromkeys(hz, device.tick_hz)
    clocks = [getattr(sheet, f).value for f in CLOCKS]
    assert sheet.tick_hz % math.lcm(*clocks) == 0
    assert all(device.ticks_per_cycle[q] == 1 for q in DMA_QUEUES)


def test_trainium1_ticks_are_no_finer_than_they_must_be():
    assert TRN1.tick_hz == math.lcm(2_800_000_000, 1_120_000_000, 1_400_000_000)


@SHEETS
def test_peaks_are_the_arrays(sheet):
    """Two FLOPs a cycle from each of 128 x 128 cells; float32 takes four passes."""
    d = sheet.at()
    assert d.bf16_flops_per_s == 2 * 128 * 128 * d.tensor_hz
    assert d.fp32_flops_per_s == d.bf16_flops_per_s / d.fp32_passes
    assert d.fp8_flops_per_s / d.bf16_flops_per_s == {2: 1, 3: 2, 4: 4}[d.generation]


@SHEETS
@pytest.mark.parametrize("kind", ["bf16", "fp32"])
def test_a_chip_claims_more_than_its_cores(sheet, kind):
    """By 2 to 17 %: as if its clock were higher."""
    d = sheet.at()
    cores = d.cores_per_chip * getattr(d, f"{kind}_flops_per_s")
    assert 1.02 < getattr(d, f"chip_{kind}_flops_per_s") / cores < 1.17
    assert getattr(sheet.at("high"), f"chip_{kind}_flops_per_s") == pytest.approx(cores)


@SHEETS
def test_bands_point_to_shorter_times(sheet):
    """Rates, clocks and counts fall from low to high; times, cycles and slow-downs rise."""
    faster = ("_per_s", "_share", "_hz", "_elements", "cores", "transposes_at_once")
    for name, q in sheet.quantities().items():
        values = [q.at(band) for band in BANDS]
        assert values == sorted(values, reverse=name.endswith(faster)), name


@SHEETS
def test_fitted_numbers_name_their_points(sheet):
    for name, q in sheet.quantities().items():
        if q.kind == "fitted":
            assert re.findall(r"\bT[12]-[A-Z0-9]+(?:-\w+)?", q.source), name


# sheet, field, what one source says and what another does
DISPUTED = [
    (TRN3, "hbm_bytes_per_s", 4.9e12, 4.7e12),
    (TRN2, "hbm_bytes_per_s", 3.0e12, 2.9e12),
    (TRN3, "cc_cores", 20, 16),
    (TRN2, "cc_cores", 20, 16),
    (TRN3, "link_bytes_per_s", 2.56e12, 704e9 / 2),
    (TRN2, "dma_engine_bytes_per_s", 27.2e9, 23e9),
    (TRN3, "dma_engine_bytes_per_s", 38.4e9, 33e9 * 0.75),
]


@pytest.mark.parametrize("sheet, field, low, high", DISPUTED)
def test_disagreements_are_bands(sheet, field, low, high):
    assert [getattr(sheet.at(b), field) for b in ("low", "high")] == [low, high]


# --- cores of a chip ---


@SHEETS
def test_running_cores_share_the_memory(sheet):
    whole, cores = sheet.hbm_bytes.value, sheet.cores_per_chip.value
    all_of_them = with_cores(sheet, cores)
    assert all_of_them.hbm_bytes.value == whole // cores
    assert all_of_them.cores_running.value == cores
    assert all_of_them.at().capacity_bytes["hbm"] == whole // cores
    assert with_cores(all_of_them, 1).hbm_bytes.value == whole
    assert with_cores(sheet, 1).at().hbm_bytes == sheet.at().hbm_bytes


@SHEETS
@pytest.mark.parametrize("over", [0, 1])
def test_as_many_cores_as_the_chip_has(sheet, over):
    cores = (sheet.cores_per_chip.value + 1) * over
    most = sheet.cores_per_chip.value
    message = f"{sheet.name}: cores that run is {cores}, .* from 1 to {most}"
    with pytest.raises(LimitExceeded, match=message):
        with_cores(sheet, cores)


# --- systems ---

# system, its chips' sheet, TB/s, GiB, Gbps as its page says
TOTALS = [
    (TRN1_32XLARGE, TRN1, 13.1, 512, 800),
    (TRN2_48XLARGE, TRN2, 46.4, 1_536, 3_200),
    (TRN2_ULTRASERVER, TRN2, 4 * 46.4, 6_144, 4 * 3_200),
    (TRN3_GEN1, TRN3, 313.6, 9_216, 12_800),
    (TRN3_GEN2, TRN3, 705.6, 20_736, 28_800),
]


@pytest.mark.parametrize(
    "system, sheet, terabytes, gib, gbps", TOTALS, ids=lambda x: str(x)[:20]
)
def test_systems_are_the_sum_of_their_chips(system, sheet, terabytes, gib, gbps):
    assert system.chips * sheet.hbm_bytes_per_s.value == pytest.approx(
        terabytes * 1e12, rel=2e-3
    )
    assert system.chips * sheet.hbm_bytes.value == gib * 2**30
    assert system.efa_bytes_per_s.value == gbps * 1e9 / 8


def steps(system):
    """Hops from chip 0, found by walking from neighbour to neighbour."""
    far, front = {0: 0}, [0]
    while front:
        at = front.pop(0)
        for c in system.neighbours(at):
            if c not in far:
                far[c] = far[at] + 1
                front.append(c)
    return far


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda s: s.name)
def test_hops_are_the_shortest_walk(system):
    assert steps(system) == {c: system.hops(0, c) for c in range(system.chips)}
    assert all(0 in system.neighbours(c) for c in system.neighbours(0))


def test_neighbours():
    """On a 4 x 4 torus the edges are joined; the third dimension is another instance's chip."""
    assert TRN2_48XLARGE.neighbours(0) == [1, 3, 4, 12]
    assert TRN2_48XLARGE.neighbours(5) == [1, 4, 6, 9]
    assert TRN2_ULTRASERVER.neighbours(0) == [1, 3, 4, 12, 16, 48]
    assert max(TRN2_48XLARGE.hops(0, c) for c in range(16)) == 2 + 2
    assert max(TRN2_ULTRASERVER.hops(0, c) for c in range(64)) == 2 + 2 + 2
    assert len(TRN3_GEN2.neighbours(7)) == 143
    assert TRN3_GEN2.place(143) == (35, 3) and TRN3_GEN2.place(4) == (1, 0)


def test_no_such_chip():
    with pytest.raises(
        LimitExceeded, match="trn2.48xlarge: chip is 16, must be 0 to 15"
    ):
        TRN2_48XLARGE.hops(0, 16)
    with pytest.raises(LimitExceeded, match="chip is -1"):
        TRN3_GEN1.hops(-1, 0)


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda s: s.name)
def test_every_dimension_has_a_link_rate(system):
    assert len(system.link_bytes_per_s) == len(system.dims) and system.source
    for q in system.link_bytes_per_s:
        assert q.at("low") == 2 * q.value == 2 * q.at("high")
