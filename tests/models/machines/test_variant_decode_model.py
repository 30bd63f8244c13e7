"""Decode with attention variants: the oracle's logits token by token, and cycles and bytes."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from emu import Quantity
from emu.lower import CannotLower
from emu.wse import WSE3
from kernels import attention, masks, variants
from models.attention_pattern import pattern_of
from models.machines.decode import Decoder
from models.plain.kv_cache import empty_cache
from models.plain.oracle import jitted_extend
from models.plain.weights import random_weights
from tests.models.machines.test_prefill import LLAMA, structs_of

# Four query heads over two KV heads; `head_dim` 16 is 8 pairs, on up to 8 columns.
MODEL = dataclasses.replace(
    LLAMA, hidden_size=32, intermediate_size=48, num_hidden_layers=3, vocab_size=64
)
WEIGHTS = random_weights(MODEL, 0)
CONTEXT = 26


@attention
def by_head(s, b, h, q, k):
    """A window as wide as its head, soft-capped, with a slope of its own."""
    near = (k <= q) & (q - k < 4 * (h + 1))
    return jnp.where(near, 3 * jnp.tanh(s / 3) - 0.1 * (h + 1) * (q - k), -jnp.inf)


# Nothing of a softmax: squares of what of the scores is positive, with nothing to divide by.
SQUARES = attention.monoid(
    partial=lambda s, v, b, h, q, k: (jnp.maximum(s, 0) ** 2 * v,),
    merge=lambda one, other: (one[0] + other[0],),
    finish=lambda state, b, h, q, d: state[0],
    mask=masks.window(7),
    name="squares",
)


def narrow(rows: int):
    """A wafer on which a region is as many rows high, so that a PE has several slots."""
    size = Quantity(rows, "published", "a lower wafer, for the test")
    return dataclasses.replace(WSE3, grid_height=size).at()


WINDOW = variants.sliding_window(5)
SINKS = np.linspace(-1, 2, 4).astype(np.float32)
SINK = variants.learned_sink(SINKS)
SINK_AND_WINDOW = variants.learned_sink(SINKS, masks.window(5))
# Before its first token of a document a query attends to nothing but itself.
DOCUMENTS = attention(masks.documents([4, 9, 7]))
CASES = {
    "window": (WINDOW, 3),
    "alibi": (variants.alibi(4), 4),
    "soft_cap": (variants.soft_cap(1.0), 3),
    "dilated": (variants.dilated_window(3, 2), 3),
    "sinks": (variants.sinks_window(2, 4), 3),
    "documents": (DOCUMENTS, 4),
    # A view of one layer, gaps in another, all slots in the third; the cache is theirs in common.
    # As gpt-oss: a learned sink of each head, of a window and of all in turn.
    "learned_sinks": ([SINK_AND_WINDOW, SINK], 3),
    "squares": (SQUARES, 3),
    "pattern": ([WINDOW, by_head, variants.full()], 3),
}
SLOW = ("alibi", "dilated", "sinks", "squares", "soft_cap")


def decoder(name: str) -> Decoder:
    asked, rows = CASES[name]
    return Decoder(MODEL, WEIGHTS, CONTEXT, device=narrow(rows), attention=asked)


@pytest.mark.parametrize(
    "name",
    [pytest.param(x, marks=pytest.mark.slow) if x in SLOW else x for x in CASES],
)
def test_logits_are_the_oracles_at_every_position(name: str) -> None:
    asked, _ = CASES[name]
    machine = decoder(name)
    assert machine.plan.kinds[0].map.slots > 5
    ids = np.random.default_rng(3).integers(0, MODEL.vocab_size, (1, CONTEXT))
    wanted, _ = jitted_extend(
        MODEL,
        WEIGHTS,
        jnp.asarray(ids, jnp.int32),
        empty_cache(MODEL, 1, CONTEXT),
        pattern_of(asked, MODEL.num_hidden_layers),
    )
    cache = machine.empty_cache()
    for pos, token in enumerate(ids[0]):
        after, logits, cache = machine.step(token, pos, cache)
        np.testing.assert_allclose(logits, wanted[0, pos], rtol=1e-4, atol=2e-5)
        assert after == np.asarray(logits).argmax()


def test_a_gap_behind_sinks_is_skipped() -> None:
    """Of 40 slots a row a few are gone through; from a cache of the oracle's, before and behind."""
    asked, tokens = variants.sinks_window(4, 6), 120
    plain, machine = (
        Decoder(MODEL, WEIGHTS, tokens, device=narrow(3), attention=variant)
        for variant in (None, asked)
    )
    (kind,) = machine.plan.kinds
    variant = kind.attention
    assert variant is not None and variant.map.ahead == 2 and variant.map.slots <= 6
    assert machine.read(tokens - 1).cycles < plain.read(tokens - 1).cycles
    ids = np.random.default_rng(3).integers(0, MODEL.vocab_size, (1, tokens))
    wanted, cache = jitted_extend(
        MODEL,
        WEIGHTS,
        jnp.asarray(ids, jnp.int32),
        empty_cache(MODEL, 1, tokens),
        pattern_of(asked, MODEL.num_hidden_layers),
    )
    k, v = (np.asarray(x)[:, 0].swapaxes(1, 2) for x in (cache.k, cache.v))
    for pos in (1, 4, 7, 11, 12, 60, 119):
        held = machine.cache_from(k[:, :pos], v[:, :pos])
        _, logits, _ = machine.step(ids[0, pos], pos, held)
        np.testing.assert_allclose(logits, wanted[0, pos], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", CASES)
def test_bytes_and_cycles_are_those_of_the_programs(name: str) -> None:
    machine = decoder(name)
    plan = machine.plan
    attention = [kind.attention for kind in plan.kinds]
    tables = [x.table_bytes for x in attention if x is not None]
    of_layer = plan.layer_bytes
    assert of_layer.get("tables", 0) in tables
    assert sum(of_layer.values()) <= WSE3.at().sram_bytes
    step = machine.read(CONTEXT - 1)
    parts = machine.clock.stops(CONTEXT - 1, "nominal")
    assert step.wafer_cycles == sum(reading.end_ticks for reading in parts)


def cycles(asked, pos: int, rows: int = 8) -> int:
    machine = Decoder(MODEL, WEIGHTS, 120, device=narrow(rows), attention=asked)
    return machine.read(pos).cycles


def test_a_causal_variant_takes_the_cycles_of_none() -> None:
    for pos in (0, 7, 119):
        assert cycles(variants.causal(), pos) == cycles(None, pos)
        assert cycles(variants.full(), pos) == cycles(None, pos)


def test_a_window_takes_as_long_wherever_it_is_and_less_than_all() -> None:
    window = variants.sliding_window(16)
    # 16 keys on 8 rows are 2 slots of each, from the sixteenth token on; all three are of one row.
    later = {cycles(window, pos) for pos in (16, 40, 112)}
    assert len(later) == 1
    assert later.pop() < cycles(None, 112)


def test_arithmetic_on_scores_takes_time_and_tables_take_bytes() -> None:
    assert cycles(variants.soft_cap(), 119) > cycles(None, 119)
    plain = Decoder(MODEL, WEIGHTS, 120, device=narrow(8))
    slopes = Decoder(MODEL, WEIGHTS, 120, device=narrow(8), attention=variants.alibi(4))
    assert "tables" not in plain.plan.layer_bytes
    # Each PE holds the positions of its slots, and a slope for each of its query heads.
    assert slopes.plan.layer_bytes["tables"] >= 4 * (slopes.plan.kinds[0].map.slots + 2)


def test_a_last_step_by_position_is_refused() -> None:
    gated = attention.monoid(
        finish=lambda state, b, h, q, d: state.output / state.total * (q + 1),
        mask=masks.causal,
        name="by_position",
    )
    with pytest.raises(CannotLower, match="finish of by_position: depends on q"):
        Decoder(MODEL, WEIGHTS, 16, attention=gated)


def test_what_a_pe_has_not_is_refused_with_its_line() -> None:
    @attention
    def sorted_scores(s, b, h, q, k):
        return s + jnp.sort(jnp.stack([s, s + 1]))[0]

    with pytest.raises(CannotLower, match="test_variant_decode_model.py:"):
        Decoder(MODEL, structs_of(MODEL), 16, attention=sorted_scores)
