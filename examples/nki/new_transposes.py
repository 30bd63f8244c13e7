"""A transpose by the Tensor Engine and one by DMA, as kernels for `nki`."""

import nki
import nki.isa as nisa
import nki.language as nl
import numpy as np

SIDE = 128


@nki.jit
def by_tensor_engine(x):
    """HBM `x [m, n]` as `[n, m]`: tiles of 128 by 128 go through PSUM."""
    m, n = x.shape
    out = nl.ndarray((n, m), dtype=x.dtype, buffer=nl.shared_hbm)
    for i in range(m // SIDE):
        rows = nl.ds(i * SIDE, SIDE)
        row = nl.ndarray((SIDE, n), dtype=x.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=row, src=x[rows, :])
        for j in range(n // SIDE):
            columns = nl.ds(j * SIDE, SIDE)
            turned = nl.ndarray((SIDE, SIDE), dtype=x.dtype, buffer=nl.psum)
            tile = nl.ndarray((SIDE, SIDE), dtype=x.dtype, buffer=nl.sbuf)
            nisa.nc_transpose(dst=turned, data=row[:, columns])
            nisa.tensor_copy(dst=tile, src=turned)
            nisa.dma_copy(dst=out[columns, rows], src=tile)
    return out


@nki.jit
def by_dma(x):
    """HBM `x [m, n]` as `[n, m]`: the DMA engines turn a tile as they load it."""
    m, n = x.shape
    out = nl.ndarray((n, m), dtype=x.dtype, buffer=nl.shared_hbm)
    for i in range(m // SIDE):
        for j in range(n // SIDE):
            rows, columns = nl.ds(i * SIDE, SIDE), nl.ds(j * SIDE, SIDE)
            tile = nl.ndarray((SIDE, SIDE), dtype=x.dtype, buffer=nl.sbuf)
            nisa.dma_transpose(dst=tile, src=x[rows, columns])
            nisa.dma_copy(dst=out[columns, rows], src=tile)
    return out


def inputs():
    random = np.random.default_rng(28)
    return (random.standard_normal((256, 384), np.float32).astype(nl.bfloat16),)


def reference(x):
    return np.float64(x).T
