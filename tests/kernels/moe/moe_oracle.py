"""Mixtures in float64: every expert on every token, weighed; and small models' weights."""

import jax
import jax.numpy as jnp
import numpy as np

from kernels.moe.mesh.weights import PlainMlp, PlainMoe
from kernels.moe.router import route


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def plain(what, seed=0):
    """Weights of a mixture, float32, such that features stay about as large as they are."""
    rng = np.random.default_rng(seed)

    def matrix(*shape):
        return (rng.standard_normal(shape) / np.sqrt(shape[-2])).astype(np.float32)

    def bias(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    def mlp(*lead, ffn, biases):
        wide, narrow = (*lead, ffn), (*lead, what.hidden)
        return PlainMlp(
            matrix(*lead, what.hidden, ffn),
            matrix(*lead, what.hidden, ffn),
            matrix(*lead, ffn, what.hidden),
            *((bias(*wide), bias(*wide), bias(*narrow)) if biases else (None,) * 3),
        )

    experts = what.routing.experts
    return PlainMoe(
        matrix(what.hidden, experts),
        mlp(experts, ffn=what.ffn, biases=what.biases),
        bias(experts) if what.router_bias else None,
        0.1 * bias(experts) if what.routing.selection_bias else None,
        mlp(ffn=what.shared, biases=False) if what.shared else None,
        matrix(what.hidden, 1) if what.shared_is_scaled else None,
    )


def wide(x):
    return np.asarray(x).astype(np.float64)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


ACTIVATIONS = {
    "silu": lambda x: x * sigmoid(x),
    "gelu_apprx_tanh": gelu_tanh,
    "gelu_apprx_sigmoid": lambda x: x * sigmoid(1.702 * x),
}


def mlp(x, weights, gate, number=None, taken=wide):
    """`taken`: what products make of their activations."""

    def own(array):
        return wide(array) if number is None else wide(array)[number]

    def product(x, matrix, bias):
        y = taken(x) @ own(matrix)
        return y if bias is None else y + own(bias)

    first = product(x, weights.gate, weights.gate_bias)
    second = product(x, weights.up, weights.up_bias)
    if gate.limit is not None:
        first = np.minimum(first, gate.limit)
        second = np.clip(second, -gate.limit, gate.limit) + 1
    features = ACTIVATIONS[gate.op](first) * second
    return product(features, weights.down, weights.down_bias)


def routed(x, weights, what):
    """Experts and weights of each of `x[tokens, hidden]`, by `kernels.moe.router.route`."""
    with jax.enable_x64(True):
        logits = wide(x) @ wide(weights.router)
        if weights.router_bias is not None:
            logits = logits + wide(weights.router_bias)
        selection = weights.selection
        bias = None if selection is None else jnp.asarray(wide(selection))
        found = route(jnp.asarray(logits), what.routing, bias)
        return np.asarray(found.experts), np.asarray(found.weights)


def fits(experts, chips, number, capacity):
    """Whether each choice is among the first of its chip's that the expert takes."""
    of_chip = experts.reshape(chips, -1, experts.shape[-1])
    taken = np.ones(of_chip.shape, bool)
    for expert in range(number):
        mine = of_chip == expert
        # A token chooses an expert once, so tokens before are choices before.
        before = np.cumsum(mine.any(-1), axis=1) - mine.any(-1)
        taken &= ~mine | (before < capacity)[..., None]
    return taken.reshape(experts.shape)


def dense(x, weights, what, *, chips=1, capacity=None, taken=(wide, wide)):
    """`[tokens, hidden]` in float64; `taken`: activations of products of experts, and of others."""
    of_experts, of_others = taken
    experts, shares = routed(x, weights, what)
    x = wide(x)
    number = what.routing.experts
    taken = np.ones(experts.shape, bool)
    if capacity is not None:
        taken = fits(experts, chips, number, capacity)
    out = np.zeros(x.shape)
    for expert in range(number):
        chosen = (experts == expert) & taken
        share = np.where(chosen, shares, 0).sum(-1, keepdims=True)
        if what.routing.on_input:
            own = mlp(x * share, weights.experts, what.gate, expert, of_experts)
            out += chosen.any(-1, keepdims=True) * own
        else:
            out += share * mlp(x, weights.experts, what.gate, expert, of_experts)
    if weights.shared is not None:
        own = mlp(x, weights.shared, what.gate, None, of_others)
        if weights.shared_scale is not None:
            own = own * sigmoid(x @ wide(weights.shared_scale))
        out += own
    return out
