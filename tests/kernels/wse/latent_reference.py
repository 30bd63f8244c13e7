"""A layer with latent attention, token by token, in float64 NumPy: absorbed, as the wafer does."""

from collections.abc import Callable
from typing import Any

import numpy as np

from kernels.latent_heads import LatentHeads
from kernels.wse.decode.mapping import LayerMap
from tests.kernels.wse.layer_reference import angles
from tests.kernels.wse.reference import Array, rms_norm


def random_latent(
    form: LatentHeads, hidden: int, heads: int, seed: int
) -> dict[str, Any]:
    """float32 weights of latent attention and both norms of a layer, `[1, ...]`."""
    rng = np.random.default_rng(seed)

    def draw(inputs: int, outputs: int) -> np.ndarray:
        drawn = rng.standard_normal((1, inputs, outputs)) * inputs**-0.5
        return drawn.astype(np.float32)

    def norm(n: int) -> np.ndarray:
        return rng.uniform(0.5, 1.5, (1, n)).astype(np.float32)

    width = heads * (form.plain + form.turned)
    if form.query_rank is None:
        queries = {"wq": draw(hidden, width)}
    else:
        queries = {
            "wq_down": draw(hidden, form.query_rank),
            "query_norm": norm(form.query_rank),
            "wq_up": draw(form.query_rank, width),
        }
    return queries | {
        "attn_norm": norm(hidden),
        "wkv_down": draw(hidden, form.cached_width),
        "latent_norm": norm(form.rank),
        "wkv_up": draw(form.rank, heads * (form.plain + form.value_dim)),
        "wo": draw(heads * form.value_dim, hidden),
        "mlp_norm": norm(hidden),
    }


def random_mlp(hidden: int, ffn: int, seed: int) -> dict[str, Any]:
    """float32 weights of a gated MLP, `[1, ...]`."""
    rng = np.random.default_rng(seed)
    shapes = {"w_gate": (hidden, ffn), "w_up": (hidden, ffn), "w_down": (ffn, hidden)}
    return {
        name: (rng.standard_normal((1, *shape)) * shape[0] ** -0.5).astype(np.float32)
        for name, shape in shapes.items()
    }


class LatentReference:
    """Decodes token by token; `mlp` gives the output of a normalised token."""

    def __init__(
        self,
        layer: LayerMap,
        weights: dict[str, Any],
        mlp: Callable[[Array], Array],
    ):
        self.layer = layer
        self.w = {k: np.asarray(x[0], np.float64) for k, x in weights.items()}
        self.mlp = mlp
        self.cached: list[Array] = []

    def step(self, x: Array) -> Array:
        eps = self.layer.eps
        x = x + self._attention(rms_norm(x, self.w["attn_norm"], eps))
        return x + self.mlp(rms_norm(x, self.w["mlp_norm"], eps))

    def _attention(self, h: Array) -> Array:
        w, layer, form = self.w, self.layer, self.layer.form.latent
        assert form is not None
        pos, heads = len(self.cached), layer.heads
        latent, turned = np.split(h @ w["wkv_down"], [form.rank])
        latent = rms_norm(latent, w["latent_norm"], layer.eps)
        turned = self._turned(turned[None], pos)[0]
        self.cached.append(self.remember(latent, turned))

        if form.query_rank is None:
            q = h @ w["wq"]
        else:
            q = rms_norm(h @ w["wq_down"], w["query_norm"], layer.eps) @ w["wq_up"]
        plain, turned = np.split(q.reshape(heads, -1), [form.plain], axis=1)
        pair = w["wkv_up"].reshape(form.rank, heads, -1)
        of_keys, of_values = np.split(pair, [form.plain], axis=2)
        absorbed = np.einsum("hn,rhn->hr", plain, of_keys)
        q = np.concatenate([absorbed, self._turned(turned, pos)], axis=1)

        keys = np.stack(self.cached)
        scale = (form.plain + form.turned) ** -0.5
        if layer.form.score_scale is not None:
            scale = layer.form.score_scale
        scores = scale * q @ keys.T
        p = np.exp(scores - scores.max(axis=1, keepdims=True))
        mean = p / p.sum(axis=1, keepdims=True) @ keys[:, : form.rank]
        values = np.einsum("hr,rhv->hv", mean, of_values)
        return values.reshape(-1) @ w["wo"]

    def remember(self, latent: Array, turned: Array) -> Array:
        """What a token leaves in the cache."""
        return np.concatenate([latent, turned])

    def _turned(self, x: Array, pos: int) -> Array:
        angle = angles(self.layer, pos)
        a, b = np.split(x, 2, axis=1)
        cos, sin = np.cos(angle), np.sin(angle)
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=1)


def gated(weights: dict[str, Any]) -> Callable[[Array], Array]:
    """The gated MLP of those weights."""
    gate, up, down = (np.float64(weights[f"w_{x}"][0]) for x in ("gate", "up", "down"))

    def mlp(h: Array) -> Array:
        g = h @ gate
        return (g / (1 + np.exp(-g)) * (h @ up)) @ down

    return mlp


__all__ = ["LatentReference", "gated", "random_latent", "random_mlp"]
