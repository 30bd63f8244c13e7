"""The router in plain JAX: what every machine's must agree with."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from kernels.moe.routing import Routing

# Added to the sum of the chosen scores before they are divided by it, as DeepSeek-V3 does: where
# all sigmoids are 0, so are the weights.
LEAST_SUM = 1e-20


class Routed(NamedTuple):
    """Where tokens go.

    Attributes:
      experts: int32 `[tokens, chosen]`, the best first; of equal scores the lower number.
      weights: of each, in the logits' dtype, `[tokens, chosen]`.
    """

    experts: jax.Array
    weights: jax.Array


def route(logits: jax.Array, routing: Routing, bias: jax.Array | None = None) -> Routed:
    """Chooses experts, in plain JAX: what every machine's router must agree with.

    Args:
      logits: float32 or float64 `[tokens, experts]`.
      routing: how.
      bias: `[experts]`, of the selection; None where it has none.

    Raises:
      ValueError: a bias is missing, or there is one that nothing uses.
    """
    if (bias is not None) != routing.selection_bias:
        raise ValueError(
            f"selection_bias={routing.selection_bias} but a bias was "
            f"{'given' if bias is not None else 'not given'}"
        )
    scores = scores_of(logits, routing)
    compared = scores if bias is None else scores + bias.astype(scores.dtype)[None]
    if routing.groups > 1:
        compared = _of_best_groups(compared, routing)
    _, experts = jax.lax.top_k(compared, routing.chosen)
    weights = jnp.take_along_axis(scores, experts, axis=-1)
    if routing.normalised:
        total = jnp.sum(weights, axis=-1, keepdims=True)
        weights = weights / (total + LEAST_SUM)
    return Routed(experts.astype(jnp.int32), weights * routing.scale)


def scores_of(logits: jax.Array, routing: Routing) -> jax.Array:
    """Shares or sigmoids of the logits `[tokens, experts]`."""
    if routing.score == "softmax":
        return jax.nn.softmax(logits, axis=-1)
    return jax.nn.sigmoid(logits)


def _of_best_groups(compared: jax.Array, routing: Routing) -> jax.Array:
    """Scores of experts in the best groups; others -inf, as DeepSeek-V3 has it."""
    tokens, experts = compared.shape
    size = experts // routing.groups
    by_group = compared.reshape(tokens, routing.groups, size)
    two_best, _ = jax.lax.top_k(by_group, 2)
    _, best = jax.lax.top_k(jnp.sum(two_best, axis=-1), routing.chosen_groups)
    numbers = jnp.arange(routing.groups, dtype=best.dtype)[None, None]
    in_best = jnp.any(best[..., None] == numbers, axis=1)
    return jnp.where(in_best[..., None], by_group, -jnp.inf).reshape(tokens, experts)


def counts(experts: jax.Array, routing: Routing) -> jax.Array:
    """How many tokens each expert is given, int32 `[experts]`; what the clock takes.

    Args:
      experts: int `[tokens, chosen]`, see `Routed`.
      routing: how they were chosen.
    """
    return jnp.bincount(experts.ravel(), length=routing.experts).astype(jnp.int32)


__all__ = ["LEAST_SUM", "Routed", "counts", "route", "scores_of"]
