"""Queries, keys and values microscaled (MX): their tiles in SBUF, and their step; Trainium3.

The contracted features of queries and keys, and the keys of values and weights, stand four to a
partition, and 8 partitions by 4 share a scale (`emu.trainium.engines.mx`). Feature f is at
partition f // 4 and place f % 4; key n of a tile at partition n % keys and place n // keys: the
four pieces of a key tile are the four places, so the weights of each are one transpose, put into
every fourth place.
"""

from collections.abc import Sequence
from typing import TypeAlias

import jax.numpy as jnp

from emu.annotations import KnownInt
from emu.trainium.datasheets.limits import MX_PARTITIONS, MX_QUAD
from emu.trainium.engines.memory import dma_load, dma_load_tiles, sbuf
from emu.trainium.isa import (
    nc_matmul_mx,
    quantize_mx,
    scalar_tensor_tensor,
    tensor_copy,
)
from emu.trainium.spaces import Hbm, OnChip, Psum, Sbuf
from kernels.trainium.context.operands import KEYS, VALUES, load_queries
from kernels.trainium.context.sizes import ContextTiling
from kernels.trainium.flash.lanes import Lane
from kernels.trainium.flash.online_softmax import absorb, add_up
from kernels.trainium.flash.step import Attended, Banks, Masked
from kernels.trainium.tiles import index, part

Mx: TypeAlias = tuple[Sbuf, Sbuf]
"""Elements `[p, n, 4]` and scales `[p / 8, n]`."""

Block: TypeAlias = tuple[tuple[Hbm, Hbm], tuple[Hbm, Hbm]]
"""Elements and scales of the keys, and of the values, of one source."""

KeyTile: TypeAlias = tuple[Mx, Mx]
"""Keys and values of one KV head."""


def partitions(tiling: ContextTiling) -> int:
    """Partitions that the features of a query or key take."""
    return sum(tiling.parts) // MX_QUAD


def query_tiles(tiling: ContextTiling) -> list[Sbuf]:
    """SBUF for a head's query tiles of a block: `[p, block tiles, rows · 4]` and scales."""
    rows = partitions(tiling)
    elements = sbuf(
        rows,
        tiling.block_tiles,
        tiling.rows * MX_QUAD,
        dtype=tiling.dtype,
    )
    scales = sbuf(
        rows // MX_PARTITIONS,
        tiling.block_tiles,
        tiling.rows,
        dtype=jnp.uint8,
    )
    return [elements, scales]


def query_of(
    tiles: Sequence[Sbuf],
    place: int,
    tiling: ContextTiling,
) -> Mx:
    """One of a head's query tiles."""
    elements, scale = tiles
    own = elements[:, place]
    # In HBM a query's four features of a partition are neighbours, which a view parts again.
    quads = own.reshape(-1, tiling.rows, MX_QUAD)
    return quads, scale[:, place]


def load_kv(
    block: Block,
    head: KnownInt,
    key_tile: KnownInt,
    tiling: ContextTiling,
) -> KeyTile:
    """A key tile of one KV head.

    Args:
      block: HBM keys, elements `[pieces, kv_heads, p, keys · 4]` and scales `[pieces, kv_heads, p /
        8, keys]`, and values `[key tiles, kv_heads, keys, value_dim · 4]` and scales `[key tiles,
        kv_heads, keys / 8, value_dim]`.
      head: which.
      key_tile: which.
      tiling: sizes.

    Returns:
      Keys, SBUF `[p, columns, 4]` and scales `[p / 8, columns]`; values `[keys, value_dim, 4]` and
      scales `[keys / 8, value_dim]`.
    """
    k, v = block
    elements, scale = (_load_keys(x, head, key_tile, tiling) for x in k)
    key_quads = elements.reshape(-1, tiling.columns, MX_QUAD)
    key_scale = scale.reshape(-1, tiling.columns)
    # Not in pieces: the four pieces of values are the places of their partitions, and come as they
    # stand.
    own = [_of_head(x, head, key_tile) for x in v]
    tiles = [_like(x, tiling) for x in own]
    loaded = []
    for tile, x in zip(tiles, own, strict=True):
        loaded.append(dma_load(tile, x, queue=VALUES))
    elements, value_scale = loaded
    value_quads = elements.reshape(tiling.keys, tiling.value_dim, MX_QUAD)
    return (key_quads, key_scale), (value_quads, value_scale)


def _load_keys(
    x: Hbm,
    head: KnownInt,
    key_tile: KnownInt,
    tiling: ContextTiling,
) -> Sbuf:
    """A key tile's elements or scales: HBM `[pieces, kv_heads, p, n]` to SBUF `[p, span, n]`."""
    first_piece = key_tile * tiling.span
    pieces = part(x, first_piece, tiling.span, 0)
    own = index(pieces, head, 1)
    span, rows, columns = own.shape
    tile = sbuf(
        rows,
        span,
        columns,
        dtype=x.dtype,
        buffers=tiling.buffers,
    )
    return dma_load_tiles(tile, own, queue=KEYS)


def _of_head(x: Hbm, head: KnownInt, key_tile: KnownInt) -> Hbm:
    all_heads = index(x, key_tile)
    return index(all_heads, head)


def _like(x: Hbm, tiling: ContextTiling) -> Sbuf:
    return sbuf(*x.shape, dtype=x.dtype, buffers=tiling.buffers)


def step(
    q: Mx,
    kv: KeyTile,
    done: Attended,
    masked: Masked | None,
    banks: Banks,
    tiling: ContextTiling,
    factor: Sbuf | None = None,
) -> Lane[Attended]:
    """A lane that attends a query tile to a key tile; its weights are quantised on the way.

    Pseudocode:
      x = q k; p = online softmax of x; pᵀ by pieces into every fourth place; quantise; out += p v
    """
    queries, query_scale = q
    key_tile, value_tile = kv
    keys, key_scale = key_tile
    values, value_scale = value_tile
    # Nothing to accumulate: one matmul contracts 128 partitions by 4, up to 512 features of a key,
    # or all 512 keys of a key tile.
    overwrite = jnp.int32(0)
    bank = banks.scores.take()
    bank = nc_matmul_mx(
        bank,
        queries,
        keys,
        query_scale,
        key_scale,
        overwrite,
    )
    scores: OnChip = banks.scores.give(bank)
    yield
    if masked is not None:
        scores = yield from masked(scores)
    # 16-bit floats until they are transposed: `quantize_mx` takes no others, and a transpose of 8
    # bits would come out in 16 anyway.
    weights = sbuf(
        *scores.shape,
        dtype=tiling.step.dtype,
        buffers=tiling.buffers,
    )
    weights, added, decay, softmax = yield from absorb(
        weights,
        scores,
        done.softmax,
        scale=tiling.step.scale,
        factor=factor,
        buffers=tiling.buffers,
    )
    yield
    # Piece n of the keys becomes place n: key 300 of pieces of 128 is at partition 44 and place 2.
    pieces = []
    for start in range(0, tiling.columns, tiling.keys):
        end = start + tiling.keys
        pieces.append(weights[:, start:end])
    turned = [banks.transposed(piece) for piece in pieces]
    yield
    elements, scale = _quantised(turned, tiling)
    yield
    bank = banks.products.take()
    bank = nc_matmul_mx(
        bank,
        elements,
        values,
        scale,
        value_scale,
        overwrite,
    )
    products = banks.products.give(bank)
    yield
    softmax = add_up(added, decay, softmax)
    output = scalar_tensor_tensor(
        done.output,
        done.output,
        decay,
        products,
        op0="multiply",
        op1="add",
    )
    return Attended(output, softmax)


def _quantised(turned: Sequence[Psum], tiling: ContextTiling) -> Mx:
    """Transposed weights, a piece at each of the four places of a partition, as MX."""
    buffers = tiling.buffers
    quads = tiling.keys, tiling.rows, MX_QUAD
    # An instruction for each place, since a transpose gives one key a partition and MX wants four.
    together = sbuf(*quads, dtype=tiling.step.dtype, buffers=buffers)
    for number, piece in enumerate(turned):
        # Some by the Scalar Engine, since the Vector Engine has most to do.
        by_scalar = number < tiling.step.scalar_copies
        engine = "scalar" if by_scalar else "vector"
        together = tensor_copy.at[..., number](together, piece, engine=engine)
    elements = sbuf(*quads, dtype=tiling.dtype, buffers=buffers)
    # 8 keys of each of the four pieces, 32 weights of a query, share a scale whatever its others
    # are.
    groups = tiling.keys // MX_PARTITIONS
    scale = sbuf(groups, tiling.rows, dtype=jnp.uint8, buffers=buffers)
    return quantize_mx(elements, scale, together)


__all__ = ["load_kv", "load_queries", "partitions", "query_of", "query_tiles", "step"]
