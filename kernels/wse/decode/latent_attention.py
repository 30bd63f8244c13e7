"""Latent attention of one token in a layer's program, absorbed: from residual to residual stream.

Keys and values of heads are never made: a query meets latents by what the keys' up-projection makes
of it, and the values' up-projection meets the mean of latents. `LatentMap` says what lies where.
"""

import functools

from jax import lax

from emu.annotations import KnownInt
from emu.wse import rope, sram_tile, vector
from emu.wse.spaces import Sram
from kernels.wse.decode.attention import Attended, Cache, append
from kernels.wse.decode.blocks import (
    Weights,
    added,
    projected,
    projected_by_one,
    rms_norm,
)
from kernels.wse.decode.coded_cache import append_coded_latent
from kernels.wse.decode.latent import (
    absorbed,
    as_dtype,
    beside,
    on_columns,
    on_rows,
    values_of,
)
from kernels.wse.decode.latent_map import LatentMap
from kernels.wse.decode.mapping import LayerMap
from kernels.wse.decode.sums import all_reduce

Turn = tuple[Sram, Sram]
"""Cosines and sines of a column's pairs at the token's position."""


def latent_attention(
    layer: LayerMap,
    residual: Sram,
    weights: Weights,
    cache: Cache,
    turn: Turn,
    pos: KnownInt,
    attended: Attended,
) -> tuple[Sram, Cache]:
    """Adds latent attention of the normalised residual stream to it, and grows the cache.

    Dimensions: `residual` float32 `[depth]`; `turn` is `(cos, sin)` of this position, each
    `[turned_pairs]`; `attended` makes `[queries * latent_dims]`, means of latents, of queries
    `[queries, latent_dims + turned_dims]` and the cache.

    Pseudocode:
      c_q, c, r = all_reduce_row(norm(x) @ down);  cache += norm(c), rope(r)
      q = up @ norm(c_q);  q = absorb @ q_plain, rope(q_turned)
      x += all_reduce_col(out @ values_up @ attended(q, cache))
    """
    layout = layer.latent
    normed = rms_norm(
        residual,
        weights["attn_norm"],
        n=layer.hidden,
        eps=layer.eps,
        dtype=layer.dtype,
    )
    part = projected(layer, weights, "latent_down", normed)
    down = all_reduce(part, "row")
    of_query = lax.slice_in_dim(down, 0, layout.query_dims)
    of_key = lax.slice_in_dim(down, layout.query_dims, down.shape[0])

    key = cached_key(layer, layout, of_key, weights, turn)
    held = layer.held.cache
    if held is None:
        cache = append(cache, key, None, pos, layer.rows)
    else:
        sizes = {"rows": layer.rows, "parts": layout.parts}
        of_latent = layout.latent_dims
        cache = append_coded_latent(
            cache, key, pos, held, **sizes, latent_dims=of_latent
        )
    q = absorbed_queries(layer, layout, of_query, weights, turn)
    mean = attended(q, cache).reshape(layout.queries, layout.latent_dims)

    of_mean = functools.partial(projected_by_one, layer, weights, "values_up")
    own = values_of(mean, of_mean, layout.values, layout.parts)
    of_heads = on_columns(own.reshape(-1), layout.values, layout.parts)
    of_heads = as_dtype(all_reduce(of_heads, "row"), layer.dtype)
    part = projected(layer, weights, "out", of_heads.reshape(-1))
    out = all_reduce(part, "col")
    if layer.form.out_bias:
        out = vector(out, out, weights["out_bias"], op="add")
    return added(layer, residual, out, weights, "attn_output_norm"), cache


def cached_key(
    layer: LayerMap, layout: LatentMap, of_key: Sram, weights: Weights, turn: Turn
) -> Sram:
    """What the token leaves in the cache, float32 `[latent_dims + turned_dims]`.

    Dimensions: `of_key` alike, before its norm and RoPE, on every row.
    """
    latent = rms_norm(
        lax.slice_in_dim(of_key, 0, layout.latent_dims),
        weights["latent_norm"],
        n=layout.form.rank,
        eps=layer.eps,
        dtype="float32",
        axis="col",
        group=layout.parts,
    )
    unturned = lax.slice_in_dim(of_key, layout.latent_dims, of_key.shape[0])
    turned = sram_tile(shape=(1, layout.turned_dims), dtype="float32")
    turned = rope(turned, unturned.reshape(1, -1), *turn)
    return beside(latent.reshape(1, -1), turned).reshape(-1)


def absorbed_queries(
    layer: LayerMap, layout: LatentMap, of_query: Sram, weights: Weights, turn: Turn
) -> Sram:
    """A group's queries as they meet the cache, `[queries, latent_dims + turned_dims]`.

    Dimensions: `of_query` float32 `[query_dims]`, the queries' latent before its norm, or the
    queries where they have none.
    """
    if layout.form.query_rank is None:
        latents, unturned = queries_at_once(layer, layout, of_query, weights)
    else:
        latents, unturned = queries_of_latent(layer, layout, of_query, weights)
    turned = sram_tile(shape=unturned.shape, dtype="float32")
    turned = rope(turned, unturned, *turn)
    return as_dtype(beside(latents, turned), layer.dtype)


def queries_at_once(
    layer: LayerMap, layout: LatentMap, of_query: Sram, weights: Weights
) -> tuple[Sram, Sram]:
    """Absorbed features `[queries, latent_dims]`, and those to be turned `[queries, turned_dims]`.

    Dimensions: `of_query` float32 `[queries * (plain_dims + turned_dims)]`.
    """
    heads = of_query.reshape(layout.queries, -1)
    own = lax.slice_in_dim(heads, 0, layout.plain_dims, axis=1)
    unturned = lax.slice_in_dim(heads, layout.plain_dims, heads.shape[1], axis=1)
    plain = on_rows(own, layout.plain, layout.parts)
    latents = of_plain_features(layer, layout, plain, weights)
    return all_reduce(latents, "row"), unturned


def queries_of_latent(
    layer: LayerMap, layout: LatentMap, of_query: Sram, weights: Weights
) -> tuple[Sram, Sram]:
    """As `queries_at_once`, of the queries' latent, float32 `[query_dims]`."""
    assert layout.form.query_rank is not None
    normed = rms_norm(
        of_query,
        weights["query_norm"],
        n=layout.form.query_rank,
        eps=layer.eps,
        dtype=layer.dtype,
        axis="col",
        group=layout.parts,
    )
    part = projected(layer, weights, "query_up", normed)
    up = all_reduce(part, "col", group=layout.parts)
    plain = lax.slice_in_dim(up, 0, layout.plain.size)
    unturned = lax.slice_in_dim(up, layout.plain.size, up.shape[0])

    latents = of_plain_features(layer, layout, plain, weights)
    rotary = on_columns(unturned, layout.turned, layout.parts)
    # Of all rows' features together, in one sum.
    whole = all_reduce(beside(latents, rotary), "row")
    latents = lax.slice_in_dim(whole, 0, layout.latent_dims, axis=1)
    unturned = lax.slice_in_dim(whole, layout.latent_dims, whole.shape[1], axis=1)
    return latents, unturned


def of_plain_features(
    layer: LayerMap, layout: LatentMap, plain: Sram, weights: Weights
) -> Sram:
    """This row's part of absorbed features, float32 `[queries, latent_dims]`.

    Dimensions: `plain` float32 `[plain.size]`, this row's unturned features.
    """
    if layer.held.weights is None:
        plain = as_dtype(plain, layer.dtype)
    of_features = functools.partial(projected_by_one, layer, weights, "absorb")
    return absorbed(plain, of_features, layout.latent_dims, layout.plain)


__all__ = ["latent_attention"]
