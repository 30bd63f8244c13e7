"""Three steps towards a fast matmul, as kernels for `nki`.

Each multiplies `lhs_t [k, m]` with `rhs [k, n]` over the partitions, tile by tile; what changes is
how often a tile is loaded. The compiler keeps the kernel's order, so a step is what it says.
"""

import nki
import nki.isa as nisa
import nki.language as nl
import numpy as np

K, M, N = 128, 128, 512


def load(source, row, column, width):
    """A tile of `K` rows from a place in HBM."""
    tile = nl.ndarray((K, width), dtype=source.dtype, buffer=nl.sbuf)
    nisa.dma_copy(
        dst=tile,
        src=source[row * K : (row + 1) * K, column * width : (column + 1) * width],
    )
    return tile


def store(out, row, column, sums):
    """Sums `[M, N]` from PSUM to their place in HBM."""
    tile = nl.ndarray((M, N), dtype=out.dtype, buffer=nl.sbuf)
    nisa.tensor_copy(dst=tile, src=sums)
    nisa.dma_copy(
        dst=out[row * M : (row + 1) * M, column * N : (column + 1) * N], src=tile
    )


@nki.jit
def loads_inside(lhs_t, rhs):
    """Loads both tiles for every product."""
    (k, m), n = lhs_t.shape, rhs.shape[1]
    out = nl.ndarray((m, n), dtype=nl.float32, buffer=nl.shared_hbm)
    for i in range(m // M):
        for j in range(n // N):
            sums = nl.ndarray((M, N), dtype=nl.float32, buffer=nl.psum)
            for c in range(k // K):
                nisa.nc_matmul(
                    dst=sums, stationary=load(lhs_t, c, i, M), moving=load(rhs, c, j, N)
                )
            store(out, i, j, sums)
    return out


@nki.jit
def rows_kept(lhs_t, rhs):
    """Loads a row of left-hand tiles once for all columns."""
    (k, m), n = lhs_t.shape, rhs.shape[1]
    out = nl.ndarray((m, n), dtype=nl.float32, buffer=nl.shared_hbm)
    for i in range(m // M):
        row = [load(lhs_t, c, i, M) for c in range(k // K)]
        for j in range(n // N):
            sums = nl.ndarray((M, N), dtype=nl.float32, buffer=nl.psum)
            for c in range(k // K):
                nisa.nc_matmul(dst=sums, stationary=row[c], moving=load(rhs, c, j, N))
            store(out, i, j, sums)
    return out


@nki.jit
def both_kept(lhs_t, rhs):
    """Loads every tile once: the left-hand ones first, then column by column."""
    (k, m), n = lhs_t.shape, rhs.shape[1]
    out = nl.ndarray((m, n), dtype=nl.float32, buffer=nl.shared_hbm)
    rows = [[load(lhs_t, c, i, M) for c in range(k // K)] for i in range(m // M)]
    for j in range(n // N):
        column = [load(rhs, c, j, N) for c in range(k // K)]
        for i in range(m // M):
            sums = nl.ndarray((M, N), dtype=nl.float32, buffer=nl.psum)
            for c in range(k // K):
                nisa.nc_matmul(dst=sums, stationary=rows[i][c], moving=column[c])
            store(out, i, j, sums)
    return out


def inputs():
    random = np.random.default_rng(22)
    lhs_t = random.standard_normal((256, 384), np.float32).astype(nl.bfloat16)
    return lhs_t, random.standard_normal((256, 1024), np.float32).astype(nl.bfloat16)


def reference(lhs_t, rhs):
    return lhs_t.astype(np.float64).T @ rhs.astype(np.float64)
