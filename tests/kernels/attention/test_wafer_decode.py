"""A variant's decode on the wafer: values against float64 NumPy, laws of its clock, refusals."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from emu.errors import LimitExceeded
from emu.lower import CannotLower
from emu.wse import WSE3
from emu.wse.placement.regions import DoesNotFit
from kernels import masks
from kernels.attention.decode import DecodeTime, decode, decode_time
from kernels.attention.decode_plan import plan_on
from kernels.attention.on_pe import DecodeSizes, variant_on_pe
from kernels.attention.reading import read

BATCH, HEADS, KV_HEADS, DIM, VALUE_DIM, KEYS = 2, 4, 2, 8, 6, 45
ROWS, PARTS = 5, 2
SIZES = DecodeSizes(
    batch=BATCH,
    heads=HEADS,
    kv_heads=KV_HEADS,
    head_dim=DIM,
    value_dim=VALUE_DIM,
    context=KEYS,
)
RNG = np.random.default_rng(0)
Q = 2 * RNG.standard_normal((BATCH, HEADS, 1, DIM)).astype(np.float32)
K = RNG.standard_normal((BATCH, KV_HEADS, KEYS, DIM)).astype(np.float32)
V = RNG.standard_normal((BATCH, KV_HEADS, KEYS, VALUE_DIM)).astype(np.float32)
SLOPES = (2.0 ** -np.arange(1, HEADS + 1)).astype(np.float32)
BIAS = RNG.standard_normal((HEADS, KEYS)).astype(np.float32)
KEPT = RNG.random((HEADS, KEYS, KEYS)) < 0.3
KEPT[1] = False  # a head that attends to nothing

Function = Callable[..., Any]


def alibi(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
    return s - jnp.asarray(SLOPES)[h] * (q - k)


def capped(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
    return 2 * jnp.tanh(s / 2)


def biased(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
    return s + jnp.asarray(BIAS)[h, k]


def relative(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
    return s + jnp.asarray(BIAS)[h, jnp.minimum((q - k) // 2, 7)]


def random_by_head(b: Any, h: Any, q: Any, k: Any) -> Any:
    return jnp.asarray(KEPT)[h, q, k]


def by_batch(b: Any, h: Any, q: Any, k: Any) -> Any:
    return (k % 2 == b) & (q - k < 9 * (h + 1))


def range_by_batch(b: Any, h: Any, q: Any, k: Any) -> Any:
    return q - k < 9 * (b + 1)


def dense(
    score: Function | None, mask: Function | None, position: int = KEYS - 1
) -> tuple[Any, Any]:
    """float64 attention of one position."""
    group = HEADS // KV_HEADS
    keys, values = (np.repeat(x, group, 1).astype(np.float64) for x in (K, V))
    s = np.einsum("bhqd,bhkd->bhqk", Q.astype(np.float64), keys) / np.sqrt(DIM)
    b = np.arange(BATCH)[:, None, None, None]
    h = np.arange(HEADS)[None, :, None, None]
    q, k = np.array(position), np.arange(KEYS)
    if score is not None:
        s = score(s, b, h, q, k)
    allowed = np.ones(s.shape, bool) if mask is None else mask(b, h, q, k)
    s = np.where(np.broadcast_to(allowed, s.shape), s, -np.inf)
    top = s.max(-1, keepdims=True)
    top[np.isinf(top)] = 0
    p = np.exp(s - top)
    total = p.sum(-1, keepdims=True)
    with np.errstate(divide="ignore"):
        lse = (np.log(total) + top)[..., 0]
    return np.einsum("bhqk,bhkd->bhqd", p / np.where(total, total, 1), values), lse


# What the functions above compute, in NumPy and float64.
IN_FLOAT64: dict[Function, Function] = {
    alibi: lambda s, b, h, q, k: s - SLOPES[h] * (q - k),
    capped: lambda s, b, h, q, k: 2 * np.tanh(s / 2),
    biased: lambda s, b, h, q, k: s + BIAS[h, k],
    relative: lambda s, b, h, q, k: s + BIAS[h, np.minimum((q - k) // 2, 7)],
    random_by_head: lambda b, h, q, k: KEPT[h, q, k],
}


@pytest.mark.parametrize(
    ("score", "mask"),
    [
        (None, masks.causal),
        (alibi, masks.causal),
        (capped, None),
        (biased, masks.window(11)),
        (relative, masks.sinks(3, 11)),
        (alibi, masks.sinks(3, 4)),
        (None, masks.documents([20, 10, 15])),
        (alibi, random_by_head),
        (None, by_batch),
        (None, range_by_batch),
    ],
)
def test_values_and_log_sum_exp(score: Function | None, mask: Function | None) -> None:
    variant = read("mine", score, mask)
    out, lse = decode(variant, Q, (K, V), rows=ROWS, parts=PARTS)
    score, mask = (x and IN_FLOAT64.get(x, x) for x in (score, mask))
    expected, expected_lse = dense(score, mask)
    assert np.abs(out - expected).max() <= 2e-6 * np.abs(V).max()
    assert lse is not None
    assert (np.isneginf(lse) == np.isneginf(expected_lse)).all()
    some = np.isfinite(expected_lse)
    np.testing.assert_allclose(lse[some], expected_lse[some], rtol=2e-6, atol=2e-6)
    assert (out[~some] == 0).all()


@pytest.mark.parametrize(
    ("score", "mask"),
    [(biased, None), (alibi, random_by_head), (None, range_by_batch)],
)
def test_heads_split_over_copies_of_their_keys(
    score: Function | None, mask: Function | None
) -> None:
    variant = variant_on_pe(read("mine", score, mask), SIZES)
    plan = plan_on(variant, ROWS, PARTS, WSE3.at(), copies=2)
    assert plan.map.queries == 1 and plan.map.cols == BATCH * HEADS * PARTS
    out, _ = plan.run(Q, K, V)
    score, mask = (x and IN_FLOAT64.get(x, x) for x in (score, mask))
    expected, _ = dense(score, mask)
    assert np.abs(out - expected).max() <= 2e-6 * np.abs(V).max()


@pytest.mark.parametrize("mask", [masks.window(11), masks.dilated(3)])
def test_keys_that_are_not_attended_may_hold_anything(mask: Function) -> None:
    allowed = mask(0, 0, KEYS - 1, np.arange(KEYS))
    broken = K.copy()
    broken[:, :, ~allowed] = np.where(np.arange(DIM) % 2, np.nan, np.inf)
    variant = read("mine", capped, mask)
    out, lse = decode(variant, Q, (broken, V), rows=ROWS, parts=PARTS)
    expected, expected_lse = dense(IN_FLOAT64[capped], mask)
    assert np.abs(out - expected).max() <= 2e-6 * np.abs(V).max()
    assert lse is not None
    np.testing.assert_allclose(lse, expected_lse, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("position", [20, 60])
def test_a_query_elsewhere_than_at_the_newest_key(position: int) -> None:
    variant = read("mine", alibi, masks.causal)
    out, _ = decode(variant, Q, (K, V), rows=ROWS, parts=PARTS, position=position)
    expected, _ = dense(IN_FLOAT64[alibi], masks.causal, position)
    assert np.abs(out - expected).max() <= 2e-6 * np.abs(V).max()


def test_bfloat16_is_near() -> None:
    cache = jnp.asarray(K, jnp.bfloat16), jnp.asarray(V, jnp.bfloat16)
    out, _ = decode(read("mine", alibi), Q, cache, rows=ROWS, parts=PARTS)
    expected, _ = dense(IN_FLOAT64[alibi], None)
    error = np.abs(np.asarray(out, np.float64) - expected).max()
    assert 1e-4 < error < 0.05


# --- the clock ---


def cycles(score: Function | None = None, mask: Function | None = None) -> int:
    variant = variant_on_pe(read("mine", score, mask), SIZES)
    return plan_on(variant, ROWS, PARTS, WSE3.at()).read().end_ticks


def test_a_score_that_is_itself_costs_what_none_costs() -> None:
    plain = cycles()
    assert cycles(lambda s, b, h, q, k: s) == plain
    assert (
        cycles(mask=masks.causal) == plain
    )  # at the last position nothing is left out
    assert cycles(lambda s, b, h, q, k: jnp.where(k <= q, s, -jnp.inf)) == plain


def test_columns_share_what_is_scalar_code() -> None:
    variant = variant_on_pe(read("mine", capped), SIZES)
    shared = plan_on(variant, ROWS, PARTS, WSE3.at())
    alone = dataclasses.replace(shared, shared=False)
    assert shared.shared and shared.read().end_ticks < alone.read().end_ticks
    for values, others in zip(shared.run(Q, K, V), alone.run(Q, K, V), strict=True):
        assert values is not None and others is not None
        np.testing.assert_allclose(values, others, rtol=1e-6, atol=1e-6)


def test_fewer_live_slots_are_never_slower() -> None:
    times = [cycles(mask=masks.window(size)) for size in range(1, KEYS + 5, 6)]
    assert times == sorted(times) and times[0] < times[-1] == cycles()
    assert cycles(mask=masks.dilated(3)) > cycles()  # a mask on every PE


def test_the_gap_between_sinks_and_window_is_skipped() -> None:
    def plan(window: int) -> Any:
        variant = variant_on_pe(read("mine", None, masks.sinks(3, window)), SIZES)
        return plan_on(variant, ROWS, PARTS, WSE3.at())

    # Of 9 slots the first and the last, where windows of 4 and of 40 keys in 5 rows lie.
    near, far = plan(4), plan(40)
    assert near.map.ahead == 1 and near.map.most_live == 2
    assert far.map.ahead == 0 and far.map.most_live == 9
    times = [plan(window).read().end_ticks for window in range(4, 40, 7)]
    assert times == sorted(times) and times[0] < times[-1]
    # From 42 on the window meets the sinks, and there is nothing to leave out.
    assert plan(42).on_pe.mask is None and plan(42).read().end_ticks == cycles()


def test_an_array_by_query_and_key_lies_where_its_keys_are() -> None:
    bias = RNG.standard_normal((HEADS, KEYS, KEYS)).astype(np.float32)

    def score(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
        return s + jnp.asarray(bias)[h, q, k]

    variant = variant_on_pe(read("mine", score), SIZES)
    plan = plan_on(variant, ROWS, PARTS, WSE3.at())
    (shape,) = [x.shape for x in plan.tables.structs().values() if x.shape[-1] > 1]
    # Of 4 heads and 45 keys 2 heads and 9 keys in 10 slots, for each of 45 queries.
    assert shape == (ROWS, BATCH * KV_HEADS * PARTS, 2 * KEYS, 10)
    out, _ = plan.run(Q, K, V)
    expected, _ = dense(lambda s, b, h, q, k: s + bias[h, q, k], None)
    assert np.abs(out - expected).max() <= 2e-6 * np.abs(V).max()
    # A copy of a row takes less than an entry of each slot looked up by scalar code.
    assert plan.read().end_ticks < cycles(relative)


def test_more_arithmetic_is_never_faster() -> None:
    def more(count: int) -> Function:
        def score(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
            for place in range(count):
                s = jnp.tanh(s) if place == 3 else 2 * s + (q - k)
            return s

        return score

    times = [cycles(more(count)) for count in range(6)]
    assert times == sorted(times) and len(set(times)) == len(times)


def test_time_of_a_long_context() -> None:
    sizes = DecodeSizes(
        heads=32, kv_heads=8, head_dim=128, context=131_072, dtype="bfloat16"
    )
    whole = decode_time(read("causal", None, masks.causal), sizes)
    near = decode_time(read("window", None, masks.window(4096)), sizes)
    for time in (whole, near):
        assert time.cycles["low"] < time.cycles["nominal"] < time.cycles["high"]
        assert time.rows * time.bands <= 1_170 and time.sram_bytes <= 49_152
        # A PE holds its keys and values, and is done no sooner than it has read the live ones.
        each = 2 * 2 * 128 * 8 / time.cols
        assert time.sram_bytes >= each * 131_072 / time.rows
    for time, keys in ((whole, 131_072), (near, 4_096)):
        # Products of queries and keys, and of weights and values, are most of it.
        assert 1 < time.flops / (2 * 2 * 32 * 128 * keys) < 2
    assert near.cycles["nominal"] < whole.cycles["nominal"]


def test_many_heads_of_one_key_are_split_while_there_is_room() -> None:
    def time(kv_heads: int, context: int) -> DecodeTime:
        sizes = DecodeSizes(
            heads=32, kv_heads=kv_heads, head_dim=128, context=context, dtype="bfloat16"
        )
        return decode_time(read("full"), sizes)

    one, each = time(1, 131_072), time(32, 131_072)
    assert (one.copies, each.copies) == (32, 1)
    assert one.cycles == each.cycles
    # Of 1.5 million keys there is room for fewer copies.
    assert 1 < time(1, 1_500_000).copies < 32
    variant = variant_on_pe(
        read("full"),
        DecodeSizes(
            heads=32, kv_heads=1, head_dim=128, context=131_072, dtype="bfloat16"
        ),
    )
    alone = plan_on(variant, one.rows, 32, WSE3.at())
    assert alone.read().end_ticks > 4 * one.cycles["nominal"]


# --- refusals ---


def test_refuses_what_a_pe_has_not() -> None:
    def hyperbolic(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
        return s + jnp.sinh(s)

    line = f"test_wafer_decode.py:{hyperbolic.__code__.co_firstlineno + 1}"
    with pytest.raises(CannotLower, match=f"no instruction for sinh.*{line}"):
        cycles(hyperbolic)


def test_refuses_a_cache_that_no_region_holds() -> None:
    sizes = DecodeSizes(heads=8, kv_heads=8, head_dim=128, context=16_000_000)
    with pytest.raises(DoesNotFit, match="16,000,000 keys.*bytes of a PE"):
        decode_time(read("full"), sizes)
    with pytest.raises(LimitExceeded, match="does not lie on WSE-3"):
        decode_time(read("full"), SIZES, rows=2_000)


def test_refuses_shapes_that_do_not_go_together() -> None:
    with pytest.raises(LimitExceeded, match="q must be"):
        decode(read("full"), Q[..., :4], (K, V))
