"""A transpose by the Tensor Engine and one by DMA, as kernels for `neuronxcc.nki`."""

import neuronxcc.nki as nki
import neuronxcc.nki.isa as nisa
import neuronxcc.nki.language as nl
import numpy as np

SIDE = 128


@nki.jit
def by_tensor_engine(x):
    """HBM `x [m, n]` as `[n, m]`: tiles of 128 by 128 go through PSUM."""
    m, n = x.shape
    out = nl.ndarray((n, m), dtype=x.dtype, buffer=nl.shared_hbm)
    i_p, i_f = nl.mgrid[0:SIDE, 0:SIDE]
    for i in nl.affine_range(m // SIDE):
        for j in nl.affine_range(n // SIDE):
            tile = nl.load(x[i * SIDE + i_p, j * SIDE + i_f])
            turned = nisa.nc_transpose(tile, engine=nisa.tensor_engine)
            nl.store(out[j * SIDE + i_p, i * SIDE + i_f], value=turned)
    return out


@nki.jit
def by_dma(x):
    """HBM `x [m, n]` as `[n, m]`: loads walk down the columns."""
    m, n = x.shape
    out = nl.ndarray((n, m), dtype=x.dtype, buffer=nl.shared_hbm)
    for i in nl.affine_range(m // SIDE):
        for j in nl.affine_range(n // SIDE):
            rows, columns = nl.ds(i * SIDE, SIDE), nl.ds(j * SIDE, SIDE)
            turned = nl.load_transpose2d(x[rows, columns])
            nl.store(out[columns, rows], value=turned)
    return out


def inputs():
    random = np.random.default_rng(9)
    return (random.standard_normal((256, 384), np.float32),)


def reference(x):
    return x.T
