"""Prefill with attention variants: the oracle's token, logits and cache, and their time."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from emu.errors import LimitExceeded
from emu.trainium.datasheets import TRN3, with_cores
from kernels import attention, masks, variants
from models.machines.prefill import Prefill
from models.machines.useful_flops import useful_flops
from models.plain import oracle
from models.plain.kv_cache import empty_cache
from models.plain.weights import random_weights
from tests.models.machines.test_prefill import LLAMA, near, prompt_of, structs_of

MODEL = dataclasses.replace(LLAMA, num_hidden_layers=3, vocab_size=96)
# Three query heads for each of two KV heads: on four cores a group is cut, and places hold padding.
PADDED = dataclasses.replace(MODEL, num_attention_heads=6)


@attention
def by_head(s, b, h, q, k):
    """A window as wide as its head, soft-capped, with a slope of its own."""
    near = (k <= q) & (q - k < 4 * (h + 1))
    return jnp.where(near, 3 * jnp.tanh(s / 3) - 0.1 * (h + 1) * (q - k), -jnp.inf)


WINDOW = variants.sliding_window(5)
SINKS = np.linspace(-1, 2, 6).astype(np.float32)
SINK = variants.learned_sink(SINKS)
SINK_AND_WINDOW = variants.learned_sink(SINKS, masks.window(5))
# What is asked, of which model, for how many tokens, on how many chips and cores, and how placed.
CASES = {
    "window": (WINDOW, MODEL, 37, 3, 1, "contiguous"),
    "alibi": (variants.alibi(4), MODEL, 37, 1, 2, "contiguous"),
    "soft_cap": (variants.soft_cap(1.0), MODEL, 37, 3, 1, "tile-cyclic"),
    "pattern": ([WINDOW, by_head], MODEL, 41, 3, 2, "zigzag"),
    # As gpt-oss: a learned sink of each head, of a window and of all in turn.
    "sinks": ([SINK_AND_WINDOW, SINK], PADDED, 21, 2, 4, "contiguous"),
    "padded": ([by_head, variants.full()], PADDED, 21, 2, 4, "auto"),
}
SLOW = ("window", "alibi", "soft_cap", "padded")


def prefilled(name):
    asked, config, tokens, chips, cores, placement = CASES[name]
    return Prefill(
        config,
        random_weights(config, 0),
        tokens=tokens,
        chips=chips,
        cores=cores,
        dtype=jnp.float32,
        placement=placement,
        attention=asked,
    )


@pytest.mark.parametrize(
    "name",
    [pytest.param(x, marks=pytest.mark.slow) if x in SLOW else x for x in CASES],
)
def test_agrees_with_the_oracle(name):
    """5e-5 of the largest, as without variants: sums in another order."""
    asked, config, tokens, *_ = CASES[name]
    prompt = prompt_of(config, tokens)
    result = prefilled(name).run(prompt)
    model = oracle.Transformer(
        config, weights=random_weights(config, 0), attention=asked
    )
    ids = jnp.asarray([prompt], jnp.int32)
    logits, cache = oracle.jitted_extend(
        config,
        random_weights(config, 0),
        ids,
        empty_cache(config, 1, tokens),
        model.attention,
    )
    near(result.logits, np.asarray(logits[0, -1]), 5e-5)
    near(result.k, np.asarray(cache.k)[:, 0].swapaxes(1, 2), 5e-5)
    near(result.v, np.asarray(cache.v)[:, 0].swapaxes(1, 2), 5e-5)
    assert result.token == logits[0, -1].argmax()
    plain, _ = oracle.jitted_extend(
        config, random_weights(config, 0), ids, empty_cache(config, 1, tokens)
    )
    assert np.abs(np.asarray(plain[0, -1]) - result.logits).max() > 1e-3


@pytest.mark.parametrize("name", CASES)
def test_jumping_is_stepping_and_work_covers_the_useful(name):
    prefill = prefilled(name)
    *_, cores, _ = CASES[name]
    device = with_cores(TRN3, cores).at()
    reading = prefill.read(device)
    stepped = prefill.read(device, jump=False)
    assert reading.clock.end_ticks == stepped.clock.end_ticks
    assert reading.layer_done_s == stepped.layer_done_s
    issued = reading.clock.tally.by("flops")["trn.nc_matmul"]
    assert issued >= prefill.useful_flops


def test_another_monoid_than_a_softmax_is_refused_by_name():
    squares = attention.monoid(
        partial=lambda s, v, b, h, q, k: (jnp.maximum(s, 0) ** 2 * v,),
        merge=lambda one, other: (one[0] + other[0],),
        finish=lambda state, b, h, q, d: state[0],
        mask=masks.causal,
        name="squares",
    )
    with pytest.raises(
        LimitExceeded, match="squares: weights and sums of a layer must"
    ):
        Prefill(
            MODEL,
            structs_of(MODEL),
            tokens=8,
            chips=1,
            dtype=jnp.float32,
            attention=squares,
        )


def test_a_causal_variant_takes_the_time_of_none():
    """And has its FLOPs, counted from the mask instead of in closed form."""
    config = dataclasses.replace(MODEL, num_hidden_layers=1)
    structs = structs_of(config)
    plain, same, window, capped = (
        Prefill(
            config, structs, tokens=1600, chips=2, dtype=jnp.float32, attention=asked
        )
        for asked in (None, variants.causal(), WINDOW, variants.soft_cap())
    )
    device = TRN3.at()
    times = [x.read(device).clock.end_ticks for x in (plain, same, window, capped)]
    assert times[0] == times[1]
    # Fewer tiles are live, and more is done to each score.
    assert times[2] < times[0] < times[3]
    assert plain.useful_flops == same.useful_flops == useful_flops(config, 1600)
    pairs = sum(min(query + 1, 5) for query in range(1600)) * 4
    assert window.useful_flops == useful_flops(config, 1600, pairs)


@attention
def wide(s, b, h, q, k):
    return jnp.where(k <= q, 3 * jnp.tanh(s / 3) - 0.1 * (q - k), -jnp.inf)


@pytest.mark.parametrize(
    ("asked", "tokens", "better", "worse"),
    [
        (by_head, 4096, "tile-cyclic", "contiguous"),
        (wide, 2048, "zigzag", "tile-cyclic"),
    ],
)
def test_auto_weighs_smaller_tiles_against_fewer(asked, tokens, better, worse):
    """Of a narrow window few small tiles are live; else many small ones take more instructions."""
    config = dataclasses.replace(MODEL, num_hidden_layers=1)

    def prefill(placement):
        return Prefill(
            config,
            structs_of(config),
            tokens=tokens,
            chips=2,
            dtype=jnp.bfloat16,
            placement=placement,
            attention=asked,
        )

    chosen, other = prefill("auto"), prefill(worse)
    assert chosen.placement == better
    times = [x.read(TRN3.at()).clock.end_ticks for x in (chosen, other)]
    assert times[0] < times[1]


def test_time_of_a_pattern_is_that_of_its_layers():
    """Layers at their own time: local ones of a pattern take what local ones alone take."""
    config = dataclasses.replace(MODEL, num_hidden_layers=12)
    structs = structs_of(config)

    def layers(asked):
        prefill = Prefill(
            config, structs, tokens=1500, chips=1, dtype=jnp.bfloat16, attention=asked
        )
        reading = prefill.read(TRN3.at())
        done = np.round(np.asarray(reading.layer_done_s) * TRN3.at().tick_hz)
        return np.diff(done)

    whole, local = variants.full(), attention(masks.window(100))
    alone, mixed = layers(local), layers([local, local, whole])
    assert mixed[2::3].min() > alone.max()
    np.testing.assert_allclose(mixed[4::3], alone[4], rtol=0.01)
