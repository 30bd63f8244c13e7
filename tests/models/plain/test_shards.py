"""The oracle under `jax.shard_map` on virtual devices computes what one device does."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from kernels import attention, masks, variants
from models.catalogue import TINY
from models.plain.shards import Shards
from models.plain.transformer import Transformer, forward
from models.plain.weights import random_weights

SMALL = dataclasses.replace(
    TINY,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    head_dim=8,
    vocab_size=64,
)


@attention(mask=masks.causal)
def mine(s, b, h, q, k):
    """Differs by sequence and head, so a device that takes its own numbers for those shows."""
    return 5 * jnp.tanh(s / 5) - 0.05 * (h + 1) * (b + 1) * (q - k)


SINKS = np.linspace(-1, 2, 4).astype(np.float32)
WINDOW = variants.sliding_window(3)
SEQUENCE = {"sequence": 4}, Shards(sequence="sequence")
BOTH = {"batch": 2, "sequence": 3}, Shards("sequence", "batch")
CASES = {
    "causal": (None, *SEQUENCE),
    # A device's queries attend to nothing of most other devices' keys.
    "pattern": ([WINDOW, mine], *BOTH),
}


def tokens() -> jax.Array:
    drawn = np.random.default_rng(5).integers(0, SMALL.vocab_size, (2, 12))
    return jnp.asarray(drawn, jnp.int32)


def sharded(asked, sizes, shards):
    """`forward` under `shard_map`, of whole tokens."""
    mesh = jax.make_mesh(
        tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes)
    )
    of_tokens = P(shards.batch, shards.sequence)

    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=(P(), of_tokens), out_specs=of_tokens
    )
    def run(weights, ids):
        return forward(SMALL, weights, ids, asked, shards)

    return run


def loss_of(weights, logits_of, ids):
    """Mean cross-entropy of each token from those before it, and the logits."""
    logits = logits_of(weights, ids)
    wanted = jnp.roll(ids, -1, axis=1)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, wanted)
    return losses.mean(), logits


@functools.partial(jax.jit, static_argnums=0)
def trained(logits_of, weights, ids):
    """Logits, loss and gradient, and the weights after a step of training."""
    optimizer = optax.sgd(0.1)
    with_gradient = jax.value_and_grad(loss_of, has_aux=True)
    (loss, logits), gradient = with_gradient(weights, logits_of, ids)
    updates, _ = optimizer.update(gradient, optimizer.init(weights))
    return logits, loss, gradient, optax.apply_updates(weights, updates)


@pytest.mark.parametrize("name", CASES)
def test_logits_gradients_and_a_training_step_are_those_of_one_device(
    name: str,
) -> None:
    """Within 1e-5: keys are summed block by block."""
    asked, sizes, shards = CASES[name]
    values = jax.tree.map(jnp.asarray, random_weights(SMALL, 4))
    one = trained(
        lambda w, t: forward(SMALL, w, t, asked),
        values,
        tokens(),
    )
    many = trained(sharded(asked, sizes, shards), values, tokens())
    assert max(np.abs(x).max() for x in jax.tree.leaves(one[2])) > 1e-3
    for wanted, found in zip(*map(jax.tree.leaves, (one, many)), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


def test_a_flax_model_runs_within_shard_map() -> None:
    """As its module's docstring shows it, with the model outside of what is mapped."""
    mesh = jax.make_mesh((6,), ("sequence",), axis_types=(AxisType.Auto,))
    model = Transformer(
        SMALL,
        weights=random_weights(SMALL, 4),
        # A monoid's states are merged from device to device by its own functions.
        attention=[variants.learned_sink(SINKS, masks.window(3)), variants.full()],
    )

    @jax.jit
    @functools.partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=P(None, "sequence"),
        out_specs=P(None, "sequence"),
    )
    def logits(ids):
        return model(ids, Shards(sequence="sequence"))

    np.testing.assert_allclose(logits(tokens()), model(tokens()), rtol=0, atol=1e-5)
