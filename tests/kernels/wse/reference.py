"""A float64 NumPy decoder of the Llama family, written for clarity, to hold the wafer to."""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """A config by Hugging Face names, as far as decode needs it."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10_000.0
    rope_scaling: None = None
    qk_norm: bool = False
    tie_word_embeddings: bool = True


def random_weights(c: Sizes, seed: int) -> dict[str, Any]:
    """float32 weights that keep activations near one."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> NDArray[np.float32]:
        return (rng.standard_normal(shape) * shape[-2] ** -0.5).astype(np.float32)

    def norm(*shape: int) -> NDArray[np.float32]:
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)

    n, d, f = c.num_hidden_layers, c.hidden_size, c.intermediate_size
    q, kv = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
    layers = {
        "attn_norm": norm(n, d),
        "wq": draw(n, d, q),
        "wk": draw(n, d, kv),
        "wv": draw(n, d, kv),
        "wo": draw(n, q, d),
        "mlp_norm": norm(n, d),
        "w_gate": draw(n, d, f),
        "w_up": draw(n, d, f),
        "w_down": draw(n, f, d),
    }
    if c.qk_norm:
        layers |= {"q_norm": norm(n, c.head_dim), "k_norm": norm(n, c.head_dim)}
    embed = rng.standard_normal((c.vocab_size, d)).astype(np.float32)
    weights: dict[str, Any] = {"embed": embed, "norm": norm(d), "layers": layers}
    if not c.tie_word_embeddings:
        weights["head"] = draw(d, c.vocab_size)
    return weights


def rms_norm(x: Array, weight: Any, eps: float) -> Array:
    return (
        x
        / np.sqrt((x**2).mean(-1, keepdims=True) + eps)
        * np.asarray(weight, np.float64)
    )


def turn(x: Array, pos: int, theta: float) -> Array:
    """RoPE, rotate-half, of `[heads, head_dim]`."""
    half = x.shape[-1] // 2
    angle = pos * theta ** (-np.arange(half) / half)
    a, b = x[:, :half], x[:, half:]
    return np.concatenate(
        [a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)],
        1,
    )


class Reference:
    """Decodes token by token; `k` and `v` hold `[n, kv_heads, head_dim]` per layer."""

    def __init__(self, c: Sizes, weights: dict[str, Any]):
        self.c = c
        wide = lambda x: np.asarray(x, np.float64)  # noqa: E731
        self.embed, self.norm = wide(weights["embed"]), wide(weights["norm"])
        self.head = wide(weights["head"]) if "head" in weights else self.embed.T
        self.layers = {k: wide(w) for k, w in weights["layers"].items()}
        shape = (0, c.num_key_value_heads, c.head_dim)
        self.k = [np.zeros(shape) for _ in range(c.num_hidden_layers)]
        self.v = [np.zeros(shape) for _ in range(c.num_hidden_layers)]

    def step(self, token: int) -> Array:
        """The logits after `token`, `[vocab]`."""
        x = self.embed[token]
        for layer in range(self.c.num_hidden_layers):
            w = {k: t[layer] for k, t in self.layers.items()}
            x = x + self.attention(
                layer, rms_norm(x, w["attn_norm"], self.c.rms_norm_eps), w
            )
            h = rms_norm(x, w["mlp_norm"], self.c.rms_norm_eps)
            gate = h @ w["w_gate"]
            x = x + (gate / (1 + np.exp(-gate)) * (h @ w["w_up"])) @ w["w_down"]
        return rms_norm(x, self.norm, self.c.rms_norm_eps) @ self.head

    def attention(self, layer: int, h: Array, w: dict[str, Array]) -> Array:
        c, pos = self.c, len(self.k[layer])
        q = (h @ w["wq"]).reshape(c.num_attention_heads, c.head_dim)
        k, v = (
            (h @ w[n]).reshape(c.num_key_value_heads, c.head_dim) for n in ("wk", "wv")
        )
        if c.qk_norm:
            q, k = (
                rms_norm(q, w["q_norm"], c.rms_norm_eps),
                rms_norm(k, w["k_norm"], c.rms_norm_eps),
            )
        q, k = turn(q, pos, c.rope_theta), turn(k, pos, c.rope_theta)
        self.k[layer] = np.concatenate([self.k[layer], k[None]])
        self.v[layer] = np.concatenate([self.v[layer], v[None]])
        per = c.num_attention_heads // c.num_key_value_heads
        out = []
        for head in range(c.num_attention_heads):
            s = self.k[layer][:, head // per] @ q[head] / np.sqrt(c.head_dim)
            p = np.exp(s - s.max())
            out.append(p / p.sum() @ self.v[layer][:, head // per])
        return np.concatenate(out) @ w["wo"]
