"""What a layer does to each token by itself: a gated MLP, or a mixture of experts."""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp

from kernels.formats.formats import Format
from kernels.moe.router import route
from models.layer_form import CLAMP_LIMIT, CLAMP_SLOPE, Activation, Experts, LayerForm
from models.plain.attention import contract
from models.plain.held import taken_as
from models.precision import Taken

LayerWeights: TypeAlias = dict[str, jax.Array]
"""One layer's weights by name, without the axis of layers."""

Gated: TypeAlias = Callable[[jax.Array, jax.Array], jax.Array]
"""From the gate and what it gates to the MLP's inner features."""


def _silu(gate: jax.Array, up: jax.Array) -> jax.Array:
    return jax.nn.silu(gate) * up


def _gelu_tanh(gate: jax.Array, up: jax.Array) -> jax.Array:
    return jax.nn.gelu(gate, approximate=True) * up


def _clamped_swiglu(gate: jax.Array, up: jax.Array) -> jax.Array:
    gate = jnp.minimum(gate, CLAMP_LIMIT)
    up = jnp.clip(up, -CLAMP_LIMIT, CLAMP_LIMIT)
    return (up + 1) * gate * jax.nn.sigmoid(CLAMP_SLOPE * gate)


ACTIVATIONS: dict[Activation, Gated] = {
    "silu": _silu,
    "gelu_tanh": _gelu_tanh,
    "clamped_swiglu": _clamped_swiglu,
}


def feed_forward(
    form: LayerForm,
    weights: LayerWeights,
    normed: jax.Array,
    held: Taken = Taken(),
) -> jax.Array:
    """The output of a layer's MLP or experts on `normed` `[batch, seq, d]`, alike in shape.

    Args:
        form: Of the layer.
        weights: Of the layer.
        normed: What the residual stream's norm gives.
        held: What products have activations in; a router has them as they are.
    """

    def mlp(*names: str) -> jax.Array:
        return gated_mlp(form.activation, weights, normed, *names, held=held.weights)

    if form.experts is None:
        return mlp("w_gate", "w_up", "w_down")
    out = mixture(form.experts, form.activation, weights, normed, held.experts)
    if not form.experts.shared_width:
        return out
    return out + mlp("shared_gate", "shared_up", "shared_down")


def gated_mlp(
    activation: Activation,
    weights: LayerWeights,
    x: jax.Array,
    gate: str,
    up: str,
    down: str,
    held: Format | None = None,
) -> jax.Array:
    """A gated MLP by the names of its three weights; SwiGLU where the activation is SiLU."""
    x = taken_as(held, x)
    of_gate = contract("bsd,df->bsf", x, weights[gate])
    of_up = contract("bsd,df->bsf", x, weights[up])
    inner = taken_as(held, ACTIVATIONS[activation](of_gate, of_up))
    return contract("bsf,fd->bsd", inner, weights[down])


def mixture(
    experts: Experts,
    activation: Activation,
    weights: LayerWeights,
    x: jax.Array,
    held: Format | None = None,
) -> jax.Array:
    """Every expert on every token, each weighed by what the router gives it: 0 if not chosen.

    Far more work than a machine does, and nothing in it that could go wrong with where tokens go.

    Args:
        experts: Of the layer.
        activation: Of the experts.
        weights: Of the layer.
        x: `[batch, seq, d]`.
        held: What experts' products have activations in; None: float32.
    """
    batch, seq, hidden = x.shape
    logits = contract("bsd,de->bse", x, weights["router"])
    if experts.is_biased:
        logits = logits + weights["router_bias"][None, None]
    routed = route(
        logits.reshape(batch * seq, experts.count),
        experts.routing,
        weights.get("selection_bias"),
    )
    one_of = jax.nn.one_hot(routed.experts, experts.count, dtype=jnp.float32)
    shares = contract("tc,tce->te", routed.weights, one_of)
    shares = shares.reshape(batch, seq, experts.count)
    subscripts = "bsd,edf->besf"
    if experts.on_input:
        # Each expert's own input.
        x = shares.swapaxes(1, 2)[..., None] * x[:, None]
        subscripts = "besd,edf->besf"
    x = taken_as(held, x)
    gate = contract(subscripts, x, weights["expert_gate"])
    up = contract(subscripts, x, weights["expert_up"])
    if experts.is_biased:
        gate = gate + weights["expert_gate_bias"][None, :, None]
        up = up + weights["expert_up_bias"][None, :, None]
    inner = taken_as(held, ACTIVATIONS[activation](gate, up))
    out = contract("besf,efd->besd", inner, weights["expert_down"])
    if experts.is_biased:
        out = out + weights["expert_down_bias"][None, :, None]
    if experts.on_input:
        return jnp.sum(out, axis=1)
    return contract("besd,bse->bsd", out, shares)


__all__ = ["ACTIVATIONS", "LayerWeights", "feed_forward"]
