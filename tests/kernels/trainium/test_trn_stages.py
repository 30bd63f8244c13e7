"""Stages of a layer on cores: blocks and tiles of tokens, padding, and what cores divide."""

import jax.numpy as jnp
import numpy as np
import pytest

from emu.errors import LimitExceeded
from kernels.latent_heads import LatentHeads
from kernels.trainium.layer.gate import CLAMPED, Gate
from kernels.trainium.stages import program
from kernels.trainium.stages.grouped import GroupedForm
from kernels.trainium.stages.latent import LatentForm
from kernels.trainium.stages.tiling import (
    StageTiling,
    columns_of,
    joined_heads,
    padded,
    stage_tiling,
)
from kernels.trainium.stages.weights import (
    grouped_weights,
    latent_weights,
    mlp_weights,
    output_weights,
)

# Sums of at most 132 float32 products of random sign, some 9 roundings of 2**-24, in up to three
# products one behind the other.
WITHIN = 5e-6
EPS = 1e-5
HIDDEN, CHIPS, BLOCKS, TILES, ROWS = 130, 2, 2, 3, 5


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def matrix(seed, inputs, outputs):
    return draw(seed, inputs, outputs) / np.float32(inputs**0.5)


def tiling(cores):
    return StageTiling(HIDDEN, EPS, BLOCKS, TILES, ROWS, cores, jnp.dtype("float32"))


def hidden_states(own):
    """`[chips, tokens, hidden]`, and as stages take them."""
    x = draw(0, CHIPS, own.tokens, HIDDEN)
    missing = own.hidden_padded - HIDDEN
    wide = np.pad(x, [(0, 0), (0, 0), (0, missing)])
    return x.astype(np.float64), wide.reshape(CHIPS, BLOCKS, TILES, ROWS, -1)


def tables(own, pairs):
    """Cosines and sines of every token, as stages take them and `[chips, tokens, 1, pairs]`."""
    angles = np.random.default_rng(7).uniform(0, 6, (CHIPS, own.tokens, pairs))
    cos, sin = (f(angles).astype(np.float32) for f in (np.cos, np.sin))
    laid = [t.reshape(CHIPS, BLOCKS, TILES, ROWS, pairs) for t in (cos, sin)]
    return laid, [t.astype(np.float64)[:, :, None] for t in (cos, sin)]


def normed(x, weight):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + EPS) * weight


def turned(x, cos, sin):
    """RoPE of the first `2 · pairs` features of `[chips, tokens, heads, features]`."""
    pairs = cos.shape[-1]
    first, second, rest = np.split(x, [pairs, 2 * pairs], axis=-1)
    both = first * cos - second * sin, second * cos + first * sin
    return np.concatenate([*both, rest], axis=-1)


def by_token(x):
    """`[chips, cores, tiles, heads, features, rows]` to `[chips, tokens, heads, features]`."""
    x = np.asarray(x)
    chips, cores, tiles, heads, features, rows = x.shape
    moved = x.transpose(0, 2, 5, 1, 3, 4)
    return moved.reshape(chips, tiles * rows, cores * heads, features)


def check(found, expected):
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= WITHIN * np.abs(expected).max()


@pytest.mark.parametrize(
    "cores, query_rank",
    [(2, 132), pytest.param(4, None, marks=pytest.mark.slow)],
)
def test_latent_projections(cores, query_rank):
    """Columns that cores do not divide (132 + 20 + 6 are 2 of 79), a latent of two tiles."""
    own, heads, rank, plain, turns = tiling(cores), 4, 20, 10, 6
    of_heads = LatentHeads(query_rank, rank, plain, turns, value_dim=8)
    form = LatentForm(own, heads // cores, of_heads)
    x, laid = hidden_states(own)
    (cos, sin), wide = tables(own, turns // 2)
    norm, latent_norm = 1 + draw(1, HIDDEN) / 4, 1 + draw(2, rank) / 4
    key_down = matrix(3, HIDDEN, rank + turns)
    query_down = query_norm = None
    inputs = normed(x, norm)
    latent_of_queries = inputs
    if query_rank is not None:
        query_down, query_norm = (
            matrix(4, HIDDEN, query_rank),
            1 + draw(5, query_rank) / 4,
        )
        latent_of_queries = normed(inputs @ query_down, query_norm)
    queries = matrix(6, latent_of_queries.shape[-1], heads * (plain + turns))
    weights = latent_weights(
        form,
        norm=norm,
        query_down=query_down,
        query_norm=query_norm,
        queries=queries,
        key_down=key_down,
        latent_norm=latent_norm,
    )
    made = program.latent_program(form, CHIPS).run(laid, cos, sin, weights)
    expected = (latent_of_queries @ queries).reshape(CHIPS, own.tokens, heads, -1)
    check(by_token(made.plain), expected[..., :plain])
    check(by_token(made.turned), turned(expected[..., plain:], *wide))
    keys = inputs @ key_down
    for core in range(cores):
        latents = by_token(np.asarray(made.latents)[:, [core]])
        check(
            latents.reshape(*keys.shape[:2], -1), normed(keys[..., :rank], latent_norm)
        )
        rotary = by_token(np.asarray(made.rotary)[:, [core]])
        check(rotary, turned(keys[..., None, rank:], *wide))


@pytest.mark.parametrize("cores", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_grouped_projections(cores):
    """Two KV heads on four cores, biases, norms of heads, RoPE of a part of each head."""
    own, heads, kv_heads, head_dim, turns = tiling(cores), 4, 2, 10, 6
    form = GroupedForm(
        own, heads // cores, max(kv_heads, cores) // cores, head_dim, turns
    )
    x, laid = hidden_states(own)
    (cos, sin), wide = tables(own, turns // 2)
    norm = 1 + draw(1, HIDDEN) / 4
    norms = [1 + draw(seed, head_dim) / 4 for seed in (2, 3)]
    widths = [n * head_dim for n in (heads, kv_heads, kv_heads)]
    matrices = [matrix(10 + n, HIDDEN, width) for n, width in enumerate(widths)]
    biases = [draw(20 + n, width) for n, width in enumerate(widths)]
    weights = grouped_weights(
        form,
        norm=norm,
        matrices=matrices,
        biases=biases,
        q_norm=norms[0],
        k_norm=norms[1],
    )
    made = program.grouped_program(form, CHIPS).run(laid, cos, sin, weights)
    inputs = normed(x, norm)
    q, k, v = (
        (inputs @ w + b).reshape(CHIPS, own.tokens, -1, head_dim)
        for w, b in zip(matrices, biases)
    )
    copies = max(1, cores // kv_heads)
    check(by_token(made.q), turned(normed(q, norms[0]), *wide))
    keys = turned(normed(k, norms[1]), *wide)
    check(by_token(made.k), np.repeat(keys, copies, axis=2))
    values = np.asarray(made.v).reshape(CHIPS, cores, own.tokens, -1, head_dim)
    values = values.swapaxes(1, 2).reshape(CHIPS, own.tokens, -1, head_dim)
    check(values, np.repeat(v, copies, axis=2))


@pytest.mark.parametrize("cores", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_output(cores):
    """With a bias, which is added once, whatever the number of cores."""
    own, heads, value_dim = tiling(cores), 6, 48
    x, laid = hidden_states(own)
    attended = draw(1, CHIPS, own.tokens, heads, value_dim)
    w, bias = matrix(2, heads * value_dim, HIDDEN), draw(3, HIDDEN)
    sizes = own.token_tiles, ROWS, cores, heads // cores, value_dim
    by_core = attended.reshape(CHIPS, *sizes).transpose(0, 3, 4, 1, 2, 5)
    weights = output_weights(own, heads=heads // cores, matrix=w, bias=bias)
    made = program.output_program(own, CHIPS).run(laid, by_core, weights)
    flat = attended.astype(np.float64).reshape(CHIPS, own.tokens, -1)
    on_every_core(made, x + flat @ w + bias)


@pytest.mark.parametrize(
    "cores, gate",
    [(2, Gate()), pytest.param(1, CLAMPED, marks=pytest.mark.slow)],
)
def test_mlp(cores, gate):
    """Features that cores do not divide: 131 on 2 cores are 66 each, one of them zeros."""
    own, ffn = tiling(cores), 131
    x, laid = hidden_states(own)
    norm = 1 + draw(1, HIDDEN) / 4
    to_gate, to_up, down = (
        matrix(2, HIDDEN, ffn),
        matrix(3, HIDDEN, ffn),
        matrix(4, ffn, HIDDEN),
    )
    weights = mlp_weights(own, norm=norm, gate=to_gate, up=to_up, down=down)
    made = program.mlp_program(own, gate, CHIPS).run(laid, weights)
    g, u = (normed(x, norm) @ w for w in (to_gate, to_up))
    if gate.limit is None:
        inner = g / (1 + np.exp(-g)) * u
    else:
        g, u = np.minimum(g, 7), np.clip(u, -7, 7)
        inner = (u + 1) * g / (1 + np.exp(-1.702 * g))
    on_every_core(made, x + inner @ down)


def on_every_core(made, expected):
    chips, cores = np.asarray(made).shape[:2]
    by_core = np.asarray(made).reshape(chips, cores, -1, made.shape[-1])
    for core in range(cores):
        check(by_core[:, core, :, :HIDDEN], expected)
        assert (by_core[:, core, :, HIDDEN:] == 0).all()


def test_sizes():
    assert columns_of(264) == 264 and columns_of(1920) == 480
    assert padded(1022) == 1022 and padded(1025) == 1026
    assert joined_heads(8, 64) == joined_heads(8, 128) == 128
    assert joined_heads(6, 48) == 96 and joined_heads(3, 40) == 120
    own = stage_tiling(
        hidden=7168,
        widest=5184,
        eps=EPS,
        tokens=1024,
        cores=8,
        dtype=jnp.dtype("bfloat16"),
        sbuf_partition_bytes=192 * 1024,
    )
    assert own.tokens == 1024 and own.rows == 128
    # Hidden states, their norm and as much again with features on partitions, in 16 bits.
    held = own.block_tokens * (2 * 56 + 41) + own.tiles * 7168
    assert 2 * held < 192 * 1024


def test_a_latent_in_unequal_parts_is_refused():
    with pytest.raises(LimitExceeded, match="rank is 131"):
        LatentForm(tiling(2), 2, LatentHeads(None, 131, 8, 4, 8))


def test_an_output_projection_of_other_heads_is_refused():
    with pytest.raises(LimitExceeded, match="100 inputs over 2 cores of 3 heads"):
        output_weights(tiling(2), heads=3, matrix=matrix(0, 100, HIDDEN))
