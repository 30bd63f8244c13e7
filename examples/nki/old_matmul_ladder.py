"""Three steps towards a fast matmul, as kernels for `neuronxcc.nki`.

Each multiplies `lhs_t [k, m]` with `rhs [k, n]` over the partitions, tile by tile; what changes is
how often a tile is loaded.
"""

import neuronxcc.nki as nki
import neuronxcc.nki.language as nl
import numpy as np

# Of a tile: what a product is summed over, rows of the result, and columns of the result.
K = 128
M = 128
N = 512


@nki.jit
def loads_inside(lhs_t, rhs):
    """Loads both tiles for every product."""
    k, m = lhs_t.shape
    n = rhs.shape[1]
    out = nl.ndarray((m, n), dtype=nl.float32, buffer=nl.shared_hbm)
    for i in nl.affine_range(m // M):
        for j in nl.affine_range(n // N):
            total = nl.zeros((M, N), nl.float32, buffer=nl.psum)
            for c in nl.affine_range(k // K):
                lhs_tile = nl.ndarray((K, M), dtype=lhs_t.dtype, buffer=nl.sbuf)
                rhs_tile = nl.ndarray((K, N), dtype=rhs.dtype, buffer=nl.sbuf)
                depth = nl.ds(c * K, K)
                lhs_tile[...] = nl.load(lhs_t[depth, nl.ds(i * M, M)])
                rhs_tile[...] = nl.load(rhs[depth, nl.ds(j * N, N)])
                total += nl.matmul(lhs_tile, rhs_tile, transpose_x=True)
            nl.store(out[nl.ds(i * M, M), nl.ds(j * N, N)], value=total)
    return out


@nki.jit
def rows_kept(lhs_t, rhs):
    """Loads a row of left-hand tiles once for all columns."""
    k, m = lhs_t.shape
    n = rhs.shape[1]
    out = nl.ndarray((m, n), dtype=nl.float32, buffer=nl.shared_hbm)
    i_k = nl.arange(K)[:, None]
    i_m = nl.arange(M)[None, :]
    for i in nl.affine_range(m // M):
        row = nl.ndarray((k // K, nl.par_dim(K), M), lhs_t.dtype, buffer=nl.sbuf)
        for c in nl.affine_range(k // K):
            row[c, i_k, i_m] = nl.load(lhs_t[c * K + i_k, i * M + i_m])
        for j in nl.affine_range(n // N):
            total = nl.zeros((M, N), nl.float32, buffer=nl.psum)
            for c in nl.affine_range(k // K):
                rhs_tile = nl.load(rhs[nl.ds(c * K, K), nl.ds(j * N, N)])
                total += nl.matmul(row[c], rhs_tile, transpose_x=True)
            nl.store(out[nl.ds(i * M, M), nl.ds(j * N, N)], value=total)
    return out


@nki.jit
def both_kept(lhs_t, rhs):
    """Loads a column of right-hand tiles once for all rows, and every left-hand tile once."""
    k, m = lhs_t.shape
    n = rhs.shape[1]
    out = nl.ndarray((m, n), dtype=nl.float32, buffer=nl.shared_hbm)
    i_k = nl.arange(K)[:, None]
    i_m = nl.arange(M)[None, :]
    i_n = nl.arange(N)[None, :]
    rows = nl.ndarray((m // M, k // K, nl.par_dim(K), M), lhs_t.dtype, buffer=nl.sbuf)
    for i in nl.affine_range(m // M):
        for c in nl.affine_range(k // K):
            rows[i, c, i_k, i_m] = nl.load(lhs_t[c * K + i_k, i * M + i_m])
    for j in nl.affine_range(n // N):
        column = nl.ndarray((k // K, nl.par_dim(K), N), rhs.dtype, buffer=nl.sbuf)
        for c in nl.affine_range(k // K):
            column[c, i_k, i_n] = nl.load(rhs[c * K + i_k, j * N + i_n])
        for i in nl.affine_range(m // M):
            total = nl.zeros((M, N), nl.float32, buffer=nl.psum)
            for c in nl.affine_range(k // K):
                total += nl.matmul(rows[i, c], column[c], transpose_x=True)
            nl.store(out[nl.ds(i * M, M), nl.ds(j * N, N)], value=total)
    return out


def inputs():
    random = np.random.default_rng(3)
    lhs_t = random.standard_normal((256, 384), np.float32)
    rhs = random.standard_normal((256, 1024), np.float32)
    return lhs_t, rhs


def reference(lhs_t, rhs):
    return lhs_t.astype(np.float64).T @ rhs.astype(np.float64)
