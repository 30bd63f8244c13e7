"""Costs of every Vector, Scalar and GpSimd instruction by hand, on every generation that has it.

The devices have round numbers: intervals of at least 64 cycles; latency beyond them 200 (Vector),
300 (Scalar), none (GpSimd, which has 150 cycles in most intervals); 40 cycles of hand-over. Tiles
are [128, 512] unless they say otherwise, so N is 512.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emu import Program
from emu.boxes import Box, Old, boxed
from emu.errors import LimitExceeded
from emu.instruction import Instruction
from emu.trainium import isa
from emu.trainium.engines import (
    gpsimd,
    scalar,
    vector,
    vector_copy,
    vector_reduce,
    vector_select,
)
from emu.trainium.engines.memory import dma_load, dma_store
from emu.trainium.engines.memory import psum as psum_tile
from emu.trainium.engines.memory import sbuf as sbuf_tile
from tests.emu.trainium.operands import (
    BF16,
    E4M3,
    F16,
    F32,
    GENERATIONS,
    I16,
    I32,
    REGISTER,
    U8,
    U16,
    psum,
    sbuf,
)

P, N = 128, 512
BIG = P * N
ONE = sbuf(P, 1)
X, Y, OUT = sbuf(P, N), psum(P, N), sbuf(P, N)
HALF, HALF_PSUM, FP16 = (
    sbuf(P, N, dtype=BF16),
    psum(P, N, dtype=BF16),
    sbuf(P, N, dtype=F16),
)
FP8 = sbuf(P, N, dtype=E4M3)
ALL, NEW, V4 = (2, 3, 4), (3, 4), (4,)
MASK = (*range(31), 255)  # all but one partition of each quadrant move
OFFSET = sbuf(1, 1, dtype=I32)


def same(cycles, generations=ALL):
    return dict.fromkeys(generations, cycles)


def case(inst, *operands, engine="vector", flops=0, busy, **params):
    """An instruction on these operands; `busy` is its interval in cycles by generation."""
    busy = busy if isinstance(busy, dict) else same(busy)
    return inst, operands, params, engine, busy, flops


def at(inst, src, *others, dst=None, added=False, **params):
    """Into a place of four; `added` to what it holds."""
    dst = dst or sbuf(P, 4, N, dtype=src.dtype)
    box = Box((P, 4, N), (P, 1, N), shape=(P, N))
    reads = (*([Old()] if added else []), *[None] * (1 + len(others)))
    return case(boxed(inst, (box,), reads), dst, src, *others, REGISTER, **params)


def apart(src, **params):
    """A copy to every fourth element."""
    box = Box((P, N, 4), (P, N, 1), shape=(P, N))
    copy = boxed(isa.tensor_copy, (box,), (None,))
    return case(copy, sbuf(P, N, 4, dtype=src.dtype), src, REGISTER, **params)


def pair(dst, a, b, op="add", **params):
    return case(isa.tensor_tensor, dst, a, b, op=op, flops=BIG, **params)


def added(src, **params):
    return at(isa.tensor_tensor, src, added=True, op="add", flops=BIG, **params)


def fused(x, y=None, op0="subtract", op1="multiply", **params):
    y = y or x
    operands = (x, x, sbuf(P, 1), y)
    flops = 2 * x.size
    return case(
        isa.scalar_tensor_tensor, *operands, op0=op0, op1=op1, flops=flops, **params
    )


CASES = {
    # tensor_copy: N; fast modes from v3 on: N/4 within SBUF, N/2 with PSUM on one side.
    "copy fp32": case(isa.tensor_copy, OUT, X, busy=512),
    "copy bf16": case(isa.tensor_copy, HALF, HALF, busy={2: 512, 3: 128, 4: 128}),
    "copy bf16 to fp16": case(
        isa.tensor_copy, FP16, HALF, busy={2: 512, 3: 128, 4: 128}
    ),
    "copy from PSUM": case(
        isa.tensor_copy, HALF, HALF_PSUM, busy={2: 512, 3: 256, 4: 256}
    ),
    "copy to PSUM": case(
        isa.tensor_copy, HALF_PSUM, HALF, busy={2: 512, 3: 256, 4: 256}
    ),
    "copy within PSUM": case(isa.tensor_copy, HALF_PSUM, HALF_PSUM, busy=512),
    "copy fp8": case(isa.tensor_copy, FP8, FP8, busy={2: 512, 3: 512, 4: 128}),
    "copy fp8 to bf16": case(isa.tensor_copy, HALF, FP8, busy={2: 512, 3: 512, 4: 128}),
    "copy int16": case(
        isa.tensor_copy, sbuf(P, N, dtype=I16), sbuf(P, N, dtype=I16), busy=512
    ),
    "copy fp32 to bf16": case(isa.tensor_copy, HALF, Y, busy=512),
    "copy short": case(isa.tensor_copy, sbuf(P, 8), sbuf(P, 8), busy=64),
    "copy into a place": at(isa.tensor_copy, HALF_PSUM, busy={2: 512, 3: 256, 4: 256}),
    # Elements that are apart: half the fast mode's rate within SBUF, none of it with PSUM.
    "copy apart": apart(HALF, busy={2: 512, 3: 256, 4: 256}),
    "copy apart from PSUM": apart(HALF_PSUM, busy=512),
    "copy apart fp32": apart(X, busy=512),
    "dynamic source": case(
        isa.tensor_copy_dynamic_src, sbuf(P, 64), X, OFFSET, busy=600
    ),
    "dynamic source, long": case(
        isa.tensor_copy_dynamic_src, sbuf(P, 700), sbuf(P, 900), OFFSET, busy=700
    ),
    "dynamic destination": case(
        isa.tensor_copy_dynamic_dst, X, sbuf(P, 64), OFFSET, busy=600
    ),
    "memset zero bf16": case(isa.memset, HALF, value=0.0, busy=256),
    "memset one bf16": case(isa.memset, HALF, value=1.0, busy=512),
    "memset zero fp32": case(isa.memset, X, value=0.0, busy=512),
    "memset zero int16": case(isa.memset, sbuf(P, N, dtype=I16), value=0, busy=512),
    "predicated": case(
        isa.tensor_copy_predicated,
        OUT,
        X,
        sbuf(P, N, dtype=U8),
        busy={2: 1024, 3: 512, 4: 512},
    ),
    "predicated PSUM": case(
        isa.tensor_copy_predicated, OUT, Y, sbuf(P, N, dtype=U8), busy=512
    ),
    "predicate PSUM": case(
        isa.tensor_copy_predicated, OUT, X, psum(P, N, dtype=U8), busy=512
    ),
    "transpose": case(isa.nc_transpose_vector, psum(32, 32), sbuf(32, 32), busy=64),
    "shuffle": case(isa.nc_stream_shuffle, OUT, X, mask=MASK, busy=512),
    # tensor_tensor: 2N; N with one side in PSUM; on v2 N for linear operators on bfloat16, from v3
    # on for any operator on the fast dtypes.
    "pair fp32": pair(OUT, X, X, busy={2: 1024, 3: 512, 4: 512}),
    "pair PSUM": pair(OUT, X, Y, busy=512),
    "pair to PSUM": pair(Y, X, X, busy={2: 1024, 3: 512, 4: 512}),
    "pair bf16": pair(HALF, HALF, HALF, busy={2: 512, 3: 256, 4: 256}),
    "pair bf16 max": pair(HALF, HALF, HALF, "max", busy={2: 1024, 3: 256, 4: 256}),
    "pair fp16": pair(FP16, FP16, FP16, busy={2: 1024, 3: 256, 4: 256}),
    "pair fp8": pair(FP8, FP8, FP8, busy={2: 1024, 3: 512, 4: 256}),
    "pair mixed": pair(OUT, HALF, HALF, busy={2: 1024, 3: 512, 4: 512}),
    "pair into a place": at(isa.tensor_tensor, X, Y, op="add", flops=BIG, busy=512),
    "added to a place PSUM": added(Y, dst=sbuf(P, 4, N), busy=512),
    "added to a place fp32": added(X, busy={2: 1024, 3: 512, 4: 512}),
    "added to a place bf16": added(HALF, busy={2: 512, 3: 256, 4: 256}),
    # scalar_tensor_tensor: 2N; N if both are bfloat16, subtract then multiply, N even.
    "fused fp32": fused(X, busy={2: 1024, 3: 512, 4: 512}),
    "fused bf16": fused(HALF, busy=512),
    "fused fp16": fused(FP16, busy={2: 1024, 3: 512, 4: 512}),
    "fused bf16 odd": fused(sbuf(P, 511, dtype=BF16), busy={2: 1022, 3: 511, 4: 511}),
    "fused bf16 other": fused(HALF, op0="multiply", busy={2: 1024, 3: 512, 4: 512}),
    # tensor_scalar: as a copy, with one operator or two.
    "scalar fp32": case(isa.tensor_scalar, OUT, Y, ONE, op="add", flops=BIG, busy=512),
    "scalar bf16": case(
        isa.tensor_scalar,
        HALF,
        HALF,
        ONE,
        op="max",
        flops=BIG,
        busy={2: 512, 3: 128, 4: 128},
    ),
    "scalar twice": case(
        isa.tensor_scalar,
        HALF,
        HALF_PSUM,
        ONE,
        op="add",
        op1="max",
        flops=2 * BIG,
        busy={2: 512, 3: 256, 4: 256},
    ),
    "scalars": case(
        isa.tensor_scalars,
        HALF,
        HALF,
        ONE,
        ONE,
        op0="add",
        op1="max",
        flops=2 * BIG,
        busy={2: 512, 3: 128, 4: 128},
    ),
    "immediate": case(
        isa.tensor_immediate, OUT, Y, op="multiply", value=2.0, flops=BIG, busy=512
    ),
    "immediate twice": case(
        isa.tensor_immediate,
        OUT,
        Y,
        op="multiply",
        value=2.0,
        op1="max",
        value1=0.0,
        flops=2 * BIG,
        busy=512,
    ),
    "reciprocal": case(isa.reciprocal, OUT, X, flops=BIG, busy=512),
    "reciprocal of a column": case(isa.reciprocal, ONE, ONE, flops=P, busy=64),
    # tensor_reduce: N; N/2 in bfloat16 for add and max. Read out beside a tile: 64 more.
    "reduce fp32": case(isa.tensor_reduce, ONE, Y, op="max", flops=BIG, busy=512),
    "reduce bf16": case(
        isa.tensor_reduce, sbuf(P, 1, dtype=BF16), HALF, op="add", flops=BIG, busy=256
    ),
    "reduce bf16 min": case(
        isa.tensor_reduce, sbuf(P, 1, dtype=BF16), HALF, op="min", flops=BIG, busy=512
    ),
    "reduce bf16 to fp32": case(
        isa.tensor_reduce, ONE, HALF, op="add", flops=BIG, busy=512
    ),
    "scalar_reduce": case(
        isa.tensor_scalar_reduce,
        OUT,
        ONE,
        X,
        ONE,
        op="add",
        reduce="max",
        flops=2 * BIG,
        busy=512 + 64,
    ),
    "scalar_reduce short": case(
        isa.tensor_scalar_reduce,
        sbuf(P, 8),
        ONE,
        sbuf(P, 8),
        ONE,
        op="add",
        reduce="max",
        flops=2 * P * 8,
        busy=64 + 64,
    ),
    "scan": case(
        isa.tensor_tensor_scan,
        OUT,
        X,
        Y,
        ONE,
        op0="multiply",
        op1="add",
        flops=2 * BIG,
        busy=1024,
    ),
    "bn_stats": case(isa.bn_stats, sbuf(P, 6), X, flops=3 * BIG, busy=512),
    "bn_aggr": case(isa.bn_aggr, sbuf(P, 2), sbuf(P, 24), flops=3 * P * 24, busy=104),
    "bn_aggr of one": case(
        isa.bn_aggr, sbuf(P, 2), sbuf(P, 6), flops=3 * P * 6, busy=64
    ),
    "exponential": case(
        isa.exponential, HALF, ONE, Y, ONE, flops=3 * BIG, busy=same(128 + 64, V4)
    ),
    "exponential short": case(
        isa.exponential, ONE, ONE, ONE, ONE, flops=3 * P, busy=same(64 + 64, V4)
    ),
    "range_select": case(
        isa.range_select,
        OUT,
        ONE,
        Y,
        ONE,
        ONE,
        compare0="less",
        compare1="equal",
        flops=3 * BIG,
        busy=same(512, NEW),
    ),
    "max8": case(isa.nc_max8, sbuf(P, 8), X, flops=BIG, busy=512),
    "find_index8": case(
        isa.nc_find_index8, sbuf(P, 8, dtype=I32), X, sbuf(P, 8), flops=BIG, busy=512
    ),
    "match_replace8": case(
        isa.nc_match_replace8, OUT, X, sbuf(P, 8), value=0.0, flops=BIG, busy=512
    ),
    "match_replace8 short": case(
        isa.nc_match_replace8,
        sbuf(P, 8),
        sbuf(P, 8),
        sbuf(P, 8),
        value=0.0,
        flops=P * 8,
        busy=64,
    ),
    "dropout": case(isa.dropout, OUT, X, ONE, REGISTER, flops=BIG, busy=512),
    "rand2": case(
        isa.rand2, OUT, REGISTER, low=0.0, high=1.0, flops=BIG, busy=same(128, V4)
    ),
    # Scalar: max(64, N); with a reduction 64 more. Only copies and tensor_scalar have a fast mode.
    "activation": case(
        isa.activation, OUT, Y, op="exp", engine="scalar", flops=2 * BIG, busy=512
    ),
    "activation bf16": case(
        isa.activation, HALF, HALF, op="exp", engine="scalar", flops=2 * BIG, busy=512
    ),
    "activation short": case(
        isa.activation, ONE, ONE, op="exp", engine="scalar", flops=2 * P, busy=64
    ),
    "activation_bias": case(
        isa.activation_bias,
        OUT,
        X,
        ONE,
        op="exp",
        engine="scalar",
        flops=2 * BIG,
        busy=512,
    ),
    "activation_scaled": case(
        isa.activation_scaled,
        OUT,
        X,
        ONE,
        ONE,
        op="exp",
        engine="scalar",
        flops=2 * BIG,
        busy=512,
    ),
    "reciprocal on Scalar": case(
        isa.activation,
        OUT,
        X,
        op="reciprocal",
        engine="scalar",
        flops=2 * BIG,
        busy=512,
    ),
    "activation_reduce": case(
        isa.activation_reduce,
        OUT,
        ONE,
        Y,
        ONE,
        op="exp",
        engine="scalar",
        flops=3 * BIG,
        busy=512 + 64,
    ),
    "activate2": case(
        isa.activate2,
        OUT,
        ONE,
        Y,
        ONE,
        ONE,
        op="exp",
        op0="subtract",
        op1="bypass",
        reduce="max",
        engine="scalar",
        flops=3 * BIG,
        busy=same(512 + 64, V4),
    ),
    # GpSimd: 150 + N.
    "iota": case(
        isa.iota, OUT, REGISTER, steps=(1,), engine="gpsimd", flops=BIG, busy=662
    ),
    "affine_select": case(
        isa.affine_select,
        OUT,
        X,
        REGISTER,
        fill=0.0,
        engine="gpsimd",
        flops=BIG,
        busy=662,
    ),
    # 64 indices of 4 elements of 4 bytes: C = 44/16 / min(1, 4) = 11/4.
    "local_gather": case(
        isa.local_gather,
        sbuf(P, 64, 4),
        sbuf(P, 512),
        sbuf(P, 4, dtype=U16),
        engine="gpsimd",
        busy=150 + 64 * 4 * 4 / 11,
    ),
    # 64 indices of 1 element of 2 bytes: C = 32/4 / min(2, 1) = 8.
    "local_gather bf16": case(
        isa.local_gather,
        sbuf(P, 64, 1, dtype=BF16),
        HALF,
        sbuf(P, 4, dtype=U16),
        engine="gpsimd",
        busy=150 + 64 / 8,
    ),
    "rsqrt": case(isa.rsqrt_gpsimd, OUT, X, engine="gpsimd", flops=2 * BIG, busy=2048),
}

# The same instruction on another engine: name to engine, case.
ELSEWHERE = {
    "copy fp32": ("scalar", case(isa.tensor_copy, OUT, Y, busy=same(512, NEW))),
    "copy bf16": (
        "scalar",
        case(isa.tensor_copy, HALF, HALF_PSUM, busy={3: 512, 4: 256}),
    ),
    "copy fp8": ("scalar", case(isa.tensor_copy, FP8, FP8, busy={3: 512, 4: 256})),
    "copy into a place": (
        "scalar",
        at(isa.tensor_copy, HALF_PSUM, busy={3: 512, 4: 256}),
    ),
    "copy apart": ("scalar", apart(HALF_PSUM, busy=same(512, NEW))),
    "copy by GpSimd": ("gpsimd", case(isa.tensor_copy, HALF, HALF, busy=512)),
    "dynamic": (
        "gpsimd",
        case(isa.tensor_copy_dynamic_src, sbuf(P, 64), X, OFFSET, busy=600),
    ),
    "memset": ("gpsimd", case(isa.memset, HALF, value=0.0, busy=512)),
    "pair": ("gpsimd", pair(HALF, HALF, HALF, busy=1024)),
    "scalar": (
        "scalar",
        case(
            isa.tensor_scalar,
            HALF,
            HALF,
            ONE,
            op="multiply",
            op1="add",
            flops=2 * BIG,
            busy={3: 512, 4: 256},
        ),
    ),
    "scalars": (
        "scalar",
        case(
            isa.tensor_scalars,
            OUT,
            X,
            ONE,
            ONE,
            op0="multiply",
            op1="add",
            flops=2 * BIG,
            busy=same(512, NEW),
        ),
    ),
    "immediate": (
        "scalar",
        case(
            isa.tensor_immediate,
            OUT,
            X,
            op="add",
            value=1.0,
            flops=BIG,
            busy=same(512, NEW),
        ),
    ),
}
THIS = pathlib.Path(__file__)
EVERY = {name: (c, {}) for name, c in CASES.items()} | {
    f"{name} on {e}": ((*c[:3], e, *c[4:]), {"engine": e})
    for name, (e, c) in ELSEWHERE.items()
}
# Cycles of an access, and from the end of the interval to the result.
FIXED = {"vector": (20, 200), "scalar": (30, 300), "gpsimd": (0, 0)}
RUNS = [(name, g) for name, (c, _) in EVERY.items() for g in c[4]]


def cost_of(name, generation):
    (inst, operands, params, *_), more = EVERY[name]
    return inst.cost(GENERATIONS[generation], *operands, **params, **more)


@pytest.mark.parametrize("name, generation", RUNS)
def test_cost(name, generation):
    engine, busy, flops = EVERY[name][0][3:]
    cost = cost_of(name, generation)
    assert (cost.engine, cost.flops) == (engine, flops)
    access, latency = FIXED[engine]
    interval = busy[generation]
    assert cost.busy_cycles == pytest.approx(interval + access, rel=1e-12)
    assert cost.latency_cycles == pytest.approx(interval + latency, rel=1e-12)
    assert cost.handover_cycles == 40


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if len(c[4]) < len(ALL)])
def test_older_generations_do_not_have_it(name):
    busy = CASES[name][4]
    able = " or ".join(GENERATIONS[generation].name for generation in sorted(busy))
    for generation in set(ALL) - busy.keys():
        here = GENERATIONS[generation].name
        with pytest.raises(LimitExceeded, match=f"device is {here}, must be {able}$"):
            cost_of(name, generation)


def test_every_instruction_is_in_the_table():
    modules = gpsimd, scalar, vector, vector_copy, vector_reduce, vector_select
    here = {
        i.name for m in modules for i in vars(m).values() if isinstance(i, Instruction)
    }
    listed = {c[0].name for c, _ in EVERY.values()}
    assert listed <= here
    # Kinds of operands, registers and searches have tables in files of their own.
    others = [f for f in pathlib.Path(__file__).parent.rglob("test_*.py") if f != THIS]
    text = "\n".join(file.read_text() for file in others)
    untested = {name for name in here - listed if name.partition(".")[2] not in text}
    assert not untested
    public = {i.name for i in vars(isa).values() if isinstance(i, Instruction)}
    assert here <= public


# --- bytes ---

MOVED = {
    "copy from PSUM": {"psum_read": 2 * BIG, "sbuf_write": 2 * BIG},
    "copy to PSUM": {"sbuf_read": 2 * BIG, "psum_write": 2 * BIG},
    # Part of a tile is written: its bytes count, not the tile's.
    "copy into a place": {"psum_read": 2 * BIG, "sbuf_write": 2 * BIG},
    "pair into a place": {
        "sbuf_read": 4 * BIG,
        "psum_read": 4 * BIG,
        "sbuf_write": 4 * BIG,
    },
    # What it adds to is read besides what it adds.
    "added to a place PSUM": {
        "psum_read": 4 * BIG,
        "sbuf_read": 4 * BIG,
        "sbuf_write": 4 * BIG,
    },
    "added to a place fp32": {"sbuf_read": 8 * BIG, "sbuf_write": 4 * BIG},
    "dynamic source": {"sbuf_read": 4 * P * 64 + 4, "sbuf_write": 4 * P * 64},
    "dynamic destination": {"sbuf_read": 4 * P * 64 + 4, "sbuf_write": 4 * P * 64},
    # 31 of each 32 partitions.
    "shuffle": {"sbuf_read": 4 * BIG * 31 // 32, "sbuf_write": 4 * BIG * 31 // 32},
    "activation_reduce": {
        "psum_read": 4 * BIG,
        "sbuf_read": 4 * P,
        "sbuf_write": 4 * (BIG + P),
    },
    "iota": {"sbuf_write": 4 * BIG},
    "memset zero bf16": {"sbuf_write": 2 * BIG},
}


@pytest.mark.parametrize("name", MOVED)
def test_bytes(name):
    assert cost_of(name, 4).moved_bytes == MOVED[name]


# --- ports of NeuronCore-v2 ---

PORTS = {
    "copy fp32": ("sbuf",),
    "copy from PSUM": ("psum", "sbuf"),
    "copy within PSUM": ("psum",),
    "activation short": (),
    "activation": ("psum",),
    "iota": ("sbuf",),
    "memset on gpsimd": ("sbuf",),
}


@pytest.mark.parametrize("name", PORTS)
def test_ports_that_engines_share(name):
    """Vector and GpSimd share SBUF's port, Vector and Scalar PSUM's; later generations do not."""
    assert cost_of(name, 2).ports == PORTS[name]
    assert cost_of(name, 3).ports == cost_of(name, 4).ports == ()


# --- in a kernel ---


@pytest.mark.parametrize("engine", ["vector", "scalar", "gpsimd"])
def test_a_chain_on_the_clock(engine):
    """The second copy starts when the first is written and handed over."""

    def kernel(x):
        first = dma_load(sbuf_tile(128, 512), x)
        second = isa.tensor_copy(sbuf_tile(128, 512), first, engine=engine)
        return dma_store(isa.tensor_copy(sbuf_tile(128, 512), second, engine=engine))

    program = Program(kernel, {"core": 1}, ((),))
    x = np.random.default_rng(0).standard_normal((128, 512)).astype(F32)
    np.testing.assert_array_equal(program.run(x)[0], x)
    clock = program.read(
        GENERATIONS[4], jax.ShapeDtypeStruct(x.shape, jnp.float32), trace_core=(0,)
    )
    copies = [e for e in clock.events if e.name == "trn.tensor_copy"]
    assert [e.engine for e in copies] == [engine] * 2
    cycles = 512 + FIXED[engine][1] + 40
    assert copies[1].start - copies[0].start == cycles * 4  # ticks of a 1.2 GHz clock


def test_a_result_in_psum():
    """Its bytes are counted there, and what follows reads them there."""

    def kernel(x):
        loaded = dma_load(sbuf_tile(128, 512), x)
        there = isa.tensor_copy(psum_tile(128, 512), loaded)
        return dma_store(isa.activation(sbuf_tile(128, 512), there, op="square"))

    program = Program(kernel, {"core": 1}, ((),))
    x = np.random.default_rng(0).standard_normal((128, 512)).astype(F32)
    np.testing.assert_array_equal(program.run(x)[0], x * x)
    moved = program.read(
        GENERATIONS[4], jax.ShapeDtypeStruct(x.shape, jnp.float32)
    ).tally
    bytes_moved = moved.by("bytes")
    assert bytes_moved["psum_write"] == bytes_moved["psum_read"] == 4 * BIG
