"""The oracle with attention variants: written-out scores, a cache, errors, and training."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from emu.lower import CannotLower
from kernels import attention, masks, variants
from models.attention_pattern import Pattern
from models.catalogue import TINY
from models.errors import ModelError
from models.plain.kv_cache import empty_cache
from models.plain.oracle import jitted_extend
from models.plain.transformer import Transformer, forward, from_weights, weights
from models.plain.weights import random_weights
from tests.models.plain import layer_reference

SMALL = dataclasses.replace(
    TINY,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=5,
    head_dim=8,
    vocab_size=64,
)
SEQ = 19
Q, K = np.indices((SEQ, SEQ))
CAUSAL = K <= Q
# float32 sums of five layers; logits are about 1 in size, and a wrong mask changes them by 0.1.
TOLERANCE = 2e-5


@attention
def mine(s, b, h, q, k):
    """Differs by sequence and head, and its -inf is part of the score."""
    near = (k <= q) & (q - k < 3 + 2 * h + b)
    return jnp.where(near, 3 * jnp.tanh(s / 3) - 0.1 * (q - k), -jnp.inf)


def mine_written_out(s: np.ndarray) -> np.ndarray:
    b = np.arange(s.shape[0])[:, None, None, None]
    h = np.arange(s.shape[1])[:, None, None]
    near = CAUSAL & (Q - K < 3 + 2 * h + b)
    return np.where(near, 3 * np.tanh(s / 3) - 0.1 * (Q - K), -np.inf)


def alibi_written_out(s: np.ndarray) -> np.ndarray:
    slopes = np.array([1 / 4, 1 / 16, 1 / 64, 1 / 256])[:, None, None]
    return np.where(CAUSAL, s - slopes * (Q - K), -np.inf)


def sink_written_out(s: np.ndarray) -> np.ndarray:
    """A key more, of each head's own score."""
    sinks = np.broadcast_to(SINKS[:, None, None], (*s.shape[:3], 1))
    return np.concatenate([np.where(CAUSAL & (Q - K < 4), s, -np.inf), sinks], -1)


SINKS = np.linspace(-1, 2, 4).astype(np.float32)
WRITTEN_OUT = {
    "window": (
        variants.sliding_window(4),
        lambda s: np.where(CAUSAL & (Q - K < 4), s, -np.inf),
    ),
    "alibi": (variants.alibi(4), alibi_written_out),
    "soft_cap": (
        variants.soft_cap(2.0),
        lambda s: np.where(CAUSAL, 2 * np.tanh(s / 2), -np.inf),
    ),
    "mine": (mine, mine_written_out),
    "sink": (
        variants.learned_sink(SINKS, masks.window(4)),
        sink_written_out,
    ),
    "full": (variants.full(), lambda s: np.where(CAUSAL, s, -np.inf)),
    "prefix": (variants.prefix_lm(6), lambda s: np.where(CAUSAL, s, -np.inf)),
}
PATTERNS = {
    **{name: (name,) for name in WRITTEN_OUT},
    "two": ("window", "full"),
    "gpt_oss": ("sink", "full"),
    "three": ("window", "window", "mine"),
}


def tokens(batch: int = 2, seq: int = SEQ) -> jax.Array:
    drawn = np.random.default_rng(5).integers(0, SMALL.vocab_size, (batch, seq))
    return jnp.asarray(drawn, jnp.int32)


def asked(names: tuple[str, ...]) -> Pattern:
    return Pattern(tuple(WRITTEN_OUT[name][0] for name in names))


@pytest.mark.parametrize("name", PATTERNS)
def test_logits_are_those_of_scores_written_out(name: str) -> None:
    names = PATTERNS[name]
    values = random_weights(SMALL, 1)
    layers = range(SMALL.num_hidden_layers)
    changed = [WRITTEN_OUT[names[layer % len(names)]][1] for layer in layers]
    wanted = layer_reference.logits(SMALL, values, np.asarray(tokens()), changed)
    model = from_weights(SMALL, values, asked(names))
    np.testing.assert_allclose(model(tokens()), wanted, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["gpt_oss", "three"])
def test_with_a_cache_they_are_the_same(name: str) -> None:
    """A prompt, then token by token, with slots that are not filled."""
    model = from_weights(SMALL, random_weights(SMALL, 1), asked(PATTERNS[name]))
    ids = tokens()
    cache = empty_cache(SMALL, 2, 32)
    rows = []
    for start, end in [(0, 11), *((at, at + 1) for at in range(11, SEQ))]:
        part = ids[:, start:end]
        row, cache = jitted_extend(SMALL, weights(model), part, cache, model.attention)
        rows.append(row)
    np.testing.assert_allclose(jnp.concatenate(rows, 1), model(ids), rtol=0, atol=1e-5)


def test_a_causal_variant_is_the_model_without_one() -> None:
    values = random_weights(SMALL, 1)
    plain = from_weights(SMALL, values)
    same = from_weights(SMALL, values, variants.causal())
    np.testing.assert_allclose(same(tokens()), plain(tokens()), rtol=0, atol=1e-5)


def test_a_query_that_attends_to_nothing_gives_zeros() -> None:
    """Of documents of 4 tokens the rest attends to nothing: its layer adds nothing."""
    only = attention(masks.documents([4]))
    values = random_weights(SMALL, 1)
    wanted = layer_reference.logits(
        SMALL,
        values,
        np.asarray(tokens()),
        [lambda s: np.where(CAUSAL & (Q < 4) & (K < 4), s, -np.inf)] * 5,
    )
    found = from_weights(SMALL, values, only)(tokens())
    np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE)


def test_each_distinct_variant_is_traced_once_whatever_the_layers() -> None:
    calls = []

    def counted(name):
        def score(s, b, h, q, k):
            calls.append(name)
            return s * 1.5

        return attention(score, name=name)

    one, other = counted("one"), counted("other")
    pattern = Pattern((one, one, other, one, other))
    values = random_weights(SMALL, 1)
    for variant in (one, other):
        assert variant.reading.score is not None
    calls.clear()
    jax.make_jaxpr(lambda ids: forward(SMALL, values, ids, pattern))(tokens())
    assert sorted(calls) == ["one", "other"]


def test_training_moves_weights_and_what_a_score_holds() -> None:
    """A few steps of Adam on one batch: the loss falls, and the learned bias has a gradient."""
    ids = tokens(4)

    def loss(trained):
        table = trained["bias"]

        @attention(mask=masks.causal)
        def biased(s, b, h, q, k):
            return s + table[h, jnp.minimum(q - k, 7)]

        logits = forward(
            SMALL, trained["weights"], ids[:, :-1], [variants.sliding_window(4), biased]
        )
        return optax.softmax_cross_entropy_with_integer_labels(
            logits, ids[:, 1:]
        ).mean()

    trained = {
        "weights": jax.tree.map(jnp.asarray, random_weights(SMALL, 2)),
        "bias": jnp.zeros((4, 8), jnp.float32),
    }
    optimizer = optax.adam(1e-2)
    state = optimizer.init(trained)
    losses = []

    @jax.jit
    def step(trained, state):
        found, gradient = jax.value_and_grad(loss)(trained)
        with jax.numpy_dtype_promotion("standard"):  # optax's own arithmetic
            updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(trained, updates), state, found, gradient

    for _ in range(5):
        trained, state, found, gradient = step(trained, state)
        losses.append(float(found))
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0] - 0.5
    assert np.abs(np.asarray(trained["bias"])).min(axis=1).max() > 0


# --- what is refused ---


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ([], "pattern of no variants"),
        ([variants.full()] * 6, "6 variants, the model has 5 layers"),
        ([variants.full(), masks.causal], r"variant 1 of the pattern is <mask causal>"),
        (masks.causal, "attention is <mask causal>, must be a variant"),
        ("window", "attention is 'window', must be a variant or a sequence"),
    ],
)
def test_what_is_no_pattern_is_refused(wrong, told: str) -> None:
    with pytest.raises(ModelError, match=told):
        Transformer(SMALL, weights=random_weights(SMALL, 1), attention=wrong)


def test_a_variant_that_no_machine_reads_is_refused_with_its_line() -> None:
    @attention
    def by_value(s, b, h, q, k):
        return jnp.where(s > 0, s, -jnp.inf)

    with pytest.raises(CannotLower, match=r"depends on the score.*test_model_variants"):
        from_weights(SMALL, random_weights(SMALL, 1), by_value)
