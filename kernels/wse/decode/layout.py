"""Weights and KV cache from a model's arrays to every PE's tiles, and the rotation tables.

A head's dimensions are dealt so that both elements of a rotation pair, `i` and `i + head_dim / 2`,
lie in one PE: column j of a group holds pairs `[j, j + 1) * dims / 2`, first elements first. A head
of 8 dimensions on two columns is

    column 0: 0 1 4 5      column 1: 2 3 6 7

Where only the first features of a head turn, a column holds pairs of those, and behind them as many
of the others as every column. Of the same head with 4 features that turn, in pairs `(0, 2)` and
`(1, 3)`,

    column 0: 0 2 4 5      column 1: 1 3 6 7

Every array is brought to its PEs by splitting dimensions in two, such as `hidden` into
`rows, depth`, and putting those that count PEs in front. The comments list all dimensions after
each split.
"""

import dataclasses
import functools
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from emu.wse.pe.packed import SCALES as POWERS_DTYPE
from kernels.formats.coding import coded, spread
from kernels.formats.formats import POWER_OF_TWO, Format
from kernels.wse.decode.cache_format import POWERS, SCALES
from kernels.wse.decode.coded_layout import coded_tiles
from kernels.wse.decode.dealing import (
    Array,
    Tiles,
    deal,
    in_blocks,
    rows_to_cols,
)
from kernels.wse.decode.latent_layout import MATRICES as OF_LATENTS
from kernels.wse.decode.latent_layout import (
    coded_latent_cache,
    latent_cache,
    latent_matrices,
    latent_norms,
)
from kernels.wse.decode.mapping import HeadMap, LayerMap
from kernels.wse.decode.residual import residual_in_blocks

OF_HEADS = ("wq", "wk", "wv", "wo")
OF_MLP = ("w_gate", "w_up", "w_down")
MATRICES = tuple(dict.fromkeys((*OF_HEADS, *OF_LATENTS, *OF_MLP)))
"""Of a model, those that a layer holds in codes, if it has them."""

OF_RESIDUAL = ("attn_norm", "mlp_norm", "attn_output_norm", "mlp_output_norm", "bo")
"""Norms of the residual stream and of what is added to it, and a bias of that."""


def feature_order(layer: LayerMap) -> np.ndarray:
    """Which features of a head its columns hold, int `[parts, dims]`, in their tiles' order."""
    half = layer.turned // 2
    first = np.arange(half).reshape(layer.parts, -1)
    others = np.arange(layer.turned, layer.head_dim).reshape(layer.parts, -1)
    return np.concatenate([first, first + half, others], axis=1)


def as_pairs(x: Array, layer: LayerMap, axis: int) -> np.ndarray:
    """Heads along `axis` with their features as if all of them turned, so that columns hold theirs.

    Halves of a column's tile come from halves of the head: of the head above, 0 and 2 would be
    column 0's first pair elements, and 4 and 5 the second.
    """
    array = np.asarray(x)
    if layer.turned == layer.head_dim:
        return array
    axis %= array.ndim
    # parts, 2, dims / 2
    halves = feature_order(layer).reshape(layer.parts, 2, -1)
    order = np.swapaxes(halves, 0, 1).reshape(-1)
    count = array.shape[axis] // layer.head_dim
    behind = array.shape[axis + 1 :]
    heads = array.reshape(*array.shape[:axis], count, layer.head_dim, *behind)
    return np.take(heads, order, axis=axis + 1).reshape(array.shape)


def pairs(x: Array, layer: LayerMap, axis: int) -> np.ndarray:
    """Dimension `axis`, heads of `head_dim`, as `[kv_heads, queries, 2, parts, dims / 2]`."""
    array = as_pairs(x, layer, axis)
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
    q_norm, k_norm = (as_pairs(x, layer, 1) for x in (q_norm, k_norm))
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
      layers: stacked weights with `y = x @ W`: attn_norm, wq, wk, wv, wo, or in place of these four
        what `latent_matrices` and `latent_norms` take; mlp_norm; w_gate, w_up, w_down, or what the
        form's MLP has; with `qk_norm` q_norm and k_norm; and what the form has of biases bq, bk,
        bv, bo and of norms attn_output_norm, mlp_output_norm.
      layer: the mapping.
    """
    rows = (layer.rows, layer.depth)
    form = layer.form
    of_stream = residual_in_blocks(layers, OF_RESIDUAL, layer.cut, layer.depth)
    tiles = {
        "attn_norm": deal(of_stream["attn_norm"], 1, *rows),
        "mlp_norm": deal(of_stream["mlp_norm"], 1, *rows),
    }
    held = layer.held.weights
    if held is None:
        tiles |= matrices(layers, layer)
    else:
        names = [name for name in MATRICES if name in layers]
        of_layer = functools.partial(matrices, layer=layer)
        tiles |= coded_tiles(layers, names, layer.matrices, held, of_layer)
    if form.latent is not None:
        tiles |= latent_norms(layers, layer.latent)
    if form.mlp is not None:
        tiles |= form.mlp.weight_tiles(layers, layer.region)
    if layer.qk_norm:
        tiles["qk_norm"] = head_norms(layers["q_norm"], layers["k_norm"], layer)
    if form.wide_qk_norm:
        norms = [by_column(layers[name], layer) for name in ("q_norm", "k_norm")]
        together = np.concatenate(norms, axis=-1)
        of_heads = layer.queries + 1, layer.dims
        tiles["qk_norm"] = together.reshape(*together.shape[:2], *of_heads)
    if form.qkv_bias:
        biases = [by_column(layers[name], layer) for name in ("bq", "bk", "bv")]
        tiles["qkv_bias"] = np.concatenate(biases, axis=-1)
    if form.out_bias:
        tiles["out_bias"] = deal(of_stream["bo"], 1, *rows)
    if form.output_norms:
        for name in ("attn_output_norm", "mlp_output_norm"):
            tiles[name] = deal(of_stream[name], 1, *rows)
    return tiles


def matrices(layers: Mapping[str, Array], layer: LayerMap) -> dict[str, Tiles]:
    """The tiles of `layer.matrices`, of elements of any dtype."""
    tiles = {}
    layers = residual_in_blocks(layers, MATRICES, layer.cut, layer.depth)
    if layer.form.latent is None:
        qkv = [from_rows(layers[name], layer) for name in ("wq", "wk", "wv")]
        tiles["qkv"] = np.concatenate(qkv, axis=-1)
        tiles["out"] = to_rows(layers["wo"], layer)
    else:
        tiles |= latent_matrices(layers, layer.latent)
    if layer.form.mlp is None:
        tiles |= gated_mlp(layers, layer)
    return tiles


def gated_mlp(layers: Mapping[str, Array], layer: LayerMap) -> dict[str, Tiles]:
    """The gated MLP's weights as `[layers, rows, cols, ...]`."""
    rows = (layer.rows, layer.depth)
    cols = (layer.cols, layer.width)

    def cut(name: str, axis: int) -> np.ndarray:
        return in_blocks(layers[name], axis, layer.width_cut, layer.width)

    gate = rows_to_cols(cut("w_gate", 2), *rows, *cols)
    up = rows_to_cols(cut("w_up", 2), *rows, *cols)
    down = rows_to_cols(cut("w_down", 1), *cols, *rows)
    return {
        "gate_up": np.concatenate([gate, up], axis=-1),
        "down": np.swapaxes(down, 1, 2),
    }


def by_column(bias: Array, layer: LayerMap) -> Tiles:
    """A bias or norm of heads `[layers, n]` as `[layers, cols, n / cols]`."""
    # layers, kv_heads, queries, 2, parts, dims / 2
    by_head = pairs(bias, layer, 1)
    by_pe = np.transpose(by_head, (0, 1, 4, 2, 3, 5))
    return by_pe.reshape(len(by_pe), layer.cols, -1)


def head_table(table: Array, head: HeadMap) -> Tiles:
    """A table `[hidden, vocab]` as `[rows, cols, depth, tokens]`, padded with zeros."""
    one_layer = in_blocks(table, 0, head.cut, head.depth)[None]
    (tiles,) = rows_to_cols(one_layer, head.rows, head.depth, head.cols, head.tokens)
    return tiles


def head_norm(norm: Array, head: HeadMap) -> Tiles:
    """The final norm `[hidden]` as `[rows, depth]`."""
    cut = in_blocks(norm, 0, head.cut, head.depth)
    return deal(cut, 0, head.rows, head.depth)


def cache_tiles(k: Array, v: Array, layer: LayerMap) -> dict[str, Tiles]:
    """Prefilled keys (after RoPE) and values `[layers, n, kv_heads, head_dim]` on their PEs.

    Of latent attention they are turned keys `[layers, n, turned]` and latents `[layers, n, rank]`.

    Returns:
      `k` `[layers, rows, cols, dims, slots]` and `v` `[layers, rows, cols, slots, dims]`; slots
      beyond the `n` tokens are zero.
    """
    if layer.form.latent is not None:
        return latent_cache(v, k, layer.latent, layer.held_slots)
    keys = _positions_on_rows(k, layer)
    return {
        "k": np.swapaxes(keys, 3, 4),
        "v": _positions_on_rows(v, layer),
    }


@dataclasses.dataclass(frozen=True)
class CodedTokens:
    """Keys, or values, of tokens in codes.

    Attributes:
      codes: `[layers, tokens, kv_heads, head_dim]`.
      scale: `[layers, tokens, kv_heads, scales of a head]`, as `coded` has each head's.
    """

    codes: Array
    scale: Array

    @classmethod
    def of(cls, given: Array, held: Format) -> "CodedTokens":
        """Numbers `[layers, tokens, kv_heads, head_dim]` in a format."""
        # A column of a matrix for each token and head: layers, tokens, kv_heads, head_dim, 1
        found = coded(np.asarray(given)[..., None], held)
        assert found.scales is not None
        elements, scales = np.asarray(found.elements), np.asarray(found.scales)
        return cls(elements[..., 0], scales[..., 0])

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the codes."""
        return self.codes.shape

    def __getitem__(self, layers: int | slice) -> "CodedTokens":
        """Those of some layers."""
        return CodedTokens(self.codes[layers], self.scale[layers])


def coded_cache_tiles(
    k: Array | CodedTokens, v: Array | CodedTokens, layer: LayerMap, held: Format
) -> dict[str, Tiles]:
    """Keys and values, as `cache_tiles` takes them, in codes, with scales of each head's.

    Those that come in codes are taken as they are.
    """
    if layer.form.latent is not None:
        assert not isinstance(k, CodedTokens) and not isinstance(v, CodedTokens)
        return coded_latent_cache(v, k, layer.latent, layer.held_slots, held)
    parts = [
        x if isinstance(x, CodedTokens) else CodedTokens.of(x, held) for x in (k, v)
    ]
    scales = []
    for own in parts:
        shape = own.codes.shape[-1], 1
        of_features = spread(jnp.asarray(own.scale)[..., None], shape, held)
        scales.append(np.asarray(of_features)[..., 0])
    of_keys, of_values = (own.codes for own in parts)
    tiles = cache_tiles(of_keys, of_values, layer)
    has_powers = held.scale == POWER_OF_TWO
    names, alike = SCALES, layer.dims
    if has_powers:
        names, alike = POWERS, layer.cache_blocks.run
    for name, of_head in zip(names.values(), scales, strict=True):
        # Dealt as features are, of which so many in a row of a PE's share one.
        of_slots = _positions_on_rows(of_head, layer)[..., ::alike]
        tile = np.ascontiguousarray(np.swapaxes(of_slots, -1, -2))
        tiles[name] = tile.view(POWERS_DTYPE) if has_powers else tile
    return tiles


def _positions_on_rows(x: Array, layer: LayerMap) -> Tiles:
    """`[layers, n, kv_heads, head_dim]` as `[layers, rows, cols, slots, dims]`."""
    array = as_pairs(x, layer, 3)
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
    """Cosines or sines `[positions, turned / 2]` as `[positions, cols, turned_pairs]`."""
    angles = np.asarray(table, np.float32)
    by_part = angles.reshape(len(angles), layer.parts, layer.turned_pairs)
    return np.tile(by_part, (1, layer.kv_heads, 1))


__all__ = [
    "CodedTokens",
    "cache_tiles",
    "coded_cache_tiles",
    "head_norm",
    "head_table",
    "layer_weights",
    "turn_tiles",
]
