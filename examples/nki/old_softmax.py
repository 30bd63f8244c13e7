"""A softmax over rows, as a kernel for `neuronxcc.nki`."""

import neuronxcc.nki as nki
import neuronxcc.nki.isa as nisa
import neuronxcc.nki.language as nl
import numpy as np

ROWS = 128


@nki.jit
def softmax(x):
    """Of each row of HBM `x [rows, columns]`, rows a multiple of 128.

    The exponential takes the negated maximum as its bias; the division is a multiplication by one
    reciprocal a row.
    """
    rows, columns = x.shape
    out = nl.ndarray((rows, columns), dtype=x.dtype, buffer=nl.shared_hbm)
    for r in nl.affine_range(rows // ROWS):
        i_p, i_f = nl.mgrid[0:ROWS, 0:columns]
        tile = nl.load(x[r * ROWS + i_p, i_f])
        lowest = nisa.tensor_reduce(
            np.max, tile, axis=[1], negate=True, keepdims=True, dtype=nl.float32
        )
        powers = nisa.activation(np.exp, tile, bias=lowest, scale=1.0, dtype=nl.float32)
        sums = nl.sum(powers, axis=[1], keepdims=True)
        shares = nisa.tensor_scalar(
            powers,
            op0=np.multiply,
            operand0=nisa.reciprocal(sums),
            engine=nisa.vector_engine,
        )
        nl.store(out[r * ROWS + i_p, i_f], value=shares)
    return out


def inputs():
    random = np.random.default_rng(4)
    return (random.standard_normal((256, 512), np.float32),)


def reference(x):
    powers = np.exp(np.float64(x) - np.max(x, axis=1, keepdims=True))
    return powers / np.sum(powers, axis=1, keepdims=True)
