"""Which part of a model each core of a chip holds, and the weights dealt out accordingly."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from models.catalogue import LLAMA_3_1_8B, QWEN3_0_6B, SMOLLM2_135M, TINY
from models.machines.tensor_parallel import PADDING, deal, divide_model

# Heads over KV heads: 32/8, 16/8, 9/3 and 4/2, and 6 over a single one.
MULTI_QUERY = dataclasses.replace(TINY, num_attention_heads=6, num_key_value_heads=1)
CONFIGS = (LLAMA_3_1_8B, QWEN3_0_6B, SMOLLM2_135M, TINY, MULTI_QUERY)
EACH = pytest.mark.parametrize(
    "config", CONFIGS, ids=lambda c: f"{c.num_attention_heads}h"
)
CORES = pytest.mark.parametrize("cores", [1, 2, 3, 4, 7, 8])


@EACH
@CORES
def test_every_head_and_column_is_on_one_core(config, cores):
    shares = divide_model(config, cores)
    for index, count in (
        (shares.heads, config.num_attention_heads),
        (shares.ffn, config.intermediate_size),
    ):
        assert index.shape[0] == cores
        np.testing.assert_array_equal(
            np.sort(index[index != PADDING]), np.arange(count)
        )


@EACH
@CORES
def test_every_query_head_stands_with_its_kv_head(config, cores):
    """The kernel pairs query head j with KV head `j // (heads a core / KV heads a core)`."""
    shares = divide_model(config, cores)
    own = shares.heads.shape[1] // shares.kv_heads.shape[1]
    group = config.num_attention_heads // config.num_key_value_heads
    for core, j in zip(*np.nonzero(shares.heads != PADDING), strict=True):
        assert shares.kv_heads[core, j // own] == shares.heads[core, j] // group


@EACH
@CORES
def test_every_kv_head_is_taken_from_a_core_that_holds_it(config, cores):
    shares = divide_model(config, cores)
    held = shares.kv_heads.ravel()[shares.kv_owners()]
    np.testing.assert_array_equal(held, np.arange(config.num_key_value_heads))


@EACH
@CORES
def test_logits_cover_the_vocabulary(config, cores):
    """No core computes more than its share, rounded up; none computes a padded logit."""
    ids = divide_model(config, cores).vocabulary
    assert ids.shape == (cores, -(-config.vocab_size // cores))
    np.testing.assert_array_equal(np.unique(ids), np.arange(config.vocab_size))
    assert (np.diff(ids, axis=1) == 1).all() and (np.diff(ids[:, 0]) >= 0).all()


def test_a_small_vocabulary_leaves_the_maximum_enough_columns():
    ids = divide_model(dataclasses.replace(TINY, vocab_size=20), 8).vocabulary
    assert ids.shape == (8, 8) and set(ids.ravel()) == set(range(20))


@EACH
def test_one_core_holds_the_model_in_its_own_order(config):
    c, shares = config, divide_model(config, 1)
    counts = (
        c.num_attention_heads,
        c.num_key_value_heads,
        c.intermediate_size,
        c.vocab_size,
    )
    for index, count in zip(dataclasses.astuple(shares), counts, strict=True):
        np.testing.assert_array_equal(index, np.arange(count)[None])


# 3 groups of 3: two cores a group, as one core cannot have 9 / 8.
@pytest.mark.parametrize(
    ("config", "cores", "heads", "kv_heads"),
    [
        (LLAMA_3_1_8B, 8, 4, 1),  # all divide
        (LLAMA_3_1_8B, 2, 16, 4),
        (
            SMOLLM2_135M,
            8,
            2,
            1,
        ),
        (SMOLLM2_135M, 4, 3, 1),  # a group a core, one core idle
        (SMOLLM2_135M, 2, 6, 2),
        (MULTI_QUERY, 4, 2, 1),  # the one KV head on three cores
    ],
)
def test_a_core_has_few_heads(config, cores, heads, kv_heads):
    shares = divide_model(config, cores)
    assert (shares.heads.shape[1], shares.kv_heads.shape[1]) == (heads, kv_heads)


@pytest.mark.parametrize(
    "config", CONFIGS[:3], ids=lambda c: f"{c.num_attention_heads}h"
)
def test_two_neighbours_are_a_logical_core(config):
    """LNC=2: eight cores hold by twos what four hold."""
    pairs = zip(
        *(dataclasses.astuple(divide_model(config, n)) for n in (8, 4)), strict=True
    )
    for physical, logical in pairs:
        for two, one in zip(physical.reshape(4, -1), logical, strict=True):
            assert set(two) - {PADDING} == set(one) - {PADDING}


def test_weights_are_dealt_by_index():
    w = np.random.default_rng(0).standard_normal((2, 5, 6)).astype(np.float32)
    index = np.array([[2, 0], [1, PADDING]])  # of three units of two elements
    columns, rows = deal(w, index, -1, 2, np), deal(w.swapaxes(1, 2), index, -2, 2, np)
    assert columns.shape == (2, 2, 5, 4) and rows.shape == (2, 2, 4, 5)
    np.testing.assert_array_equal(columns[:, 0], w[..., [4, 5, 0, 1]])
    np.testing.assert_array_equal(columns[:, 1, :, :2], w[..., [2, 3]])
    assert not columns[:, 1, :, 2:].any()
    np.testing.assert_array_equal(rows, columns.swapaxes(2, 3))
    np.testing.assert_array_equal(deal(jnp.asarray(w), index, -1, 2, jnp), columns)
    assert deal(w, np.array([[0, 1, 2]]), -1, 2, np) is w
