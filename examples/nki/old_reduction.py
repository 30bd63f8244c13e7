"""Lengths of rows that are longer than a tile, as a kernel for `neuronxcc.nki`."""

import neuronxcc.nki as nki
import neuronxcc.nki.isa as nisa
import neuronxcc.nki.language as nl
import numpy as np

ROWS = 128
COLUMNS = 512


@nki.jit
def row_norms(x):
    """`sqrt(Σ x²)` of each row of HBM `x [rows, columns]`, as `[rows, 1]`.

    Sums of a row's tiles are added up in SBUF, one tile of columns after another.
    """
    rows, columns = x.shape
    out = nl.ndarray((rows, 1), dtype=nl.float32, buffer=nl.shared_hbm)
    i_p = nl.arange(ROWS)[:, None]
    i_f = nl.arange(COLUMNS)[None, :]
    i_one = nl.arange(1)[None, :]
    for r in nl.affine_range(rows // ROWS):
        total = nl.zeros((nl.par_dim(ROWS), 1), dtype=nl.float32, buffer=nl.sbuf)
        for c in nl.sequential_range(columns // COLUMNS):
            tile = nl.load(x[r * ROWS + i_p, c * COLUMNS + i_f])
            squares = nisa.tensor_tensor(tile, tile, op=np.multiply, dtype=nl.float32)
            part = nisa.tensor_reduce(np.add, squares, axis=[1], keepdims=True)
            total[i_p, i_one] = nl.add(total[i_p, i_one], part)
        nl.store(out[r * ROWS + i_p, i_one], value=nl.sqrt(total))
    return out


def inputs():
    random = np.random.default_rng(1)
    return (random.standard_normal((256, 1536), np.float32),)


def reference(x):
    return np.sqrt(np.sum(np.float64(x) ** 2, axis=1, keepdims=True))
