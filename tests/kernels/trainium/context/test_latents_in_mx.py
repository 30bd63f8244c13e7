"""Keys and values made of latents in MX: the formats' own numbers, bytes, what is refused."""

import jax.numpy as jnp
import numpy as np
import pytest

from emu.errors import LimitExceeded
from emu.trainium.datasheets import TRN3
from kernels import masks
from kernels.formats.coding import as_held
from kernels.formats.formats import FORMATS, of_activations
from kernels.trainium.context.attention import ContextAttention
from kernels.trainium.context.latent import expansion_weights
from kernels.trainium.context.latent_attention import LatentAttention
from kernels.trainium.gemm.mx_pack import MxFormats
from tests.kernels.trainium.context.ring_bytes import (
    DEAD,
    Core,
    Latents,
    ring_bytes,
    statuses,
)

# 160 features of a latent are 40 partitions, of 64.
TOKENS, HEADS, NOPE, ROPE, VALUE, LATENT = 32, 2, 16, 8, 12, 160
MXFP8 = MxFormats(FORMATS["mxfp8"], of_activations(FORMATS["mxfp8"]))
MXFP4 = MxFormats(FORMATS["mxfp4"], of_activations(FORMATS["mxfp8"]))


def attention(mx, **options):
    a = ContextAttention(
        mask=masks.causal,
        tokens=TOKENS,
        ranks=2,
        heads=HEADS,
        kv_heads=HEADS,
        head_dim=NOPE + ROPE,
        parts=(NOPE, ROPE),
        value_dim=VALUE,
        columns=16,
        lanes=2,
        dtype=jnp.bfloat16,
        **options,
    )
    return LatentAttention(attention=a, latent=LATENT, mx=mx)


def operands():
    """q, latents and rotary keys in bfloat16, weights in float32."""
    rng = np.random.default_rng(0)

    def drawn(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    def narrow(*shape):
        return drawn(*shape).astype(jnp.bfloat16).astype(np.float32)

    q = narrow(TOKENS, HEADS, NOPE + ROPE)
    latent, rotary = narrow(TOKENS, LATENT), narrow(TOKENS, ROPE)
    w_k, w_v = drawn(LATENT, HEADS, NOPE), drawn(LATENT, HEADS, VALUE)
    return q, latent, rotary, w_k / LATENT**0.5, w_v / LATENT**0.5


def held(mx, q, latent, rotary, w_k, w_v):
    """The numbers that codes stand for; MX has at most 4 bits of each, which bfloat16 keeps."""

    def matrix(weights):
        flat = as_held(weights.reshape(LATENT, -1), mx.weights)
        return np.asarray(flat).reshape(weights.shape)

    of_latents = np.asarray(as_held(latent.T, mx.activations)).T
    return q, of_latents, rotary, matrix(w_k), matrix(w_v)


def oracle(q, latent, rotary, w_k, w_v):
    """Expanded attention in float64."""
    q, latent, rotary, w_k, w_v = (
        np.asarray(x, np.float64) for x in (q, latent, rotary, w_k, w_v)
    )
    k = np.einsum("tl,lhn->thn", latent, w_k)
    k = np.concatenate([k, np.repeat(rotary[:, None], HEADS, axis=1)], axis=-1)
    scores = np.einsum("qhd,khd->qhk", q, k) / np.sqrt(NOPE + ROPE)
    scores = np.where(np.tri(TOKENS, dtype=bool)[:, None], scores, -np.inf)
    p = np.exp(scores - scores.max(-1, keepdims=True))
    values = np.einsum("tl,lhn->thn", latent, w_v)
    return np.einsum("qhk,khd->qhd", p / p.sum(-1, keepdims=True), values)


@pytest.mark.parametrize("mx", [MXFP8, pytest.param(MXFP4, marks=pytest.mark.slow)])
def test_values(mx):
    """Attention itself is in bfloat16: keys, values, weights and outputs are rounded, 2**-9 each.
    The same program on the codes' numbers differs by less: its sums are in another order."""
    given = operands()
    expected = oracle(*held(mx, *given))
    found = np.asarray(attention(mx).run(*given)[0], np.float64)
    largest = np.abs(expected).max()
    assert np.abs(found - expected).max() < 2**-7 * largest
    assert np.abs(oracle(*given) - expected).max() > 2**-6 * largest
    twin = np.asarray(attention(None).run(*held(mx, *given))[0], np.float64)
    assert np.abs(found - twin).max() < 2**-8 * largest
    assert (found == twin).mean() > 0.9


def test_bytes_and_flops():
    """Weights as elements and scales for 256 rows; latents, keys and values stay in bfloat16."""
    a = attention(MXFP8)
    of, positions = a.attention, a.attention.sides.kv.positions()
    sizes = of.sizes
    rows = sizes.block_tiles * sizes.rows
    status = statuses(masks.causal, positions, TOKENS, rows, sizes.columns)
    made, padded = HEADS * (NOPE + VALUE), 4 * 64
    latents = Latents(LATENT, NOPE, weight_bytes=(padded + padded // 32) * made)
    core = Core.of(sizes, latents=latents)
    needed = (status > DEAD).any((1, 3)).sum() - 2
    clock = a.read(TRN3.at())
    moved = clock.tally.by("bytes")
    assert moved["hbm_read"] + moved["hbm_write"] == ring_bytes(core, status, needed)
    # Every rank expands its own keys, and the second one the first's.
    sources = 1 + 2
    flops = clock.tally.by("flops")["trn.nc_matmul_mx"]
    assert flops == sources * 2 * padded * made * sizes.key_slots
    assert clock.end_ticks == a.read(TRN3.at(), jump=False).end_ticks


def test_what_takes_several_loads_is_refused():
    """2,048 features are four tiles, as many as one load has of 512 columns."""
    weights = jnp.zeros((2080, 4, 128))
    assert expansion_weights(weights[:2048], 4, mx=MXFP8).elements.shape == (
        *(1, 128, 4),
        *(512, 4),
    )
    with pytest.raises(LimitExceeded, match="2080 features in MX takes several loads"):
        expansion_weights(weights, 4, mx=MXFP8)
