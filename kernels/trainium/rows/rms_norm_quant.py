"""RMSNorm whose result leaves as FP8: a scale for each row, or an MX scale for each 32 features."""

import jax.numpy as jnp
from jax import lax

from emu.annotations import DType, KnownInt
from emu.tracing.loop import loop
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
from emu.trainium.spaces import Hbm, Psum, Sbuf
from kernels.trainium.gemm.mx_blocks import load_blocks, quantised
from kernels.trainium.layer.norm import rms_norm
from kernels.trainium.streaming import fetch, over_rows, row_count
from kernels.trainium.tiles import index, largest_divisor

# In float32 448 / 10⁻¹² is finite, and times 0 it is 0.
TINY = 1e-12  # a row of zeros is divided by this instead of zero


def rms_norm_fp8(
    x: Hbm,
    weight: Hbm,
    *,
    eps: float = 1e-6,
    dtype: DType = jnp.float8_e4m3fn,
    buffers: int = 2,
) -> tuple[Hbm, Hbm]:
    """RMSNorm, then FP8 with one scale a row: the largest value of a row becomes the format's.

    A row whose largest value is 3.5 has the scale 3.5 / 448 = 1 / 128 in float8_e4m3fn.

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
    rows = row_count(x)
    size = x.shape[1]
    repeated = jnp.broadcast_to(weight, (rows, size))
    in_every_row = fetch(repeated)

    def column() -> Sbuf:
        return sbuf(rows, 1, buffers=buffers)

    def quantised_rows(x: Sbuf) -> tuple[Sbuf, Sbuf]:
        normed = rms_norm(
            x,
            in_every_row,
            size=size,
            eps=eps,
            buffers=buffers,
        )
        peak = column()
        # Of absolute values: −3.5 needs the same scale as 3.5.
        peak = tensor_reduce(peak, normed, op="absmax")
        scale = column()
        scale = tensor_immediate(
            scale,
            peak,
            op="max",
            value=TINY,
            op1="multiply",
            value1=1 / largest,
        )
        # One reciprocal a row, and elements are multiplied: a reciprocal of each would take eight
        # cycles.
        inverse = column()
        inverse = reciprocal(inverse, scale)
        elements = sbuf(rows, size, dtype=dtype, buffers=buffers)
        elements = tensor_scalar(elements, normed, inverse, op="multiply")
        return elements, scale

    return over_rows(quantised_rows, x, buffers=buffers)


def rms_norm_mx(
    x: Hbm,
    weight: Hbm,
    *,
    eps: float = 1e-6,
    dtype: DType = jnp.float8_e4m3fn,
    tokens: int = 128,
    buffers: int = 2,
) -> tuple[Hbm, Hbm]:
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
    blocks, partitions, total, quad = x.shape
    tile_tokens = largest_divisor(total, tokens)
    weights = sbuf(partitions, blocks, quad, dtype=x.dtype)
    weights = dma_load_tiles(weights, weight)
    # Not a single column of ones: with p of them the sum comes out on p partitions, on each of
    # which it is wanted.
    ones = sbuf(partitions, partitions, dtype=x.dtype)
    ones = memset(ones, value=1.0)
    epsilon = sbuf(partitions, 1)
    epsilon = memset(epsilon, value=eps)

    def quantised_tokens(number: KnownInt) -> tuple[Hbm, Hbm]:
        loaded = load_blocks(x, number, tile_tokens, buffers)
        shape = loaded.shape
        inverse = _inverse_root(loaded, ones, epsilon, buffers)
        normed = sbuf(*shape, dtype=x.dtype, buffers=buffers)
        # Views: a token's factor for all its features, a feature's weight for all tokens.
        partition, block, token, place = range(4)
        by_token = lax.broadcast_in_dim(inverse, shape, (partition, token))
        normed = tensor_tensor(normed, loaded, by_token, op="multiply")
        feature = partition, block, place
        by_feature = lax.broadcast_in_dim(weights, shape, feature)
        normed = tensor_tensor(normed, normed, by_feature, op="multiply")
        elements, scale = quantised(normed, dtype, buffers)
        stored_elements = dma_store(elements)
        stored_scale = dma_store(scale)
        return stored_elements, stored_scale

    count = total // tile_tokens
    numbers = jnp.arange(count, dtype=jnp.int32)
    return lax.map(quantised_tokens, numbers)


def _inverse_root(x: Sbuf, ones: Sbuf, epsilon: Sbuf, buffers: int) -> Sbuf:
    """`rsqrt(mean square + eps)` of each token on every partition: SBUF `[p, t]`, dtype of `x`.

    Args:
      x: SBUF `[p, blocks, t, 4]`.
      ones: SBUF `[p, p]`, dtype of `x`.
      epsilon: SBUF `[p, 1]`, added to the mean square.
      buffers: depth of every ring of tiles.
    """
    partitions, blocks, tokens, quad = x.shape
    columns = tokens * quad

    def add(sums: Psum, block: KnownInt) -> Psum:
        # In 16 bits, which the Tensor Engine takes at four times the rate of float32.
        square = sbuf(partitions, columns, dtype=x.dtype, buffers=buffers)
        features = index(x, block, 1)
        flat = features.reshape(square.shape)
        square = activation(square, flat, op="square")
        accumulate = jnp.int32(block > 0)
        return nc_matmul(sums, ones, square, accumulate)

    sums = psum(partitions, columns, buffers=buffers)
    sums = loop(add, sums, blocks)
    # The matmul summed over partitions and blocks; a token's four places are still apart.
    by_place = sums.reshape(partitions, tokens, quad)
    totals = sbuf(partitions, tokens, 1, buffers=buffers)
    totals = tensor_reduce(totals, by_place, op="add")
    totals = totals.reshape(partitions, tokens)
    inverse = sbuf(partitions, tokens, dtype=x.dtype, buffers=buffers)
    features_a_token = partitions * blocks * quad
    return activation_bias(
        inverse,
        totals,
        epsilon,
        op="rsqrt",
        scale=1 / features_a_token,
    )
