"""Greedy text: the logits it chose from, where it stops, what it refuses."""

import jax.numpy as jnp
import numpy as np
import pytest

from models.catalogue import TINY
from models.errors import ModelError
from models.plain.oracle import generate
from models.plain.transformer import Transformer, from_weights
from models.plain.weights import random_weights


def random_model(seed: int = 0) -> Transformer:
    """A model of the tiny config with random weights."""
    return from_weights(TINY, random_weights(TINY, seed))


def test_generate_is_greedy_and_gives_the_logits_it_chose_from() -> None:
    model = random_model(5)
    tokens, logits = generate(model, [1, 2, 3], 6)
    assert logits.shape == (6, TINY.vocab_size)
    assert tokens == logits.argmax(-1).tolist()
    all_at_once = model(jnp.asarray([[1, 2, 3, *tokens[:-1]]], jnp.int32))
    np.testing.assert_allclose(all_at_once[0, 2:], logits, rtol=0, atol=1e-5)


def test_generate_stops_after_eos() -> None:
    model = random_model(5)
    tokens, _ = generate(model, [1, 2, 3], 6)
    stop = next(token for token in tokens if token != tokens[0])
    stopped, logits = generate(model, [1, 2, 3], 6, eos_id=stop)
    assert stopped == tokens[: tokens.index(stop) + 1]
    assert len(logits) == len(stopped)
    assert generate(model, [1], 0)[1].shape == (0, TINY.vocab_size)


def test_ties_go_to_the_lowest_id() -> None:
    values = random_weights(TINY, 0)
    zero = from_weights(TINY, values | {"norm": np.zeros_like(values["norm"])})
    assert generate(zero, [7], 2)[0] == [0, 0]


@pytest.mark.parametrize(
    ("ids", "n", "message"),
    [
        ([], 1, "at least one token"),
        ([1, 1024], 1, "from 0 to 1023, got 1024"),
        ([-1], 1, "got -1"),
        ([1], 1024, "must fit 1024 tokens"),
        ([1], -1, "must fit"),
    ],
)
def test_wrong_prompts_are_refused(ids: list[int], n: int, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        generate(random_model(), ids, n)
