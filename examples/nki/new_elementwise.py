"""An activation over tiles that the sizes do not fill, as a kernel for `nki`."""

import nki
import nki.isa as nisa
import nki.language as nl
import numpy as np

ROWS = 128
COLUMNS = 512


@nki.jit
def hard_swish(x):
    """`x · clip(x / 6 + 1/2, 0, 1)` of HBM `x [rows, columns]`, of any size.

    There are no masks: the last tile of a row or column is a smaller one.
    """
    rows, columns = x.shape
    out = nl.ndarray((rows, columns), dtype=x.dtype, buffer=nl.shared_hbm)
    for row in range(0, rows, ROWS):
        for column in range(0, columns, COLUMNS):
            shape = min(ROWS, rows - row), min(COLUMNS, columns - column)
            part = nl.ds(row, shape[0]), nl.ds(column, shape[1])
            tile = nl.ndarray(shape, dtype=x.dtype, buffer=nl.sbuf)
            gate = nl.ndarray(shape, dtype=nl.float32, buffer=nl.sbuf)
            nisa.dma_copy(dst=tile, src=x[part])
            nisa.tensor_scalar(
                dst=gate,
                data=tile,
                op0=nl.multiply,
                operand0=1 / 6,
                op1=nl.add,
                operand1=0.5,
            )
            nisa.tensor_scalar(
                dst=gate,
                data=gate,
                op0=nl.maximum,
                operand0=0.0,
                op1=nl.minimum,
                operand1=1.0,
            )
            nisa.tensor_tensor(dst=tile, data1=tile, data2=gate, op=nl.multiply)
            nisa.dma_copy(dst=out[part], src=tile)
    return out


def inputs():
    random = np.random.default_rng(20)
    return (3 * random.standard_normal((300, 700), np.float32),)


def reference(x):
    x = np.float64(x)
    return x * np.clip(x / 6 + 0.5, 0, 1)
