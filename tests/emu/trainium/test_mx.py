"""Microscaled tiles: where groups lie, what is rounded, what the matmul sums, what it costs."""

import dataclasses

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from emu import Program, numerics
from emu.errors import LimitExceeded
from emu.trainium import isa
from emu.trainium.engines.memory import dma_load, dma_store
from emu.trainium.engines.memory import psum as psum_tile
from emu.trainium.engines.memory import sbuf as sbuf_tile
from tests.emu.trainium.operands import (
    BF16,
    E4M3,
    E5M2,
    F16,
    F32,
    GENERATIONS,
    REGISTER,
    U8,
    assert_close,
    blank,
    draw,
    psum,
    sbuf,
    wide,
)

FORMATS = {"e4m3": E4M3, "e5m2": E5M2, "e2m1": np.dtype(ml_dtypes.float4_e2m1fn)}
FP8 = pytest.mark.parametrize("name", ["e4m3", "e5m2"])


def groups(x):
    """`[p, n, 4]` to `[p / 8, n, 32]` by loops."""
    p, n, _ = x.shape
    out = np.empty((p // 8, n, 32), x.dtype)
    for g in range(p // 8):
        for j in range(n):
            out[g, j] = x[8 * g : 8 * g + 8, j].ravel()
    return out


def spread(scale):
    """The value of each element's scale: `uint8[p / 8, n]` to `float64[p, n, 1]`."""
    return np.ldexp(1.0, np.repeat(scale.astype(int), 8, 0) - 127)[..., None]


def quantized(name, seed, p, n, magnitude=1.0):
    """Elements and scales as the matmul takes them, and the values they stand for in float64."""
    x = draw(seed, p // 8, n, 32) * np.float32(magnitude)
    elements, scale = numerics.mx_quantize(jnp.asarray(x), FORMATS[name])
    tile = np.asarray(elements).astype(F32).reshape(p // 8, n, 8, 4).swapaxes(1, 2)
    tile = tile.reshape(p, n, 4)
    given = jnp.asarray(tile, FORMATS[name])
    given = numerics.fp4_pack(given) if name == "e2m1" else given
    return given, scale, tile.astype(np.float64) * spread(np.asarray(scale))


@FP8
@pytest.mark.parametrize("dtype", [BF16, F16], ids=["bf16", "fp16"])
def test_quantize(name, dtype):
    """Each 8 x 4 group has the scale `2**(exponent of its largest - that of the format + 1)`."""
    x = (draw(0, 64, 6, 4) * np.ldexp(1, np.arange(64) // 8 - 4)[:, None, None]).astype(
        dtype
    )
    x[8:16, 2] = 0
    elements, scale = isa.quantize_mx(
        blank(64, 6, 4, dtype=FORMATS[name]), jnp.zeros((8, 6), U8), jnp.asarray(x)
    )
    top = np.abs(groups(wide(x))).max(-1)
    emax = {"e4m3": 8, "e5m2": 15}[name]
    with np.errstate(divide="ignore"):
        expected = np.where(top > 0, np.floor(np.log2(top)) - emax + 1, -127)
    np.testing.assert_array_equal(np.asarray(scale).astype(int) - 127, expected)
    # Within half a unit in the last place of the scaled value.
    scaled = wide(x) / spread(np.asarray(scale))
    gap = np.abs(wide(elements) - scaled)
    assert (gap <= numerics.ulp(scaled, FORMATS[name]) / 2).all()
    assert np.abs(wide(elements)).max() <= 2.0**emax  # one binade stays free


@pytest.mark.parametrize("left", FORMATS)
@pytest.mark.parametrize("right", FORMATS)
@pytest.mark.parametrize("accumulate", [0, 1])
def test_matmul(left, right, accumulate):
    a, a_scale, a_values = quantized(left, 0, 96, 10, magnitude=3.0)
    b, b_scale, b_values = quantized(right, 1, 96, 14, magnitude=0.02)
    old = draw(2, 10, 14)
    dst = jnp.asarray(old) if accumulate else blank(10, 14)
    actual = jax.jit(isa.nc_matmul_mx)(
        dst, a, b, a_scale, b_scale, jnp.int32(accumulate)
    )
    expected = np.einsum("kmq,knq->mn", a_values, b_values) + accumulate * wide(old)
    scale = np.einsum("kmq,knq->mn", np.abs(a_values), np.abs(b_values)) + np.abs(old)
    assert_close(actual, expected, operations=4 * 96 + 1, scale=scale)


def test_sums_of_powers_of_two_are_exact():
    """Column j of both has the scale 2**j and elements 1, so sums are 128 · 2**(i + j)."""
    ones = jnp.ones((32, 4, 4), E4M3)
    scale = jnp.broadcast_to(jnp.arange(127, 131, dtype=U8), (4, 4))
    actual = isa.nc_matmul_mx(
        blank(4, 4, dtype=BF16), ones, ones, scale, scale, jnp.int32(0)
    )
    assert actual.dtype == BF16
    np.testing.assert_array_equal(
        wide(actual), 128 * 2.0 ** np.add.outer(range(4), range(4))
    )


def test_a_quantised_product_is_near_the_plain_one():
    """From bfloat16 through both instructions: 3 mantissa bits err by at most 2**-4 of an element,
    and errors of random sign cancel in part."""
    x, w = draw(0, 128, 16, 4, dtype=BF16), draw(1, 128, 8, 4, dtype=BF16)
    (a, a_scale), (b, b_scale) = (
        isa.quantize_mx(
            blank(*v.shape, dtype=E4M3), jnp.zeros((16, v.shape[1]), U8), jnp.asarray(v)
        )
        for v in (w, x)
    )
    actual = isa.nc_matmul_mx(blank(8, 16), a, b, a_scale, b_scale, jnp.int32(0))
    expected = np.einsum("kmq,knq->mn", wide(w), wide(x))
    found = numerics.errors(actual, expected)
    assert 0 < found.norm < 2.0**-4


def test_in_a_kernel():
    """Activations quantised on chip, weights packed in HBM; other chips refuse, with the line."""

    def kernel(x, w, w_scale):
        x = dma_load(sbuf_tile(128, 16, 4, dtype=BF16), x)
        x, x_scale = isa.quantize_mx(
            sbuf_tile(128, 16, 4, dtype=E4M3), sbuf_tile(16, 16, dtype=U8), x
        )
        w = dma_load(sbuf_tile(128, 8, 2, dtype=U8), w)
        w_scale = dma_load(sbuf_tile(16, 8, dtype=U8), w_scale)
        out = isa.nc_matmul_mx(psum_tile(8, 16), w, x, w_scale, x_scale, jnp.int32(0))
        return dma_store(isa.tensor_copy(sbuf_tile(8, 16), out))

    x = draw(0, 128, 16, 4, dtype=BF16)
    w, w_scale, w_values = quantized("e2m1", 1, 128, 8)
    args = jnp.asarray(x), w, w_scale
    program = Program(kernel, {"core": 1}, ((),) * 3)
    elements, scale = isa.quantize_mx(
        blank(*x.shape, dtype=E4M3), jnp.zeros((16, 16), U8), args[0]
    )
    x_values = wide(elements) * spread(np.asarray(scale))
    expected = np.einsum("kmq,knq->mn", w_values, x_values)
    size = np.einsum("kmq,knq->mn", np.abs(w_values), np.abs(x_values))
    assert_close(program.run(*args)[0], expected, operations=4 * 128, scale=size)
    assert program.read(GENERATIONS[4], *args).tally.by("flops")[
        "trn.nc_matmul_mx"
    ] == (2 * 512 * 8 * 16)
    with pytest.raises(LimitExceeded, match=r"must be Trainium3 \(test_mx.py:\d+\)"):
        program.read(GENERATIONS[3], *args)


# --- costs ---


def mx(k=128, m=128, n=512, dst=F32, dtype=E4M3):
    last = 2 if dtype == U8 else 4
    tiles = [sbuf(k, c, last, dtype=dtype) for c in (m, n)]
    scales = [sbuf(k // 8, c, dtype=U8) for c in (m, n)]
    return isa.nc_matmul_mx, [psum(m, n, dtype=dst), *tiles, *scales, REGISTER]


def quantize(p=128, n=512, dtype=BF16, dst=E4M3):
    tiles = [
        sbuf(p, n, 4, dtype=dst),
        sbuf(p // 8, n, dtype=U8),
        sbuf(p, n, 4, dtype=dtype),
    ]
    return isa.quantize_mx, tiles


@pytest.mark.parametrize("dtype", [E4M3, E5M2, U8], ids=["e4m3", "e5m2", "packed e2m1"])
def test_matmul_cost(dtype):
    """bfloat16's cycles, 512, with 10 of the weight load exposed, for four times its FLOPs."""
    inst, operands = mx(dtype=dtype)
    cost = inst.cost(GENERATIONS[4], *operands)
    assert (cost.engine, cost.busy_cycles, cost.latency_cycles) == (
        "tensor",
        522,
        512 + 128 + 400,
    )
    assert cost.flops == 2 * 512 * 128 * 512
    assert cost.counts == {"adjusted_flops": 2 * 128 * 128 * 512}
    assert (cost.lead_cycles, cost.lost) == ({1: 32}, {"weight_load": 10})
    assert (cost.duty, cost.handover_cycles) == (1.0, 40)


@pytest.mark.parametrize(
    "k, m, n, busy",
    [(32, 128, 8, 64 + 10), (32, 16, 8, 16 + 10), (64, 2, 100, 100 + 10)],
)
def test_small_matmul_cost(k, m, n, busy):
    """max(min(64, m), n)."""
    inst, operands = mx(k, m, n)
    assert inst.cost(GENERATIONS[4], *operands).busy_cycles == busy


def test_packed_tiles_count_half_the_bytes():
    assert mx(dtype=U8)[1][1].nbytes * 2 == mx()[1][1].nbytes == 128 * 128 * 4


def test_quantize_cost():
    """2,048 elements a partition, four a cycle."""
    inst, operands = quantize()
    cost = inst.cost(GENERATIONS[4], *operands)
    assert (cost.engine, cost.busy_cycles, cost.latency_cycles) == ("vector", 532, 712)
    size = 128 * 2048
    assert cost.moved_bytes == {"sbuf_read": 2 * size, "sbuf_write": size + size // 32}
    assert cost.flops == 2 * size


def changed(case, i, **fields):
    inst, operands = case
    operands[i] = dataclasses.replace(operands[i], **fields)
    return inst, operands


REFUSED = {
    r"stationary has 40 partitions, must be a multiple of 32": mx(k=40),
    r"partitions is 160, at most 128": mx(k=160),
    r"stationary columns is 130, at most 128": mx(m=130),
    r"stationary has 5 columns, must be an even number": mx(m=5),
    r"moving columns is 513, at most 512": mx(n=513),
    r"moving columns is 1025, at most 1024": mx(n=1025, dst=BF16),
    r"moving is bfloat16\[128, 512, 4\], must be float8_e4m3fn or": changed(
        mx(), 2, dtype=BF16
    ),
    r"stationary is uint8\[128, 128, 4\], must be": changed(mx(), 1, dtype=U8),
    r"scale of moving is uint8\[16, 511\], must be uint8\[16, 512\]": changed(
        mx(), 4, shape=(16, 511)
    ),
    r"float32\[128, 512, 4\] to float8_e4m3fn\[128, 512, 4\], must be a 16-bit": quantize(
        dtype=F32
    ),
    r"destination has 40 partitions, must be a multiple of 32": quantize(p=40),
}


@pytest.mark.parametrize("message", REFUSED)
def test_refused(message):
    inst, operands = REFUSED[message]
    with pytest.raises(LimitExceeded, match=message) as raised:
        inst.cost(GENERATIONS[4], *operands)
    assert str(raised.value).startswith(inst.name)


@pytest.mark.parametrize("generation", [2, 3])
@pytest.mark.parametrize("case", [mx(), quantize()], ids=["matmul", "quantize"])
def test_only_from_neuroncore_v4_on(case, generation):
    inst, operands = case
    with pytest.raises(
        LimitExceeded, match=f"{inst.name}: device is Trainium., must be Trainium3"
    ):
        inst.cost(GENERATIONS[generation], *operands)
