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
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from emu.annotations import DType, KnownInt
from emu.tracing.loop import loop
from emu.trainium.datasheets.limits import MX_QUAD
from emu.trainium.datasheets.sheet import LOAD_QUEUES
from emu.trainium.engines.memory import (
    dma_load,
    dma_load_tiles,
    dma_store,
    hbm,
    psum,
    sbuf,
)
from emu.trainium.isa import memset, tensor_copy
from emu.trainium.spaces import Hbm, Psum, Sbuf
from kernels.refusal import refuse
from kernels.trainium.context.operands import Block
from kernels.trainium.context.sizes import ContextTiling
from kernels.trainium.context.state import STORES
from kernels.trainium.gemm.mx_blocks import Quantised
from kernels.trainium.gemm.mx_pack import MxFormats, pack_mx
from kernels.trainium.gemm.operands import (
    Operand,
    Weight,
    load_codes,
    multiply,
    quarters,
    ready,
    side_by_side,
    tile_count,
    token_count,
    tokens_of,
)
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


def expansion_weights(
    weights: Array,
    together: int,
    xp: ModuleType = jnp,
    mx: MxFormats | None = None,
) -> Any:
    """One of both weights of `expand`, as it takes them.

    Args:
      weights: `[*lead, rank, heads, features]`, of keys or of values.
      together: G, see `heads_at_once`.
      xp: numpy, or jax.numpy.
      mx: what products have their operands in, where they are in MX.

    Returns:
      `[*lead, heads / G, L, r, G · features]`; or MX, `[*lead, heads / G, p, tiles, G · features,
      4]` with scales.
    """
    *lead, rank, heads, features = weights.shape
    # Heads of a group are neighbours, so their columns stand side by side after this reshape alone.
    groups = heads // together, together * features
    group, first_part = -2, len(lead)
    if mx is None:
        by_part = weights.reshape(*lead, *split(rank, PARTITIONS), *groups)
        return xp.moveaxis(by_part, group, first_part)
    by_group = xp.moveaxis(weights.reshape(*lead, rank, *groups), group, first_part)
    _, size = quarters(rank)
    packed = pack_mx(by_group, mx.weights, size, together * features)
    block, chunk = first_part + 1, first_part + 2
    if packed.elements.shape[chunk] > 1:
        refuse(
            f"a latent of {rank} features in MX takes several loads of {together * features} "
            "columns, must take one"
        )
    return Quantised(*(leaf.squeeze((block, chunk)) for leaf in packed))


def expand(
    block: tuple[Hbm, Hbm],
    tiling: ContextTiling,
    *,
    weights: tuple[Weight, Weight],
    elements: DType | None = None,
) -> Block:
    """Keys and values of every head of a rank from the latents of a source.

    Dimensions:
      L parts of r ≤ 128 features make a latent. G = `heads_at_once`. Latents of B sequences stand
      side by side, each for heads / B heads in a row. W ≤ heads have weights of their own.

    Args:
      block: HBM latents `[key tiles, B, L, r, columns]` and rotary keys `[pieces, B, rope, keys]`.
      tiling: sizes; the first part of a query is its `nope` features, the second its rotary ones.
      weights: HBM, for keys `[W / G, L, r, G · nope]`, for values `[W / G, L, r, G · value_dim]`;
        heads behind the first W have them again, in turn. Or MX, see `expansion_weights`.
      elements: dtype of MX elements that latents are quantised to; None: they are not.

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
    first_queue, _ = LOAD_QUEUES

    def expand_group(expanded: Expanded, group: KnownInt) -> Expanded:
        # Groups of the first sequence come first; all sequences have the same weights.
        sequence, of_weights = jnp.int32(0), group
        if batch > 1:
            sequence, _ = divide(group, all_groups // batch)
        groups_of_weights = len(jax.tree.leaves(all_key_weights)[0])
        if groups_of_weights < all_groups:
            _, of_weights = divide(group, groups_of_weights)

        def loaded(weight: Weight, number: int) -> Operand:
            own = jax.tree.map(lambda leaf: index(leaf, of_weights), weight)
            if isinstance(own, Quantised):
                return load_codes(own, number, tiling.buffers)
            return load_parts(own, LOAD_QUEUES[number], tiling)

        key_weights = loaded(all_key_weights, 0)
        value_weights = loaded(all_value_weights, 1)

        def expand_tile(expanded: Expanded, key_tile: KnownInt) -> Expanded:
            k, v = expanded
            # Again for each group of heads, because the weights of all need not fit SBUF.
            source = index(index(latent, key_tile), sequence)
            latents = _latents_of(source, first_queue, elements, tiling)
            # However many heads and pieces there are, their products take turns in four banks.
            key_banks = banks_of(nope, token_count(latents), together)
            value_banks = banks_of(tiling.keys, group_values, tiling.span)
            for head in range(together):
                first_feature = head * nope
                head_weights = tokens_of(key_weights, first_feature, nope)
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
                own = tokens_of(latents, piece * tiling.keys, tiling.keys)
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


def _latents_of(
    source: Hbm, queue: str, elements: DType | None, tiling: ContextTiling
) -> Operand:
    """Latents `[L, r, columns]` of a key tile, as a product takes them."""
    if elements is None:
        return load_parts(source, queue, tiling)
    parts, features, columns = source.shape
    rank = parts * features
    count, size = quarters(rank)
    tiles, width = count // MX_QUAD, size * MX_QUAD
    rows = source.reshape(rank, columns)
    # A DMA puts four rows of HBM, one behind the other, on a partition.
    apart = sbuf(size, tiles, MX_QUAD, columns, dtype=source.dtype)
    if rank < tiles * width:
        # What is no feature is multiplied by weights of 0, and NaN times 0 would be NaN.
        apart = memset(apart, value=0.0)
    for tile in range(tiles):
        first = tile * width
        last = min(first + width, rank)
        own = lax.slice_in_dim(rows, first, last)
        own = own.reshape(-1, MX_QUAD, columns)
        apart = dma_load.at[: len(own), tile](apart, own, queue=queue)
    return ready(side_by_side(apart), elements)


def _piece(x: Sbuf, place: int, tiling: ContextTiling) -> Sbuf:
    first_key = place * tiling.keys
    return part(x, first_key, tiling.keys, 1)


def banks_of(
    rows: int, columns: int, products: int, dtype: DType = jnp.float32
) -> list[Psum]:
    """PSUM `[rows, columns]` for the products of an iteration: `PRODUCT_BANKS`, as used in turn."""
    # With one product an iteration it is the iterations that alternate, by a ring of two buffers.
    tiles = min(PRODUCT_BANKS, products)
    buffers = PRODUCT_BANKS // tiles
    return [psum(rows, columns, dtype=dtype, buffers=buffers) for _ in range(tiles)]


def product(
    left: Operand, right: Operand, banks: list[Psum], tiling: ContextTiling
) -> Sbuf:
    """`leftᵀ right` over both leading dimensions: SBUF `[r, L, m]` and `[r, L, n]` to `[m, n]`.

    It is summed in the first of `banks`, which then goes to the end of the line.
    """
    rows, columns = token_count(left), token_count(right)
    bank = banks.pop(0)
    for place in range(tile_count(left)):
        # A latent of 512 features is four parts of 128, summed in the bank.
        accumulate = jnp.int32(place > 0)
        stationary = jax.tree.map(lambda leaf: leaf[:, place], left)
        moving = jax.tree.map(lambda leaf: leaf[:, place], right)
        bank = multiply(bank, stationary, moving, accumulate)
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
