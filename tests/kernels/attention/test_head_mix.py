"""Maps that are mixed, such as differential attention, against float64 NumPy row by row."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emu.errors import LimitExceeded
from emu.trainium import TRN3
from emu.wse import WSE3
from kernels import PLACEMENTS, attention, masks, variants
from kernels.attention.decode_plan import plan_on
from kernels.attention.head_mix import HeadMix
from kernels.attention.on_pe import DecodeSizes, variant_on_pe
from kernels.attention.prefill import context_attention
from kernels.attention.reading import read
from kernels.trainium.context.mixed_attention import MixedAttention
from kernels.variants import differential

BATCH, HEADS, KV_HEADS, TOKENS, DIM, VALUE_DIM = 2, 4, 2, 21, 8, 6
RNG = np.random.default_rng(0)
# Of few bits, so that a score's arithmetic in float32 is exact.
SLOPES = (RNG.integers(8, 64, 3 * HEADS) / 64).astype(np.float32)
FACTORS = (None, -RNG.uniform(0.2, 0.8, HEADS).astype(np.float32), np.float32(0.375))
SMALL: dict[str, Any] = dict(columns=8, lanes=2)


def drawn(maps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(maps)
    shapes = (
        (BATCH, maps * HEADS, TOKENS, DIM),
        (BATCH, maps * KV_HEADS, TOKENS, DIM),
        (BATCH, KV_HEADS, TOKENS, VALUE_DIM),
    )
    q, k, v = (rng.standard_normal(x).astype(np.float32) for x in shapes)
    return q, k, v


def score(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
    """Told apart by batch and by map; the first rows attend to nothing."""
    near = (k <= q) & (q - k < 6 + h) & (q >= 2)
    return jnp.where(near, s - jnp.asarray(SLOPES)[h] * (q - k) * (b + 1), -jnp.inf)


def row_by_row(
    operands: tuple[np.ndarray, ...], factors: Any, begin: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Each map's softmax, then the sum; heads of a map stand together."""
    q, k, v = (x.astype(float) for x in operands)
    maps, group = len(factors), HEADS // KV_HEADS
    out = np.zeros((*q.shape[:1], HEADS, q.shape[2], v.shape[-1]))
    sums = np.full(q.shape[:3], -np.inf)
    for b, place, head, n in np.ndindex(len(q), maps, HEADS, q.shape[2]):
        h, position = place * HEADS + head, begin + n
        kv = head // group
        live = [j for j in range(TOKENS) if 0 <= position - j < 6 + h and position >= 2]
        if not live:
            continue
        scores = k[b, place * KV_HEADS + kv, live] @ q[b, h, n] / np.sqrt(DIM)
        scores -= float(SLOPES[h]) * (position - np.array(live)) * (b + 1)
        weights = np.exp(scores)
        sums[b, h, n] = np.log(weights.sum())
        factor = factors[place]
        factor = 1.0 if factor is None else np.broadcast_to(factor, HEADS)[head]
        out[b, head, n] += float(factor) * (weights @ v[b, kv, live]) / weights.sum()
    return out, sums


def assert_near(given: Any, wanted: Any, allowed: float) -> None:
    for one, other in zip(given, wanted, strict=True):
        assert np.shape(one) == np.shape(other)
        nothing = np.isneginf(other)
        np.testing.assert_array_equal(np.isneginf(one), nothing)
        apart = np.where(nothing, 0, one) - np.where(nothing, 0, other)
        assert np.abs(apart).max() <= allowed


def mine(factors: Any = FACTORS) -> HeadMix:
    return HeadMix("mine", attention(score), factors)


@pytest.mark.parametrize("factors", [FACTORS, FACTORS[:2], FACTORS[1:]])
def test_dense(factors: Any) -> None:
    operands = drawn(len(factors))
    given = mine(factors).dense(*operands)
    assert_near(given, row_by_row(operands, factors), 1e-12)


def test_differential_is_one_softmax_less_another() -> None:
    """By halves of the heads, as DiffLlama computes it with one attention of all of them."""
    operands = drawn(2)
    q, k, v = operands
    of_each = np.array([0.25, 0.5, 0.75, 1.0])
    given, _ = differential(of_each, attention(score)).dense(*operands)
    both, _ = attention(score).dense(q, k, np.concatenate([v, v], axis=1))
    first, second = np.split(np.asarray(both), 2, axis=1)
    wanted = first - of_each[:, None, None] * second
    np.testing.assert_allclose(given, wanted, rtol=0, atol=1e-12)
    assert_near([given], [row_by_row(operands, (None, -of_each))[0]], 1e-12)


OTHERS = [
    *((chips, place, "ring") for chips in (1, 2, 4, 8) for place in PLACEMENTS),
    *((2, place, "ulysses") for place in PLACEMENTS),
    *((4, place, "all-gather") for place in PLACEMENTS),
    (2, "striped", "pass-q"),
]
SLOW = [pytest.param(*case, marks=pytest.mark.slow) for case in OTHERS]


@pytest.mark.parametrize(
    ("chips", "placement", "scheme"), [(2, "zigzag", "ring"), *SLOW]
)
def test_prefill(chips: int, placement: str, scheme: str) -> None:
    operands = drawn(3)
    where: dict[str, Any] = dict(chips=chips, placement=placement, scheme=scheme)
    given = mine().prefill(*operands, **where, **SMALL)
    allowed = 2e-6 * np.abs(operands[2]).max()
    assert_near(given, row_by_row(operands, FACTORS), allowed)


@pytest.mark.parametrize("begin", [TOKENS - 1, 1])
def test_decode(begin: int) -> None:
    """At the newest key, and where no map attends to anything."""
    q, k, v = drawn(3)
    newest = q[:, :, -1:]
    given = mine().decode(newest, (k, v), rows=3, parts=2, position=begin)
    wanted = row_by_row((newest, k, v), FACTORS, begin)
    assert_near(given, wanted, 2e-6 * np.abs(v).max())


def test_gradients_of_operands_and_factors() -> None:
    """Of dense along a random direction, against central differences of the reference."""
    rng = np.random.default_rng(1)
    point = [*drawn(2), rng.uniform(0.2, 0.8, HEADS)]
    along = [rng.standard_normal(x.shape) for x in point]
    weights = rng.standard_normal((BATCH, HEADS, TOKENS, VALUE_DIM))

    def loss(q: Any, k: Any, v: Any, of: Any) -> jax.Array:
        out, _ = differential(of, attention(score)).dense(q, k, v)
        return jnp.sum(out * weights)

    with jax.enable_x64(True):
        wide = [jnp.asarray(x, jnp.float64) for x in point]
        gradients = jax.grad(loss, argnums=(0, 1, 2, 3))(*wide)
    step = 1e-5
    for place, gradient in enumerate(gradients):
        ends = []
        for sign in (1, -1):
            moved = [np.asarray(x, float) for x in point]
            moved[place] = moved[place] + sign * step * along[place]
            *operands, of = moved
            out, _ = row_by_row(tuple(operands), (None, -of))
            ends.append(np.sum(out * weights))
        slope = (ends[0] - ends[1]) / (2 * step)
        given = np.sum(np.asarray(gradient) * along[place])
        assert given == pytest.approx(slope, rel=1e-6, abs=1e-6)


@pytest.mark.slow
def test_gradients_through_prefill_are_those_of_dense() -> None:
    q, k, v = drawn(2)
    of = np.random.default_rng(1).uniform(0.2, 0.8, HEADS).astype(np.float32)

    def loss(of_prefill: bool) -> Any:
        def value(q: Any, k: Any, v: Any, of: Any) -> jax.Array:
            variant = differential(of, attention(masks.window(7)))
            form = variant.prefill if of_prefill else variant.dense
            options = SMALL if of_prefill else {"dtype": jnp.float32}
            out, _ = form(q, k, v, **options)
            return jnp.sum(jnp.sin(out))

        return value

    everything = (0, 1, 2, 3)
    given = jax.jit(jax.grad(loss(True), everything))(q, k, v, of)
    wanted = jax.grad(loss(False), everything)(*map(jnp.asarray, (q, k, v, of)))
    for one, other in zip(given, wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


# --- what the machines do ---


def test_values_of_all_maps_are_one() -> None:
    """On links 2 maps of keys and one of values; in a PE as well. Mixing is a multiply-add."""
    sizes: dict[str, Any] = dict(
        q=(1, 8, 512, 64), value_dim=32, chips=4, placement="contiguous"
    )
    reading = read("full", mask=masks.full)
    of_two = context_attention(reading, k=(1, 4, 512, 64), maps=2, **sizes)
    apart = context_attention(reading, k=(1, 4, 512, 64), **sizes)
    mixed = MixedAttention(attention=of_two, counts_as_is=(True, False))
    device = TRN3.at()
    found, plain, whole = (x.read(device) for x in (mixed, of_two, apart))

    def sent(reading: Any) -> int:
        return reading.tally.by("other")["link_bytes"]

    # Of 4 KV heads: keys of 64 features and values of 32, of half as many heads.
    assert sent(found) * (64 + 32) == sent(whole) * (64 + 32 // 2)
    assert plain.tally.flops == whole.tally.flops
    # 4 outputs of 512 queries on all chips.
    assert found.tally.flops - plain.tally.flops == 2 * 4 * 512 * 32
    assert plain.end_ticks < found.end_ticks

    decoded = DecodeSizes(heads=8, kv_heads=2, head_dim=64, value_dim=32, context=512)
    layouts = []
    for mixes in ((), (True, False)):
        kv_heads = 2 if mixes else 4
        own: dict[str, Any] = dict(
            heads=8, kv_heads=kv_heads, head_dim=64, value_dim=32, context=512
        )
        plan = plan_on(
            variant_on_pe(read("full"), DecodeSizes(**own, mixes=mixes)),
            8,
            2,
            WSE3.at(),
        )
        layouts.append(plan.map)
    one, two = layouts
    assert one.cols == 2 * two.cols and decoded.maps == 1
    assert two.cache_shapes()["k"][0] == 2 * one.cache_shapes()["k"][0]
    assert two.cache_shapes()["v"] == one.cache_shapes()["v"]


def test_a_factor_of_one_is_not_multiplied() -> None:
    def ticks(factors: Any) -> list[int]:
        found = HeadMix("mine", variants.causal(), factors).time(
            tokens=64, heads=2, kv_heads=1, head_dim=16, chips=2, rows=4, parts=1
        )
        return [found.prefill.flops, found.decode.cycles["nominal"]]

    as_is, multiplied = ticks((None, -0.5)), ticks((1.0, -0.5))
    assert as_is[0] < multiplied[0] and as_is[1] < multiplied[1]


def test_explanation_is_of_all_maps() -> None:
    found = differential(0.5).explain(tokens=512, heads=2, kv_heads=1, chips=2)
    assert found.name == "differential" and found.mask == "causal"
    assert (found.tiles, found.live) == (16, 10)


@pytest.mark.slow
def test_all_forms_agree() -> None:
    report = mine().check()
    assert report.agrees, report


@pytest.mark.slow
def test_all_forms_of_monoids_agree() -> None:
    """A sink of each head of each map."""
    sinks = np.linspace(-1, 2, 2 * HEADS).astype(np.float32)
    variant = differential(0.5, variants.learned_sink(sinks))
    report = variant.check(chips=(2,), placements=("striped",))
    assert report.agrees, report


def test_lambda_is_the_papers() -> None:
    """exp(1) - exp(-2) + 0.8 - 0.6 exp(-0.3 * 4), by vectors of two features."""
    q1, k1, q2, k2 = map(jnp.asarray, ([1.0, 2], [3.0, -1], [2.0, 0], [-1.0, 5]))
    wanted = np.exp(1) - np.exp(-2) + 0.8 - 0.6 * np.exp(-1.2)
    assert float(variants.lambda_of(q1, k1, q2, k2, 4)) == pytest.approx(wanted)


# --- refusals ---


def test_heads_that_do_not_fit_are_refused() -> None:
    q, k, v = drawn(3)
    with pytest.raises(LimitExceeded, match=r"must be \[batch, 3 \* heads"):
        mine().prefill(q, k, k[..., :VALUE_DIM])
    with pytest.raises(LimitExceeded, match="factor 1 is .4., must be one number"):
        mine().dense(q[:, ::2], k[:, :3], v[:, :1])
    with pytest.raises(LimitExceeded, match="maps is 3 and dtype mxfp8"):
        mine().prefill(q, k, v, dtype="mxfp8")
