"""RMSNorm whose result leaves as FP8: a scale for each row, or an MX scale for each 32 features."""

from typing import Any

import jax.numpy as jnp
from jax import lax

from emu.trainium.engines.memory import dma_load_tiles, dma_store, psum, sbuf
from emu.trainium.isa import (
    activation,
    activation_bias,
    memset,
    nc_matmul,
    reciprocal,
    tensor_immediate,
    tensor_reduce,
    tensor_scalar,
    tensor_tensor,
)
from kernels.trainium.gemm.mx_blocks import load_blocks, quantised
from kernels.trainium.layer.norm import rms_norm
from kernels.trainium.streaming import fetch, over_rows, row_count
from kernels.trainium.tiles import index, largest_divisor

TINY = 1e-12  # a row of zeros is divided by this instead of zero


def rms_norm_fp8(
    x: Any,
    weight: Any,
    *,
    eps: float = 1e-6,
    dtype: Any = jnp.float8_e4m3fn,
    buffers: int = 2,
) -> tuple[Any, Any]:
    """RMSNorm, then FP8 with one scale a row: the largest value of a row becomes the format's.

    Dimensions:
      R: rows, in tiles of at most 128. N: elements of a row.

    Args:
      x: HBM `[R, N]`.
      weight: HBM `[1, N]`, loaded once.
      eps: added to the mean square.
      dtype: float8_e4m3fn or float8_e5m2.
      buffers: depth of every ring of tiles.

    Returns:
      HBM `dtype[R, N]` and the scales, float32 `[R, 1]`; their product is the norm.

    Pseudocode:
      for rows: y = rms_norm(x); scale = max(|y|) / largest; store fp8(y / scale), scale
    """
    largest = float(jnp.finfo(dtype).max)
    rows, n = row_count(x), x.shape[1]
    w = fetch(jnp.broadcast_to(weight, (rows, n)))

    def tile(x: Any) -> tuple[Any, Any]:
        y = rms_norm(x, w, size=n, eps=eps, buffers=buffers)
        peak = tensor_reduce(sbuf(rows, 1, buffers=buffers), y, op="absmax")
        scale = sbuf(rows, 1, buffers=buffers)
        scale = tensor_immediate(
            scale, peak, op="max", value=TINY, op1="multiply", value1=1 / largest
        )
        inverse = reciprocal(sbuf(rows, 1, buffers=buffers), scale)
        quantised = sbuf(rows, n, dtype=dtype, buffers=buffers)
        return tensor_scalar(quantised, y, inverse, op="multiply"), scale

    return over_rows(tile, x, buffers=buffers)


def rms_norm_mx(
    x: Any,
    weight: Any,
    *,
    eps: float = 1e-6,
    dtype: Any = jnp.float8_e4m3fn,
    tokens: int = 128,
    buffers: int = 2,
) -> tuple[Any, Any]:
    """RMSNorm, then MXFP8, with features on partitions as `nc_matmul_mx` takes them; Trainium3.

    A sum over partitions is a matmul with ones, which leaves it on every partition.

    Dimensions:
      T: tokens. N: features, `blocks · p · 4` with p at most 128; feature `(b · p + i) · 4 + q` is
      at `[b, i, token, q]`, so that 32 features in a row share a scale.

    Args:
      x: HBM `[blocks, p, T, 4]`, a 16-bit float.
      weight: HBM `[blocks, p, 4]`, dtype of `x`.
      eps: added to the mean square.
      dtype: float8_e4m3fn or float8_e5m2.
      tokens: most tokens of a tile; four times as many float32 sums fill a PSUM bank (128) or less.
      buffers: depth of every ring of tiles.

    Returns:
      HBM `dtype[T / t, p, blocks, t, 4]` for tiles of t tokens, and the scales of their groups,
      `uint8[T / t, p / 8, blocks, t]`. Squares and factors are rounded to the dtype of `x`, sums
      are float32.

    Pseudocode:
      for tokens: for block: sum += onesᵀ x²
                  r = rsqrt(sum / N + eps); store mx(x · r · weight)
    """
    blocks, p, total, quad = x.shape
    t = largest_divisor(total, tokens)
    w = dma_load_tiles(sbuf(p, blocks, quad, dtype=x.dtype), weight)
    ones = memset(sbuf(p, p, dtype=x.dtype), value=1.0)
    epsilon = memset(sbuf(p, 1), value=eps)

    def tile(_: None, i: Any) -> tuple[None, Any]:
        loaded = load_blocks(x, i, t, buffers)
        shape = loaded.shape
        inverse = _inverse_root(loaded, ones, epsilon, buffers)
        y = sbuf(*shape, dtype=x.dtype, buffers=buffers)
        y = tensor_tensor(
            y, loaded, lax.broadcast_in_dim(inverse, shape, (0, 2)), op="multiply"
        )
        y = tensor_tensor(
            y, y, lax.broadcast_in_dim(w, shape, (0, 1, 3)), op="multiply"
        )
        elements, scale = quantised(y, dtype, buffers)
        return None, (dma_store(elements), dma_store(scale))

    return lax.scan(tile, None, jnp.arange(total // t))[1]


def _inverse_root(x: Any, ones: Any, epsilon: Any, buffers: int) -> Any:
    """`rsqrt(mean square + eps)` of each token on every partition: SBUF `[p, t]`, dtype of `x`.

    Args:
      x: SBUF `[p, blocks, t, 4]`.
      ones: SBUF `[p, p]`, dtype of `x`.
      epsilon: SBUF `[p, 1]`, added to the mean square.
      buffers: depth of every ring of tiles.
    """
    p, blocks, t, quad = x.shape

    def add(sums: Any, b: Any) -> tuple[Any, None]:
        square = sbuf(p, t * quad, dtype=x.dtype, buffers=buffers)
        square = activation(square, index(x, b, 1).reshape(square.shape), op="square")
        return nc_matmul(sums, ones, square, (b > 0).astype(jnp.int32)), None

    sums, _ = lax.scan(add, psum(p, t * quad, buffers=buffers), jnp.arange(blocks))
    totals = tensor_reduce(
        sbuf(p, t, 1, buffers=buffers), sums.reshape(p, t, quad), op="add"
    )
    inverse = sbuf(p, t, dtype=x.dtype, buffers=buffers)
    size = p * blocks * quad
    return activation_bias(
        inverse, totals.reshape(p, t), epsilon, op="rsqrt", scale=1 / size
    )
