"""MX matmul: activations quantised on the way in, weights in MX already; Trainium3."""

import jax.numpy as jnp

from emu.annotations import KnownInt
from emu.tracing.loop import loop
from emu.trainium.engines.memory import dma_store, hbm, psum, sbuf
from emu.trainium.isa import nc_matmul_mx, tensor_copy
from emu.trainium.spaces import Hbm, Psum
from kernels.trainium.gemm.mx_blocks import Quantised, load_blocks, quantised
from kernels.trainium.tiles import PARTITIONS, index, largest_divisor, part


def matmul_mx(
    x: Hbm,
    w: Hbm,
    w_scale: Hbm,
    *,
    tiles: int = 4,
    columns: int = 512,
    buffers: int = 2,
) -> Hbm:
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
    tokens = x.shape[2]
    width = w.shape[2]
    m = largest_divisor(tokens, PARTITIONS)
    n = largest_divisor(width, columns)
    depth = largest_divisor(tokens // m, tiles)
    # A weight tile is loaded anew for each group: 4 tiles of 128 make 512 tokens share a load.
    group_tokens = depth * m
    groups = tokens // group_tokens
    count = width // n

    def group(out: Hbm, number: KnownInt) -> Hbm:
        loaded = load_blocks(x, number, group_tokens, buffers)
        left = quantised(loaded, w.dtype, buffers)

        def column(out: Hbm, at: KnownInt) -> Hbm:
            elements = load_blocks(w, at, n, buffers)
            scale = load_blocks(w_scale, at, n, buffers)
            right = Quantised(elements, scale)
            # Two sets of banks: the next column's sums begin while these are copied out.
            banks = []
            for _ in range(depth):
                banks.append(psum(m, n, buffers=2))
            sums = _sums(banks, left, right)
            for tile, bank in enumerate(sums):
                result = sbuf(m, n, dtype=x.dtype, buffers=buffers)
                result = tensor_copy(result, bank)
                place = (number * count + at) * depth + tile
                out = dma_store.at[place](out, result)
            return out

        return loop(column, out, count)

    result_tiles = groups * count * depth
    out = hbm(result_tiles, m, n, dtype=x.dtype)
    out = loop(group, out, groups)
    return out.reshape(groups, count, depth, m, n)


def _sums(banks: list[Psum], left: Quantised, right: Quantised) -> list[Psum]:
    """Sums over all blocks of the products of each token tile with one weight tile.

    Args:
      banks: PSUM `[m, n]`, one for each token tile.
      left: the tokens of all tiles.
      right: the weight tile.
    """
    m = banks[0].shape[0]
    blocks = right.elements.shape[1]

    def add(banks: list[Psum], block: KnownInt) -> list[Psum]:
        x = index(left.elements, block, 1)
        x_scale = index(left.scale, block, 1)
        w = index(right.elements, block, 1)
        w_scale = index(right.scale, block, 1)
        # The first block overwrites what the bank held of the column before.
        accumulate = jnp.int32(block > 0)
        sums = []
        # All token tiles take this weight tile while it is in SBUF, before its buffer takes
        # another.
        for tile, bank in enumerate(banks):
            start = tile * m
            own = part(x, start, m, 1)
            own_scale = part(x_scale, start, m, 1)
            bank = nc_matmul_mx(
                bank,
                own,
                w,
                own_scale,
                w_scale,
                accumulate,
            )
            sums.append(bank)
        return sums

    return loop(add, banks, blocks)
