"""One decode layer of any form, token by token: on its region, and in float64 NumPy."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from emu import Known
from kernels.wse.decode import dealing, layout
from kernels.wse.decode.layer import layer_program
from kernels.wse.decode.mapping import LayerMap
from tests.kernels.wse.reference import Array, rms_norm

BASE = 10_000.0


def random_layer(layer: LayerMap, seed: int) -> dict[str, Any]:
    """float32 weights of one layer, `[1, ...]`, without those of an MLP in the form."""
    rng = np.random.default_rng(seed)
    hidden, ffn = layer.hidden, layer.ffn
    q, kv = layer.heads * layer.head_dim, layer.kv_heads * layer.head_dim

    def draw(*shape: int) -> np.ndarray:
        drawn = rng.standard_normal((1, *shape)) * shape[0] ** -0.5
        return drawn.astype(np.float32)

    def norm(n: int) -> np.ndarray:
        return rng.uniform(0.5, 1.5, (1, n)).astype(np.float32)

    weights = {
        "attn_norm": norm(hidden),
        "wq": draw(hidden, q),
        "wk": draw(hidden, kv),
        "wv": draw(hidden, kv),
        "wo": draw(q, hidden),
        "mlp_norm": norm(hidden),
    }
    if layer.form.mlp is None:
        for name, shape in (
            ("w_gate", (hidden, ffn)),
            ("w_up", (hidden, ffn)),
            ("w_down", (ffn, hidden)),
        ):
            weights[name] = draw(*shape)
    if layer.qk_norm:
        weights["q_norm"] = norm(layer.head_dim)
        weights["k_norm"] = norm(layer.head_dim)
    if layer.form.qkv_bias:
        for name, n in (("bq", q), ("bk", kv), ("bv", kv)):
            weights[name] = norm(n) - 1
    if layer.form.out_bias:
        weights["bo"] = norm(hidden) - 1
    if layer.form.output_norms:
        weights["attn_output_norm"] = norm(hidden)
        weights["mlp_output_norm"] = norm(hidden)
    return weights


def angles(layer: LayerMap, pos: int) -> Array:
    half = layer.turned // 2
    return pos * BASE ** (-np.arange(half) / max(1, half))


def run_layer(
    layer: LayerMap,
    weights: dict[str, Any],
    tokens: Array,
    cache: dict[str, Any] | None = None,
    first: int = 0,
) -> Array:
    """The residual stream `[n, hidden]` behind the layer, for tokens from position `first` on.

    The cache has those before; None: it grows from nothing.
    """
    program = layer_program(layer)
    dtypes = layer.weight_dtypes()
    tiles = {
        name: jnp.asarray(tile[0], dtypes[name])
        for name, tile in layout.layer_weights(weights, layer).items()
    }
    if cache is None:
        of_cache = layer.cache_dtypes()
        cache = {
            name: jnp.zeros((layer.rows, layer.cols, *shape), of_cache[name])
            for name, shape in layer.cache_shapes().items()
        }
    found = []
    # Slices of the residual stream may end with blocks: where a feature is, counted from 1.
    numbered = np.arange(1, layer.hidden + 1)
    (kept,) = np.nonzero(dealing.in_blocks(numbered, 0, layer.cut, layer.depth))
    for pos, token in enumerate(tokens, first):
        cut = dealing.in_blocks(token.astype(np.float32), 0, layer.cut, layer.depth)
        residual = dealing.deal(cut, 0, layer.rows, layer.depth)
        turn = angles(layer, pos)[None]
        cos = layout.turn_tiles(np.cos(turn), layer)[0]
        sin = layout.turn_tiles(np.sin(turn), layer)[0]
        at = Known(np.int32(pos)), Known(np.int32(2))
        out, cache, _ = program.run(
            jnp.asarray(residual), tiles, cache, jnp.asarray(cos), jnp.asarray(sin), *at
        )
        out = np.asarray(out)
        assert (out == out[:, :1]).all()
        found.append(out[:, 0].reshape(-1)[kept])
    return np.stack(found)


class LayerReference:
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
        self.k: list[Array] = []
        self.v: list[Array] = []

    def step(self, x: Array) -> Array:
        eps = self.layer.eps
        attended = self._attention(rms_norm(x, self.w["attn_norm"], eps))
        x = x + self._output(attended, "attn_output_norm")
        out = self.mlp(rms_norm(x, self.w["mlp_norm"], eps))
        return x + self._output(out, "mlp_output_norm")

    def _output(self, out: Array, norm: str) -> Array:
        form = self.layer.form
        if form.output_norms:
            out = rms_norm(out, self.w[norm], self.layer.eps)
        return form.residual_scale * out

    def _attention(self, h: Array) -> Array:
        m, w, form, pos = self.layer, self.w, self.layer.form, len(self.k)
        q, k, v = (
            (h @ w[f"w{n}"] + (w[f"b{n}"] if form.qkv_bias else 0)).reshape(
                -1, m.head_dim
            )
            for n in "qkv"
        )
        if m.qk_norm:
            q, k = rms_norm(q, w["q_norm"], m.eps), rms_norm(k, w["k_norm"], m.eps)
        q, k = self._turned(q, pos), self._turned(k, pos)
        self.k.append(k)
        self.v.append(v)
        keys, values = np.stack(self.k), np.stack(self.v)
        scale = m.head_dim**-0.5 if form.score_scale is None else form.score_scale
        out = []
        for head in range(m.heads):
            s = scale * keys[:, head // m.queries] @ q[head]
            p = np.exp(s - s.max())
            out.append(p / p.sum() @ values[:, head // m.queries])
        return np.concatenate(out) @ w["wo"] + (w["bo"] if form.out_bias else 0)

    def _turned(self, x: Array, pos: int) -> Array:
        """Features up to `turned` in pairs half of them apart; the others as they are."""
        angle, half = angles(self.layer, pos), self.layer.turned // 2
        a, b, rest = np.split(x, [half, 2 * half], axis=1)
        return np.concatenate(
            [
                a * np.cos(angle) - b * np.sin(angle),
                b * np.cos(angle) + a * np.sin(angle),
                rest,
            ],
            axis=1,
        )
