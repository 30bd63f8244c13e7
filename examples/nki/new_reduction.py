"""A root-mean-square normalisation, as a kernel for `nki`."""

import nki
import nki.isa as nisa
import nki.language as nl
import numpy as np

ROWS = 128
EPSILON = 1e-6


@nki.jit
def rms_norm(x, weight):
    """`x / sqrt(mean(x²) + 1e-6) · weight` of HBM `x [rows, columns]`, any rows.

    The Scalar Engine squares and sums in one pass; a DMA of stride 0 spreads `weight [columns]`
    over the partitions.
    """
    rows, columns = x.shape
    out = nl.ndarray((rows, columns), dtype=x.dtype, buffer=nl.shared_hbm)
    weights = nl.ndarray((ROWS, columns), dtype=weight.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=weights, src=weight.ap([[0, ROWS], [1, columns]]))
    epsilon = nl.ndarray((ROWS, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.memset(dst=epsilon, value=EPSILON)
    for row in range(0, rows, ROWS):
        count = min(ROWS, rows - row)
        tile = nl.ndarray((count, columns), dtype=x.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=tile, src=x[row : row + count, :])
        squares = nl.ndarray((count, columns), dtype=nl.float32, buffer=nl.sbuf)
        sums = nl.ndarray((count, 1), dtype=nl.float32, buffer=nl.sbuf)
        nisa.activation_reduce(
            dst=squares, op=nl.square, data=tile, reduce_op=nl.add, reduce_res=sums
        )
        factor = nl.ndarray((count, 1), dtype=nl.float32, buffer=nl.sbuf)
        nisa.activation(
            dst=factor,
            op=nl.rsqrt,
            data=sums,
            bias=epsilon[0:count, :],
            scale=1 / columns,
        )
        normal = nl.ndarray((count, columns), dtype=x.dtype, buffer=nl.sbuf)
        nisa.scalar_tensor_tensor(
            dst=normal,
            data=tile,
            op0=nl.multiply,
            operand0=factor,
            op1=nl.multiply,
            operand1=weights[0:count, :],
        )
        nisa.dma_copy(dst=out[row : row + count, :], src=normal)
    return out


def inputs():
    random = np.random.default_rng(21)
    x = random.standard_normal((200, 512), np.float32)
    return x, random.standard_normal(512, np.float32)


def reference(x, weight):
    x = np.float64(x)
    return x / np.sqrt(np.mean(x**2, axis=1, keepdims=True) + EPSILON) * weight
