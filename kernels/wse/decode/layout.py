"""Weights and KV cache from a model's arrays to every PE's tiles, and the rotation tables.

A head's dimensions are dealt so that both elements of a rotation pair, `i` and `i + head_dim / 2`,
lie in one PE: column j of a group holds pairs `[j, j + 1) * dims / 2`, first elements first. A head
of 8 dimensions on two columns is

    column 0: 0 1 4 5      column 1: 2 3 6 7

Every array is brought to its PEs by splitting dimensions in two, such as `hidden` into
`rows, depth`, and putting those that count PEs in front. The comments list all dimensions after
each split.
"""

from collections.abc import Mapping

import jax
import numpy as np

from kernels.wse.decode.mapping import HeadMap, LayerMap

Array = jax.Array | np.ndarray

Tiles = np.ndarray
"""What every PE holds: the dimensions that count PEs, then those of a PE's tile."""


def deal(x: Array, axis: int, parts: int, each: int) -> np.ndarray:
    """Dimension `axis` as two, `[parts, each]`, padded with zeros at its end."""
    array = np.asarray(x)
    axis %= array.ndim
    before = array.shape[:axis]
    behind = array.shape[axis + 1 :]
    missing = parts * each - array.shape[axis]
    if missing:  # `np.pad` copies, and weights are gigabytes
        padding = [(0, 0)] * array.ndim
        padding[axis] = (0, missing)
        array = np.pad(array, padding)
    return array.reshape(*before, parts, each, *behind)


def rows_to_cols(x: Array, rows: int, depth: int, cols: int, width: int) -> Tiles:
    """`[layers, rows * depth, cols * width]` to `[layers, rows, cols, depth, width]`, padded."""
    by_col = deal(x, 2, cols, width)
    by_pe = deal(by_col, 1, rows, depth)  # layers, rows, depth, cols, width
    return np.moveaxis(by_pe, 3, 2)


def pairs(x: Array, layer: LayerMap, axis: int) -> np.ndarray:
    """Dimension `axis`, heads of `head_dim`, as `[kv_heads, queries, 2, parts, dims / 2]`."""
    array = np.asarray(x)
    before = array.shape[:axis]
    behind = array.shape[axis + 1 :]
    heads = array.shape[axis] // layer.head_dim
    queries = heads // layer.kv_heads
    return array.reshape(
        *before,
        layer.kv_heads,
        queries,
        2,  # elements of a rotation pair
        layer.parts,
        layer.dims // 2,
        *behind,
    )


def from_rows(weight: Array, layer: LayerMap) -> Tiles:
    """A projection to heads `[layers, hidden, n]` as `[layers, rows, cols, depth, n / cols]`."""
    by_head = pairs(weight, layer, 2)
    # layers, rows, depth, kv_heads, queries, 2, parts, dims / 2
    by_pe = deal(by_head, 1, layer.rows, layer.depth)
    # layers, rows, kv_heads, parts, depth, queries, 2, dims / 2
    by_pe = np.transpose(by_pe, (0, 1, 3, 6, 2, 4, 5, 7))
    layers = len(by_pe)
    return by_pe.reshape(
        layers,
        layer.rows,
        layer.cols,
        layer.depth,
        -1,
    )


def to_rows(weight: Array, layer: LayerMap) -> Tiles:
    """The output projection `[layers, n, hidden]` as `[layers, rows, cols, n / cols, depth]`."""
    by_row = deal(weight, 2, layer.rows, layer.depth)
    # layers, kv_heads, queries, 2, parts, dims / 2, rows, depth
    by_pe = pairs(by_row, layer, 1)
    # layers, rows, kv_heads, parts, queries, 2, dims / 2, depth
    by_pe = np.transpose(by_pe, (0, 6, 1, 4, 2, 3, 5, 7))
    layers = len(by_pe)
    return by_pe.reshape(
        layers,
        layer.rows,
        layer.cols,
        -1,
        layer.depth,
    )


def head_norms(q_norm: Array, k_norm: Array, layer: LayerMap) -> Tiles:
    """Norm weights `[layers, head_dim]` of q and k as `[layers, cols, queries + 1, dims]`."""
    heads = layer.queries + 1
    norms = [q_norm] * layer.queries + [k_norm]
    together = np.stack(norms, axis=1)  # layers, heads, head_dim
    layers = len(together)
    by_part = together.reshape(
        layers,
        heads,
        2,  # elements of a rotation pair
        layer.parts,
        layer.dims // 2,
    )
    # layers, parts, heads, 2, dims / 2
    by_part = np.transpose(by_part, (0, 3, 1, 2, 4))
    of_group = by_part.reshape(layers, layer.parts, heads, layer.dims)
    # All heads share one weight, so every group's columns hold the same.
    return np.tile(of_group, (1, layer.kv_heads, 1, 1))


def layer_weights(layers: Mapping[str, Array], layer: LayerMap) -> dict[str, Tiles]:
    """All layers' weights as `[layers, rows, cols, ...]` (norms without the axis they repeat on).

    Args:
      layers: stacked weights with `y = x @ W`: attn_norm, wq, wk, wv, wo, mlp_norm, w_gate, w_up,
        w_down and, with `qk_norm`, q_norm and k_norm.
      layer: the mapping.
    """
    rows = (layer.rows, layer.depth)
    cols = (layer.cols, layer.width)
    qkv = [from_rows(layers[name], layer) for name in ("wq", "wk", "wv")]
    gate = rows_to_cols(layers["w_gate"], *rows, *cols)
    up = rows_to_cols(layers["w_up"], *rows, *cols)
    down = rows_to_cols(layers["w_down"], *cols, *rows)
    tiles = {
        "attn_norm": deal(layers["attn_norm"], 1, *rows),
        "qkv": np.concatenate(qkv, axis=-1),
        "out": to_rows(layers["wo"], layer),
        "mlp_norm": deal(layers["mlp_norm"], 1, *rows),
        "gate_up": np.concatenate([gate, up], axis=-1),
        "down": np.swapaxes(down, 1, 2),
    }
    if layer.qk_norm:
        tiles["qk_norm"] = head_norms(layers["q_norm"], layers["k_norm"], layer)
    return tiles


def head_table(table: Array, head: HeadMap) -> Tiles:
    """A table `[hidden, vocab]` as `[rows, cols, depth, tokens]`, padded with zeros."""
    one_layer = np.asarray(table)[None]
    (tiles,) = rows_to_cols(one_layer, head.rows, head.depth, head.cols, head.tokens)
    return tiles


def head_norm(norm: Array, head: HeadMap) -> Tiles:
    """The final norm `[hidden]` as `[rows, depth]`."""
    return deal(norm, 0, head.rows, head.depth)


def cache_tiles(k: Array, v: Array, layer: LayerMap) -> dict[str, Tiles]:
    """Prefilled keys (after RoPE) and values `[layers, n, kv_heads, head_dim]` on their PEs.

    Returns:
      `k` `[layers, rows, cols, dims, slots]` and `v` `[layers, rows, cols, slots, dims]`; slots
      beyond the `n` tokens are zero.
    """
    keys = _positions_on_rows(k, layer)
    return {
        "k": np.swapaxes(keys, 3, 4),
        "v": _positions_on_rows(v, layer),
    }


def _positions_on_rows(x: Array, layer: LayerMap) -> Tiles:
    """`[layers, n, kv_heads, head_dim]` as `[layers, rows, cols, slots, dims]`."""
    array = np.asarray(x)
    layers, tokens, kv_heads, _ = array.shape
    by_part = array.reshape(
        layers,
        tokens,
        kv_heads,
        2,  # elements of a rotation pair
        layer.parts,
        layer.dims // 2,
    )
    # Position p is in slot p // rows of row p % rows, so slots come first:
    # layers, slots, rows, kv_heads, 2, parts, dims / 2
    by_row = deal(by_part, 1, layer.held_slots, layer.rows)
    # layers, rows, kv_heads, parts, slots, 2, dims / 2
    by_pe = np.transpose(by_row, (0, 2, 3, 5, 1, 4, 6))
    return by_pe.reshape(layers, layer.rows, layer.cols, layer.held_slots, layer.dims)


def turn_tiles(table: Array, layer: LayerMap) -> Tiles:
    """Cosines or sines `[positions, head_dim / 2]` as `[positions, cols, dims / 2]`."""
    angles = np.asarray(table, np.float32)
    by_part = angles.reshape(-1, layer.parts, layer.dims // 2)
    return np.tile(by_part, (1, layer.kv_heads, 1))


__all__ = ["cache_tiles", "head_norm", "head_table", "layer_weights", "turn_tiles"]
