"""Multi-head latent attention (MLA): latents travel, and are expanded wherever they come to.

A token's latent and its rotary key are shared by all heads, so what crosses links is `rank + rope`
elements a token instead of `heads · (head_dim + value_dim)`; 2 · rank · heads · (nope + value_dim)
FLOPs a token and hop buy that. Queries meet expanded keys: with many queries a rank that takes
fewer FLOPs than attending to latents themselves (the absorbed form, for decode).

With 128 heads of 128 + 64 features, values of 128 and a latent of 512, a token is 576 elements on a
link instead of 40,960, and costs 33.6 MFLOP at every hop. Heads are dealt out to the cores of a
chip, each of which expands latents for its own heads.
"""

from types import ModuleType
from typing import TypeAlias

import jax.numpy as jnp

from emu.annotations import DType, KnownInt
from emu.tracing.loop import loop
from emu.trainium.datasheets.sheet import LOAD_QUEUES
from emu.trainium.engines.memory import dma_load_tiles, dma_store, hbm, psum, sbuf
from emu.trainium.isa import nc_matmul, tensor_copy
from emu.trainium.spaces import Hbm, Psum, Sbuf
from kernels.trainium.context.operands import Block
from kernels.trainium.context.sizes import ContextTiling
from kernels.trainium.context.state import STORES
from kernels.trainium.tiles import (
    BANK_COLUMNS,
    PARTITIONS,
    Array,
    divide,
    index,
    largest_divisor,
    part,
    split,
)

PRODUCT_BANKS = 2  # of keys, and as many of values

Expanded: TypeAlias = tuple[Hbm, Hbm]
"""Keys and values of every head, as they are stored tile by tile."""


def heads_at_once(heads: int, value_dim: int) -> int:
    """Heads whose values fill one PSUM bank: 4 of 128 features fill 512 columns.

    Args:
      heads: in a row that have the same latents; their groups have all the same number.
      value_dim: features of a value.
    """
    most = max(1, BANK_COLUMNS // value_dim)
    return largest_divisor(heads, most)


def expansion_weights(weights: Array, together: int, xp: ModuleType = jnp) -> Array:
    """One of both weights of `expand`, as it takes them.

    Args:
      weights: `[*lead, rank, heads, features]`, of keys or of values.
      together: G, see `heads_at_once`.
      xp: numpy, or jax.numpy.

    Returns:
      `[*lead, heads / G, L, r, G · features]`.
    """
    *lead, rank, heads, features = weights.shape
    # Heads of a group are neighbours, so their columns stand side by side after this reshape alone.
    groups = heads // together, together * features
    by_part = weights.reshape(*lead, *split(rank, PARTITIONS), *groups)
    group, first_part = -2, len(lead)
    return xp.moveaxis(by_part, group, first_part)


def expand(
    block: tuple[Hbm, Hbm],
    tiling: ContextTiling,
    *,
    weights: tuple[Hbm, Hbm],
) -> Block:
    """Keys and values of every head of a rank from the latents of a source.

    Dimensions:
      L parts of r ≤ 128 features make a latent. G = `heads_at_once`. Latents of B sequences stand
      side by side, each for heads / B heads in a row. W ≤ heads have weights of their own.

    Args:
      block: HBM latents `[key tiles, B, L, r, columns]` and rotary keys `[pieces, B, rope, keys]`.
      tiling: sizes; the first part of a query is its `nope` features, the second its rotary ones.
      weights: HBM, for keys `[W / G, L, r, G · nope]`, for values `[W / G, L, r, G · value_dim]`;
        heads behind the first W have them again, in turn.

    Returns:
      HBM keys by part, `[pieces, heads, nope, keys]` and the rotary ones, and values `[pieces,
      heads / G, keys, G · value_dim]`.

    Pseudocode:
      for heads: load weights; for key tile: load latent
        for head: k = Σ_L wᵀ latent; for piece: v = Σ_L latentᵀ w
    """
    latent, rotary = block
    key_tiles = len(latent)
    # Their values are one moving operand, so a latent is loaded into the array once for all of
    # them.
    batch = latent.shape[1]
    together = heads_at_once(tiling.heads // batch, tiling.value_dim)
    all_groups = tiling.heads // together
    pieces = key_tiles * tiling.span
    nope, _ = tiling.parts
    group_values = together * tiling.value_dim
    k = hbm(
        pieces * tiling.heads,
        nope,
        tiling.keys,
        dtype=tiling.dtype,
    )
    v = hbm(
        pieces * all_groups,
        tiling.keys,
        group_values,
        dtype=tiling.dtype,
    )
    all_key_weights, all_value_weights = weights
    first_queue, second_queue = LOAD_QUEUES

    def expand_group(expanded: Expanded, group: KnownInt) -> Expanded:
        # Groups of the first sequence come first; all sequences have the same weights.
        sequence, of_weights = jnp.int32(0), group
        if batch > 1:
            sequence, _ = divide(group, all_groups // batch)
        if len(all_key_weights) < all_groups:
            _, of_weights = divide(group, len(all_key_weights))
        own_key_weights = index(all_key_weights, of_weights)
        key_weights = load_parts(own_key_weights, first_queue, tiling)
        own_value_weights = index(all_value_weights, of_weights)
        value_weights = load_parts(own_value_weights, second_queue, tiling)

        def expand_tile(expanded: Expanded, key_tile: KnownInt) -> Expanded:
            k, v = expanded
            # Again for each group of heads, because the weights of all need not fit SBUF.
            source = index(index(latent, key_tile), sequence)
            latents = load_parts(source, first_queue, tiling)
            # However many heads and pieces there are, their products take turns in four banks.
            key_banks = banks_of(nope, latents.shape[-1], together)
            value_banks = banks_of(tiling.keys, group_values, tiling.span)
            for head in range(together):
                first_feature = head * nope
                head_weights = part(key_weights, first_feature, nope, 2)
                # The stationary operand's columns come out on partitions: features for keys, and
                # below keys for values, as attention contracts each. So neither is transposed.
                keys = product(head_weights, latents, key_banks, tiling)
                for piece in range(tiling.span):
                    own = _piece(keys, piece, tiling)
                    place = key_tile * tiling.span + piece
                    # Keys are stored head by head, as `load_kv` reads them; values by the group, as
                    # they come out.
                    target = place * tiling.heads + group * together + head
                    k = dma_store.at[target](k, own, queue=STORES[piece % 2])
            for piece in range(tiling.span):
                own = _piece(latents, piece, tiling, axis=2)
                values = product(own, value_weights, value_banks, tiling)
                place = key_tile * tiling.span + piece
                target = place * all_groups + group
                v = dma_store.at[target](v, values, queue=STORES[piece % 2])
            return k, v

        return loop(expand_tile, expanded, key_tiles)

    k, v = loop(expand_group, (k, v), all_groups)
    k_by_head = k.reshape(pieces, tiling.heads, nope, tiling.keys)
    v_by_group = v.reshape(pieces, all_groups, tiling.keys, group_values)
    return (k_by_head, rotary), v_by_group


def load_parts(x: Hbm, queue: str, tiling: ContextTiling) -> Sbuf:
    """HBM `[L, r, n]` to SBUF `[r, L, n]`."""
    parts, features, columns = x.shape
    tile = sbuf(
        features,
        parts,
        columns,
        dtype=x.dtype,
        buffers=tiling.buffers,
    )
    return dma_load_tiles(tile, x, queue=queue)


def _piece(
    x: Sbuf,
    place: int,
    tiling: ContextTiling,
    axis: int = 1,
) -> Sbuf:
    first_key = place * tiling.keys
    return part(x, first_key, tiling.keys, axis)


def banks_of(
    rows: int, columns: int, products: int, dtype: DType = jnp.float32
) -> list[Psum]:
    """PSUM `[rows, columns]` for the products of an iteration: `PRODUCT_BANKS`, as used in turn."""
    # With one product an iteration it is the iterations that alternate, by a ring of two buffers.
    tiles = min(PRODUCT_BANKS, products)
    buffers = PRODUCT_BANKS // tiles
    return [psum(rows, columns, dtype=dtype, buffers=buffers) for _ in range(tiles)]


def product(left: Sbuf, right: Sbuf, banks: list[Psum], tiling: ContextTiling) -> Sbuf:
    """`leftᵀ right` over both leading dimensions: SBUF `[r, L, m]` and `[r, L, n]` to `[m, n]`.

    It is summed in the first of `banks`, which then goes to the end of the line.
    """
    _, parts, rows = left.shape
    _, _, columns = right.shape
    bank = banks.pop(0)
    for place in range(parts):
        # A latent of 512 features is four parts of 128, summed in the bank.
        accumulate = jnp.int32(place > 0)
        stationary = left[:, place]
        moving = right[:, place]
        bank = nc_matmul(bank, stationary, moving, accumulate)
    banks.append(bank)
    tile = sbuf(rows, columns, dtype=tiling.dtype, buffers=tiling.buffers)
    return tensor_copy(tile, bank)


__all__ = [
    "banks_of",
    "expand",
    "expansion_weights",
    "heads_at_once",
    "load_parts",
    "product",
]
