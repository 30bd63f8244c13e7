"""Laws every kernel obeys on the clock: faster parts, deeper rings, memory exactly at its limit."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu import Program, Quantity
from emu.errors import OutOfMemory
from emu.trainium.datasheets import TRN1, TRN2, TRN3
from kernels.trainium.gemm.ladder import gemm
from tests.helpers import adds_up

LAW = settings(max_examples=25, derandomize=True, deadline=None)
VARIANTS = (
    "tiled",
    "hoist_loads",
    "block_mn_2x2",
    "block_bm2_bn1_row_loads",
    "block_all_dims",
    "tiled_transposing_lhs",
)
RATES = ("dma_engine_bytes_per_s", "hbm_bytes_per_s")
TIMES = (
    "dma_descriptor_s",
    "dma_copy_s",
    "dma_interval_s",
    "dma_trigger_s",
    "dma_wakeup_s",
    "handover_cycles",
    "weight_load_exposed_cycles",
    "tensor_latency_cycles",
    "vector_latency_cycles",
)


def without_throttle(sheet):
    return dataclasses.replace(sheet, throttles={})


def scaled(sheet, field, by):
    value = getattr(sheet, field).value * by
    if field.endswith(("_cycles", "bytes_per_s")):
        value = int(value)
    return dataclasses.replace(
        sheet, **{field: Quantity(value, "derived", "a law's other side")}
    )


@functools.cache
def program(variant, m, k, n, buffers, dtype=jnp.bfloat16):
    """A matmul and the structs it is read with; traced once."""
    kernel = functools.partial(gemm, variant=variant, buffers=buffers)
    shape = (m, k) if variant == "tiled_transposing_lhs" else (k, m)
    args = jax.ShapeDtypeStruct(shape, dtype), jax.ShapeDtypeStruct((k, n), dtype)
    return Program(kernel, {"core": 1}, ((), ())), args


def ticks(sheet, *case):
    p, args = program(*case)
    clock = p.read(sheet.at(), *args)
    adds_up(clock)
    return clock.end_ticks


cases = st.tuples(
    st.sampled_from(VARIANTS[:-1]),
    st.sampled_from([128, 384]),
    st.sampled_from([256, 640]),
    st.sampled_from([512, 1536]),
    st.sampled_from([1, 3]),
)
sheets = st.sampled_from([TRN1, TRN2, TRN3]).map(without_throttle)


@LAW
@given(sheets, cases, st.sampled_from(RATES), st.sampled_from([1.5, 4]))
def test_more_bandwidth_is_never_slower(sheet, case, field, by):
    assert ticks(scaled(sheet, field, by), *case) <= ticks(sheet, *case)


@LAW
@given(sheets, cases, st.sampled_from(TIMES), st.sampled_from([0, 0.5]))
def test_shorter_overheads_are_never_slower(sheet, case, field, by):
    assert ticks(scaled(sheet, field, by), *case) <= ticks(sheet, *case)


@LAW
@given(cases, st.sampled_from(["tensor_hz", "vector_hz", "scalar_hz"]))
def test_a_faster_clock_is_never_slower(case, field):
    # 4.8 GHz is one tick: every clock that divides it is exact.
    slow = without_throttle(scaled(TRN3, field, 1 / 2 if field == "tensor_hz" else 1))
    assert ticks(scaled(slow, field, 2), *case) <= ticks(slow, *case)


@LAW
@given(sheets, cases, st.integers(1, 4))
def test_a_deeper_ring_is_never_slower(sheet, case, more):
    *case, buffers = case
    assert ticks(sheet, *case, buffers + more) <= ticks(sheet, *case, buffers)


@LAW
@given(sheets, cases)
def test_a_throttled_engine_is_never_faster(sheet, case):
    throttled = dataclasses.replace(sheet, throttles={"tensor": "tensor_throttle"})
    assert ticks(throttled, *case) >= ticks(sheet, *case)


@pytest.mark.parametrize("space", ["sbuf", "psum"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_capacity_is_exact(variant, space):
    p, args = program(variant, 256, 512, 1024, 2)
    peak = p.memory(TRN2.at(), *args)[space]
    exact = dataclasses.replace(
        TRN2, **{f"{space}_bytes": Quantity(peak, "derived", "the peak")}
    )
    assert p.memory(exact.at(), *args)[space] == peak
    short = Quantity(peak - 1, "derived", "a byte less")
    with pytest.raises(
        OutOfMemory, match=f"{peak:,} bytes of {space}, has {peak - 1:,}"
    ):
        p.memory(dataclasses.replace(TRN2, **{f"{space}_bytes": short}).at(), *args)
