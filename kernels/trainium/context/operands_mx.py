"""Queries, keys and values microscaled (MX): their tiles in SBUF, and their step; Trainium3.

The contracted features of queries and keys, and the keys of values and weights, stand four to a
partition, and 8 partitions by 4 share a scale (`emu.trainium.engines.mx`). Feature f is at
partition f // 4 and place f % 4; key n of a tile at partition n % keys and place n // keys: the
four pieces of a key tile are the four places, so the weights of each are one transpose, put into
every fourth place.
"""

from typing import Any

import jax.numpy as jnp

from emu.trainium.datasheets.limits import MX_PARTITIONS, MX_QUAD
from emu.trainium.engines.memory import dma_load, dma_load_tiles, sbuf
from emu.trainium.isa import nc_matmul_mx, nc_transpose, quantize_mx, tensor_copy_every
from emu.trainium.isa import scalar_tensor_tensor as fused
from kernels.trainium.context.operands import KEYS, VALUES, load_queries
from kernels.trainium.context.sizes import ContextTiling
from kernels.trainium.flash.lanes import Lane
from kernels.trainium.flash.online_softmax import absorb, add_up
from kernels.trainium.flash.step import Attended, Banks, Masked
from kernels.trainium.tiles import index, part

Mx = tuple[Any, Any]  # elements [p, n, 4] and scales [p / 8, n]


def partitions(s: ContextTiling) -> int:
    """Partitions that the features of a query or key take."""
    return sum(s.parts) // MX_QUAD


def query_tiles(s: ContextTiling) -> list[Any]:
    """SBUF for a head's query tiles of a block: `[p, block tiles, rows · 4]` and scales."""
    p, tiles = partitions(s), s.block_tiles
    elements = sbuf(p, tiles, s.rows * MX_QUAD, dtype=s.dtype)
    return [elements, sbuf(p // MX_PARTITIONS, tiles, s.rows, dtype=jnp.uint8)]


def query_of(tiles: list[Any], n: int, s: ContextTiling) -> Mx:
    """Query tile n of them."""
    elements, scale = tiles
    return elements[:, n].reshape(-1, s.rows, MX_QUAD), scale[:, n]


def load_kv(block: Any, head: Any, j: Any, s: ContextTiling) -> tuple[Mx, Mx]:
    """Key tile j of one KV head.

    Args:
      block: HBM keys, elements `[pieces, kv_heads, p, keys · 4]` and scales `[pieces, kv_heads, p /
        8, keys]`, and values `[key tiles, kv_heads, keys, value_dim · 4]` and scales `[key tiles,
        kv_heads, keys / 8, value_dim]`.
      head: which.
      j: which tile.
      s: sizes.

    Returns:
      Keys, SBUF `[p, columns, 4]` and scales `[p / 8, columns]`; values `[keys, value_dim, 4]` and
      scales `[keys / 8, value_dim]`.
    """
    k, v = block
    elements, scale = (_pieces(x, head, j, s) for x in k)
    keys = elements.reshape(-1, s.columns, MX_QUAD), scale.reshape(-1, s.columns)
    own = [index(index(x, j), head) for x in v]
    tiles = [sbuf(*x.shape, dtype=x.dtype, buffers=s.buffers) for x in own]
    elements, scale = (dma_load(*x, queue=VALUES) for x in zip(tiles, own, strict=True))
    return keys, (elements.reshape(s.keys, s.value_dim, MX_QUAD), scale)


def _pieces(x: Any, head: Any, j: Any, s: ContextTiling) -> Any:
    own = index(part(x, j * s.span, s.span, 0), head, 1)
    tile = sbuf(own.shape[1], s.span, own.shape[2], dtype=x.dtype, buffers=s.buffers)
    return dma_load_tiles(tile, own, queue=KEYS)


def step(
    q: Mx,
    kv: tuple[Mx, Mx],
    done: Attended,
    masked: Masked | None,
    banks: Banks,
    s: ContextTiling,
) -> Lane:
    """A lane that attends a query tile to a key tile; its weights are quantised on the way.

    Pseudocode:
      x = q k; p = online softmax of x; pᵀ by pieces into every fourth place; quantise; out += p v
    """
    (keys, key_scale), (values, value_scale) = kv
    score_banks, turn_banks, product_banks = banks
    out, state = done
    none = jnp.int32(0)
    scores = nc_matmul_mx(score_banks.take(), q[0], keys, q[1], key_scale, none)
    x = score_banks.give(scores)
    yield
    if masked is not None:
        x = yield from masked(x)
    p = sbuf(*x.shape, dtype=s.step.dtype, buffers=s.buffers)
    p, added, decay, state = yield from absorb(
        p, x, state, scale=s.step.scale, buffers=s.buffers
    )
    yield
    starts = range(0, s.columns, s.keys)
    pieces = [p[:, a : a + s.keys] for a in starts]
    pieces = [turn_banks.give(nc_transpose(turn_banks.take(), x)) for x in pieces]
    yield
    turned = sbuf(s.keys, s.rows, MX_QUAD, dtype=s.step.dtype, buffers=s.buffers)
    for n, piece in enumerate(pieces):
        engine = "scalar" if n < s.step.scalar_copies else "vector"
        turned = tensor_copy_every(turned, piece, jnp.int32(n), engine=engine)
    elements = sbuf(*turned.shape, dtype=s.dtype, buffers=s.buffers)
    scale = sbuf(s.keys // MX_PARTITIONS, s.rows, dtype=jnp.uint8, buffers=s.buffers)
    elements, scale = quantize_mx(elements, scale, turned)
    yield
    product = nc_matmul_mx(
        product_banks.take(), elements, values, scale, value_scale, none
    )
    product = product_banks.give(product)
    yield
    state = add_up(added, decay, state)
    return fused(out, out, decay, product, op0="multiply", op1="add"), state


__all__ = ["load_kv", "load_queries", "partitions", "query_of", "query_tiles", "step"]
