"""RMSNorm of token tiles, and the transpose that puts their features on partitions."""

import functools

import jax.numpy as jnp
from jax import lax

from emu.annotations import KnownInt
from emu.tracing.loop import loop
from emu.trainium.engines.memory import dma_load, psum, sbuf
from emu.trainium.isa import (
    activation_bias,
    activation_reduce,
    memset,
    nc_transpose,
    scalar_tensor_tensor,
    tensor_copy_at,
    tensor_reduce,
    tensor_tensor,
)
from emu.trainium.spaces import Hbm, Sbuf
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
    tile = functools.partial(sbuf, buffers=buffers)
    column = x.shape[0], 1
    # By GpSimd: on the Vector Engine they would wait for the tile before.
    zero = memset(tile(*column), value=0.0, engine="gpsimd")
    epsilon = memset(tile(*column), value=eps, engine="gpsimd")
    # The squares are not needed: the tile that will take the result takes them.
    out = tile(*x.shape, dtype=x.dtype)
    out, total = activation_reduce(out, tile(*column), x, zero, op="square")
    scale = activation_bias(tile(*column), total, epsilon, op="rsqrt", scale=1.0 / size)
    return scalar_tensor_tensor(out, x, scale, weight, op0="multiply", op1="multiply")


def normalised_transposed(x: Sbuf, weight: Hbm, tiling: LayerTiling) -> Sbuf:
    """RMSNorm of a block of tokens, with features on partitions as matmul wants them.

    Args:
      x: SBUF `[rows, tiles, hidden padded]`.
      weight: HBM `[1, hidden padded]`.
      tiling: sizes.

    Returns:
      SBUF `[hidden tile, hidden tiles, tokens of the block]`.
    """
    count, size = tiling.hidden_tiles
    own_weight = _in_every_row(weight, tiling.rows)
    out = sbuf(size, count, tiling.block_tokens, dtype=tiling.dtype)

    def norm_tile(out: Sbuf, token_tile: KnownInt) -> Sbuf:
        rows = index(x, token_tile, 1)
        normed = rms_norm(rows, own_weight, size=tiling.hidden, eps=tiling.eps)

        def turn(out: Sbuf, hidden_tile: KnownInt) -> Sbuf:
            bank = psum(size, tiling.rows, dtype=tiling.dtype, buffers=2)
            features = part(normed, hidden_tile * size, size, axis=1)
            bank = nc_transpose(bank, features)
            first_token = token_tile * tiling.rows
            return tensor_copy_at(out, bank, hidden_tile, first_token)

        return loop(turn, out, count)

    return loop(norm_tile, out, tiling.tiles)


def head_norm(x: Sbuf, weight: Hbm, *, eps: float) -> Sbuf:
    """RMSNorm of each head, as Qwen3 normalises q and k.

    Args:
      x: SBUF `[rows, heads, head_dim]`.
      weight: HBM `[1, head_dim]`.
      eps: added to the mean square.

    Returns:
      SBUF, shape and dtype of `x`.
    """
    rows, heads, size = x.shape
    own_weight = _in_every_row(weight, rows)
    square = tensor_tensor(sbuf(*x.shape), x, x, op="multiply")
    total = tensor_reduce(sbuf(rows, heads, 1), square, op="add")
    epsilon = memset(sbuf(rows, 1), value=eps)
    flat = total.reshape(rows, heads)
    scale = sbuf(rows, heads)
    scale = activation_bias(scale, flat, epsilon, op="rsqrt", scale=1.0 / size)
    by_feature = lax.broadcast_in_dim(scale, x.shape, (0, 1))
    y = sbuf(*x.shape, dtype=x.dtype)
    y = tensor_tensor(y, x, by_feature, op="multiply")
    by_head = lax.broadcast_in_dim(own_weight, x.shape, (0, 2))
    return tensor_tensor(y, y, by_head, op="multiply")


def _in_every_row(weight: Hbm, rows: int) -> Sbuf:
    """HBM `[1, n]` to SBUF `[rows, n]`: an engine reads its own partition only."""
    shape = rows, weight.shape[1]
    tile = sbuf(*shape, dtype=weight.dtype)
    return dma_load(tile, jnp.broadcast_to(weight, shape))


__all__ = ["head_norm", "normalised_transposed", "rms_norm"]
