"""A layer's products in MX: operands, weights' layouts, and the parts of a layer that have them."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emu import ds
from emu.errors import LimitExceeded
from emu.tracing.side_by_side import in_order, tiles
from emu.trainium.engines.memory import dma_store, sbuf
from emu.trainium.isa import tensor_copy
from kernels.formats.coding import as_held
from kernels.formats.formats import FORMATS, of_activations
from kernels.trainium.gemm import operands
from kernels.trainium.gemm.matmul import add_products, project
from kernels.trainium.gemm.mx_blocks import Quantised
from kernels.trainium.gemm.mx_pack import in_quarters, pack_mx
from kernels.trainium.layer import layer, mlp, norm
from kernels.trainium.layer.gate import GATES
from tests.kernels.trainium import reference as ref
from tests.kernels.trainium.reference import check, draw, load, single, wide

E4M3, BF16 = jnp.float8_e4m3fn, jnp.bfloat16
MXFP8 = FORMATS["mxfp8"]


def in_quads(x, size):
    """`[tokens, K]` as `[p, tiles, tokens, 4]`, padded with zeros, bfloat16."""
    tokens, k = x.shape
    padded = np.pad(x, [(0, 0), (0, -k % (4 * size))])
    apart = padded.reshape(tokens, -1, size, 4)
    return np.ascontiguousarray(apart.transpose(2, 1, 0, 3)).astype(BF16)


def from_quads(x):
    """The inverse, `[tokens, K padded]` in float64."""
    return wide(x).transpose(2, 1, 0, 3).reshape(x.shape[2], -1)


def taken(x):
    """Activations `[tokens, K]` as products have them, by the format's own definition."""
    return wide(as_held(np.asarray(x).T, of_activations(MXFP8))).T


def stored(x):
    """A quantised operand in HBM."""
    assert isinstance(x, Quantised)
    return Quantised(*(dma_store(leaf) for leaf in x))


def values(elements, scale):
    """What a quantised operand stands for, `[tokens, K padded]`."""
    partitions, count, tokens, _ = elements.shape
    exponents = np.repeat(np.asarray(scale, np.int64), 8, axis=0) - 127
    return from_quads(wide(elements) * np.exp2(exponents)[..., None])


@pytest.mark.parametrize("features, expected", [(576, (8, 96)), (4096, (32, 128))])
def test_quarters_cover_the_features(features, expected):
    assert operands.quarters(features) == expected
    for size in range(1, 1100, 37):
        count, rows = operands.quarters(size)
        assert count % 4 == 0 and rows % 32 == 0 and rows <= 128
        assert size <= count * rows < size + 128 * count // 4


def test_columns_in_quarters():
    columns = np.arange(16.0)[None]
    found = in_quarters(columns, 2)[0]
    expected = [0, 4, 1, 5, 2, 6, 3, 7]
    np.testing.assert_array_equal(found, [*expected, *(8 + np.array(expected))])


@pytest.mark.parametrize("name", ["mxfp8", "mxfp4"])
def test_packed_weights_take_the_formats_bytes(name):
    """512 x 96, without padding: a byte or half of one, and a 32nd for scales."""
    held = FORMATS[name]
    packed = pack_mx(draw(0, 512, 96), held, 128, 48)
    assert packed.elements.shape[:5] == (2, 1, 128, 1, 48)
    assert packed.elements.nbytes + packed.scale.nbytes == held.held_bytes(512, 96)


def project_kernel(x, w, rows):
    """`x · w` with everything in SBUF at the end, stored."""
    columns = w.elements.shape[4]

    def emit(out, block, sums):
        for number, bank in enumerate(sums):
            at = slice(None), number, ds(block * columns, columns)
            out = tensor_copy.at[at](out, bank)
        return out

    out = sbuf(rows, x.shape[2] // rows, w.elements.shape[0] * columns)
    x = operands.ready(load(x), E4M3)
    return dma_store(project(x, w, out, emit, rows=rows))


@pytest.mark.parametrize("name", ["mxfp8", "mxfp4"])
@pytest.mark.parametrize(
    "tokens, rows, k, columns", [(24, 8, 640, 48), (6, 6, 100, 16)]
)
def test_project(name, tokens, rows, k, columns):
    """Elements are the format's own, and sums are float32: exact to its rounding."""
    held, (count, size) = FORMATS[name], operands.quarters(k)
    x, w = draw(0, tokens, k).astype(BF16), draw(1, k, 96)
    expected = taken(x) @ wide(as_held(w, held))
    laid = expected.reshape(tokens // rows, rows, 96).transpose(1, 0, 2)
    args = in_quads(x, size), pack_mx(w, held, size, columns)
    kernel = functools.partial(project_kernel, rows=rows)
    clock = check(single(kernel, 2), args, laid[None])
    # Four rows of every partition at once.
    matmuls = count // 4 * (tokens // rows) * (96 // columns)
    flops = clock.tally.by("flops")["trn.nc_matmul_mx"]
    assert flops == matmuls * 2 * 4 * size * rows * columns


def test_products_are_the_same_in_order():
    """Side by side all tiles are one product, in order one after another."""
    x, w = draw(0, 8, 1024).astype(BF16), draw(1, 1024, 96)
    moving = jax.tree.map(lambda leaf: leaf[0, 0], pack_mx(w, MXFP8, 128, 96))
    stationary = jax.jit(operands.ready, static_argnums=1)(in_quads(x, 128), E4M3)
    products = jax.jit(add_products)
    pairs = ((stationary, moving),)
    expected = taken(x) @ wide(as_held(w, MXFP8))
    (found,) = products((jnp.zeros((8, 96)),), pairs, jnp.int32(0))
    ref.assert_near(found, expected, 2e-6)
    with in_order():
        (found,) = products((jnp.zeros((8, 96)),), pairs, jnp.int32(0))
    ref.assert_near(found, expected, 2e-6)


def test_an_operand_alone_in_mx_is_refused():
    coded = Quantised(jnp.ones((32, 8, 4), E4M3), jnp.ones((4, 8), jnp.uint8))
    with pytest.raises(LimitExceeded, match="must be both or none"):
        operands.multiply(jnp.zeros((8, 8)), jnp.ones((32, 8)), coded, jnp.int32(0))


def test_tiles_along_two_axes():
    """Part 5 of `[2, 2, 3, 4]` along (1, 3) is `[:, 1:2, :, 1:2]`."""
    into, xs = np.zeros((2, 2, 3, 4)), np.arange(8.0)

    def emit(into, number, x):
        at = operands.place(into, number)
        at = jnp.asarray(at[1]), jnp.asarray(at[3])
        return into.at[:, at[0], :, at[1]].set(x)

    expected = np.broadcast_to(xs.reshape(1, 2, 1, 4), into.shape)
    for context in (contextlib.nullcontext(), in_order()):
        with context:
            out = tiles(lambda x: x, jnp.asarray(xs), into=into, emit=emit, axis=(1, 3))
        np.testing.assert_array_equal(out, expected)


# --- parts of a layer ---


def layer_tiling(**changes):
    """1 block of 3 tiles of 10 tokens; 160 features fill 40 partitions, of 64."""
    sizes = dict(hidden=160, ffn=200, head_dim=32, rows=10, elements=E4M3)
    return ref.tiling(**sizes | {"dtype": jnp.dtype(BF16)} | changes)


def test_norm_and_transpose():
    s = layer_tiling()
    (count, size), tokens = s.hidden_tiles, s.block_tokens
    x = np.zeros((s.rows, s.tiles, s.hidden_padded), np.float32)
    x[..., : s.hidden] = draw(0, s.rows, s.tiles, s.hidden)
    weight = 1 + 0.1 * draw(1, 1, s.hidden_padded)
    args = x.astype(BF16), weight.astype(BF16)

    def kernel(x, w):
        return stored(norm.normalised_transposed(load(x), w, s))

    elements, scale = (leaf[0] for leaf in single(kernel, 2).run(*args))
    found = values(elements, scale)
    assert elements.shape == (size, count // 4, tokens, 4)
    by_token = ref.rms_norm(args[0][..., : s.hidden], args[1][0, : s.hidden], s.eps)
    expected = by_token.transpose(1, 0, 2).reshape(tokens, s.hidden)
    assert not found[:, s.hidden :].any()
    near_format(found[:, : s.hidden], expected)


def near_format(found, expected):
    """Within a step of MXFP8 of what bfloat16 makes of the expected, see `taken`.

    A number that bfloat16 rounds the other way may be the next element: 2**-3 of it, and in a
    group's small ones a step of their subnormals, 2**-9 · 2 of the group's largest over 256.
    """
    rounded = taken(expected.astype(BF16))
    largest = np.abs(expected).max()
    assert (np.abs(found - rounded) <= 2**-3 * np.abs(rounded) + 2**-16 * largest).all()
    # And almost all are the same.
    assert (found == rounded).mean() > 0.9


def test_gated_leaves_features_in_the_order_of_the_checkpoint():
    s, tokens = layer_tiling(), 12
    (_, hidden_size), (_, ffn_size) = s.hidden_tiles, s.ffn_tiles
    h = draw(0, tokens, s.hidden).astype(BF16)
    gate, up = (draw(i, s.hidden, s.ffn) / 16 for i in (1, 2))

    def kernel(h, gate, up):
        h = operands.ready(load(h), E4M3)
        weights = mlp.UpWeights(gate, up)
        own = mlp.gated(h, weights, GATES["silu"], dtype=BF16, elements=E4M3)
        return stored(own)

    def packed(w):
        return pack_mx(in_quarters(w, ffn_size), MXFP8, hidden_size, ffn_size)

    args = in_quads(h, hidden_size), packed(gate), packed(up)
    found = values(*(leaf[0] for leaf in single(kernel, 3).run(*args)))
    of_gate, of_up = (taken(h) @ wide(as_held(w, MXFP8)) for w in (gate, up))
    near_format(found[:, : s.ffn], ref.silu(of_gate) * of_up)
    assert not found[:, s.ffn :].any()


@pytest.mark.parametrize(
    "heads, head_dim", [(2, 64), (8, 64), (5, 16), (3, 128), (3, 256)]
)
def test_attended_features_are_head_behind_head(heads, head_dim):
    """Two heads of 64 are 32 partitions; of 256 two tiles of 96 take 1 1/2 heads each."""
    s = layer_tiling(heads=heads, head_dim=head_dim, kv_heads=1)
    attended = draw(0, heads, s.tiles, head_dim, s.rows).astype(BF16)

    def kernel(attended):
        return dma_store(layer.attended_quads(attended, jnp.int32(0), s))

    (found,) = single(kernel, 1).run(attended)
    features = from_quads(found)
    by_token = wide(attended).transpose(1, 3, 0, 2).reshape(s.block_tokens, -1)
    np.testing.assert_array_equal(features[:, : heads * head_dim], by_token)
    assert not features[:, heads * head_dim :].any()
