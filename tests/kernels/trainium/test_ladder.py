"""Kernels that stream rows, and the MX matmul: values, bytes and FLOPs, and their ladders."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emu import EmulationError
from kernels.trainium.catalogue import TRAINIUM_KERNELS
from kernels.trainium.gemm.mx_matmul import matmul_mx
from kernels.trainium.rows.elementwise import rms_norm_rows, rope_rows, swiglu_rows
from kernels.trainium.rows.rms_norm_quant import rms_norm_fp8, rms_norm_mx
from kernels.trainium.rows.softmax import (
    softmax_fused,
    softmax_online,
    softmax_three_pass,
)
from tests.kernels.trainium import reference as ref
from tests.kernels.trainium.checks import DEVICES, checked, nbytes, structs, ticks
from tests.kernels.trainium.reference import draw, single, wide

BF16 = jnp.bfloat16
TRN3 = {"Trainium3": DEVICES["Trainium3"]}
F32_SUMS = 2e-6  # 16 float32 roundings: a few hundred terms of random sign are summed
BF16_RESULT = 2**-7  # the result and one value before it rounded to 8 bits, 2**-8 each


# --- softmax ---

# Over the rows in HBM.
PASSES = {
    softmax_three_pass: 3,
    softmax_online: 2,
    softmax_fused: 1,
}
LADDER = list(PASSES)


def softmax(x):
    p = np.exp(wide(x) - wide(x).max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


@pytest.mark.parametrize("dtype, within", [(np.float32, F32_SUMS), (BF16, BF16_RESULT)])
@pytest.mark.parametrize("rows, n, piece", [(300, 96, 32), (7, 40, 40)])
@pytest.mark.parametrize("kernel", LADDER)
def test_softmax(kernel, rows, n, piece, dtype, within):
    """Rows far from zero too: the maximum is subtracted before the exponential."""
    x = (4 * draw(0, rows, n) + 100 * draw(1, rows, 1)).astype(dtype)
    tile = max(r for r in range(1, 129) if rows % r == 0)
    expected, sizes = softmax(x), {}
    if kernel is not softmax_fused:
        sizes = dict(piece=piece)
        expected = expected.reshape(-1, tile, n // piece, piece).swapaxes(1, 2)
    checked(
        functools.partial(kernel, **sizes),
        (x,),
        expected,
        within=within,
        matmul_flops=0,
        read_bytes=PASSES[kernel] * x.nbytes,
        written_bytes=x.nbytes,
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("buffers", [1, 2, 3])
def test_softmax_ladder(device, buffers):
    """Fewer passes take less time, however deep the rings."""
    x = (jax.ShapeDtypeStruct((1024, 4096), np.float32),)
    times = [
        ticks(functools.partial(kernel, buffers=buffers), x, DEVICES[device])
        for kernel in LADDER
    ]
    assert times == sorted(set(times), reverse=True)


# --- elementwise ---


def rms_norm_case(dtype):
    x, weight = draw(0, 200, 72).astype(dtype), (1 + 0.1 * draw(1, 1, 72)).astype(dtype)
    return rms_norm_rows, (x, weight), ref.rms_norm(x, weight, 1e-6), 100 * 72 - 72


def rope_case(dtype):
    x, (cos, sin) = draw(0, 200, 3, 16).astype(dtype), ref.turns(200, 16)
    return rope_rows, (x, cos, sin), ref.rotate(x, cos, sin), 0


def swiglu_case(dtype):
    gate, up = (draw(i, 50, 96).astype(dtype) for i in (0, 1))
    expected = ref.silu(wide(gate)) * wide(up)
    return functools.partial(swiglu_rows, piece=32), (gate, up), expected, 0


CASES = {"rms_norm": rms_norm_case, "rope": rope_case, "swiglu": swiglu_case}


@pytest.mark.parametrize("dtype, within", [(np.float32, F32_SUMS), (BF16, BF16_RESULT)])
@pytest.mark.parametrize("name", CASES)
def test_elementwise(name, dtype, within):
    """Each array is read once; RMSNorm's weight by each of 100 partitions."""
    kernel, args, expected, repeated = CASES[name](dtype)
    checked(
        kernel,
        args,
        expected,
        within=within,
        matmul_flops=0,
        read_bytes=nbytes(*args) + repeated * args[0].dtype.itemsize,
        written_bytes=nbytes(args[0]),
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kernel", [rms_norm_rows, rope_rows, swiglu_rows])
def test_deeper_rings_are_never_slower(kernel, device):
    shapes = {
        rms_norm_rows: ((1024, 2048), (1, 2048)),
        rope_rows: ((1024, 8, 128), (1024, 64), (1024, 64)),
        swiglu_rows: ((1024, 4096), (1024, 4096)),
    }
    args = [jax.ShapeDtypeStruct(shape, BF16) for shape in shapes[kernel]]
    times = [
        ticks(functools.partial(kernel, buffers=n), args, DEVICES[device])
        for n in (1, 2, 3, 4)
    ]
    assert times == sorted(times, reverse=True)


# --- FP8 ---


def dequantised(elements, scales):
    return wide(elements) * wide(scales)


def test_rms_norm_fp8():
    """The scale is the row's largest value over 448; elements are within half a step of E4M3.

    Three bits of mantissa make 2**-4 of a value, or half the least subnormal, 2**-10 of the scale.
    """
    x, weight = draw(0, 200, 72), 1 + 0.1 * draw(1, 1, 72)
    x[3] = 0
    expected = ref.rms_norm(x, weight, 1e-6)
    program = single(rms_norm_fp8, 2)
    elements, scales = (y[0] for y in program.run(x, weight))
    largest = np.abs(expected).max(-1, keepdims=True)
    np.testing.assert_allclose(
        wide(scales), np.maximum(largest, 1e-12) / 448, rtol=2e-6
    )
    error = np.abs(dequantised(elements, scales) - expected)
    step = np.maximum(2**-4 * np.abs(expected), 2**-10 * largest / 448)
    assert (
        error <= step * (1 + 1e-3) + 1e-12
    ).all()  # the float32 norm moves a few over the tie
    for device in DEVICES.values():
        clock = program.read(device, *structs(x, weight))
        written = clock.tally.by("bytes")["hbm_write"]
        assert written == x.size + 4 * len(x)


# --- MX ---


def mx_layout(x, p):
    """`[T, K]` to `[K / (4 p), p, T, 4]`: 32 features in a row are 8 partitions by 4."""
    return np.ascontiguousarray(x.reshape(len(x), -1, p, 4).transpose(1, 2, 0, 3))


def mx_round(x, p):
    """Quantised values of `[T, K]` and the exponents of the scales, by groups of 32, in float64.

    The scale is twice the power of two that brings the largest value of a group under 256, the
    largest power of two of E4M3.
    """
    groups = wide(x).reshape(len(x), -1, 32)
    exponent = np.frexp(np.abs(groups).max(-1))[1] - 1 - 8 + 1
    scaled = groups / 2.0 ** exponent[..., None]
    step = 2.0 ** (np.maximum(np.frexp(scaled)[1] - 1, -6) - 3)
    rounded = np.rint(scaled / step) * step * 2.0 ** exponent[..., None]
    return rounded.reshape(x.shape), exponent


def test_rms_norm_mx():
    """Squares, factors and the result are bf16, so an element may round to its neighbour."""
    p, tokens, k = 32, 24, 256
    x = draw(0, tokens, k).astype(BF16)
    weight = (1 + 0.1 * draw(1, 1, k)).astype(BF16)
    expected = ref.rms_norm(x, weight, 1e-6)
    kernel = functools.partial(rms_norm_mx, tokens=8)
    args = mx_layout(x, p), mx_layout(weight, p)[:, :, 0]
    program = single(kernel, 2)
    elements, scales = (y[0] for y in program.run(*args))
    laid = mx_layout(expected, p).reshape(2, p, 3, 8, 4).transpose(2, 1, 0, 3, 4)
    factors = np.repeat(2.0 ** (wide(scales) - 127), 8, axis=1)[..., None]
    actual = wide(elements) * factors
    # Half a step of the element, and three bf16 roundings before it.
    step = np.maximum(2**-4 * np.abs(laid), 2**-10 * factors)
    assert (np.abs(actual - laid) <= step + 3 * 2**-8 * np.abs(laid)).all()
    clock = program.read(DEVICES["Trainium3"], *structs(*args))
    assert clock.tally.by("flops")["trn.nc_matmul"] == 2 * p * p * 4 * tokens * (
        k // (4 * p)
    )
    moved = clock.tally.by("bytes")
    assert moved["hbm_read"] == nbytes(*args)
    assert moved["hbm_write"] == tokens * k + tokens * k // 32


def mx_case(p, tokens, k, n):
    x, w = draw(0, tokens, k).astype(BF16), draw(1, n, k)
    rounded, exponent = mx_round(w, p)
    scales = (exponent + 127).astype(np.uint8).reshape(n, k // (4 * p), p // 8)
    elements = rounded / np.repeat(2.0**exponent, 32, axis=-1).reshape(n, k)
    args = (
        mx_layout(x, p),
        mx_layout(elements.astype(jnp.float8_e4m3fn), p),
        np.ascontiguousarray(scales.transpose(1, 2, 0)),
    )
    return x, w, rounded, args


@pytest.mark.parametrize("tiles", [1, 2])
def test_matmul_mx(tiles):
    """Products of MX elements are exact in float32, so only sums round; then bf16, 2**-8.

    MXFP8 itself: errors up to 2**-4 of each factor, of random sign, cancel in the sum to 2**-4.
    """
    p, tokens, k, n = 32, 512, 256, 48
    x, w, w_rounded, args = mx_case(p, tokens, k, n)
    kernel = functools.partial(matmul_mx, tiles=tiles, columns=16)
    program = single(kernel, 3)
    actual = wide(program.run(*args)[0])
    groups, columns, depth, m, _ = actual.shape
    assert depth == tiles
    actual = actual.transpose(0, 2, 3, 1, 4).reshape(tokens, n)
    x_rounded, _ = mx_round(x, p)
    ref.assert_near(actual, x_rounded @ w_rounded.T, 2**-8 + F32_SUMS)
    ref.assert_near(actual, wide(x) @ wide(w).T, 2**-4)
    clock = program.read(DEVICES["Trainium3"], *args)
    assert clock.tally.by("flops")["trn.nc_matmul_mx"] == 2 * tokens * k * n
    moved = clock.tally.by("bytes")
    assert moved["hbm_read"] == nbytes(args[0]) + groups * nbytes(*args[1:])
    assert moved["hbm_write"] == 2 * tokens * n


def test_mx_is_for_trainium3():
    *_, args = mx_case(32, 8, 128, 4)
    with pytest.raises(EmulationError, match="must be Trainium3"):
        single(matmul_mx, 3).read(DEVICES["Trainium2"], *args)


def test_mx_against_bf16():
    """128 partitions contract 512 features: a quarter of the Tensor Engine's work, in less time."""
    clocks = []
    for name in ("gemm", "matmul_mx"):
        program, args = TRAINIUM_KERNELS[name].build(m=1024, k=1024, n=1024)
        clocks.append(program.read(DEVICES["Trainium3"], *args))
    bf16, mx = clocks
    assert bf16.spent["tensor", "work"] == 4 * mx.spent["tensor", "work"]
    assert mx.end_ticks < bf16.end_ticks
