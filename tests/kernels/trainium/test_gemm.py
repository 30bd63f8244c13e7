"""Every matmul variant: values, traffic in closed form, laws of time, the ladder, and misuse."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emu import Program
from emu.errors import EmulationError, OutOfMemory
from emu.trainium.datasheets import TRN1, TRN2
from kernels.trainium.gemm.ladder import gemm, untile
from tests.helpers import adds_up, same_clock

M, K, N = 384, 256, 1536  # 3, 2 and 3 tiles: the last block of two is smaller
ROWS, DEPTH, COLUMNS = 3, 2, 3
BF16, F16, F32 = jnp.bfloat16, jnp.float16, np.float32
PASSES = {BF16: 1, F16: 1, F32: 4}
# By variant: how often lhs and rhs are loaded, of m and n in tiles.
LOADS = {
    "tiled": lambda m, n: (n, m),
    "tiled_lhs_pretransposed": lambda m, n: (n, m),
    "tiled_transposing_lhs": lambda m, n: (n, m),
    "hoist_loads": lambda m, n: (1, m),
    "block_free_dims": lambda m, n: (1, math.ceil(m / 2)),
    "block_mn_2x2": lambda m, n: (1, math.ceil(m / 2)),
    "block_mn_3x1": lambda m, n: (1, math.ceil(m / 3)),
    "block_bm8_bn2": lambda m, n: (1, math.ceil(m / 8)),
    "block_bm2_bn2_row_loads": lambda m, n: (1, math.ceil(m / 2)),
    "block_all_dims": lambda m, n: (math.ceil(n / 2), 1),
}


def program(**options):
    return Program(functools.partial(gemm, **options), {"core": 1}, ((), ()))


def operands(variant, dtype=F32, m=M, k=K, n=N):
    rng = np.random.default_rng(0)
    lhs, rhs = (rng.standard_normal(s).astype(dtype) for s in ((m, k), (k, n)))
    expected = lhs.astype(np.float64) @ rhs.astype(np.float64)
    return (lhs if variant == "tiled_transposing_lhs" else lhs.T.copy(), rhs), expected


def structs(variant, dtype, m, k, n):
    lhs = (m, k) if variant == "tiled_transposing_lhs" else (k, m)
    return jax.ShapeDtypeStruct(lhs, dtype), jax.ShapeDtypeStruct((k, n), dtype)


def values(run, args):
    return untile(tuple(np.asarray(x[0]).astype(np.float64) for x in run.run(*args)))


def assert_near(actual, expected, dtype, roundings=1):
    """Sums are float32; each rounding to the dtype is off by half a unit in the last place."""
    digits = {BF16: 8, F16: 11, F32: 24}[dtype]
    # A float32 sum of 1,152 terms of random sign is within 32 units in the last place.
    limit = (
        (roundings + (32 if dtype is F32 else 0.01))
        * 2.0**-digits
        * np.abs(expected).max()
    )
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= limit


@pytest.mark.parametrize("variant", LOADS)
def test_values_traffic_and_bounds(variant):
    args, expected = operands(variant)
    run, device = program(variant=variant), TRN2.at()
    assert_near(values(run, args), expected, F32)
    clock = run.read(device, *args)
    adds_up(clock)
    same_clock(clock, run.read(device, *args, jump=False))
    same_clock(clock, run.read(device, *structs(variant, F32, M, K, N)))
    assert clock.tally.by("flops")["trn.nc_matmul"] == 2 * M * K * N
    moved = clock.tally.by("bytes")
    lhs_loads, rhs_loads = LOADS[variant](ROWS, COLUMNS)
    assert moved["hbm_read"] == 4 * (lhs_loads * M * K + rhs_loads * K * N)
    assert moved["hbm_write"] == 4 * M * N
    matmul_s = ROWS * DEPTH * COLUMNS * 512 * 4 / device.tensor_hz
    dma_s = (moved["hbm_read"] + moved["hbm_write"]) / (
        device.dma_engines * device.dma_engine_bytes_per_s
    )
    assert clock.seconds > max(matmul_s, dma_s)
    peak = run.memory(device, *args)
    assert (
        0 < peak["sbuf"] <= device.sbuf_bytes and 0 < peak["psum"] <= device.psum_bytes
    )


@pytest.mark.parametrize(
    "variant", ["tiled_transposing_lhs", "block_mn_2x2", "block_all_dims"]
)
@pytest.mark.parametrize("dtype", [BF16, F16], ids=["bf16", "fp16"])
def test_sixteen_bit_values(variant, dtype):
    """In `block_all_dims` the sums are kept in 16 bits: nine k tiles round twice."""
    args, expected = operands(variant, dtype, k=9 * 128)
    blocks = math.ceil(9 / 8) if variant == "block_all_dims" else 1
    assert_near(values(program(variant=variant), args), expected, dtype, blocks)


@pytest.mark.parametrize("loads", [1, 2, 3])
def test_lhs_loads(loads):
    args, expected = operands("tiled")
    run = program(variant="tiled", lhs_loads=loads)
    assert_near(values(run, args), expected, F32)
    read = run.read(TRN2.at(), *args).tally.by("bytes")["hbm_read"]
    assert read == 4 * (loads * M * K + ROWS * K * N)


def test_a_block_that_does_not_fit_is_loaded_for_each_m():
    """Beside lhs, 2 · 256 · 4 B, and four results of 2 KiB, rhs takes 2 · 2 · 2 KiB a partition."""
    args, expected = operands("block_mn_2x2")
    lhs, results, rhs = 2 * 2 * 512, 4 * 2048, 2 * 2 * 2048
    reads = {}
    for room in (lhs + results + rhs, lhs + results + rhs - 1):
        run = program(variant="block_mn_2x2", sbuf_partition_bytes=room)
        assert_near(values(run, args), expected, F32)
        reads[room] = run.read(TRN2.at(), *args).tally.by("bytes")["hbm_read"]
    once, again = (4 * (M * K + n * K * N) for n in (math.ceil(ROWS / 2), ROWS))
    assert list(reads.values()) == [once, again]


def test_transposing_on_trainium1_needs_float32_in_psum():
    args, expected = operands("tiled_transposing_lhs", BF16)
    run = program(variant="tiled_transposing_lhs", turned_dtype=jnp.dtype(jnp.float32))
    assert_near(values(run, args), expected, BF16)
    assert run.read(TRN1.at(), *args).end_ticks > 0


@pytest.mark.parametrize("variant", ["tiled", "hoist_loads", "tiled_transposing_lhs"])
def test_deeper_rings_are_never_slower(variant):
    """Trainium1 does not throttle, so less waiting cannot make the Tensor Engine slower."""
    args = structs(variant, BF16, 512, 1024, 1024)
    turned = {"turned_dtype": jnp.dtype(jnp.float32)}
    reads = [
        program(variant=variant, buffers=b, **turned).read(TRN1.at(), *args)
        for b in (1, 2, 3, 8)
    ]
    ticks = [r.end_ticks for r in reads]
    assert ticks == sorted(ticks, reverse=True) and ticks[0] > ticks[-1]


@pytest.mark.parametrize("variant", LOADS)
def test_as_written_is_never_faster(variant):
    """One buffer a tile: where every matmul waits for its own loads, that costs time."""
    run, args = (
        program(variant=variant, turned_dtype=F32),
        structs(variant, BF16, 1024, 512, 2048),
    )
    pipelined, written = (
        run.read(TRN1.at(), *args, as_written=w) for w in (False, True)
    )
    assert written.end_ticks >= pipelined.end_ticks
    if not variant.startswith("block_"):
        assert written.end_ticks > 1.5 * pipelined.end_ticks


@pytest.mark.parametrize("device", [TRN1, TRN2], ids=["trn1", "trn2"])
@pytest.mark.parametrize("dtype", [BF16, F32], ids=["bf16", "fp32"])
def test_the_ladder(device, dtype):
    """Each step loads less and is faster, until in float32 the Tensor Engine is the limit."""
    steps = ["tiled", "hoist_loads", "block_mn_2x2"]
    steps += ["block_bm8_bn2_row_loads"] if dtype is BF16 else []
    room = device.sbuf_bytes.value // 128
    times = []
    for variant in steps:
        run = program(variant=variant, sbuf_partition_bytes=room)
        times.append(
            run.read(device.at(), *structs(variant, dtype, 2048, 1024, 4096)).seconds
        )
    assert times == sorted(times, reverse=True), dict(zip(steps, times, strict=True))
    assert times[0] > 1.3 * times[-1]


def test_pretransposed_is_faster_than_transposing():
    steps = "tiled_transposing_lhs", "tiled_lhs_pretransposed"
    slow, fast = (
        program(variant=v).read(TRN2.at(), *structs(v, BF16, 1024, 1024, 1024))
        for v in steps
    )
    assert slow.end_ticks > fast.end_ticks


def test_too_large_is_refused():
    args = structs("hoist_loads", F32, 128, 64 * 1024, 512)
    with pytest.raises(OutOfMemory, match="sbuf"):
        program(variant="hoist_loads").memory(TRN1.at(), *args)


@pytest.mark.parametrize(
    "message, shapes, options",
    [
        ("m is 100, must be a multiple of 128", ((128, 100), (128, 512)), {}),
        ("k is 64, must be a multiple of 128", ((64, 128), (64, 512)), {}),
        ("n is 128, must be a multiple of 512", ((128, 128), (128, 128)), {}),
        ("must share k and the dtype", ((128, 128), (256, 512)), {}),
        ("no variant 'blocked'", ((128, 128), (128, 512)), {"variant": "blocked"}),
        ("no tiles", ((128, 128), (128, 512)), {"variant": "block_mn_0x2"}),
        (
            "lhs_loads is 2, must be 1 to n/512 = 1",
            ((128, 128), (128, 512)),
            {"variant": "tiled", "lhs_loads": 2},
        ),
        (
            "lhs_loads is 1",
            ((128, 128), (128, 512)),
            {"variant": "hoist_loads", "lhs_loads": 1},
        ),
    ],
)
def test_misuse_is_named(message, shapes, options):
    args = (jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes)
    with pytest.raises(EmulationError, match=message):
        program(**options).read(TRN2.at(), *args)
