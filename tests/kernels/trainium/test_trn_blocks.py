"""The kernels of one NeuronCore: projection, norms, RoPE, SwiGLU, the ends of the model."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from emu import Program, ds
from emu.trainium.datasheets import TRN3
from emu.trainium.engines.memory import dma_store, sbuf
from emu.trainium.isa import tensor_copy
from kernels.trainium.gemm.matmul import project
from kernels.trainium.layer import head, mlp, norm
from kernels.trainium.layer.gate import GATES
from kernels.trainium.layer.heads import rope, store_transposed
from kernels.trainium.layer.tiling import tile_tokens
from kernels.trainium.tiles import largest_divisor, pack, split, split_for
from tests.kernels.trainium import reference as ref
from tests.kernels.trainium.reference import (
    check,
    draw,
    load,
    matmul_ticks,
    single,
    stored,
    wide,
)

BF16 = jnp.bfloat16


def project_kernel(x, w, rows, buffers=2):
    """`x · w` with everything in SBUF at the end, stored."""
    tiles, columns = x.shape[2] // rows, w.shape[4]

    def emit(out, b, sums):
        for m, tile in enumerate(sums):
            out = tensor_copy.at[:, m, ds(b * columns, columns)](out, tile)
        return out

    out = sbuf(rows, tiles, w.shape[0] * columns)
    return dma_store(project(load(x), w, out, emit, rows=rows, buffers=buffers))


def packed_activations(x, size):
    """`[tokens, K]` as `[k, K/k, tokens]`, features on partitions."""
    return np.ascontiguousarray(x.T.reshape(-1, size, len(x)).transpose(1, 0, 2))


def project_case(tokens, rows, k, n, columns, dtype=np.float32):
    _, size = split(k, 128)
    x, w = draw(0, tokens, k).astype(dtype), draw(1, k, n).astype(dtype)
    args = packed_activations(x, size), pack(w, size, columns)
    expected = (wide(x) @ wide(w)).reshape(tokens // rows, rows, n).transpose(1, 0, 2)
    return args, expected[None]


@pytest.mark.parametrize("dtype", [np.float32, BF16], ids=["fp32", "bf16"])
@pytest.mark.parametrize(
    "tokens, rows, k, n, columns",
    [(21, 7, 200, 96, 48), (1, 1, 128, 512, 512), (64, 64, 40, 9, 9)],
)
def test_project(tokens, rows, k, n, columns, dtype):
    """Sums are float32 for bf16 too, so both are exact to float32 rounding."""
    args, expected = project_case(tokens, rows, k, n, columns, dtype)
    count, _ = split(k, 128)
    matmuls = count * (tokens // rows) * (n // columns)
    check(
        single(functools.partial(project_kernel, rows=rows), 2),
        args,
        expected,
        matmul_flops=2 * tokens * k * n,
        tensor_ticks=matmuls * matmul_ticks(rows, columns, dtype),
    )


def test_deeper_rings_are_never_slower():
    args, _ = project_case(128, 128, 1024, 2048, 512)
    # Eight loads a column block.
    args = (
        args[0],
        np.asarray(args[1]).reshape(4, 8, 128, 1, 512),
    )
    times = [
        single(functools.partial(project_kernel, rows=128, buffers=n), 2).read(
            ref.DEVICE, *args
        )
        for n in (1, 2, 3, 5)
    ]
    ticks = [t.end_ticks for t in times]
    assert ticks == sorted(ticks, reverse=True) and ticks[0] > ticks[1]


@pytest.mark.parametrize("rows, hidden", [(11, 72), (1, 72), (5, 130)])
def test_rms_norm_and_transpose(rows, hidden):
    """The padding of a hidden size that 128 does not divide stays zero."""
    s = ref.tiling(hidden=hidden, rows=rows)
    x = np.zeros((1, rows, 3, s.hidden_padded), np.float32)
    x[..., :hidden] = draw(0, 1, rows, 3, hidden)
    x, weight = x[0], np.zeros((1, s.hidden_padded), np.float32)
    weight[:, :hidden] = 1 + 0.1 * draw(1, 1, hidden)
    count, size = s.hidden_tiles

    def kernel(x, w):
        return stored(norm.normalised_transposed(load(x), w, s))

    expected = np.zeros((rows, 3, s.hidden_padded))
    expected[..., :hidden] = ref.rms_norm(x[..., :hidden], weight[:, :hidden], s.eps)
    laid = expected.transpose(1, 0, 2).reshape(3 * rows, count, size).transpose(2, 1, 0)
    check(
        single(kernel, 2),
        (x, weight),
        laid[None],
        matmul_flops=0,
        tensor_ticks=3 * count * ref.transpose_ticks(rows, size),
    )


def test_head_norm():
    x, weight = draw(0, 11, 4, 16), 1 + 0.1 * draw(1, 1, 16)

    def kernel(x, w):
        return dma_store(norm.head_norm(load(x), w, eps=1e-5))

    check(single(kernel, 2), (x, weight), ref.rms_norm(x, weight[0], 1e-5)[None])


def test_head_norm_without_weights():
    x, ones = draw(0, 11, 4, 16), np.ones(16)

    def kernel(x):
        return dma_store(norm.head_norm(load(x), None, eps=1e-5))

    clock = check(single(kernel, 1), (x,), ref.rms_norm(x, ones, 1e-5)[None])
    # Squares, and the product with the root: none with weights.
    assert clock.tally.by("count")["trn.tensor_tensor"] == 2


def test_a_bias_is_added_to_every_token():
    x, row = draw(0, 11, 3, 16), draw(1, 1, 16)

    def kernel(x, row):
        return dma_store(norm.add_row(load(x), row))

    check(single(kernel, 2), (x, row), (wide(x) + wide(row))[None])


@pytest.mark.parametrize(
    "heads, size, turned", [(4, 16, 16), (1, 2, 2), (3, 128, 128), (4, 16, 6)]
)
def test_rope_and_store_transposed(heads, size, turned):
    """Every pair turns by its angle; features end on partitions, several heads a transpose."""
    x, (cos, sin) = draw(0, 11, heads, size), ref.turns(11, turned)

    def kernel(x, cos, sin):
        return store_transposed(rope(load(x), load(cos), load(sin)))

    rotated = ref.rotate(x[..., :turned], cos, sin)
    whole = np.concatenate([rotated, wide(x[..., turned:])], -1)
    expected = whole.transpose(1, 2, 0)[None]
    group = largest_divisor(heads, 128 // size)
    check(
        single(kernel, 3),
        (x, cos, sin),
        expected,
        tensor_ticks=heads // group * ref.transpose_ticks(11, group * size),
    )


def swiglu_case(s, tokens, activation=ref.silu):
    h, gate, up = draw(0, tokens, s.hidden), *(draw(i, s.hidden, s.ffn) for i in (1, 2))
    size, width = s.hidden_tiles[1], s.ffn_tiles[1]
    args = packed_activations(h, size), *(pack(w, size, width) for w in (gate, up))
    expected = activation(wide(h) @ wide(gate)) * (wide(h) @ wide(up))
    return args, expected.T.reshape(-1, width, tokens).transpose(1, 0, 2)[None]


def swiglu_kernel(h, gate, up, s, buffers=2):
    return stored(
        mlp.gated(
            load(h),
            mlp.UpWeights(gate, up),
            GATES["silu"],
            dtype=s.dtype,
            buffers=buffers,
        )
    )


@pytest.mark.parametrize("hidden", [72, 256])
def test_swiglu(hidden):
    s = ref.tiling(hidden=hidden)
    args, expected = swiglu_case(s, 33)
    count, width = s.ffn_tiles
    matmuls = 2 * s.hidden_tiles[0] * count
    check(
        single(functools.partial(swiglu_kernel, s=s), 3),
        args,
        expected,
        matmul_flops=2 * 2 * 33 * hidden * s.ffn,
        tensor_ticks=matmuls * matmul_ticks(width, 33),
    )


def gelu_tanh(x):
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def test_gated_by_gelu():
    """The Scalar Engine's own function: as many instructions as of SiLU."""
    s = ref.tiling()
    args, expected = swiglu_case(s, 33, gelu_tanh)

    def kernel(h, gate, up):
        weights = mlp.UpWeights(gate, up)
        features = mlp.gated(load(h), weights, GATES["gelu_tanh"], dtype=s.dtype)
        return stored(features)

    clock = check(single(kernel, 3), args, expected)
    assert clock.tally.by("count")["trn.activation"] == s.ffn_tiles[0]


def test_swiglu_with_deeper_rings_is_never_slower():
    s = ref.tiling(hidden=256, ffn=1024)
    args, _ = swiglu_case(s, 128)
    ticks = [
        single(functools.partial(swiglu_kernel, s=s, buffers=n), 3).read(
            ref.DEVICE, *args
        )
        for n in (1, 2, 4)
    ]
    ticks = [t.end_ticks for t in ticks]
    assert ticks == sorted(ticks, reverse=True) and ticks[0] > ticks[1]


@pytest.mark.parametrize("scale", [1.0, 72**0.5])
def test_embed(scale):
    s = ref.tiling()
    table = draw(0, 50, s.hidden_padded)
    ids = (np.arange(33, dtype=np.int32) * 37 % 50).reshape(1, 3, 11)
    clock = check(
        single(functools.partial(head.embed, tiling=s, scale=scale), 2),
        (ids, table),
        scale * wide(table)[ids][None],
        matmul_flops=0,
        tensor_ticks=0,
    )
    # One a token tile.
    scaled = clock.tally.by("count").get("trn.tensor_immediate", 0)
    assert scaled == (0 if scale == 1 else s.tiles)


@pytest.mark.parametrize("soft_cap", [None, 2.0])
def test_lm_head_on_the_core_that_holds_the_token(soft_cap):
    """The other core's logits stay unwritten; each block's best place is its lowest maximum."""
    s, row, columns = ref.tiling(), 17, 24
    x = draw(0, 2, 1, 3, 11, s.hidden_padded)
    weight, w = 1 + 0.1 * draw(1, 1, s.hidden_padded), draw(2, s.hidden, 3 * columns)

    def kernel(x, weight, w):
        mine = lax.axis_index("ring") == 1
        return head.lm_head(x, weight, (w,), s, row=row, mine=mine, soft_cap=soft_cap)

    args = x, weight, pack(w, s.hidden_tiles[1], columns)
    program = Program(kernel, {"ring": 2}, (("ring",), (), ()))
    ((logits, places),) = program.run(*args)
    token = x[1].reshape(33, -1)[row]
    expected = (ref.rms_norm(token, weight[0], s.eps) @ wide(w)).reshape(3, columns)
    if soft_cap is not None:
        expected = soft_cap * np.tanh(expected / soft_cap)
    ref.assert_near(logits[1, :, 0], expected, 2e-6)
    np.testing.assert_array_equal(places[1, :, 0, 0], expected.argmax(-1))
    assert np.isnan(logits[0]).all()
    clock = check(
        program,
        args,
        None,
        matmul_flops=2 * s.hidden * 3 * columns,
        tensor_ticks=3 * matmul_ticks(1, columns) + ref.transpose_ticks(1, s.hidden),
    )
    assert clock.busy_ticks["tensor"] * 2 == clock.most_busy_ticks["tensor"]


# --- tiling ---


@pytest.mark.parametrize("tokens", [1, 5, 128, 129, 300, 1000, 4096])
@pytest.mark.parametrize("hidden, ffn", [(72, 200), (4096, 14336), (8192, 28672)])
def test_tiles_cover_the_tokens(tokens, hidden, ffn):
    """No tile exceeds 128 rows, and padding is less than one token a tile and block."""
    room = TRN3.sbuf_partition_bytes
    blocks, tiles, rows = tile_tokens(
        tokens, hidden, ffn, BF16, sbuf_partition_bytes=room
    )
    assert rows <= 128 and tiles <= 4
    assert tokens <= blocks * tiles * rows < tokens + blocks * (tiles + 1)


def test_split_and_divisor():
    assert (
        split(300, 128) == (3, 100)
        and split(128, 128) == (1, 128)
        and split(129, 128)[1] == 65
    )
    assert split_for(8, 2880, 128) == (24, 120) and split_for(8, 7168, 128) == (56, 128)
    assert (
        largest_divisor(12, 5) == 4
        and largest_divisor(7, 4) == 1
        and largest_divisor(3, 0) == 1
    )


def test_pack_is_the_weight_in_another_order():
    w = draw(0, 2, 300, 50)
    packed = pack(w, 100, 20)
    assert packed.shape == (2, 3, 1, 100, 3, 20)
    whole = packed.transpose(0, 2, 4, 3, 1, 5).reshape(2, 300, 60)
    np.testing.assert_array_equal(whole[..., :50], w)
    assert not whole[..., 50:].any()
