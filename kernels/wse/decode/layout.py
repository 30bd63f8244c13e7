"""Weights and KV cache from a model's arrays to every PE's tiles, and the rotation tables.

A head's dimensions are dealt so that both elements of a rotation pair, `i` and `i + head_dim / 2`,
lie in one PE: column j of a group holds pairs `[j, j + 1) * dims / 2`, first elements first.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kernels.wse.decode.mapping import HeadMap, LayerMap

Array = Any


def deal(x: Array, axis: int, parts: int, each: int) -> np.ndarray:
    """Dimension `axis` as two, `[parts, each]`, padded with zeros at its end."""
    x = np.asarray(x)
    axis %= x.ndim
    missing = parts * each - x.shape[axis]
    if missing:
        x = np.pad(x, [(0, missing if i == axis else 0) for i in range(x.ndim)])
    return x.reshape(*x.shape[:axis], parts, each, *x.shape[axis + 1 :])


def rows_to_cols(x: Array, rows: int, depth: int, cols: int, width: int) -> np.ndarray:
    """`[layers, rows * depth, cols * width]` to `[layers, rows, cols, depth, width]`, padded."""
    x = deal(deal(x, 2, cols, width), 1, rows, depth)
    return np.moveaxis(x, 3, 2)


def pairs(x: Array, m: LayerMap, axis: int) -> np.ndarray:
    """Dimension `axis`, heads of `head_dim`, as `[kv_heads, queries, 2, parts, dims / 2]`."""
    x = np.asarray(x)
    heads = x.shape[axis] // m.head_dim
    shape = (m.kv_heads, heads // m.kv_heads, 2, m.parts, m.dims // 2)
    return x.reshape(*x.shape[:axis], *shape, *x.shape[axis + 1 :])


def from_rows(w: Array, m: LayerMap) -> np.ndarray:
    """A projection to heads `[layers, hidden, n]` as `[layers, rows, cols, depth, n / cols]`."""
    # [l, rows, depth, kv, r, 2, parts, dims / 2]
    x = deal(pairs(w, m, 2), 1, m.rows, m.depth)
    x = np.transpose(x, (0, 1, 3, 6, 2, 4, 5, 7))
    return x.reshape(x.shape[0], m.rows, m.cols, m.depth, -1)


def to_rows(w: Array, m: LayerMap) -> np.ndarray:
    """The output projection `[layers, n, hidden]` as `[layers, rows, cols, n / cols, depth]`."""
    # [l, kv, r, 2, parts, dims / 2, rows, depth]
    x = pairs(deal(w, 2, m.rows, m.depth), m, 1)
    x = np.transpose(x, (0, 6, 1, 4, 2, 3, 5, 7))
    return x.reshape(x.shape[0], m.rows, m.cols, -1, m.depth)


def head_norms(q: Array, k: Array, m: LayerMap) -> np.ndarray:
    """Norm weights `[layers, head_dim]` of q and k as `[layers, cols, queries + 1, dims]`."""
    both = np.stack([*[q] * m.queries, k], axis=1)  # [layers, queries + 1, head_dim]
    x = both.reshape(*both.shape[:2], 2, m.parts, m.dims // 2)
    x = np.transpose(x, (0, 3, 1, 2, 4)).reshape(
        x.shape[0], m.parts, m.queries + 1, m.dims
    )
    return np.tile(x, (1, m.kv_heads, 1, 1))


def layer_weights(layers: Mapping[str, Array], m: LayerMap) -> dict[str, np.ndarray]:
    """All layers' weights as `[layers, rows, cols, ...]` (norms without the axis they repeat on).

    Args:
      layers: stacked weights with `y = x @ W`: attn_norm, wq, wk, wv, wo, mlp_norm, w_gate, w_up,
        w_down and, with `qk_norm`, q_norm and k_norm.
      m: the mapping.
    """
    qkv = [from_rows(layers[name], m) for name in ("wq", "wk", "wv")]
    up = [
        rows_to_cols(layers[name], m.rows, m.depth, m.cols, m.width)
        for name in ("w_gate", "w_up")
    ]
    down = rows_to_cols(layers["w_down"], m.cols, m.width, m.rows, m.depth)
    out = {
        "attn_norm": deal(layers["attn_norm"], 1, m.rows, m.depth),
        "qkv": np.concatenate(qkv, axis=-1),
        "out": to_rows(layers["wo"], m),
        "mlp_norm": deal(layers["mlp_norm"], 1, m.rows, m.depth),
        "gate_up": np.concatenate(up, axis=-1),
        "down": np.swapaxes(down, 1, 2),
    }
    if m.qk_norm:
        out["qk_norm"] = head_norms(layers["q_norm"], layers["k_norm"], m)
    return out


def head_table(table: Array, m: HeadMap) -> np.ndarray:
    """A table `[hidden, vocab]` as `[rows, cols, depth, tokens]`, padded with zeros."""
    return rows_to_cols(np.asarray(table)[None], m.rows, m.depth, m.cols, m.tokens)[0]


def head_norm(norm: Array, m: HeadMap) -> np.ndarray:
    """The final norm `[hidden]` as `[rows, depth]`."""
    return deal(norm, 0, m.rows, m.depth)


def cache_tiles(k: Array, v: Array, m: LayerMap) -> dict[str, np.ndarray]:
    """Prefilled keys (after RoPE) and values `[layers, n, kv_heads, head_dim]` on their PEs.

    Returns:
      `k` `[layers, rows, cols, dims, slots]` and `v` `[layers, rows, cols, slots, dims]`; slots
      beyond the `n` tokens are zero.
    """

    def tiles(x: Array) -> np.ndarray:  # [layers, rows, cols, slots, dims]
        x = np.asarray(x)
        x = deal(x.reshape(*x.shape[:3], 2, m.parts, m.dims // 2), 1, m.slots, m.rows)
        # [l, rows, kv, parts, slots, 2, dims / 2]
        x = np.transpose(x, (0, 2, 3, 5, 1, 4, 6))
        return x.reshape(x.shape[0], m.rows, m.cols, m.slots, m.dims)

    return {"k": np.swapaxes(tiles(k), 3, 4), "v": tiles(v)}


def turn_tiles(table: Array, m: LayerMap) -> np.ndarray:
    """Cosines or sines `[positions, head_dim / 2]` as `[positions, cols, dims / 2]`."""
    x = np.asarray(table, np.float32).reshape(-1, m.parts, m.dims // 2)
    return np.tile(x, (1, m.kv_heads, 1))


__all__ = ["cache_tiles", "head_norm", "head_table", "layer_weights", "turn_tiles"]
