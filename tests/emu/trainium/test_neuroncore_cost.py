"""Costs of the Vector, Scalar and GpSimd Engines, against literals by hand.

Trainium3, nominal: minimum interval 64 cycles; latency beyond it 160 (Vector), 353 (Scalar), 0
(GpSimd, which has 150 in its interval); busy beyond it `ACCESS`. A tick is 1 / 4.8 GHz, so 1 us is
4,800 of them. The Tensor Engine is in `test_tensor.py`, DMA in `test_dma.py`, the links in
`test_neuronlink.py`.
"""

import pytest

from emu import EmulationError
from emu.boxes import Box, Old, boxed
from emu.errors import LimitExceeded
from emu.trainium import isa
from tests.emu.trainium.operands import BF16, DEVICE, F32, I32, REGISTER, psum, sbuf

P, N = 128, 512
ACCESS = {"vector": 108, "scalar": 60, "gpsimd": 0}
BIG = P * N  # elements of a [128, 512] tile
ONE = sbuf(P, 1)


def wide(space, dtype=F32):
    return space(P, N, dtype=dtype)


HALF = wide(sbuf, BF16)


def one(inst, dst, src, **params):
    return inst, [dst, src], params


def tensor_tensor(dst, a, b, op="add"):
    return isa.tensor_tensor, [dst, a, b], {"op": op}


def fused(dtype, n=N, op0="subtract", op1="multiply"):
    x = sbuf(P, n, dtype=dtype)
    return isa.scalar_tensor_tensor, [x, x, ONE, x], {"op0": op0, "op1": op1}


def ranged(inst, *sources, dst=sbuf(P, 4, N), added=False, **params):
    """Into a place of four; `added` to what it holds."""
    box = Box((P, 4, N), (P, 1, N), shape=(P, N))
    reads = (*([Old()] if added else []), *[None] * len(sources))
    return boxed(inst, (box,), reads), [dst, *sources, REGISTER], params


# name: (instruction, operands, params), engine, interval, latency cycles, flops
CASES = {
    # Scalar: max(64, N); with a sum 64 more.
    "activation": (
        one(isa.activation, wide(sbuf), wide(psum), op="exp"),
        "scalar",
        512,
        865,
        2 * BIG,
    ),
    "activation short": (
        one(isa.activation, sbuf(P, 8), sbuf(P, 8), op="exp"),
        "scalar",
        64,
        417,
        2 * P * 8,
    ),
    "activation_bias": (
        (isa.activation_bias, [wide(sbuf), wide(sbuf), ONE], {"op": "exp"}),
        "scalar",
        512,
        865,
        2 * BIG,
    ),
    "activation_reduce": (
        (isa.activation_reduce, [wide(sbuf), ONE, wide(psum), ONE], {"op": "exp"}),
        "scalar",
        576,
        929,
        3 * BIG,
    ),
    # Vector perf modes: 4x for 16-bit SBUF to SBUF, 2x with one side in PSUM.
    "copy fp32": (one(isa.tensor_copy, wide(sbuf), wide(sbuf)), "vector", 512, 672, 0),
    "copy bf16": (
        one(isa.tensor_copy, wide(sbuf, BF16), wide(sbuf, BF16)),
        "vector",
        128,
        288,
        0,
    ),
    "copy bf16 from PSUM": (
        one(isa.tensor_copy, wide(sbuf, BF16), wide(psum, BF16)),
        "vector",
        256,
        416,
        0,
    ),
    "copy cast": (
        one(isa.tensor_copy, wide(sbuf, BF16), wide(psum)),
        "vector",
        512,
        672,
        0,
    ),
    "copy short": (
        one(isa.tensor_copy, sbuf(P, 8, dtype=BF16), sbuf(P, 8, dtype=BF16)),
        "vector",
        64,
        224,
        0,
    ),
    "copy into a place bf16": (
        ranged(isa.tensor_copy, wide(psum, BF16), dst=sbuf(P, 4, N, dtype=BF16)),
        "vector",
        256,
        416,
        0,
    ),
    "memset zero bf16": (
        (isa.memset, [wide(sbuf, BF16)], {"value": 0.0}),
        "vector",
        256,
        416,
        0,
    ),
    "memset one bf16": (
        (isa.memset, [wide(sbuf, BF16)], {"value": 1.0}),
        "vector",
        512,
        672,
        0,
    ),
    "memset zero fp32": (
        (isa.memset, [wide(sbuf)], {"value": 0.0}),
        "vector",
        512,
        672,
        0,
    ),
    # tensor_tensor: N; N/2 if all are 16-bit in SBUF.
    "tensor_tensor fp32": (
        tensor_tensor(wide(sbuf), wide(sbuf), wide(sbuf)),
        "vector",
        512,
        672,
        BIG,
    ),
    "tensor_tensor PSUM": (
        tensor_tensor(wide(sbuf), wide(sbuf), wide(psum)),
        "vector",
        512,
        672,
        BIG,
    ),
    "tensor_tensor bf16": (tensor_tensor(HALF, HALF, HALF), "vector", 256, 416, BIG),
    "tensor_tensor bf16 max": (
        tensor_tensor(HALF, HALF, HALF, op="max"),
        "vector",
        256,
        416,
        BIG,
    ),
    "tensor_tensor mixed": (
        tensor_tensor(wide(sbuf), HALF, HALF),
        "vector",
        512,
        672,
        BIG,
    ),
    "tensor_tensor into a place": (
        ranged(isa.tensor_tensor, wide(sbuf), wide(psum), op="add"),
        "vector",
        512,
        672,
        BIG,
    ),
    "added to a place PSUM": (
        ranged(isa.tensor_tensor, wide(psum), added=True, op="add"),
        "vector",
        512,
        672,
        BIG,
    ),
    "added to a place SBUF": (
        ranged(isa.tensor_tensor, wide(sbuf), added=True, op="add"),
        "vector",
        512,
        672,
        BIG,
    ),
    "tensor_scalar bf16": (
        (isa.tensor_scalar, [wide(sbuf, BF16), wide(sbuf, BF16), ONE], {"op": "add"}),
        "vector",
        128,
        288,
        BIG,
    ),
    "tensor_immediate fp32": (
        one(isa.tensor_immediate, wide(sbuf), wide(psum), op="add", value=2.0),
        "vector",
        512,
        672,
        BIG,
    ),
    # scalar_tensor_tensor: N.
    "fused fp32": (fused(F32), "vector", 512, 672, 2 * BIG),
    "fused bf16": (fused(BF16), "vector", 512, 672, 2 * BIG),
    "fused bf16 odd": (fused(BF16, 511), "vector", 511, 671, 2 * P * 511),
    "fused bf16 other": (fused(BF16, op0="multiply"), "vector", 512, 672, 2 * BIG),
    "reduce fp32": (
        one(isa.tensor_reduce, ONE, wide(psum), op="max"),
        "vector",
        512,
        672,
        BIG,
    ),
    "reduce bf16": (
        one(isa.tensor_reduce, sbuf(P, 1, dtype=BF16), wide(sbuf, BF16), op="max"),
        "vector",
        256,
        416,
        BIG,
    ),
    "reciprocal": (
        one(isa.reciprocal, wide(sbuf), wide(sbuf)),
        "vector",
        512,
        672,
        BIG,
    ),
    "reciprocal of a column": (one(isa.reciprocal, ONE, ONE), "vector", 64, 224, P),
    "max8": (one(isa.nc_max8, sbuf(P, 8), wide(sbuf)), "vector", 512, 672, BIG),
    "find_index8": (
        (isa.nc_find_index8, [sbuf(P, 8, dtype=I32), wide(sbuf), sbuf(P, 8)], {}),
        "vector",
        512,
        672,
        BIG,
    ),
    # GpSimd: 150 + N.
    "affine_select": (
        (isa.affine_select, [wide(sbuf), wide(sbuf), REGISTER], {"fill": 0.0}),
        "gpsimd",
        662,
        662,
        BIG,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_cost(name):
    (inst, operands, params), engine, interval, latency, flops = CASES[name]
    cost = inst.cost(DEVICE, *operands, **params)
    assert (cost.engine, cost.busy_cycles, cost.latency_cycles, cost.flops) == (
        engine,
        interval + ACCESS[engine],
        latency,
        flops,
    )


MOVED = {
    # Part of a tile is written: its bytes count, not the tile's.
    "copy into a place bf16": {"psum_read": 2 * BIG, "sbuf_write": 2 * BIG},
    "tensor_tensor into a place": {
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
    "added to a place SBUF": {"sbuf_read": 8 * BIG, "sbuf_write": 4 * BIG},
}


@pytest.mark.parametrize("name", MOVED)
def test_bytes_of_partial_writes(name):
    inst, operands, params = CASES[name][0]
    assert inst.cost(DEVICE, *operands, **params).moved_bytes == MOVED[name]


LIMITS = {
    "operands in PSUM is 2, at most 1": tensor_tensor(
        wide(sbuf), wide(psum), wide(psum)
    ),
}


@pytest.mark.parametrize("message", LIMITS)
def test_limits(message):
    inst, operands, params = LIMITS[message]
    with pytest.raises(LimitExceeded, match=message) as raised:
        inst.cost(DEVICE, *operands, **params)
    assert isinstance(raised.value, EmulationError) and inst.name in str(raised.value)
