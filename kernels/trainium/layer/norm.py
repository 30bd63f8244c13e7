"""RMSNorm of token tiles, and the transpose that puts their features on partitions."""

import jax.numpy as jnp
from jax import lax

from emu.annotations import KnownInt
from emu.boxes import ds
from emu.tracing.loop import loop
from emu.trainium.engines.memory import dma_load, psum, sbuf
from emu.trainium.isa import (
    activation_bias,
    activation_reduce,
    memset,
    nc_transpose,
    scalar_tensor_tensor,
    tensor_copy,
    tensor_reduce,
    tensor_tensor,
)
from emu.trainium.spaces import Hbm, Sbuf
from kernels.trainium.gemm.operands import Operand, fresh, has_quads, ready
from kernels.trainium.layer.tiling import LayerTiling
from kernels.trainium.tiles import index, part


def rms_norm(x: Sbuf, weight: Sbuf, *, size: int, eps: float, buffers: int = 1) -> Sbuf:
    """`x · rsqrt(mean(x²) + eps) · weight`.

    Args:
      x: SBUF `[rows, hidden padded]`; padding holds zeros.
      weight: SBUF `[rows, hidden padded]`, the same in every row.
      size: elements of a row without padding.
      eps: added to the mean square.
      buffers: depth of every ring of tiles.

    Returns:
      SBUF, shape and dtype of `x`; sums in float32.
    """
    rows = x.shape[0]

    def column() -> Sbuf:
        return sbuf(rows, 1, buffers=buffers)

    # By GpSimd: on the Vector Engine they would wait for the tile before.
    zero = memset(column(), value=0.0, engine="gpsimd")
    epsilon = memset(column(), value=eps, engine="gpsimd")
    # The squares are not needed: the tile that will take the result takes them.
    out = sbuf(*x.shape, dtype=x.dtype, buffers=buffers)
    # In float32, whatever x is: a running sum of ones in bfloat16, which has 8 bits, stops at 256.
    total = column()
    out, total = activation_reduce(out, total, x, zero, op="square")
    # `rsqrt(scale · total + epsilon)`: the mean costs no instruction of its own.
    inverse_root = column()
    inverse_root = activation_bias(
        inverse_root,
        total,
        epsilon,
        op="rsqrt",
        scale=1.0 / size,
    )
    return scalar_tensor_tensor(
        out,
        x,
        inverse_root,
        weight,
        op0="multiply",
        op1="multiply",
    )


def normalised_transposed(x: Sbuf, weight: Hbm, tiling: LayerTiling) -> Operand:
    """RMSNorm of a block of tokens, with features on partitions as matmul wants them.

    Args:
      x: SBUF `[rows, tiles, hidden padded]`.
      weight: HBM `[1, hidden padded]`.
      tiling: sizes.

    Returns:
      SBUF `[hidden tile, hidden tiles, tokens of the block]`; or MX.
    """
    count, size = tiling.hidden_tiles
    # Once a block, not once a tile.
    own_weight = in_every_row(weight, tiling.rows)
    tokens, quads = tiling.block_tokens, tiling.elements is not None
    out = fresh(size, count, tokens, dtype=tiling.dtype, quads=quads)

    def norm_tile(out: Sbuf, token_tile: KnownInt) -> Sbuf:
        rows = index(x, token_tile, 1)
        normed = rms_norm(
            rows,
            own_weight,
            size=tiling.hidden,
            eps=tiling.eps,
        )
        return transposed_into(out, normed, token_tile * tiling.rows)

    out = loop(norm_tile, out, tiling.tiles)
    return ready(out, tiling.elements)


def transposed_into(out: Sbuf, x: Sbuf, first_token: KnownInt) -> Sbuf:
    """Puts the features of a tile of tokens on partitions, a hidden tile at a time.

    Args:
      out: SBUF `[hidden tile, hidden tiles, tokens]`, or with quads, as `operands.fresh` has them.
      x: SBUF `[rows, hidden padded]`, of the same dtype.
      first_token: known, where the tile's tokens begin in `out`.

    Returns:
      `out`, with those tokens.
    """
    if has_quads(out):
        return _quads_into(out, x, first_token)
    size, count, _ = out.shape
    rows = x.shape[0]

    # A transpose of 8-bit floats has 16 bits, in which they are themselves.
    turned_dtype = jnp.bfloat16 if x.dtype.itemsize == 1 else x.dtype

    def turn(out: Sbuf, hidden_tile: KnownInt) -> Sbuf:
        # A transpose keeps the dtype (from NeuronCore-v3 on), so the bank is not float32.
        bank = psum(size, rows, dtype=turned_dtype, buffers=2)
        first_feature = hidden_tile * size
        features = part(x, first_feature, size, axis=1)
        bank = nc_transpose(bank, features)
        tokens = ds(first_token, rows)
        return tensor_copy.at[:, hidden_tile, tokens](out, bank)

    return loop(turn, out, count)


def _quads_into(out: Sbuf, x: Sbuf, first_token: KnownInt) -> Sbuf:
    """`transposed_into` a tile with quads: every fourth feature is on a partition of its own."""
    size, count, _, quad = out.shape
    rows = x.shape[0]
    # A view: of 512 features, 128 partitions of 4.
    by_quad = x.reshape(rows, count, size, quad)

    def turn(out: Sbuf, hidden_tile: KnownInt) -> Sbuf:
        bank = psum(size, rows, quad, dtype=x.dtype, buffers=2)
        features = index(by_quad, hidden_tile, 1)
        for place in range(quad):
            own = lax.index_in_dim(features, place, 2, keepdims=False)
            # The four side by side in PSUM, from where one copy takes them all.
            bank = nc_transpose.at[:, :, place](bank, own)
        tokens = ds(first_token, rows)
        return tensor_copy.at[:, hidden_tile, tokens](out, bank)

    return loop(turn, out, count)


def head_norm(x: Sbuf, weight: Hbm | None, *, eps: float) -> Sbuf:
    """RMSNorm of each head, as Qwen3 normalises q and k.

    Args:
      x: SBUF `[rows, heads, head_dim]`.
      weight: HBM `[1, head_dim]`; None: there is none, as for Llama 4.
      eps: added to the mean square.

    Returns:
      SBUF, shape and dtype of `x`.
    """
    rows, heads, size = x.shape
    own_weight = None if weight is None else in_every_row(weight, rows)
    # A sum of each head, where the Scalar Engine's own sum would be over all heads of a row.
    square = sbuf(*x.shape)
    square = tensor_tensor(square, x, x, op="multiply")
    total = sbuf(rows, heads, 1)
    total = tensor_reduce(total, square, op="add")
    epsilon = memset(sbuf(rows, 1), value=eps)
    flat = total.reshape(rows, heads)
    inverse_root = sbuf(rows, heads)
    inverse_root = activation_bias(
        inverse_root,
        flat,
        epsilon,
        op="rsqrt",
        scale=1.0 / size,
    )
    # Views, which cost nothing: a head's factor for all its features, then a feature's weight for
    # all heads.
    row, head, feature = range(3)
    by_head = lax.broadcast_in_dim(inverse_root, x.shape, (row, head))
    y = sbuf(*x.shape, dtype=x.dtype)
    y = tensor_tensor(y, x, by_head, op="multiply")
    if own_weight is None:
        return y
    by_feature = lax.broadcast_in_dim(own_weight, x.shape, (row, feature))
    return tensor_tensor(y, y, by_feature, op="multiply")


def wide_norm(x: Sbuf, squares: Sbuf, weight: Hbm, *, size: int, eps: float) -> Sbuf:
    """RMSNorm of all heads together, as MiniMax-M2 normalises q and k, from sums that are known.

    Args:
      x: SBUF `[rows, n]`, some of a token's features.
      squares: SBUF float32 `[rows, 1]`, the sum of the squares of all of them.
      weight: HBM `[1, n]`.
      size: how many these are.
      eps: added to the mean square.

    Returns:
      SBUF, shape and dtype of `x`.
    """
    rows = x.shape[0]
    epsilon = memset(sbuf(rows, 1), value=eps)
    inverse_root = sbuf(rows, 1)
    inverse_root = activation_bias(
        inverse_root, squares, epsilon, op="rsqrt", scale=1.0 / size
    )
    return scalar_tensor_tensor(
        sbuf(*x.shape, dtype=x.dtype),
        x,
        inverse_root,
        in_every_row(weight, rows),
        op0="multiply",
        op1="multiply",
    )


def add_row(x: Sbuf, row: Hbm) -> Sbuf:
    """A bias, HBM `[1, n]`, added to every token of SBUF `[rows, tiles, n]`."""
    own = in_every_row(row, x.shape[0])
    token, _, feature = range(3)
    # A view: the same for all token tiles, which one instruction goes over.
    wide = lax.broadcast_in_dim(own, x.shape, (token, feature))
    return tensor_tensor(x, x, wide, op="add")


def in_every_row(weight: Hbm, rows: int) -> Sbuf:
    """HBM `[1, n]` to SBUF `[rows, n]`: an engine reads its own partition only."""
    columns = weight.shape[1]
    tile = sbuf(rows, columns, dtype=weight.dtype)
    repeated = jnp.broadcast_to(weight, (rows, columns))
    return dma_load(tile, repeated)


__all__ = [
    "add_row",
    "head_norm",
    "in_every_row",
    "normalised_transposed",
    "rms_norm",
    "transposed_into",
    "wide_norm",
]
