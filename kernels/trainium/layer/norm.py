"""RMSNorm of token tiles, and the transpose that puts their features on partitions."""

import functools
from typing import Any

import jax.numpy as jnp
from jax import lax

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
from kernels.trainium.layer.tiling import LayerTiling
from kernels.trainium.tiles import index, part


def rms_norm(x: Any, weight: Any, *, size: int, eps: float, buffers: int = 1) -> Any:
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


def normalised_transposed(x: Any, weight: Any, s: LayerTiling) -> Any:
    """RMSNorm of a block of tokens, with features on partitions as matmul wants them.

    Args:
      x: SBUF `[rows, tiles, hidden padded]`.
      weight: HBM `[1, hidden padded]`.
      s: sizes.

    Returns:
      SBUF `[hidden tile, hidden tiles, tokens of the block]`.
    """
    count, size = s.hidden_tiles
    w = dma_load(
        sbuf(s.rows, s.hidden_padded, dtype=weight.dtype),
        jnp.broadcast_to(weight, (s.rows, s.hidden_padded)),
    )
    out = sbuf(size, count, s.block_tokens, dtype=s.dtype)

    def tile(out: Any, m: Any) -> tuple[Any, None]:
        h = rms_norm(index(x, m, 1), w, size=s.hidden, eps=s.eps)

        def turn(out: Any, k: Any) -> tuple[Any, None]:
            bank = psum(size, s.rows, dtype=s.dtype, buffers=2)
            bank = nc_transpose(bank, part(h, k * size, size, axis=1))
            return tensor_copy_at(out, bank, k, m * s.rows), None

        return lax.scan(turn, out, jnp.arange(count))[0], None

    return lax.scan(tile, out, jnp.arange(s.tiles))[0]


def head_norm(x: Any, weight: Any, *, eps: float) -> Any:
    """RMSNorm of each head, as Qwen3 normalises q and k.

    Args:
      x: SBUF `[rows, heads, head_dim]`.
      weight: HBM `[1, head_dim]`.
      eps: added to the mean square.
    """
    rows, heads, size = x.shape
    w = dma_load(
        sbuf(rows, size, dtype=weight.dtype), jnp.broadcast_to(weight, (rows, size))
    )
    square = tensor_tensor(sbuf(*x.shape), x, x, op="multiply")
    total = tensor_reduce(sbuf(rows, heads, 1), square, op="add")
    epsilon = memset(sbuf(rows, 1), value=eps)
    flat = total.reshape(rows, heads)
    scale = activation_bias(
        sbuf(rows, heads), flat, epsilon, op="rsqrt", scale=1.0 / size
    )
    wide = lax.broadcast_in_dim(scale, x.shape, (0, 1))
    y = tensor_tensor(sbuf(*x.shape, dtype=x.dtype), x, wide, op="multiply")
    return tensor_tensor(y, y, lax.broadcast_in_dim(w, x.shape, (0, 2)), op="multiply")
