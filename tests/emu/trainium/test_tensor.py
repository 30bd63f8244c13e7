"""The Tensor Engine on every generation: costs by hand, values, weight loads and throttling.

Trainium1 / Trainium2 / Trainium3, nominal: clock 2.8 / 2.4 / 2.4 GHz at two ticks a cycle; 40 /
8 / 8 cycles of each weight load exposed; 389 cycles of fixed latency besides one a column; a
weight load takes a cycle for four columns.
"""

import functools
import math

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from emu import Operand, Program
from emu.errors import LimitExceeded, OutOfMemory
from emu.trainium.datasheets import TRN1, TRN2, TRN3
from emu.trainium.engines import tensor
from emu.trainium.engines.memory import array, dma_load, psum, sbuf
from emu.trainium.engines.tensor import (
    nc_load_stationary,
    nc_matmul,
    nc_matmul_double_row,
    nc_matmul_moving,
    nc_transpose,
)
from tests.emu.trainium import operands as op
from tests.emu.trainium.operands import BF16, F32, REGISTER, assert_close, draw, wide

FP8 = np.dtype(ml_dtypes.float8_e4m3fn)
F16 = np.dtype(np.float16)
SHEETS = {2: TRN1, 3: TRN2, 4: TRN3}
EXPOSED = {2: 40, 3: 8, 4: 8}
LATENCY = 389


def matmul(k, m, n, dtype, dst=F32):
    tiles = [
        op.psum(m, n, dtype=dst),
        op.sbuf(k, m, dtype=dtype),
        op.sbuf(k, n, dtype=dtype),
    ]
    return nc_matmul, [*tiles, REGISTER], {}


def tf32(k, m, n):
    return *matmul(k, m, n, F32)[:2], {"tf32": True}


def double_row(k, m, n, dtype=FP8):
    tiles = [
        op.psum(m, n),
        op.sbuf(k, 2, m, dtype=dtype),
        op.sbuf(k, 2, n, dtype=dtype),
    ]
    return nc_matmul_double_row, [*tiles, REGISTER], {}


def moving(k, m, n, dtype):
    tiles = [
        op.psum(m, n),
        op.operand("array", k, m, dtype=dtype),
        op.sbuf(k, n, dtype=dtype),
    ]
    return nc_matmul_moving, [*tiles, REGISTER], {}


def transpose(p, n, dtype, dst=None):
    return (
        nc_transpose,
        [op.psum(n, p, dtype=dst or dtype), op.sbuf(p, n, dtype=dtype)],
        {},
    )


# name: case, generations, interval (by generation where it differs), instructions, columns
CASES = {
    # max(min(64, m), n); float32 as two instructions of two cycles a column.
    "bf16": (matmul(128, 128, 512, BF16), (2, 3, 4), 512, 1, 128),
    "fp16": (matmul(128, 128, 512, F16), (2, 3, 4), 512, 1, 128),
    "fp8": (matmul(128, 128, 512, FP8), (2, 3, 4), 512, 1, 128),
    "fp32": (matmul(128, 128, 512, F32), (2, 3, 4), 2048, 2, 128),
    "tf32": (tf32(128, 128, 512), (2, 3, 4), 512, 1, 128),
    "few columns": (matmul(64, 100, 8, BF16), (2, 3, 4), 64, 1, 100),
    "narrow": (matmul(64, 32, 8, BF16), (2, 3, 4), 32, 1, 32),
    "all of PSUM": (matmul(1, 1, 4096, BF16), (4,), 4096, 1, 1),
    "all of PSUM in bf16": (matmul(1, 1, 8192, BF16, BF16), (4,), 8192, 1, 1),
    "double row": (double_row(128, 128, 512), (3, 4), 512, 1, 128),
    # max(rows, min(64, columns)); without transpose mode float32 takes four passes, with it two.
    "transpose bf16": (transpose(128, 96, BF16), (3, 4), 128, 1, 96),
    "transpose bf16 on v2": (transpose(128, 96, BF16, F32), (2,), 128, 1, 96),
    "transpose fp32": (
        transpose(128, 128, F32),
        (2, 3, 4),
        {2: 512, 3: 256, 4: 256},
        1,
        128,
    ),
    "transpose fp8": (transpose(128, 128, FP8, BF16), (3, 4), 128, 1, 128),
    "transpose few rows": (transpose(5, 100, BF16), (3, 4), 64, 1, 100),
    "transpose few of both": (transpose(5, 32, BF16), (3, 4), 32, 1, 32),
}
ALL = [(name, g) for name, case in CASES.items() for g in case[1]]


@pytest.mark.parametrize("name, generation", ALL)
def test_cost(name, generation):
    (inst, operands, params), _, interval, instructions, columns = CASES[name]
    interval = interval[generation] if isinstance(interval, dict) else interval
    cost = inst.cost(SHEETS[generation].at(), *operands, **params)
    exposed = EXPOSED[generation]
    assert cost.engine == "tensor"
    assert cost.busy_cycles == interval + instructions * exposed
    assert cost.lost == {"weight_load": instructions * exposed}
    # The first instruction's own load is over when its clock starts; a second one adds its own.
    behind = (instructions - 1) * exposed
    assert cost.latency_cycles == interval + behind + columns + LATENCY
    assert cost.lead_cycles == {1: columns / 4}
    assert cost.duty == columns / 128
    assert cost.handover_cycles == 42


FLOPS = {
    # flops issued, and those that the profiler scales to the bf16 peak
    "bf16": (2 * 128 * 128 * 512, 2 * 128 * 128 * 512),
    "fp32": (2 * 128 * 128 * 512, 4 * 2 * 128 * 128 * 512),
    "tf32": (2 * 128 * 128 * 512, 2 * 128 * 128 * 512),
    "double row": (2 * 256 * 128 * 512, 2 * 128 * 128 * 512),
    "few columns": (2 * 64 * 100 * 8, 2 * 64 * 100 * 8),
}


@pytest.mark.parametrize("name", FLOPS)
def test_flops(name):
    inst, operands, params = CASES[name][0]
    cost = inst.cost(TRN2.at(), *operands, **params)
    assert (cost.flops, cost.counts) == (
        FLOPS[name][0],
        {"adjusted_flops": FLOPS[name][1]},
    )


@pytest.mark.parametrize("dtype, passes", [(BF16, 1), (F32, 2)])
def test_flops_of_a_transpose(dtype, passes):
    """Those of the product with an identity, in no useful column."""
    inst, operands, _ = transpose(128, 96, dtype)
    cost = inst.cost(TRN2.at(), *operands)
    flops = 2 * 128 * 128 * 96 * passes
    assert (cost.flops, cost.counts) == (
        0,
        {"transpose_flops": flops, "adjusted_flops": flops},
    )


def test_background_transposes_are_a_band():
    """Trainium3 may run two at a time; how often is not published."""
    inst, operands, _ = transpose(128, 128, BF16)
    low, nominal = (inst.cost(TRN3.at(b), *operands) for b in ("low", "nominal"))
    assert (low.busy_cycles, nominal.busy_cycles) == (64, 128 + EXPOSED[4])


def test_against_profiles():
    """T1-I-5, fitted: a pass of 128 columns through 96 in 219 ns. T2-I-1, predicted: one of the two
    instructions of a float32 matmul every 429.1 ns."""
    inst, operands, _ = matmul(128, 96, 128, BF16)
    assert inst.cost(TRN1.at(), *operands).latency_cycles / 2.8 == pytest.approx(
        219, rel=0.01
    )
    inst, operands, _ = matmul(128, 128, 512, F32)
    assert inst.cost(TRN2.at(), *operands).busy_cycles / 2 / 2.4 == pytest.approx(
        429.1, rel=0.01
    )


REFUSED = {
    "nc_matmul: stationary rows is 129, at most 128": (matmul(129, 128, 512, BF16), 4),
    "nc_matmul: stationary columns is 129, at most 128": (
        matmul(128, 129, 512, BF16),
        4,
    ),
    "nc_matmul: moving columns is 4097, at most 4096": (
        matmul(128, 128, 4097, BF16),
        4,
    ),
    "nc_matmul: moving columns is 8193, at most 8192": (
        matmul(128, 128, 8193, BF16, BF16),
        4,
    ),
    "nc_matmul: moving columns is 513, at most 512": (matmul(128, 128, 513, BF16), 3),
    "nc_matmul_moving: moving columns is 520, at most 512": (
        moving(128, 128, 520, BF16),
        2,
    ),
    "destination is bfloat16, must be float32 in the PSUM of Trainium2": (
        matmul(128, 128, 512, BF16, BF16),
        3,
    ),
    "destination is float16, must be float32 or bfloat16 in the PSUM of Trainium3": (
        matmul(128, 128, 512, BF16, F16),
        4,
    ),
    "double_row: device is Trainium1, must be Trainium2 or Trainium3": (
        double_row(128, 128, 512),
        2,
    ),
    r"double_row: operand is bfloat16\[128, 2, 128\], must be an 8-bit": (
        double_row(128, 128, 512, BF16),
        3,
    ),
    "nc_transpose: free size is 129, at most 128": (transpose(128, 129, BF16), 4),
    "nc_transpose: destination is float32, must be bfloat16 on Trainium2": (
        transpose(128, 128, BF16, F32),
        3,
    ),
    "nc_transpose: destination is bfloat16, must be float32 on Trainium1": (
        transpose(128, 128, BF16),
        2,
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_refused(message):
    (inst, operands, params), generation = REFUSED[message]
    with pytest.raises(LimitExceeded, match=message) as raised:
        inst.cost(SHEETS[generation].at(), *operands, **params)
    assert inst.name in str(raised.value)


def test_refused_load():
    with pytest.raises(
        LimitExceeded, match="load_stationary: stationary columns is 129, at most"
    ):
        nc_load_stationary.cost(TRN2.at(), op.operand("array", 8, 129), op.sbuf(8, 129))


# --- values ---


@pytest.mark.parametrize("dtype", [F32, BF16, F16, FP8], ids=str)
@pytest.mark.parametrize("accumulate", [0, 1])
def test_matmul(dtype, accumulate):
    a, b, old = (
        draw(0, 96, 40, dtype=dtype),
        draw(1, 96, 72, dtype=dtype),
        draw(2, 40, 72),
    )
    dst = jnp.asarray(old) if accumulate else jnp.full((40, 72), jnp.nan)
    expected = wide(a).T @ wide(b) + accumulate * wide(old)
    scale = np.abs(wide(a)).T @ np.abs(wide(b)) + np.abs(old)
    whole = nc_matmul(dst, jnp.asarray(a), jnp.asarray(b), accumulate)
    assert_close(whole, expected, operations=97, scale=scale)
    held = nc_load_stationary(jnp.full_like(a, jnp.nan), jnp.asarray(a))
    np.testing.assert_array_equal(
        nc_matmul_moving(dst, held, jnp.asarray(b), accumulate), whole
    )


@pytest.mark.parametrize("accumulate", [0, 1])
def test_double_row(accumulate):
    """Both halves of the contraction in one instruction."""
    a, b, old = (
        draw(0, 96, 2, 40, dtype=FP8),
        draw(1, 96, 2, 72, dtype=FP8),
        draw(2, 40, 72),
    )
    left, right = (wide(x).swapaxes(0, 1).reshape(192, -1) for x in (a, b))
    actual = nc_matmul_double_row(
        jnp.asarray(old), jnp.asarray(a), jnp.asarray(b), accumulate
    )
    scale = np.abs(left).T @ np.abs(right) + np.abs(old)
    expected = left.T @ right + accumulate * wide(old)
    assert_close(actual, expected, operations=193, scale=scale)


def test_tf32_keeps_ten_bits_of_mantissa():
    """1 + 2**-10 survives, 1 + 2**-11 is a tie that rounds to even."""
    x = jnp.asarray(np.array([[1 + 2**-10, 1 + 2**-11, 1 + 3 * 2**-11]], np.float32))
    one, out = jnp.ones((1, 1)), jnp.full((1, 3), jnp.nan)
    np.testing.assert_array_equal(
        nc_matmul(out, one, x, 0, tf32=True), [[1 + 2**-10, 1, 1 + 2**-9]]
    )
    np.testing.assert_array_equal(nc_matmul(out, one, x, 0), x)


def test_sums_in_bfloat16_round_each_time():
    """256 + 1 is a tie in bfloat16's 8 bits: it stays 256 however often 1 is added."""
    one, dst = jnp.ones((1, 1)), jnp.full((1, 1), 256, BF16)
    for _ in range(3):
        dst = nc_matmul(dst, one, one, 1)
    assert dst.dtype == BF16 and float(dst[0, 0]) == 256
    assert float(nc_matmul(jnp.full((1, 1), 256.0), one, one, 1)[0, 0]) == 257


@pytest.mark.parametrize(
    "dtype, dst", [(F32, F32), (BF16, BF16), (BF16, F32), (FP8, BF16)]
)
def test_transpose_is_exact(dtype, dst):
    x = draw(0, 5, 9, dtype=dtype)
    actual = nc_transpose(jnp.full((9, 5), jnp.nan, dst), jnp.asarray(x))
    np.testing.assert_array_equal(actual, x.T.astype(dst))


# --- on the clock ---


def load(x, dtype=BF16):
    return dma_load(sbuf(*x.shape, dtype=dtype), x)


def read(sheet, kernel, *shapes, dtype=BF16):
    program = Program(kernel, {"core": 1}, ((),) * len(shapes))
    args = [jax.ShapeDtypeStruct(s, dtype) for s in shapes]
    return program.read(sheet.at(), *args, trace_core=(0,))


def of(clock, inst):
    return [e for e in clock.events if e.name == inst.name]


@pytest.mark.parametrize("stationary_first", [True, False])
def test_a_weight_load_waits_for_its_operand(stationary_first):
    """The stationary tile is needed 32 cycles before the matmul: exposed if it comes last."""

    def kernel(a, b):
        if stationary_first:
            a, b = load(a), load(b)
        else:
            b, a = load(b), load(a)
        return nc_matmul(psum(128, 512), a, b, 0)

    clock = read(TRN2, kernel, (128, 128), (128, 512))
    last = max(e.ready for e in of(clock, dma_load))
    wait = 0 if stationary_first else 128 // 4 * 2
    assert of(clock, nc_matmul)[0].start == last + wait


def chain(x, count):
    x, bank = load(x), psum(128, 512)
    for i in range(count):
        bank = nc_matmul(bank, x[:, :128], x, int(i > 0))
    return bank


@pytest.mark.parametrize("sheet", [TRN2, TRN3], ids=lambda s: s.name)
def test_a_cold_engine_is_throttled(sheet):
    """At half speed for a window of 3 us, until it was in use for that long."""
    clock = read(sheet, functools.partial(chain, count=20), (128, 512))
    busy = (512 + 8) * 2
    slow = math.ceil(3e-6 * sheet.tick_hz / (2 * busy))
    spans = [e.end - e.start for e in of(clock, nc_matmul)]
    assert spans == [2 * busy] * slow + [busy] * (20 - slow)
    assert clock.spent["tensor", "throttle"] == slow * busy
    assert clock.spent["tensor", "weight_load"] == 20 * 8 * 2
    assert clock.spent["tensor", "work"] == 20 * 512 * 2


def test_trainium1_is_not_throttled():
    clock = read(TRN1, functools.partial(chain, count=3), (128, 512))
    assert [e.end - e.start for e in of(clock, nc_matmul)] == [(512 + 40) * 2] * 3
    assert clock.spent["tensor", "weight_load"] == 3 * 40 * 2


def shared(x, stationaries, movings):
    """Every stationary tile with every moving tile: loaded once each."""
    x, banks = load(x), []
    for s in range(stationaries):
        held = nc_load_stationary(
            array(128, 128, dtype=BF16), x[:, s * 128 : (s + 1) * 128]
        )
        for _ in range(movings):
            banks.append(nc_matmul_moving(psum(128, 512), held, x, 0))
    return banks


def test_a_stationary_tile_is_loaded_once_for_all_that_share_it():
    """40 cycles a tile stay exposed, not 40 a matmul; the loads run behind the matmuls."""
    clock = read(TRN1, functools.partial(shared, stationaries=2, movings=3), (128, 512))
    starts = [e.start for e in of(clock, nc_matmul_moving)]
    n, exposed = 512 * 2, 40 * 2
    assert np.diff(starts).tolist() == [n, n, n + exposed, n, n]
    loads = of(clock, nc_load_stationary)
    assert [e.end - e.start for e in loads] == [128 // 4 * 2] * 2
    assert loads[1].end <= starts[2]
    each = read(TRN1, functools.partial(chain, count=6), (128, 512))
    assert each.most_busy_ticks["tensor"] == 6 * (n + exposed)
    assert clock.most_busy_ticks["tensor"] == 6 * n


def test_the_array_holds_two_stationary_tiles():
    def kernel(x, count):
        x = load(x)
        held = [
            nc_load_stationary(array(128, 128, dtype=BF16), x[:, :128])
            for _ in range(count)
        ]
        return [nc_matmul_moving(psum(128, 512), h, x, 0) for h in held]

    def peak(count):
        program = Program(functools.partial(kernel, count=count), {"core": 1}, ((),))
        return program.memory(TRN2.at(), jax.ShapeDtypeStruct((128, 512), BF16))

    assert peak(2)["array"] == TRN2.at().array_bytes
    with pytest.raises(OutOfMemory, match="of array"):
        peak(3)


def test_every_instruction_is_in_the_table():
    tried = {case[0][0].name for case in CASES.values()}
    # Of a stationary tile that is shared.
    tried |= {
        nc_load_stationary.name,
        nc_matmul_moving.name,
    }
    here = [
        i
        for i in vars(tensor).values()
        if hasattr(i, "reads") and not isinstance(i, Operand)
    ]
    assert {i.name for i in here} == tried
