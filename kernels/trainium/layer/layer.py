"""One decoder layer's prefill on one core of a chip of the ring.

Where several cores of a chip share a layer (tensor parallelism), each computes the query heads and
FFN columns that its weights hold. Every core has the chip's hidden states; what `wo` and `w_down`
give is summed over the cores, a block's sum travelling while the next block is computed.
"""

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import jax.numpy as jnp
from jax import lax

from emu.annotations import KnownInt
from emu.boxes import ds, old
from emu.tracing.loop import loop
from emu.trainium.datasheets.limits import MX_QUAD
from emu.trainium.datasheets.sheet import LOAD_QUEUES
from emu.trainium.engines.memory import (
    dma_load,
    dma_load_tiles,
    dma_store,
    hbm,
    sbuf,
)
from emu.trainium.isa import memset, tensor_tensor
from emu.trainium.links.collectives import all_reduce
from emu.trainium.spaces import Hbm, Sbuf
from kernels.trainium.gemm.operands import ready, side_by_side
from kernels.trainium.gemm.scaled import (
    AnyOperand,
    AnyWeight,
    Scaled,
    Sum,
    product,
    put,
    valued,
)
from kernels.trainium.layer.by_token import (
    by_token,
    gated_by_token,
    normalised_operand,
)
from kernels.trainium.layer.cached import CodedPart
from kernels.trainium.layer.gate import GATES, Gate
from kernels.trainium.layer.mlp import UpWeights, gated
from kernels.trainium.layer.norm import (
    add_row,
    in_every_row,
    rms_norm,
)
from kernels.trainium.layer.qkv import Project, Queries, load_block
from kernels.trainium.layer.ring import Attend
from kernels.trainium.layer.tiling import LayerTiling
from kernels.trainium.layer.weights import LayerWeights
from kernels.trainium.tiles import divide, index, part

Cached: TypeAlias = Hbm | CodedPart
"""Keys, or values, of a chip's tokens as they are handed over."""

Write: TypeAlias = Callable[[Sbuf, Sum, KnownInt, KnownInt], Sbuf]
"""A sum into a tile, at a token tile and from a column on: copied, or added."""


def layer(
    x: Hbm,
    weights: LayerWeights,
    project: Project,
    attend: Attend,
    tiling: LayerTiling,
    *,
    gate: Gate = GATES["silu"],
    core_axis: str | None = None,
) -> tuple[Hbm, Cached, Cached]:
    """Attention and MLP with their residuals.

    Args:
      x: HBM `[blocks, tiles, rows, hidden padded]`, this chip's hidden states.
      weights: this layer's.
      project: to this layer's q, k and v: `qkv` of its form.
      attend: this layer's attention, such as `LayerRing.attend` gives it.
      tiling: sizes; heads and FFN are this core's share.
      gate: of its MLP.
      core_axis: mesh axis of the chip's cores that share the layer; None where one has it all.

    Returns:
      The next hidden states, and k and v as `qkv` gives them, in codes where the cache is, all in
      HBM.
    """
    # k and v are read from where `qkv` stored them, and returned too: they are the KV cache.
    q, k, v, of_keys, of_values = _projected(x, weights, project)
    attended = attend(q, k, v, weights)
    if core_axis is None:
        y = after_attention(x, attended, weights, tiling, gate)
    else:
        y = after_shared_attention(x, attended, weights, tiling, gate, axis=core_axis)
    return y, of_keys, of_values


def attention_half(
    x: Hbm,
    weights: LayerWeights,
    project: Project,
    attend: Attend,
    tiling: LayerTiling,
    *,
    core_axis: str | None = None,
) -> tuple[Hbm, Cached, Cached]:
    """A layer up to its first residual, for a second half of its own, such as a mixture of experts.

    `kernels.moe.mesh.mixture.moe_layer` takes what it gives. `layer` is this and a gated MLP, with
    a block's hidden states kept in SBUF between the two.

    Args:
      x, weights, project, attend, tiling, core_axis: as for `layer`; of the weights the MLP's are
        not read.

    Returns:
      Hidden states with attention's output added, and k and v, all in HBM, as `layer`.
    """
    q, k, v, of_keys, of_values = _projected(x, weights, project)
    attended = attend(q, k, v, weights)

    def of_block(given: tuple[KnownInt, Hbm]) -> Hbm:
        block, x = given
        own = _load_attended(attended, block, tiling)
        if core_axis is None:
            y = load_block(x, tiling)
            return _store_block(_plus_attention(y, own, weights, tiling))
        return _total(own, weights["wo"], tiling, core_axis)

    blocks = jnp.arange(tiling.blocks, dtype=jnp.int32)
    made = lax.map(of_block, (blocks, x))
    if core_axis is None:
        return made, of_keys, of_values

    def residual(given: tuple[Hbm, Hbm]) -> Hbm:
        x, attention_sum = given
        return _store_block(_plus(x, attention_sum, tiling, *_of_attention(weights)))

    return lax.map(residual, (x, made)), of_keys, of_values


def _projected(
    x: Hbm, weights: LayerWeights, project: Project
) -> tuple[Queries, Hbm, Hbm, Cached, Cached]:
    """q, k and v, and these two as they are handed over."""
    q, k, v, *in_codes = project(x, weights)
    if not in_codes:
        return q, k, v, k, v
    of_keys, of_values = in_codes
    return q, k, v, of_keys, of_values


def after_attention(
    x: Hbm,
    attended: Hbm,
    weights: LayerWeights,
    tiling: LayerTiling,
    gate: Gate = GATES["silu"],
) -> Hbm:
    """Output projection, residual, RMSNorm, gated MLP, residual.

    Args:
      x: HBM `[blocks, tiles, rows, hidden padded]`.
      attended: HBM `[heads, token tiles, value_dim, rows]`, from `ring_attention`; where products
        have activations in codes by token, `[..., rows, value_dim]`.
      weights: this layer's.
      tiling: sizes.
      gate: of the MLP.

    Returns:
      The next hidden states, HBM as `x`.
    """

    def of_block(given: tuple[KnownInt, Hbm]) -> Hbm:
        block, x = given
        # A block stays in SBUF from here to its store: between the two residuals nothing goes to
        # HBM.
        y = load_block(x, tiling)
        own = _load_attended(attended, block, tiling)
        y = _plus_attention(y, own, weights, tiling)
        h = normalised_operand(y, weights["mlp_norm"], tiling)
        h = _gated(h, weights, gate, tiling)
        # `gated` gives FFN features on partitions, as this contracts them.
        norm = weights.get("mlp_output_norm")
        y = _plus_product(y, h, weights["w_down"], tiling, None, norm)
        return _store_block(y)

    blocks = jnp.arange(tiling.blocks, dtype=jnp.int32)
    return lax.map(of_block, (blocks, x))


def after_shared_attention(
    x: Hbm,
    attended: Hbm,
    weights: LayerWeights,
    tiling: LayerTiling,
    gate: Gate = GATES["silu"],
    *,
    axis: str,
) -> Hbm:
    """`after_attention` on each of the cores along `axis`, from its heads and FFN columns.

    The sum over cores is apart from the residual, which every core adds for itself: added before,
    it would count as often as there are cores.

    Pseudocode:
      for block: sum[block] = all_reduce(attended · wo)
      for block: y = x + sum[block]; x[block] = y; sum[block] = all_reduce(gated(norm(y)) · w_down)
      for block: x[block] += sum[block]
    """

    def attention(block: KnownInt) -> Hbm:
        own = _load_attended(attended, block, tiling)
        return _total(own, weights["wo"], tiling, axis)

    def mlp(given: tuple[Hbm, Hbm]) -> tuple[Hbm, Hbm]:
        x, attention_sum = given
        y = _plus(x, attention_sum, tiling, *_of_attention(weights))
        h = normalised_operand(y, weights["mlp_norm"], tiling)
        # The residual goes back to HBM while the MLP's part is summed over cores; the third loop
        # adds that.
        stored = _store_block(y)
        h = _gated(h, weights, gate, tiling)
        mlp_sum = _total(h, weights["w_down"], tiling, axis)
        return stored, mlp_sum

    def residual(given: tuple[Hbm, Hbm]) -> Hbm:
        x, mlp_sum = given
        y = _plus(x, mlp_sum, tiling, None, weights.get("mlp_output_norm"))
        return _store_block(y)

    # Three loops over blocks, not one: a block's sum is wanted only in the next loop, so it crosses
    # between the cores while other blocks are computed.
    blocks = jnp.arange(tiling.blocks, dtype=jnp.int32)
    attention_sums = lax.map(attention, blocks)
    x, mlp_sums = lax.map(mlp, (x, attention_sums))
    return lax.map(residual, (x, mlp_sums))


def _total(h: AnyOperand, matrix: AnyWeight, tiling: LayerTiling, axis: str) -> Hbm:
    """`h · matrix` of a block, summed over the cores along `axis`; h as `project`'s."""
    own_part = sbuf(
        tiling.rows,
        tiling.tiles,
        tiling.hidden_padded,
        dtype=tiling.dtype,
    )
    # Copied, not added: with x in it the sum over 2 cores would have 2x.
    own_part = _product(_copy, own_part, h, matrix)
    # Collectives move HBM: every core's part goes there and the sum comes back.
    stored = dma_store(own_part)
    received = hbm(*stored.shape, dtype=tiling.dtype)
    return all_reduce(received, stored, axis=axis)


def _plus(
    x: Hbm, total: Hbm, tiling: LayerTiling, bias: Hbm | None, norm: Hbm | None
) -> Sbuf:
    """A block's hidden states and a sum over cores, added up as `_plus_output` does."""
    y = load_block(x, tiling)
    added = sbuf(*y.shape, dtype=tiling.dtype)
    added = dma_load(added, total)
    return _plus_output(y, added, tiling, bias, norm)


def _plus_attention(
    y: Sbuf, attended: AnyOperand, weights: LayerWeights, tiling: LayerTiling
) -> Sbuf:
    """The output projection of attention, added to a block's hidden states."""
    return _plus_product(y, attended, weights["wo"], tiling, *_of_attention(weights))


def _of_attention(weights: LayerWeights) -> tuple[Hbm | None, Hbm | None]:
    """Bias and norm of attention's output, where it has them."""
    return weights.get("bo"), weights.get("attn_output_norm")


def _gated(
    h: AnyOperand, weights: LayerWeights, gate: Gate, tiling: LayerTiling
) -> AnyOperand:
    if "w_gate_up" in weights:
        return gated_by_token(h, weights["w_gate_up"], gate, tiling)
    assert "w_gate" in weights and "w_up" in weights and not isinstance(h, Scaled)
    up = UpWeights(weights["w_gate"], weights["w_up"])
    return gated(h, up, gate, dtype=tiling.dtype, elements=tiling.elements)


def _plus_product(
    y: Sbuf,
    h: AnyOperand,
    matrix: AnyWeight,
    tiling: LayerTiling,
    bias: Hbm | None,
    norm: Hbm | None,
) -> Sbuf:
    """`h · matrix` added to hidden states as `_plus_output` does; h as `project`'s."""
    if norm is None:
        # Products are added to the hidden states where they stand: that is the residual.
        y = _product(_add, y, h, matrix)
        return y if bias is None else add_row(y, bias)
    # A norm needs the whole output first, apart from them.
    out = sbuf(*y.shape, dtype=y.dtype)
    out = _product(_copy, out, h, matrix)
    return _plus_output(y, out, tiling, bias, norm)


def _plus_output(
    y: Sbuf, out: Sbuf, tiling: LayerTiling, bias: Hbm | None, norm: Hbm | None
) -> Sbuf:
    """What attention or the MLP gives, added to the residual stream.

    Args:
      y: the stream, SBUF `[rows, tiles, hidden padded]`.
      out: what is added, alike; it is overwritten.
      tiling: sizes.
      bias: HBM `[1, hidden padded]`, added to it first, if any.
      norm: weights of its RMSNorm, alike, if it has one.
    """
    if bias is not None:
        out = add_row(out, bias)
    if norm is None:
        return tensor_tensor(y, y, out, op="add")
    own_weight = in_every_row(norm, tiling.rows)

    def add_tile(y: Sbuf, token_tile: KnownInt) -> Sbuf:
        tile = index(out, token_tile, 1)
        normed = rms_norm(tile, own_weight, size=tiling.hidden, eps=tiling.eps)
        return tensor_tensor.at[:, token_tile](y, old, normed, op="add")

    return loop(add_tile, y, tiling.tiles)


def _copy(out: Sbuf, own: Sum, token_tile: KnownInt, column: KnownInt) -> Sbuf:
    columns = ds(column, own.bank.shape[1])
    return put(out, (slice(None), token_tile, columns), own)


def _add(out: Sbuf, own: Sum, token_tile: KnownInt, column: KnownInt) -> Sbuf:
    columns = ds(column, own.bank.shape[1])
    at = slice(None), token_tile, columns
    return tensor_tensor.at[at](out, old, valued(own), op="add")


def _product(write: Write, out: Sbuf, h: AnyOperand, matrix: AnyWeight) -> Sbuf:
    """`h · matrix` copied to or added to SBUF `[rows, tiles, hidden padded]`; h as `project`'s."""
    rows = out.shape[0]

    def emit(
        out: Sbuf,
        column_block: KnownInt,
        sums: Sequence[Sum],
    ) -> Sbuf:
        for number, own in enumerate(sums):
            token_tile = jnp.int32(number)
            column = column_block * own.bank.shape[1]
            out = write(out, own, token_tile, column)
        return out

    return product(h, matrix, out, emit, rows=rows)


def _store_block(y: Sbuf) -> Hbm:
    """A block of hidden states: SBUF `[rows, tiles, ...]` to HBM `[tiles, rows, ...]`."""
    count = y.shape[1]

    def store(token_tile: KnownInt) -> Hbm:
        own = index(y, token_tile, 1)
        return dma_store(own)

    token_tiles = jnp.arange(count, dtype=jnp.int32)
    return lax.map(store, token_tiles)


def _load_attended(attended: Hbm, block: KnownInt, tiling: LayerTiling) -> AnyOperand:
    """A block's attention output: SBUF `[features, heads, tokens]`, one head a contraction tile; of
    a head of more than 128 features, a tile each of its equal parts. Or MX: `attended_quads`. Or in
    codes by token, of HBM `[heads, token tiles, rows, value_dim]`."""
    if tiling.by_token is not None:
        return _attended_by_token(attended, block, tiling)
    if tiling.elements is not None:
        return ready(attended_quads(attended, block, tiling), tiling.elements)
    parts, size = tiling.value_tiles

    def load(out: Sbuf, place: KnownInt) -> Sbuf:
        # One loop over heads and tiles: with 3 tiles place 7 is tile 1 of head 2.
        head_part, token_tile = divide(place, tiling.tiles)
        # Rows of `wo` are in the order of heads, so a head's features are its contraction tile.
        head, own_part = head_part, None
        if parts > 1:
            head, own_part = divide(head_part, parts)
        of_head = index(attended, head)
        number = block * tiling.tiles + token_tile
        own = index(of_head, number)
        if own_part is not None:
            own = part(own, own_part * size, size, axis=0)
        column = token_tile * tiling.rows
        columns = ds(column, tiling.rows)
        return dma_load.at[:, head_part, columns](out, own, queue=second_queue)

    _, second_queue = LOAD_QUEUES
    out = sbuf(
        size,
        tiling.heads * parts,
        tiling.block_tokens,
        dtype=tiling.dtype,
    )
    places = tiling.heads * parts * tiling.tiles
    return loop(load, out, places)


def _attended_by_token(attended: Hbm, block: KnownInt, tiling: LayerTiling) -> Scaled:
    count, size = tiling.attended_tiles
    width, dim = count * size, tiling.value_dim
    features = tiling.heads * dim
    assert tiling.by_token is not None
    # Where blocks of features share a scale all of a block is looked at.
    padded = width if tiling.by_token.block != (None, 1) else features

    def rows_of(token_tile: KnownInt) -> Sbuf:
        own = index(attended, block * tiling.tiles + token_tile, 1)
        places = math.ceil(padded / dim)
        tile = sbuf(tiling.rows, places, dim, dtype=tiling.dtype, buffers=2)
        _, queue = LOAD_QUEUES
        if places == tiling.heads:
            tile = dma_load_tiles(tile, own, queue=queue)
        else:
            tile = memset(tile, value=0.0, engine="gpsimd")
            tile = dma_load_tiles.at[:, : tiling.heads](tile, own, queue=queue)
        return tile.reshape(tiling.rows, -1)[:, :padded]

    return by_token(rows_of, tiling.attended_tiles, tiling)


def attended_quads(attended: Hbm, block: KnownInt, tiling: LayerTiling) -> Sbuf:
    """A block's attention output as `operands.fresh` has quads, heads side by side.

    Feature 70 of a head is at place 70 mod 4 = 2 of the 17th partition behind the head's first: a
    DMA puts rows of HBM on any partition.
    """
    count, size = tiling.attended_tiles
    width = size * MX_QUAD
    # Whole heads, or as much of one as is in one tile: with tiles of 384 features, 128 of 256.
    piece = math.gcd(tiling.value_dim, width)
    partitions, pieces = piece // MX_QUAD, tiling.value_dim // piece
    _, second_queue = LOAD_QUEUES

    def load(out: Sbuf, place: KnownInt) -> Sbuf:
        number, token_tile = divide(place, tiling.tiles)
        head, own_piece = divide(number, pieces)
        own = index(index(attended, head), block * tiling.tiles + token_tile)
        own = part(own, own_piece * piece, piece, axis=0)
        # Four rows of HBM, one behind the other, become a partition's.
        own = own.reshape(partitions, MX_QUAD, tiling.rows)
        tile, before = divide(number, width // piece)
        begins = ds(before * partitions, partitions)
        columns = ds(token_tile * tiling.rows, tiling.rows)
        return dma_load.at[begins, tile, :, columns](out, own, queue=second_queue)

    tiles, tokens = count // MX_QUAD, tiling.block_tokens
    apart = sbuf(size, tiles, MX_QUAD, tokens, dtype=tiling.dtype)
    if tiling.heads * tiling.value_dim < tiles * width:
        # What no head fills is multiplied by weights of 0, and NaN times 0 would be NaN.
        apart = memset(apart, value=0.0)
    apart = loop(load, apart, tiling.heads * pieces * tiling.tiles)
    return side_by_side(apart)


__all__ = ["after_attention", "after_shared_attention", "attention_half", "layer"]
