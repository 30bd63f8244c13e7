"""Multi-head latent attention, absorbed: queries meet the latents themselves.

`q · (w_k c) = (w_kᵀ q) · c`, so a query that is multiplied by `w_k` once meets latents as they are:
all heads of a sequence share one KV head of rank + rope features, whose values are its first rank
features. What comes out of attention is a mean of latents, which `w_v` makes a value of.

    before    q' = w_kᵀ q                 2 · rank · nope FLOPs a query and head
    pair      q' · c, weight · c          2 · (2 · rank + rope)
    after     w_v · mean                  2 · rank · value_dim

Nothing is expanded at a hop, but a pair takes 2 · 1,088 FLOPs where expanded it takes 2 · 320, for
a rank of 512 with 128 + 64 and values of 128 features.
"""

from collections.abc import Sequence

import jax.numpy as jnp

from emu.annotations import KnownInt
from emu.tracing.loop import loop
from emu.trainium.datasheets.sheet import LOAD_QUEUES
from emu.trainium.engines.memory import (
    dma_load,
    dma_load_tiles,
    dma_store,
    hbm,
    sbuf,
)
from emu.trainium.isa import nc_matmul, nc_transpose, tensor_copy
from emu.trainium.spaces import Hbm
from kernels.trainium.context.finish import Finished
from kernels.trainium.context.latent import banks_of, load_parts, product
from kernels.trainium.context.operands import Block
from kernels.trainium.context.sizes import ContextTiling
from kernels.trainium.context.state import STORES
from kernels.trainium.tiles import divide, index, part


def absorb(
    queries: tuple[Hbm, Hbm],
    tiling: ContextTiling,
    *,
    weights: Hbm,
    parts: tuple[int, int],
) -> tuple[Hbm, ...]:
    """Queries as they meet latents.

    Args:
      queries: HBM `[tiles, heads, nope, rows]` and, of rotary features, `[tiles, heads, rope,
        rows]`.
      tiling: sizes of attention to latents.
      weights: HBM `[heads with weights of their own, nope, rank]`, others have them again in turn.
      parts: how many parts a latent has, and of how many features.

    Returns:
      HBM by part `[tiles, heads, features of a part, rows]`, the last the rotary ones.

    Pseudocode:
      for head: load weights
        for block of query tiles: load q; for part: store weightsᵀ q
    """
    q, rotary = queries
    count, features = parts
    together = tiling.block_tiles
    _, heads, nope, rows = q.shape
    rank = count * features
    fresh = tuple(
        hbm(tiling.items, features, rows, dtype=tiling.dtype) for _ in range(count)
    )

    def absorb_head(absorbed: tuple[Hbm, ...], head: KnownInt) -> tuple[Hbm, ...]:
        own_weights = sbuf(nope, rank, dtype=tiling.dtype, buffers=tiling.buffers)
        of_head = index(weights, _within(head, weights))
        own_weights = dma_load(own_weights, of_head, queue=LOAD_QUEUES[0])

        def absorb_block(absorbed: tuple[Hbm, ...], block: KnownInt) -> tuple[Hbm, ...]:
            first = block * together
            tiles = sbuf(
                nope, together, rows, dtype=tiling.dtype, buffers=tiling.buffers
            )
            source = index(part(q, first, together, 0), head, 1)
            tiles = dma_load_tiles(tiles, source, queue=LOAD_QUEUES[1])
            moving = tiles.reshape(nope, together * rows)
            stored = []
            banks = banks_of(features, together * rows, count)
            for place, whole in enumerate(absorbed):
                bank = banks.pop(0)
                stationary = part(own_weights, place * features, features, 1)
                bank = nc_matmul(bank, stationary, moving, jnp.int32(0))
                banks.append(bank)
                tile = sbuf(
                    features,
                    together * rows,
                    dtype=tiling.dtype,
                    buffers=tiling.buffers,
                )
                tile = tensor_copy(tile, bank)
                for lane in range(together):
                    target = (first + lane) * heads + head
                    own = part(tile, lane * rows, rows, 1)
                    whole = dma_store.at[target](whole, own, queue=STORES[lane % 2])
                stored.append(whole)
            return tuple(stored)

        return loop(absorb_block, absorbed, tiling.blocks)

    absorbed = loop(absorb_head, fresh, heads)
    shape = tiling.tiles, heads, features, rows
    return *(x.reshape(shape) for x in absorbed), rotary


def turn(block: Sequence[Hbm], tiling: ContextTiling) -> Block:
    """Latents as values too: they come with features on partitions, as keys are contracted.

    So latents cross links once, and are turned by the Tensor Engine where they arrive.

    Args:
      block: HBM latents by part, and the rotary keys, `[pieces, batch, part, keys]`.
      tiling: sizes of attention to latents.

    Returns:
      The same as keys, and values `[pieces, batch, keys, rank]`.

    Pseudocode:
      for piece, sequence: for part: load; transpose
        store
    """
    *latents, _ = block
    pieces, batch, features, keys = latents[0].shape
    rank = len(latents) * features
    turned = tiling.turned or tiling.output
    values = hbm(pieces * batch, keys, rank, dtype=tiling.dtype)
    by_item = [x.reshape(pieces * batch, features, keys) for x in latents]

    def turn_item(values: Hbm, item: KnownInt) -> Hbm:
        tile = sbuf(keys, rank, dtype=tiling.dtype, buffers=tiling.buffers)
        banks = banks_of(keys, features, len(by_item), turned)
        for place, whole in enumerate(by_item):
            source = sbuf(features, keys, dtype=tiling.dtype, buffers=tiling.buffers)
            queue = LOAD_QUEUES[place % 2]
            source = dma_load(source, index(whole, item), queue=queue)
            bank = nc_transpose(banks.pop(0), source)
            banks.append(bank)
            columns = slice(place * features, (place + 1) * features)
            tile = tensor_copy.at[:, columns](tile, bank)
        return dma_store.at[item](values, tile, queue=STORES[0])

    values = loop(turn_item, values, pieces * batch)
    return tuple(block), values.reshape(pieces, batch, keys, rank)


def project(results: Finished, tiling: ContextTiling, *, weights: Hbm) -> Finished:
    """Values of means of latents.

    Args:
      results: HBM `[heads, tiles, rows, rank]`, and the log-sum-exp.
      tiling: sizes of attention to latents.
      weights: HBM `[heads with weights of their own, L, r, value_dim]`, of L parts of a latent;
        others have them again in turn.

    Returns:
      HBM `[heads, tiles, rows, value_dim]`, and the log-sum-exp.

    Pseudocode:
      for head: load weights
        for query tile: load mean; for part: transpose; store Σ_part meanᵀᵀ weights
    """
    out, lse = results
    heads, tiles, rows, rank = out.shape
    _, count, features, value_dim = weights.shape
    turned = tiling.turned or tiling.output
    projected = hbm(tiling.items, rows, value_dim, dtype=tiling.output)

    def project_head(projected: Hbm, head: KnownInt) -> Hbm:
        of_head = index(weights, _within(head, weights))
        own_weights = load_parts(of_head, LOAD_QUEUES[0], tiling)

        def project_tile(projected: Hbm, tile: KnownInt) -> Hbm:
            mean = sbuf(rows, rank, dtype=tiling.output, buffers=tiling.buffers)
            source = index(index(out, head), tile)
            mean = dma_load(mean, source, queue=LOAD_QUEUES[1])
            by_feature = sbuf(
                features, count, rows, dtype=tiling.dtype, buffers=tiling.buffers
            )
            banks = banks_of(features, rows, count, turned)
            for place in range(count):
                own = part(mean, place * features, features, 1)
                bank = nc_transpose(banks.pop(0), own)
                banks.append(bank)
                by_feature = tensor_copy.at[:, place](by_feature, bank)
            of_value = banks_of(rows, value_dim, 1)
            value = product(by_feature, own_weights, of_value, tiling)
            target = head * tiles + tile
            return dma_store.at[target](projected, value, queue=STORES[1])

        return loop(project_tile, projected, tiles)

    projected = loop(project_head, projected, heads)
    return projected.reshape(heads, tiles, rows, value_dim), lse


def _within(head: KnownInt, weights: Hbm) -> KnownInt:
    """Whose weights a head has: all sequences have the same."""
    _, own = divide(head, weights.shape[0])
    return own


__all__ = ["absorb", "project", "turn"]
