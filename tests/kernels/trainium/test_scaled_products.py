"""Products of codes with scales of tokens and of columns: codes, values, clock and bytes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emu import ds
from emu.errors import LimitExceeded
from emu.trainium.engines.memory import dma_store, sbuf
from kernels.formats.coding import as_held, coded
from kernels.formats.formats import FORMATS, of_activations
from kernels.trainium.gemm import operands
from kernels.trainium.gemm.scaled import product, put
from kernels.trainium.gemm.scaled_pack import in_columns, pack_blocks, pack_scaled
from kernels.trainium.layer import by_token
from kernels.trainium.layer.gate import GATES
from tests.kernels.trainium import reference as ref
from tests.kernels.trainium.reference import check, draw, load, single, wide

BF16 = jnp.bfloat16
FP8 = FORMATS["fp8"]


def taken(x, held=FP8):
    """Activations `[tokens, K]` as products have them, by the format's own definition."""
    return wide(as_held(np.asarray(x).T, of_activations(held))).T


def test_double_rows_cover_the_features():
    assert operands.double_row_tiles(576) == (6, 96)
    assert operands.double_row_tiles(4096) == (32, 128)
    for size in range(1, 1100, 37):
        count, rows = operands.double_row_tiles(size)
        assert count % 2 == 0 and rows <= 128
        assert size <= count * rows < size + count


@pytest.mark.parametrize("dtype", [np.float32, BF16])
def test_codes_are_the_formats_own_to_the_bit(dtype):
    """Of rows of very different sizes, one of nothing but zeros; codes behind them are 0."""
    x = draw(0, 9, 70) * np.exp2(np.arange(-20.0, 25, 5))[:, None]
    x[3] = 0
    x = x.astype(dtype)

    def kernel(x):
        codes, scale = by_token.quantised(load(x), FP8, 72)
        return dma_store(codes), dma_store(scale)

    codes, scale = (leaf[0] for leaf in single(kernel, 1).run(x))
    expected = coded(x.T, of_activations(FP8))
    np.testing.assert_array_equal(
        np.asarray(codes[:, :70], np.float32),
        np.asarray(expected.elements.T, np.float32),
    )
    assert not np.asarray(codes[:, 70:], np.float32).any()
    some = np.delete(np.arange(9), 3)
    np.testing.assert_array_equal(
        np.asarray(scale)[some, 0], np.asarray(expected.scales)[0, some]
    )


def tiling(**changes):
    """1 block of 3 tiles of 10 tokens."""
    sizes = dict(hidden=160, ffn=200, head_dim=32, rows=10, by_token=FP8)
    return ref.tiling(**sizes | changes)


def copied(x, w, s, cut):
    """`x · w`, x `[rows, tiles, K]`, quantised by token, its sums stored as they leave PSUM."""
    columns = w.codes.elements.shape[-1]

    def emit(out, block, sums):
        for number, own in enumerate(sums):
            out = put(out, (slice(None), number, ds(block * columns, columns)), own)
        return out

    x = load(x)
    h = by_token.by_token(lambda tile: x[:, tile], cut, s)
    out = sbuf(s.rows, s.tiles, len(w.scale) * columns)
    return dma_store(product(h, w, out, emit, rows=s.rows))


@pytest.mark.parametrize("name", ["fp8", "fp8_tensor"])
@pytest.mark.parametrize("k, columns", [(300, 48), (64, 32)])
def test_product(name, k, columns):
    """Codes are the formats', and sums and scales float32: exact to its rounding.

    Double rows of 2 x 75 rows take as long as 75 of bfloat16, twice the FLOPs. What is read are
    codes, and of scales a row for each partition.
    """
    held, s = FORMATS[name], tiling()
    cut = operands.double_row_tiles(k)
    x, w = draw(0, s.rows, s.tiles, k), draw(1, k, 96)
    w[:, :20] *= 100
    flat = x.reshape(-1, k)
    expected = (taken(flat) @ wide(as_held(w, held))).reshape(s.rows, s.tiles, 96)
    packed = pack_scaled(in_columns(w, held), cut[1], columns, double=True)
    kernel = functools.partial(copied, s=s, cut=cut)
    clock = check(single(kernel, 2), (x, packed), expected[None])
    count, size = cut
    blocks = 96 // columns
    matmuls = count // 2 * s.tiles * blocks
    flops = clock.tally.by("flops")
    assert (
        flops["trn.nc_matmul_double_row"] == matmuls * 2 * 2 * size * s.rows * columns
    )
    transposes = count * s.tiles
    ticks = transposes * transpose_ticks(s.rows, size)
    ticks += matmuls * ref.matmul_ticks(s.rows, columns, BF16)
    assert ref.tensor_busy(clock).max() == ticks
    moved = clock.tally.by("bytes")
    read = x.nbytes + k * 96 + blocks * s.rows * columns * 4
    assert moved["hbm_read"] == read


def test_product_of_blocks():
    """Every block of 128 features has its own sums, times the scale of its token and columns.

    Of 300 features there are three blocks, and of 192 columns scales change at 128: runs of 64 of
    96 columns have one each.
    """
    held, s = (
        FORMATS["fp8_block"],
        tiling(by_token=of_activations(FORMATS["fp8_block"])),
    )
    count, size = operands.double_row_blocks(300, 128)
    assert (count, size) == (6, 64)
    x = np.zeros((s.rows, s.tiles, 384), np.float32)
    # Blocks of very different sizes, of tokens and of weights.
    x[..., :300] = draw(0, s.rows, s.tiles, 300) * np.exp2(np.arange(300) // 128 * 5)
    w = draw(1, 300, 192) * np.where(np.arange(192) < 128, 1, 64)
    expected = taken(x[..., :300].reshape(-1, 300), held) @ wide(as_held(w, held))
    laid = expected.reshape(s.rows, s.tiles, 192)
    packed = pack_blocks(in_columns(w, held), 192, 64)
    assert packed.scale.shape == (1, 1, 3, 3)
    kernel = functools.partial(copied, s=s, cut=(count, size))
    clock = check(single(kernel, 2), (x, packed), laid[None])
    flops = clock.tally.by("flops")
    # A double row of 2 x 64, as a sum may have no other block's.
    assert flops["trn.nc_matmul_double_row"] == 3 * s.tiles * 2 * 128 * s.rows * 192
    # A multiply and an add of each sum of each block.
    assert flops["trn.scalar_tensor_tensor"] == 3 * s.tiles * 2 * s.rows * 192
    moved = clock.tally.by("bytes")
    assert moved["hbm_read"] == x.nbytes + 384 * 192 + s.rows * 3 * 3 * 4


def test_codes_of_blocks_are_the_formats_own_to_the_bit():
    held = of_activations(FORMATS["fp8_block"])
    x = draw(0, 9, 256) * np.exp2(np.arange(-20.0, 25, 5))[:, None]

    def kernel(x):
        codes, scale = by_token.quantised(load(x), held, 256)
        return dma_store(codes), dma_store(scale)

    codes, scale = (leaf[0] for leaf in single(kernel, 1).run(x.astype(BF16)))
    expected = coded(x.astype(BF16).T, held)
    np.testing.assert_array_equal(
        np.asarray(codes, np.float32), np.asarray(expected.elements.T, np.float32)
    )
    np.testing.assert_array_equal(np.asarray(scale), np.asarray(expected.scales).T)


def transpose_ticks(rows, size):
    """Codes are turned at the rate of 16-bit floats, several at once."""
    cycles = max(rows, min(ref.FEWEST, size)) / ref.DEVICE.transposes_at_once
    return (cycles + ref.EXPOSED) * ref.TENSOR_TICKS


def test_gated():
    """Both projections in one matrix; what their products make is in codes by token again."""
    s = tiling()
    k, (count, size) = 160, s.ffn_tiles
    x, gate, up = (
        draw(0, s.rows, s.tiles, k),
        draw(1, k, 200) / 16,
        draw(2, k, 200) / 16,
    )
    half, blocks = s.gated_columns, count * size // s.gated_columns
    both = np.stack([w.reshape(k, blocks, half) for w in (gate, up)], axis=2)
    packed = pack_scaled(
        in_columns(both.reshape(k, -1), FP8), s.hidden_tiles[1], 2 * half, double=True
    )

    def kernel(x, w):
        x = load(x)
        h = by_token.by_token(lambda tile: x[:, tile], s.hidden_tiles, s)
        made = by_token.gated_by_token(h, w, GATES["silu"], s)
        assert isinstance(made.operand, operands.DoubleRows)
        return dma_store(made.operand.elements), dma_store(made.scale)

    elements, scale = (leaf[0] for leaf in single(kernel, 2).run(x, packed))
    flat = x.reshape(-1, k)
    of_gate, of_up = (taken(flat) @ wide(as_held(w, FP8)) for w in (gate, up))
    expected = taken((ref.silu(of_gate) * of_up).astype(np.float32))
    # [k, pairs, 2, tiles, rows] to [rows, tiles, K].
    by_place = wide(elements).reshape(size, count, s.tiles, s.rows)
    found = by_place.transpose(3, 2, 1, 0).reshape(s.rows, s.tiles, -1) * wide(scale)
    found, largest = found.reshape(-1, 200), np.abs(expected).max(-1, keepdims=True)
    # The next code where float32 rounds a quotient past the middle between two.
    assert (
        np.abs(found - expected) <= 2**-3 * np.abs(expected) + 2**-17 * largest
    ).all()
    assert (np.abs(found - expected) <= 1e-6 * largest).mean() > 0.99


def test_double_rows_with_other_operands_are_refused():
    rows = operands.DoubleRows(jnp.ones((32, 2, 8), FP8.element))
    with pytest.raises(LimitExceeded, match="must be both or none"):
        operands.multiply(jnp.zeros((8, 8)), jnp.ones((32, 8)), rows, jnp.int32(0))


def test_packed_blocks_take_the_formats_bytes():
    held = FORMATS["fp8_block"]
    packed = pack_blocks(in_columns(draw(0, 512, 384), held), 384, 128)
    leaves = jax.tree.leaves(packed)
    assert sum(leaf.nbytes for leaf in leaves) == held.held_bytes(512, 384)


def test_packed_weights_take_the_formats_bytes():
    packed = pack_scaled(in_columns(draw(0, 512, 96), FP8), 128, 48, double=True)
    leaves = jax.tree.leaves(packed)
    assert isinstance(packed.codes, operands.DoubleRows)
    assert packed.codes.elements.shape == (2, 1, 128, 2, 2, 48)
    assert sum(leaf.nbytes for leaf in leaves) == FP8.held_bytes(512, 96)
