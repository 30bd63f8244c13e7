"""Which experts a token goes to, and how much each counts: what all families' routers share.

Four experts of which two are chosen, logits `[2, 1, 0, -1]`. A softmax gives shares
`[0.644, 0.237, 0.087, 0.032]`; experts 0 and 1 are chosen, and normalised they count
`[0.731, 0.269]`. Sigmoids give `[0.881, 0.731, 0.5, 0.269]`. With a selection bias of
`[0, 0, 0.4, 0]` experts 0 (0.881) and 2 (0.9) are chosen, and count by their sigmoids without it:
normalised `[0.638, 0.362]`.
"""

import dataclasses
from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

Score: TypeAlias = Literal["softmax", "sigmoid"]

# Added to the sum of the chosen scores before they are divided by it, as DeepSeek-V3 does: where
# all sigmoids are 0, so are the weights.
LEAST_SUM = 1e-20


@dataclasses.dataclass(frozen=True)
class Routing:
    """How a layer's router chooses.

    Attributes:
      experts: from which it chooses.
      chosen: experts of a token, at most `experts`.
      score: what is made of the logits: shares of all experts, or each one's own sigmoid.
      selection_bias: whether a learned bias of each expert is added to its score where experts are
        compared, and only there (DeepSeek-V3, arXiv:2412.19437, section 2.1.2).
      groups: of experts side by side, equally many in each; the best groups are chosen first, each
        by the sum of its two best scores. 1: all are compared with each other.
      chosen_groups: how many groups a token's experts may be in.
      normalised: whether the chosen scores are divided by their sum.
      scale: what they are multiplied by in the end.
      on_input: whether an expert's input is multiplied by its weight (Llama 4), not its output.
    """

    experts: int
    chosen: int
    score: Score = "softmax"
    selection_bias: bool = False
    groups: int = 1
    chosen_groups: int = 1
    normalised: bool = True
    scale: float = 1.0
    on_input: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.chosen <= self.experts:
            raise ValueError(
                f"a router of {self.experts} experts must choose 1 to {self.experts} of them, got "
                f"chosen={self.chosen}"
            )
        if self.experts % self.groups or not 1 <= self.chosen_groups <= self.groups:
            raise ValueError(
                f"groups must divide {self.experts} experts and hold the chosen ones, got "
                f"groups={self.groups} and chosen_groups={self.chosen_groups}"
            )
        if self.groups > 1 and self.experts // self.groups < 2:
            raise ValueError(
                "a group is weighed by its two best experts, so it must have two, got "
                f"{self.experts} experts in {self.groups} groups"
            )
        if self.chosen > self.chosen_groups * (self.experts // self.groups):
            raise ValueError(
                f"{self.chosen_groups} of {self.groups} groups hold fewer than the "
                f"{self.chosen} experts to be chosen"
            )


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
    """Scores of experts in the best groups; 0 for all others, as DeepSeek-V3's own code has it."""
    tokens, experts = compared.shape
    size = experts // routing.groups
    by_group = compared.reshape(tokens, routing.groups, size)
    two_best, _ = jax.lax.top_k(by_group, 2)
    _, best = jax.lax.top_k(jnp.sum(two_best, axis=-1), routing.chosen_groups)
    numbers = jnp.arange(routing.groups)[None, None]
    in_best = jnp.any(best[..., None] == numbers, axis=1)
    return jnp.where(in_best[..., None], by_group, 0).reshape(tokens, experts)


def counts(experts: jax.Array, routing: Routing) -> jax.Array:
    """How many tokens each expert is given, int32 `[experts]`; what the clock takes.

    Args:
      experts: int `[tokens, chosen]`, see `Routed`.
      routing: how they were chosen.
    """
    return jnp.bincount(experts.ravel(), length=routing.experts).astype(jnp.int32)


__all__ = ["LEAST_SUM", "Routed", "Routing", "Score", "counts", "route", "scores_of"]
