"""Laws of a variant's time: less to attend to is never slower, more arithmetic never faster.

Of tiles that are attended to, one that a mask cuts costs more than a whole one; so masks are
compared of which one leaves out tiles of the other, and the rest is the same. (Of 8 tiles a window
of 4 cuts 4 more than causality does, and one of 5 only 3: it may be faster.) The Tensor Engine's
throttle is off: a pause lets it cool, and less work may then take longer.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.trainium import TRN3
from kernels import PLACEMENTS, Variant, attention, masks, variants
from kernels.attention.decode import DecodeTime, decode_time
from kernels.attention.on_pe import DecodeSizes
from kernels.attention.prefill import context_attention
from kernels.trainium.context.attention import ContextAttention

LAW = settings(max_examples=3, derandomize=True, deadline=None)
CHIP = dataclasses.replace(TRN3, throttles={}).at()
TILE, TILES, HEADS = 128, 8, 2
TOKENS = TILE * TILES
SHAPE = (1, HEADS, TOKENS, 64)


def context(
    variant: Variant, chips: int = 2, placement: str = "contiguous"
) -> ContextAttention:
    sizes: dict[str, Any] = dict(q=SHAPE, k=SHAPE, dtype=jnp.bfloat16)
    small: dict[str, Any] = dict(chips=chips, columns=TILE, lanes=1)
    return context_attention(variant.reading, placement=placement, **sizes, **small)


def ticks(variant: Variant, *where: Any) -> int:
    return context(variant, *where).read(CHIP).end_ticks


def decode(
    variant: Variant, rows: int | None = 16, parts: int | None = 2
) -> DecodeTime:
    sizes = DecodeSizes(
        batch=1, heads=HEADS, kv_heads=1, head_dim=64, context=TOKENS, dtype="bfloat16"
    )
    return decode_time(variant.reading, sizes, rows=rows, parts=parts)


def cycles(variant: Variant, *region: Any) -> int:
    return decode(variant, *region).cycles["nominal"]


# --- fewer live tiles ---

where = st.tuples(st.sampled_from([1, 2, 4]), st.sampled_from(PLACEMENTS))


def of_tiles(table: np.ndarray) -> Variant:
    """Causal, in tiles that a table `[TILES, TILES]` has."""
    live = jnp.asarray(table)
    return attention(lambda b, h, q, k: (k <= q) & live[q // TILE, k // TILE])


@LAW
@given(where, st.integers(0, 2**32), st.floats(0.1, 0.9))
def test_fewer_live_tiles_are_never_slower_to_prefill(
    where: tuple[int, str], seed: int, share: float
) -> None:
    drawn = np.random.default_rng(seed).uniform(size=(2, TILES, TILES))
    more = drawn[0] < share
    # Each query has its own tile, so that no chip is without work.
    np.fill_diagonal(more, True)
    fewer = more & (drawn[1] < 0.7)
    assert ticks(of_tiles(fewer), *where) <= ticks(of_tiles(more), *where)


@pytest.mark.parametrize("region", [(16, 2), (None, None)])
def test_a_shorter_window_is_never_slower_to_decode(region: tuple[Any, Any]) -> None:
    """On one region; on regions that an estimate chooses for each, but for what that may err."""
    sizes = [1, 2, 15, 64, 100, 512, TOKENS]
    times = [cycles(variants.sliding_window(n), *region) for n in sizes]
    # Of 64 keys 8 rows are chosen, which take 1,004 cycles, of 100 keys 25 rows with 993.
    err = 0.02 if region == (None, None) else 0
    assert all(
        longer >= (1 - err) * shorter for shorter, longer in itertools.pairwise(times)
    )
    assert times[0] < times[-1]


# --- more arithmetic ---

SLOPES = jnp.asarray(np.geomspace(0.5, 0.1, HEADS), jnp.float32)
BIAS = jnp.asarray(np.linspace(-1, 1, TOKENS), jnp.float32)
STEPS: dict[str, Callable[..., Any]] = {
    "times": lambda s, h, q, k: s * 0.5,
    "tanh": lambda s, h, q, k: jnp.tanh(s),
    "exp": lambda s, h, q, k: jnp.exp(s),
    "squared": lambda s, h, q, k: s * s,
    "distance": lambda s, h, q, k: s - SLOPES[h] * (q - k),
    "of key": lambda s, h, q, k: s + BIAS[k],
    "of head": lambda s, h, q, k: s * SLOPES[h],
    "chosen": lambda s, h, q, k: jnp.where((q - k) % 2 == 0, s, 0.5 * s),
    "capped": lambda s, h, q, k: jnp.minimum(s, 3.0),
}


# Factors that a score begins with: Trainium's softmax scales scores anyway, and takes them up.
TAKEN_UP = {"times", "of head"}


def of_steps(names: Sequence[str]) -> Variant:
    def steps(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
        for name in names:
            s = STEPS[name](s, h, q, k)
        return s

    return attention(steps, mask=masks.causal)


@LAW
@given(st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=4))
def test_a_step_more_is_never_faster(names: list[str]) -> None:
    """On either machine, from causal attention without a score to all the steps."""
    made = [of_steps(names[:count]) for count in range(len(names) + 1)]
    on_mesh, on_wafer = [ticks(x) for x in made], [cycles(x) for x in made]
    assert on_mesh == sorted(on_mesh) and on_wafer == sorted(on_wafer)
    assert on_wafer[0] < on_wafer[-1]
    assert on_mesh[0] < on_mesh[-1] or TAKEN_UP.issuperset(names)


# --- in disguise ---


def by_score(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
    return jnp.where(k <= q, s, -jnp.inf)


CAUSAL: dict[str, Variant] = {
    "a score": attention(by_score),
    "not later": attention(lambda b, h, q, k: ~(k > q)),
    "a window of all": variants.sliding_window(TOKENS),
    "a longer one": variants.sliding_window(3 * TOKENS),
    "one chunk": variants.chunked(TOKENS),
    "no prefix": variants.prefix_lm(0),
    "both": attention(by_score, mask=masks.causal),
    "of window or causal": attention(masks.or_masks(masks.window(9), masks.causal)),
}
FULL: dict[str, Variant] = {
    "near": attention(lambda b, h, q, k: abs(q - k) < TOKENS),
    "one block": variants.block_causal(TOKENS),
    "a whole prefix": variants.prefix_lm(TOKENS),
    "a score of its own": attention(lambda s, b, h, q, k: s),
}


@pytest.mark.parametrize("name", [*CAUSAL, *FULL])
def test_one_in_disguise_costs_the_same(name: str) -> None:
    """To the tick on both machines, arithmetic that only decides who attends being none."""
    plain = "causal" if name in CAUSAL else "full"
    disguised = (CAUSAL | FULL)[name]
    assert (ticks(disguised), cycles(disguised)) == of_plain(plain)


@functools.cache
def of_plain(name: str) -> tuple[int, int]:
    plain = variants.causal() if name == "causal" else variants.full()
    return ticks(plain), cycles(plain)


def penalised(slope: float) -> Variant:
    table = jnp.full(HEADS, slope, jnp.float32)
    return attention(lambda s, b, h, q, k: s - table[h] * (q - k), mask=masks.causal)


@pytest.mark.parametrize("placement", ["contiguous", "zigzag"])
def test_no_penalty_costs_its_arithmetic_and_no_more(placement: str) -> None:
    """ALiBi with slopes of 0: as much as with any, and above causal by its arithmetic alone.

    That is what engines are busy more, and by how much the chain of what waits for each other is
    longer.
    """
    plain, none = (
        context(x, 2, placement) for x in (variants.causal(), penalised(0.0))
    )
    assert none.read(CHIP).end_ticks == ticks(penalised(0.5), 2, placement)
    of_both = [(x.read(CHIP), x.read(CHIP, contended=False)) for x in (plain, none)]
    (before, chain), (after, longer) = of_both
    busy, others = (x.most_busy_ticks for x in (after, before))
    more = sum(busy.values()) - sum(others.values())
    explained = more + longer.end_ticks - chain.end_ticks
    assert 0 < after.end_ticks - before.end_ticks <= explained


def test_no_penalty_costs_its_arithmetic_on_a_wafer() -> None:
    none, causal = decode(penalised(0.0)), decode(variants.causal())
    assert none.cycles == decode(penalised(0.5)).cycles
    assert none.cycles["nominal"] > causal.cycles["nominal"]
