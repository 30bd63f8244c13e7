"""Attention to keys in pages, against float64 NumPy that goes from key to key by the page table."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emu.errors import LimitExceeded
from emu.wse import WSE3
from kernels import PLACEMENTS, attention, masks, variants
from kernels.attention.decode_plan import plan_on
from kernels.attention.on_pe import DecodeSizes, variant_on_pe
from kernels.attention.prefill import context_attention
from kernels.masks.by_head import masks_of
from kernels.variants import paged

HEADS, KV_HEADS, DIM, VALUE_DIM = 4, 2, 8, 6
PAGE, PAGES = 4, 9
# Sequences of 9, 13 and 2 keys; the last shares the first page of the second, whose prompt it has.
TABLE = np.array([[7, 2, 5, -1], [1, 8, 0, 4], [1, -1, -1, -1]])
KEYS = [9, 13, 2]
BATCH, QUERIES = 3, 13
SLOPES = np.array([0.5, 0.25, 0.125, 0.0625], np.float32)
RNG = np.random.default_rng(0)
Q = RNG.standard_normal((BATCH, HEADS, QUERIES, DIM)).astype(np.float32)
K = RNG.standard_normal((1, KV_HEADS, PAGES * PAGE, DIM)).astype(np.float32)
V = RNG.standard_normal((1, KV_HEADS, PAGES * PAGE, VALUE_DIM)).astype(np.float32)
NEWEST = [n - 1 for n in KEYS]
SMALL: dict[str, Any] = dict(columns=8, lanes=2)


def biased(slopes: Any) -> Any:
    """ALiBi within a window that is wider in later heads, the first key always in it."""

    def score(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
        near = (k <= q) & ((q - k < 3 + h) | (k == 0))
        return jnp.where(near, s - jnp.asarray(slopes)[h] * (q - k) + 0.1 * b, -jnp.inf)

    return attention(score)


def key_by_key(
    q: np.ndarray, first: list[int], slopes: Any = SLOPES
) -> tuple[np.ndarray, np.ndarray]:
    """The same in float64; query n of sequence b is at position `first[b] + n`."""
    out = np.zeros((*q.shape[:3], VALUE_DIM))
    sums = np.full(q.shape[:3], -np.inf)
    for b, h, n in np.ndindex(*sums.shape):
        position, scores, values = first[b] + n, [], []
        for key in range(KEYS[b]):
            if key > position or (position - key >= 3 + h and key):
                continue
            slot = TABLE[b, key // PAGE] * PAGE + key % PAGE
            kv = h // (HEADS // KV_HEADS)
            product = K[0, kv, slot].astype(float) @ q[b, h, n].astype(float)
            product /= np.sqrt(DIM)
            scores.append(product - float(slopes[h]) * (position - key) + 0.1 * b)
            values.append(V[0, kv, slot].astype(float))
        if scores:
            weights = np.exp(scores)
            out[b, h, n] = weights @ np.array(values) / weights.sum()
            sums[b, h, n] = np.log(weights.sum())
    return out, sums


def mine(slopes: Any = SLOPES) -> Any:
    return paged(biased(slopes), TABLE, PAGE, KEYS, PAGES)


def assert_near(given: Any, wanted: Any, allowed: float) -> None:
    for one, other in zip(given, wanted, strict=True):
        assert np.shape(one) == np.shape(other)
        same = np.isneginf(other) & np.isneginf(one)
        apart = np.where(same, 0, np.asarray(one, float)) - np.where(same, 0, other)
        assert np.abs(apart).max() <= allowed


# 0.1 b and the mask's other numbers are float32's, the reference's are not.
@pytest.mark.parametrize("first", [[0, 0, 0], NEWEST, [4, 2, 30]])
def test_dense_goes_by_the_page_table(first: list[int]) -> None:
    """At 30 the third sequence's window has left its two keys, but for the first one."""
    given = mine().dense(Q, K, V, q_offset=first)
    assert_near(given, key_by_key(Q, first), 2e-8)


def test_dense_is_exact() -> None:
    plain = paged(variants.causal(), TABLE, PAGE, KEYS, PAGES)
    out, _ = plain.dense(Q, K, V)
    own = [slot for n in range(13) for slot in [TABLE[1, n // PAGE] * PAGE + n % PAGE]]
    k, v = (x[:, :, own].astype(float) for x in (K, V))
    wanted, _ = variants.causal().dense(Q[1:2], k, v)
    np.testing.assert_allclose(out[1:2], wanted, rtol=0, atol=1e-12)


OTHERS = [
    *((chips, place, "ring") for chips in (1, 2, 4, 8) for place in PLACEMENTS),
    (2, "zigzag", "all-gather"),
    (2, "striped", "ulysses"),
]
SLOW = [pytest.param(*case, marks=pytest.mark.slow) for case in OTHERS]


@pytest.mark.parametrize(
    ("chips", "placement", "scheme"), [(2, "zigzag", "ring"), *SLOW]
)
def test_prefill(chips: int, placement: str, scheme: str) -> None:
    given = mine().prefill(
        Q,
        K,
        V,
        q_offset=[0, 0, 30],
        chips=chips,
        placement=placement,
        scheme=scheme,
        **SMALL,
    )
    assert_near(given, key_by_key(Q, [0, 0, 30]), 2e-6 * np.abs(V).max())


def test_decode_of_each_sequence_at_its_own_end() -> None:
    given = mine().decode(Q[:, :, -1:], (K, V), rows=3, parts=2)
    assert_near(given, key_by_key(Q[:, :, -1:], NEWEST), 2e-6 * np.abs(V).max())


@pytest.mark.slow
def test_pages_of_nobody_may_hold_anything() -> None:
    """Pages 3 and 6 are free; the rest of a sequence's last page is behind its end."""
    free = [3 * PAGE, 6 * PAGE + 1, 5 * PAGE + 1, 4 * PAGE + 3]
    k, v = K.copy(), V.copy()
    k[:, :, free] = np.nan
    given = mine().prefill(Q, k, V, chips=2, placement="contiguous", **SMALL)
    assert_near(given, key_by_key(Q, [0, 0, 0]), 2e-6 * np.abs(V).max())
    given = mine().decode(Q[:, :, -1:], (k, v), rows=3, parts=2)
    assert_near(given, key_by_key(Q[:, :, -1:], NEWEST), 2e-6 * np.abs(V).max())


@pytest.mark.slow
def test_sequences_without_a_key_give_zeros() -> None:
    empty = paged(variants.full(), [[0], [-1]], PAGE, [3, 0], PAGES)
    for results in (
        empty.dense(Q[:2], K, V),
        empty.prefill(Q[:2], K, V, **SMALL),
        empty.decode(Q[:2, :, -1:], (K, V), rows=3, parts=2),
    ):
        out, sums = map(np.asarray, results)
        assert not np.any(out[1]) and np.all(np.isneginf(sums[1]))
        assert np.all(np.isfinite(sums[0]))


def test_gradients_are_those_of_the_reference() -> None:
    """Along a random direction, of queries, of keys and values in pages, and of slopes."""
    rng = np.random.default_rng(1)
    point = [Q, K, V, SLOPES]
    along = [rng.standard_normal(x.shape) for x in point]
    weights = rng.standard_normal((*Q.shape[:3], VALUE_DIM))

    def loss(q: Any, k: Any, v: Any, slopes: Any) -> jax.Array:
        out, sums = mine(slopes).dense(q, k, v)
        return jnp.sum(out * weights) + jnp.sum(sums)

    with jax.enable_x64(True):
        wide = [jnp.asarray(x, jnp.float64) for x in point]
        gradients = jax.grad(loss, argnums=(0, 1, 2, 3))(*wide)
        step = 1e-5
        up, down = (
            float(
                loss(
                    *(
                        x + end * jnp.asarray(d)
                        for x, d in zip(wide, along, strict=True)
                    )
                )
            )
            for end in (step, -step)
        )
    given = sum(
        np.sum(np.asarray(g) * d) for g, d in zip(gradients, along, strict=True)
    )
    assert given == pytest.approx((up - down) / (2 * step), rel=1e-6)
    # A key that nobody has takes no part.
    assert not np.any(np.asarray(gradients[1])[:, :, 3 * PAGE : 4 * PAGE])


# --- what is skipped ---


def live_tiles(table: Any, tokens: int, pages: int) -> tuple[int, int]:
    variant = paged(variants.causal(), table, 128, tokens, pages)
    attention = context_attention(
        variant.on_pages(8, 2).reading,
        q=(1, 8 * len(table), tokens, 64),
        k=(1, 2, pages * 128, 64),
        placement="contiguous",
        columns=128,
        lanes=4,
    )
    status = attention.sides.map(attention.masks_of)
    return int((status != 0).sum()), len(set(attention.masks_of))


def test_tiles_of_pages_that_nobody_attends_are_skipped() -> None:
    """Four pages of a sequence among sixteen: of 16 tiles a query meets its own, 1 to 4."""
    own, count = live_tiles([[9, 3, 12, 6]], 512, 16)
    # 4 query tiles of 8 heads, in blocks of 4 heads: 1 + 2 + 3 + 4 live tiles for each group.
    assert own == 2 * (1 + 2 + 3 + 4) and count == 1
    both, count = live_tiles([[9, 3, 12, 6], [0, 1, 2, 4]], 512, 16)
    assert both == 2 * own and count == 2


def test_heads_with_one_mask_share_it() -> None:
    """16 heads of 2 sequences have 2 masks, and a mask by pairs of heads has as many as pairs."""

    def by_pair(b: Any, h: Any, q: Any, k: Any) -> Any:
        return q - k < 4 * (h // 2 + 1) + 9 * b

    found = masks_of(by_pair, batch=2, heads=6)
    assert len(found) == 12 and len(set(found)) == 6
    assert found[0] is found[1] and found[1] is not found[2]
    assert found[6](0, 0, 14, 2) and not found[0](0, 0, 14, 2)
    assert masks_of(masks.causal, batch=2, heads=6) == (masks.causal,)


@pytest.mark.slow
def test_decode_skips_slots_behind_the_last_page_in_use() -> None:
    def cycles(table: Any) -> int:
        variant = paged(variants.causal(), table, 16, 64, 64)
        sizes = DecodeSizes(heads=4, kv_heads=2, head_dim=16, context=1024, position=0)
        reading = variant.on_pages(4, 2, variant.newest).reading
        plan = plan_on(variant_on_pe(reading, sizes), 8, 2, WSE3.at())
        return plan.read().end_ticks

    assert cycles([[0, 1, 2, 3]]) < cycles([[0, 1, 2, 63]])


# --- one door ---


@pytest.mark.slow
def test_time_and_explanation_are_of_the_memory() -> None:
    variant, own = variants.make("paged", variants.Sizes(1024, 4, 2, 32))
    sizes: dict[str, Any] = {
        key: value
        for key, value in dataclasses.asdict(own).items()
        if key not in ("batch", "keys")
    }
    found = variant.time(chips=2, rows=8, parts=2, **sizes)
    assert own.batch == 4 and own.tokens == 256
    for seconds in (found.prefill.seconds, found.decode.seconds):
        assert 0 < seconds["low"] <= seconds["nominal"] <= seconds["high"]
    told = str(variant.explain(chips=2, **sizes))
    assert told.startswith("paged causal: attends present & causal\n")


@pytest.mark.slow
def test_all_forms_agree() -> None:
    report = mine().check()
    assert report.agrees, report


@pytest.mark.slow
def test_all_forms_of_a_monoid_agree() -> None:
    """A sink of each head, of a sequence's own head, not of the machine's."""
    sinks = np.array([0.5, -1.0, 2.0, 0.25], np.float32)
    report = paged(variants.learned_sink(sinks), TABLE, PAGE, KEYS, PAGES).check(
        chips=(2,), placements=("striped",)
    )
    assert report.agrees, report


@pytest.mark.parametrize(
    ("table", "keys", "words"),
    [
        ([0, 1], 4, r"block_table is int64\[2\], must be whole numbers \[batch"),
        ([[0.0, 1.0]], 4, "block_table is float64"),
        ([[0, 9]], 8, r"block_table\[0\] is \[0, 9\], must be pages 0 to 8"),
        ([[0, -1]], 5, r"block_table\[0\] is \[0, -1\], must have 2 pages for 5 keys"),
        ([[3, 3]], 5, "must not have a page more than once"),
        ([[0, 1]], 9, "sequence 0 has 9 keys, must be 0 to 8"),
    ],
)
def test_tables_that_cannot_be_are_refused(table: Any, keys: int, words: str) -> None:
    with pytest.raises(LimitExceeded, match=words + ".*test_paged.py:"):
        paged(variants.causal(), np.array(table), PAGE, keys, PAGES)


def test_a_memory_of_another_size_is_refused() -> None:
    with pytest.raises(LimitExceeded, match=r"must be \[1, kv_heads, 36, features\]"):
        mine().prefill(Q, K[:, :, :8], V[:, :, :8])
    with pytest.raises(LimitExceeded, match=r"must be \[3, a multiple of 2 KV heads"):
        mine().dense(Q[:2], K, V)
    with pytest.raises(LimitExceeded, match="batch is 2 and keys None"):
        mine().time(tokens=8, heads=4, kv_heads=2, head_dim=8, batch=2)
