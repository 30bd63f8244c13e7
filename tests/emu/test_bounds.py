"""Bounds and utilisations against AWS's own worked example and against their definitions."""

import dataclasses

import pytest

from emu.report.bounds import Quantities, bounds, utilisation

PEAK_FLOPS = 2 * 128 * 128 * 2.4e9
MODEL_FLOPS = 2 * 4096**3


def example(**changed: float) -> Quantities:
    """A 4096-cube bf16 matmul on Trn2, as published in `example-bounds-analysis.md` (V0)."""
    given = {
        "total_time_s": 8602e-6,
        "dma_active_time_s": 7906e-6,
        "dma_transfer_bytes": 1_207_697_408,
        "necessary_bytes": 3 * 4096 * 4096 * 2,
        "te_active_time_s": 4806e-6,
        "hardware_flops": MODEL_FLOPS,
        "transpose_flops": 0,
        "hbm_bytes": 1_207_697_408,
        "peak_flops_per_s": PEAK_FLOPS,
        "peak_dma_bytes_per_s": 435e9,
        "peak_hbm_bytes_per_s": 725e9,
        "engine_active_time_s": {"tensor": 4806e-6, "vector": 176e-6, "scalar": 0.0},
    } | changed
    return Quantities(**given)  # type: ignore[arg-type]


def test_the_published_example_has_the_published_bounds() -> None:
    b = bounds(example())
    published_us = {
        "total_time": 8602,
        "memory_bound": 7906,
        "memory_bound_ideal": 2776,
        "memory_bound_no_reloads": 231,
        "compute_bound": 4806,
        "compute_bound_ideal": 1748,
        "compute_bound_useful": 1748,
        "perfect_pipeline": 7906,
    }
    for name, us in published_us.items():
        assert getattr(b, name) * 1e6 == pytest.approx(us, abs=0.6), name
    assert b.bottleneck_engine == "dma"
    # "the next unaffected engine (TE) to become the bottleneck at 4,806 (1.79x speedup)"
    assert b.speedup_cap["memory_bound_no_reloads"] == pytest.approx(1.79, abs=0.005)


def test_the_published_example_has_the_published_gaps() -> None:
    gaps = {name: s * 1e6 for name, s in bounds(example()).gaps().items()}
    published_us = {
        "DMA idle": 696,
        "DMA inefficiency": 5130,
        "excess traffic": 2545,
        "TE idle": 3796,
        "TE underutilisation": 3058,
        "transposes": 0,
        "serialisation": 696,
    }
    assert gaps == pytest.approx(published_us, abs=0.6)


def test_once_the_tensor_engine_is_the_longest_it_bounds_the_pipeline() -> None:
    q = example(
        total_time_s=1801e-6, dma_active_time_s=819e-6, te_active_time_s=1781e-6
    )
    b = bounds(
        dataclasses.replace(
            q, engine_active_time_s={"tensor": 1781e-6, "vector": 172e-6}
        )
    )
    assert (b.bottleneck_engine, b.perfect_pipeline) == ("tensor", 1781e-6)
    # A memory bound leaves the Tensor Engine as it is, a compute bound the DMA.
    assert b.speedup_cap["memory_bound"] == pytest.approx(1801 / 1781)
    assert b.speedup_cap["compute_bound_useful"] == pytest.approx(
        1801e-6 / (MODEL_FLOPS / PEAK_FLOPS)
    )
    assert b.speedup_cap["perfect_pipeline"] == pytest.approx(1801 / 1781)


def test_transposes_are_hardware_flops_and_no_useful_ones() -> None:
    q = example(transpose_flops=MODEL_FLOPS / 4, hardware_flops=MODEL_FLOPS * 5 / 4)
    b, u = bounds(q), utilisation(q)
    assert b.compute_bound_ideal == pytest.approx(b.compute_bound_useful * 5 / 4)
    assert u.hfu == pytest.approx(u.mfu * 5 / 4)
    assert u.mm_arithmetic_intensity == pytest.approx(MODEL_FLOPS / q.hbm_bytes)


def test_utilisations_are_shares_of_the_peaks() -> None:
    q = example()
    u = utilisation(q)
    assert u.mfu == pytest.approx(MODEL_FLOPS / (PEAK_FLOPS * 8602e-6))
    assert u.mbu == pytest.approx(1_207_697_408 / (725e9 * 8602e-6))
    ridge = PEAK_FLOPS / 725e9
    assert u.peak_flops_bandwidth_ratio == pytest.approx(ridge)
    assert u.mfu_max_achievable == 1.0  # 114 FLOPs a byte, above the ridge of 108
    half = utilisation(example(hbm_bytes=4 * MODEL_FLOPS / ridge))
    assert half.mfu_max_achievable == pytest.approx(0.25)


def test_model_flops_count_where_they_are_given() -> None:
    """Masked scores are executed, so they are hardware FLOPs, and useless."""
    q = example(model_flops=MODEL_FLOPS / 2)
    assert utilisation(q).mfu == pytest.approx(utilisation(q).hfu / 2)


def test_a_kernel_without_matmuls_has_no_utilisation_of_them() -> None:
    q = example(hardware_flops=0, te_active_time_s=0.0, hbm_bytes=0)
    u = utilisation(q)
    assert (u.mfu, u.hfu, u.mbu, u.mfu_max_achievable, u.mm_arithmetic_intensity) == (
        0,
    ) * 5
    assert bounds(q).compute_bound_ideal == 0
