"""MX matmul: activations quantised on the way in, weights in MX already; Trainium3."""

from typing import Any

import jax.numpy as jnp
from jax import lax

from emu.trainium.engines.memory import dma_store_at, hbm, psum, sbuf
from emu.trainium.isa import nc_matmul_mx, tensor_copy
from kernels.trainium.gemm.mx_blocks import load_blocks, quantised
from kernels.trainium.tiles import PARTITIONS, index, largest_divisor, part


def matmul_mx(
    x: Any,
    w: Any,
    w_scale: Any,
    *,
    tiles: int = 4,
    columns: int = 512,
    buffers: int = 2,
) -> Any:
    """`x · w` in MXFP8: four times the FLOPs of bfloat16 in as many cycles, half the weight bytes.

    Dimensions:
      M: tokens, in tiles of m (≤ 128, even). N: columns, in tiles of n (≤ 512).
      K: features, `blocks · p · 4` with p (≤ 128) a multiple of 32; feature `(b · p + i) · 4 + q`
      is at `[b, i, ..., q]`, so that 32 features in a row share a scale.

    Args:
      x: HBM `[blocks, p, M, 4]`, a 16-bit float.
      w: HBM float8_e4m3fn or float8_e5m2 `[blocks, p, N, 4]`.
      w_scale: HBM `uint8[blocks, p / 8, N]`.
      tiles: most token tiles that share a load of a weight tile; two sets of banks alternate.
      columns: most columns of a tile.
      buffers: depth of the rings of tiles in SBUF.

    Returns:
      HBM `[M / (d · m), N / n, d, m, n]`, d token tiles a group, dtype of `x`; sums in float32.

    Pseudocode:
      for tokens: load x; quantise
                  for columns: load w; for block: for token tile: psum += xᵀ w
    """
    tokens, width = x.shape[2], w.shape[2]
    m = largest_divisor(tokens, PARTITIONS)
    n = largest_divisor(width, columns)
    depth = largest_divisor(tokens // m, tiles)
    count = width // n

    def group(out: Any, g: Any) -> tuple[Any, None]:
        left = quantised(load_blocks(x, g, depth * m, buffers), w.dtype, buffers)

        def column(out: Any, j: Any) -> tuple[Any, None]:
            right = load_blocks(w, j, n, buffers), load_blocks(w_scale, j, n, buffers)
            sums = _sums([psum(m, n, buffers=2) for _ in range(depth)], left, right)
            for i, bank in enumerate(sums):
                y = tensor_copy(sbuf(m, n, dtype=x.dtype, buffers=buffers), bank)
                out = dma_store_at(out, y, (g * count + j) * depth + i)
            return out, None

        return lax.scan(column, out, jnp.arange(count))[0], None

    groups = tokens // (depth * m)
    out = hbm(groups * count * depth, m, n, dtype=x.dtype)
    out, _ = lax.scan(group, out, jnp.arange(groups))
    return out.reshape(groups, count, depth, m, n)


def _sums(banks: list[Any], left: Any, right: Any) -> list[Any]:
    """Sums over all blocks of the products of each token tile with one weight tile.

    Args:
      banks: PSUM `[m, n]`, one for each token tile.
      left: SBUF elements `[p, blocks, tokens, 4]` and scales, from `quantised`.
      right: SBUF elements `[p, blocks, n, 4]` and scales `[p / 8, blocks, n]`.
    """
    m = banks[0].shape[0]

    def add(banks: Any, b: Any) -> tuple[Any, None]:
        x, x_scale, w, w_scale = (index(t, b, 1) for t in (*left, *right))
        more = (b > 0).astype(jnp.int32)

        def product(bank: Any, start: int) -> Any:
            own, scale = (part(t, start, m, 1) for t in (x, x_scale))
            return nc_matmul_mx(bank, own, w, scale, w_scale, more)

        return [product(bank, i * m) for i, bank in enumerate(banks)], None

    return lax.scan(add, banks, jnp.arange(right[0].shape[1]))[0]
