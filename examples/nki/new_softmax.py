"""A softmax over rows, as a kernel for `nki`."""

import nki
import nki.isa as nisa
import nki.language as nl
import numpy as np

ROWS = 128


@nki.jit
def softmax(x):
    """Of each row of HBM `x [rows, columns]`, any rows.

    The Scalar Engine adds up a row's powers while it makes them.
    """
    rows, columns = x.shape
    out = nl.ndarray((rows, columns), dtype=x.dtype, buffer=nl.shared_hbm)
    for row in range(0, rows, ROWS):
        count = min(ROWS, rows - row)
        part = slice(row, row + count)
        tile = nl.ndarray((count, columns), dtype=x.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=tile, src=x[part])
        lowest = nl.ndarray((count, 1), dtype=nl.float32, buffer=nl.sbuf)
        nisa.tensor_reduce(dst=lowest, op=nl.maximum, data=tile, axis=1, negate=True)
        powers = nl.ndarray((count, columns), dtype=nl.float32, buffer=nl.sbuf)
        sums = nl.ndarray((count, 1), dtype=nl.float32, buffer=nl.sbuf)
        nisa.activation(
            dst=powers,
            op=nl.exp,
            data=tile,
            bias=lowest,
            reduce_op=nl.add,
            reduce_res=sums,
            reduce_cmd=nisa.reduce_cmd.reset_reduce,
        )
        nisa.reciprocal(dst=sums, data=sums)
        nisa.tensor_scalar(dst=tile, data=powers, op0=nl.multiply, operand0=sums)
        nisa.dma_copy(dst=out[part], src=tile)
    return out


def inputs():
    random = np.random.default_rng(23)
    return (random.standard_normal((200, 512), np.float32),)


def reference(x):
    powers = np.exp(np.float64(x) - np.max(x, axis=1, keepdims=True))
    return powers / np.sum(powers, axis=1, keepdims=True)
