"""A float64 NumPy mixture of experts, written for clarity, to hold the wafer's to."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.moe.routing import Routing
from kernels.moe.wafer import ExpertMlp

Array = NDArray[np.float64]


def random_experts(mlp: ExpertMlp, hidden: int, seed: int) -> dict[str, Any]:
    """float32 weights of one layer, `[1, ...]`, that keep activations near one."""
    rng = np.random.default_rng(seed)
    routing, ffn = mlp.routing, mlp.ffn
    experts = routing.experts

    def draw(*shape: int, fan_in: int = 1) -> NDArray[np.float32]:
        return (rng.standard_normal((1, *shape)) * fan_in**-0.5).astype(np.float32)

    weights = {
        "mlp_norm": rng.uniform(0.5, 1.5, (1, hidden)).astype(np.float32),
        "router": 2 * draw(hidden, experts, fan_in=hidden),
        "expert_gate": draw(experts, hidden, ffn, fan_in=hidden),
        "expert_up": draw(experts, hidden, ffn, fan_in=hidden),
        "expert_down": draw(experts, ffn, hidden, fan_in=ffn),
    }
    if mlp.shared:
        wide = mlp.shared * ffn
        weights["shared_gate"] = draw(hidden, wide, fan_in=hidden)
        weights["shared_up"] = draw(hidden, wide, fan_in=hidden)
        weights["shared_down"] = draw(wide, hidden, fan_in=ffn)
    if mlp.router_bias:
        weights["router_bias"] = draw(experts)
    if routing.selection_bias:
        weights["selection_bias"] = 0.3 * draw(experts)
    if mlp.bias:
        weights["expert_gate_bias"] = draw(experts, ffn)
        weights["expert_up_bias"] = draw(experts, ffn)
        weights["expert_down_bias"] = draw(experts, hidden)
    return weights


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def activate(kind: str, limit: float, gate: Array, up: Array) -> Array:
    if kind == "silu":
        return gate * sigmoid(gate) * up
    if kind == "gelu_tanh":
        inner = np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)
        return 0.5 * gate * (1 + np.tanh(inner)) * up
    assert kind == "clamped_swiglu"
    gate, up = np.minimum(gate, limit), np.clip(up, -limit, limit)
    return (up + 1) * gate * sigmoid(1.702 * gate)


def routed(
    logits: Array, routing: Routing, bias: Array | None
) -> tuple[NDArray[np.int64], Array]:
    """Experts and weights of one token, `[chosen]`, as DeepSeek-V3's own code has them."""
    if routing.score == "softmax":
        scores = np.exp(logits - logits.max())
        scores = scores / scores.sum()
    else:
        scores = sigmoid(logits)
    compared = scores if bias is None else scores + bias
    if routing.groups > 1:
        by_group = compared.reshape(routing.groups, -1)
        of_group = np.sort(by_group, axis=1)[:, -2:].sum(1)
        best = np.argsort(-of_group, kind="stable")[: routing.chosen_groups]
        is_best = np.isin(np.arange(routing.groups), best)
        compared = np.where(is_best[:, None], by_group, -np.inf).reshape(-1)
    experts = np.argsort(-compared, kind="stable")[: routing.chosen]
    weights = scores[experts]
    if routing.normalised:
        weights = weights / weights.sum()
    return experts, weights * routing.scale


def mixture(mlp: ExpertMlp, weights: dict[str, Any], x: Array) -> Array:
    """Output of the mixture for one normalised token `[hidden]`."""
    w = {name: np.asarray(x[0], np.float64) for name, x in weights.items()}
    routing = mlp.routing
    logits = x @ w["router"] + w.get("router_bias", 0)
    experts, counts = routed(logits, routing, w.get("selection_bias"))
    kind, limit = mlp.activation.kind, mlp.activation.limit
    out = np.zeros_like(x)
    for expert, count in zip(experts, counts, strict=True):
        given = count * x if routing.on_input else x
        gate, up = given @ w["expert_gate"][expert], given @ w["expert_up"][expert]
        if mlp.bias:
            gate = gate + w["expert_gate_bias"][expert]
            up = up + w["expert_up_bias"][expert]
        own = activate(kind, limit, gate, up) @ w["expert_down"][expert]
        if mlp.bias:
            own = own + w["expert_down_bias"][expert]
        out += own if routing.on_input else count * own
    if mlp.shared:
        gate, up = x @ w["shared_gate"], x @ w["shared_up"]
        out += activate(kind, limit, gate, up) @ w["shared_down"]
    return out


def layer(mlp: ExpertMlp, weights: dict[str, Any], x: Array, eps: float) -> Array:
    """`x` plus the mixture of its norm."""
    normed = x / np.sqrt((x**2).mean() + eps)
    return x + mixture(mlp, weights, normed * weights["mlp_norm"][0])
