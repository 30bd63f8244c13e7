"""A layer normalisation whose last rows fill no tile, as a kernel for `neuronxcc.nki`."""

import math

import neuronxcc.nki as nki
import neuronxcc.nki.isa as nisa
import neuronxcc.nki.language as nl
import numpy as np

ROWS = 128
EPSILON = 1e-5


@nki.jit
def layer_norm(x, weight):
    """`(x - mean) / sqrt(variance + 1e-5) * weight` of HBM `x [rows, columns]`, any rows.

    A mask keeps loads, statistics and stores inside the last tile's rows; `weight [1, columns]` is
    spread over the partitions once.
    """
    rows, columns = x.shape
    out = nl.ndarray((rows, columns), dtype=x.dtype, buffer=nl.shared_hbm)
    i_p = nl.arange(ROWS)[:, None]
    i_f = nl.arange(columns)[None, :]
    i_one = nl.arange(1)[:, None]
    weight_tile = nl.load(weight[i_one, i_f]).broadcast_to((ROWS, columns))
    for r in nl.affine_range(math.ceil(rows / ROWS)):
        inside = r * ROWS + i_p < rows
        tile = nl.load(x[r * ROWS + i_p, i_f], mask=inside)
        statistics = nisa.bn_stats(tile, mask=inside)
        moments = nisa.bn_aggr(statistics, mask=inside)
        scale = nl.rsqrt(nl.add(moments[:, 1:2], EPSILON))
        normal = nisa.tensor_scalar(
            tile,
            op0=np.subtract,
            operand0=moments[:, 0:1],
            op1=np.multiply,
            operand1=scale,
            mask=inside,
        )
        scaled = nl.multiply(normal, weight_tile, mask=inside)
        nl.store(out[r * ROWS + i_p, i_f], value=scaled, mask=inside)
    return out


def inputs():
    random = np.random.default_rng(2)
    x = random.standard_normal((300, 384), np.float32)
    return x, random.standard_normal((1, 384), np.float32)


def reference(x, weight):
    x = np.float64(x)
    centred = x - np.mean(x, axis=1, keepdims=True)
    return centred / np.sqrt(np.var(x, axis=1, keepdims=True) + EPSILON) * weight
