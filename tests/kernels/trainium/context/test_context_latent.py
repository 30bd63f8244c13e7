"""MLA on a ring: latents travel and are expanded at every hop; values, bytes and FLOPs."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from emu.errors import EmulationError
from emu.trainium.datasheets import TRN3
from kernels import masks
from kernels.masks.tile_map import DEAD
from kernels.trainium.context.attention import ContextAttention
from kernels.trainium.context.latent_attention import LatentAttention
from tests.kernels.trainium.context.ring_bytes import (
    Core,
    Latents,
    ring_bytes,
    statuses,
)

TOKENS, HEADS, NOPE, ROPE, VALUE, LATENT = 37, 4, 16, 8, 12, 48
TRN = TRN3.at()


@functools.cache
def attention(mask=masks.causal, placement="contiguous", ranks=3, **options):
    a = ContextAttention(
        mask=mask,
        tokens=TOKENS,
        ranks=ranks,
        heads=HEADS,
        kv_heads=HEADS,
        head_dim=NOPE + ROPE,
        parts=(NOPE, ROPE),
        value_dim=VALUE,
        placement=placement,
        columns=8,
        lanes=2,
        **options,
    )
    return LatentAttention(attention=a, latent=LATENT)


@functools.cache
def operands():
    """q, latents, rotary keys, and the weights that expand latents to keys and to values."""
    rng = np.random.default_rng(0)
    shapes = (
        (TOKENS, HEADS, NOPE + ROPE),
        (TOKENS, LATENT),
        (TOKENS, ROPE),
        (LATENT, HEADS, NOPE),
        (LATENT, HEADS, VALUE),
    )
    q, latent, rotary, w_k, w_v = (
        rng.standard_normal(s).astype(np.float32) for s in shapes
    )
    return (
        q,
        latent,
        rotary,
        w_k / np.float32(LATENT**0.5),
        w_v / np.float32(LATENT**0.5),
    )


def oracle(mask):
    """Expanded attention in float64: output and log-sum-exp."""
    q, latent, rotary, w_k, w_v = (x.astype(np.float64) for x in operands())
    k = np.einsum("tl,lhn->thn", latent, w_k)
    k = np.concatenate([k, np.repeat(rotary[:, None], HEADS, axis=1)], axis=-1)
    scores = np.einsum("qhd,khd->qhk", q, k) / np.sqrt(NOPE + ROPE)
    at = np.arange(TOKENS, dtype=np.int32)
    pairs = np.broadcast_arrays(at[:, None], at)
    scores = np.where(np.asarray(mask(0, 0, *pairs))[:, None], scores, -np.inf)
    highest = scores.max(-1, keepdims=True)
    p = np.exp(scores - highest)
    total = p.sum(-1, keepdims=True)
    values = np.einsum("tl,lhn->thn", latent, w_v)
    return np.einsum("qhk,khd->qhd", p / total, values), (highest + np.log(total))[
        ..., 0
    ]


CASES = [
    pytest.param(masks.causal, "contiguous", 3, marks=pytest.mark.slow),
    (masks.sinks(2, 5), "contiguous", 4),  # a replicated tile of latents
    pytest.param(masks.causal, "zigzag", 2, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(
    "mask, placement, ranks", CASES, ids=["causal", "sinks", "zigzag"]
)
@pytest.mark.parametrize("exactly", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_values(mask, placement, ranks, exactly):
    """Exactly 1e-12; in float32 the sums of 48 latents add a few roundings to attention's own."""
    a = attention(mask, placement, ranks)
    assert len(a.attention.hops.roots) == (1 if ranks == 4 else 0)
    expected, lse = oracle(mask)
    run, within = (a.exact, 1e-12) if exactly else (a.run, 2e-6)
    out, log = (np.asarray(x) for x in run(*operands()))
    assert np.abs(out - expected).max() <= within * np.abs(expected).max()
    assert np.abs(log - lse).max() <= within * np.abs(lse).max()


@pytest.mark.parametrize("placement, ranks", [("contiguous", 3), ("striped", 4)])
def test_latents_are_what_crosses_links(placement, ranks):
    """A token's latent and rotary key, for all heads, at every send."""
    a = attention(masks.full, placement, ranks)
    sent = ranks * (ranks - 1) * a.attention.sizes.key_slots * (LATENT + ROPE) * 4
    clock = a.read(TRN)
    assert clock.tally.by("other")["link_bytes"] == sent
    assert clock.end_ticks == a.read(TRN, jump=False).end_ticks


@pytest.mark.parametrize("mask", [masks.full, masks.causal, masks.window(9)])
def test_hbm_bytes(mask):
    """Latents are read for the heads of a bank together, what is made of them is stored; twelve
    features of four heads fit one bank."""
    a = attention(mask, "contiguous", 3)
    of = a.attention
    sizes, positions = of.sizes, of.sides.kv.positions()
    rows = sizes.block_tiles * sizes.rows
    status = statuses(mask, positions, TOKENS, rows, sizes.columns)
    core = Core.of(sizes, latents=Latents(LATENT, NOPE))
    # Contiguous: what a rank needs comes from the ranks right before it.
    needed = (status > DEAD).any((1, 3)).sum() - 3
    moved = a.read(TRN).tally.by("bytes")
    assert moved["hbm_read"] + moved["hbm_write"] == ring_bytes(core, status, needed)


def test_every_hop_expands_anew():
    """2 · latent · (nope + value_dim) a head and token at each hop, on top of attention's own."""
    a = attention(masks.full, "contiguous", 3)
    s = a.attention.sizes
    expansion = 2 * LATENT * HEADS * (NOPE + VALUE) * s.key_slots * 3 * 3
    own = 2 * HEADS * (NOPE + ROPE + VALUE) * s.slots * s.key_slots * 3 * 3
    assert a.read(TRN).tally.by("flops")["trn.nc_matmul"] == expansion + own


def test_ranks_without_work_do_not_expand():
    """Contiguous causal: of the 9 pairs of ranks 6 attend, whole or on the diagonal."""
    a = attention(masks.causal, "contiguous", 3)
    assert a.attention.hops.tables.needed.sum() == 6
    s, count = a.attention.sizes, a.read(TRN).tally.by("count")
    live = int((a.attention.hops.tables.status != DEAD).sum())
    # Scores of two parts of the features, and values by piece.
    attended = live * HEADS * s.block_tiles * (2 + s.span)
    expanded = 6 * s.key_tiles * (HEADS + s.span)  # keys by head, values by piece
    assert count["trn.nc_matmul"] == attended + expanded


def test_sizes_are_checked():
    with pytest.raises(
        EmulationError, match="parts are None and the latent 48, must be two"
    ):
        LatentAttention(
            attention=ContextAttention(
                mask=masks.causal, tokens=8, ranks=1, heads=2, kv_heads=2, head_dim=24
            ),
            latent=48,
        )
    with pytest.raises(EmulationError, match="has 4 and 2 heads"):
        LatentAttention(
            attention=ContextAttention(
                mask=masks.causal, tokens=8, ranks=1, heads=4, kv_heads=2, head_dim=24
            ),
            latent=48,
        )


def test_bf16_runs():
    a = attention(masks.causal, "contiguous", 2, dtype=jnp.bfloat16)
    out, _ = a.run(*operands())
    expected, _ = oracle(masks.causal)
    assert (
        np.abs(np.asarray(out, np.float64) - expected).max()
        <= 2**-5 * np.abs(expected).max()
    )
