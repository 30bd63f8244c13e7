"""A matmul of microscaled tiles, quantised on the way, as a kernel for `nki` on Trainium3."""

import nki
import nki.isa as nisa
import nki.language as nl
import numpy as np

K, M, N, QUAD = 128, 128, 256, 4


def quantised(source, k, column, width):
    """Elements and scales of a tile `[128, 4 · width]` of HBM `[k, 4 · columns]`."""
    tile = nl.ndarray((K, QUAD * width), dtype=source.dtype, buffer=nl.sbuf)
    rows, columns = nl.ds(k * K, K), nl.ds(QUAD * column * width, QUAD * width)
    nisa.dma_copy(dst=tile, src=source[rows, columns])
    elements = nl.ndarray((K, width), dtype=nl.float8_e4m3fn_x4, buffer=nl.sbuf)
    scales = nl.ndarray((K, width), dtype=nl.uint8, buffer=nl.sbuf)
    nisa.quantize_mx(dst=elements, src=tile, dst_scale=scales)
    return elements, scales


@nki.jit
def matmul_mx(lhs, rhs):
    """`out[m, n] = Σ lhs[k, m, q] · rhs[k, n, q]` in MXFP8, sums in float32.

    Args:
      lhs: HBM bfloat16 `[k, 4 · m]`: four neighbours of a row are contracted together.
      rhs: HBM bfloat16 `[k, 4 · n]`.

    Returns:
      HBM float32 `[m, n]`.
    """
    k, m, n = lhs.shape[0], lhs.shape[1] // QUAD, rhs.shape[1] // QUAD
    out = nl.ndarray((m, n), dtype=nl.float32, buffer=nl.shared_hbm)
    for i in range(m // M):
        for j in range(n // N):
            sums = nl.ndarray((M, N), dtype=nl.float32, buffer=nl.psum)
            for c in range(k // K):
                stationary, stationary_scale = quantised(lhs, c, i, M)
                moving, moving_scale = quantised(rhs, c, j, N)
                nisa.nc_matmul_mx(
                    dst=sums,
                    stationary=stationary,
                    moving=moving,
                    stationary_scale=stationary_scale,
                    moving_scale=moving_scale,
                )
            tile = nl.ndarray((M, N), dtype=nl.float32, buffer=nl.sbuf)
            nisa.tensor_copy(dst=tile, src=sums)
            nisa.dma_copy(dst=out[nl.ds(i * M, M), nl.ds(j * N, N)], src=tile)
    return out


def inputs():
    # Small whole numbers, with a group's largest 4, are exact in MXFP8, so that the result is, too.
    random = np.random.default_rng(27)
    shapes = (256, QUAD * 128), (256, QUAD * 512)
    tiles = [random.integers(-4, 5, shape) for shape in shapes]
    for tile in tiles:
        tile[::8, ::QUAD] = 4
    return tuple(tile.astype(nl.bfloat16) for tile in tiles)


def reference(lhs, rhs):
    left, right = (np.float64(x).reshape(len(x), -1, QUAD) for x in (lhs, rhs))
    return np.einsum("kmq,knq->mn", left, right)
