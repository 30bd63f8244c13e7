"""Rotary positions on halves of a head, as a kernel for `neuronxcc.nki`."""

import neuronxcc.nki as nki
import neuronxcc.nki.language as nl
import numpy as np

ROWS = 128


@nki.jit
def rope(x, cos, sin):
    """Turns the pairs (first half, second half) of HBM `x [rows, d]` by its row's angles.

    `cos` and `sin` are `[rows, d / 2]`.
    """
    rows, d = x.shape
    half = d // 2
    out = nl.ndarray((rows, d), dtype=x.dtype, buffer=nl.shared_hbm)
    i_p = nl.arange(ROWS)[:, None]
    i_f = nl.arange(d)[None, :]
    i_h = nl.arange(half)[None, :]
    for r in nl.affine_range(rows // ROWS):
        tile = nl.load(x[r * ROWS + i_p, i_f])
        cos_tile = nl.load(cos[r * ROWS + i_p, i_h])
        sin_tile = nl.load(sin[r * ROWS + i_p, i_h])
        turned = nl.ndarray((nl.par_dim(ROWS), d), dtype=x.dtype, buffer=nl.sbuf)
        first, second = tile[i_p, i_h], tile[i_p, half + i_h]
        turned[i_p, i_h] = nl.subtract(
            nl.multiply(first, cos_tile), nl.multiply(second, sin_tile)
        )
        turned[i_p, half + i_h] = nl.add(
            nl.multiply(second, cos_tile), nl.multiply(first, sin_tile)
        )
        nl.store(out[r * ROWS + i_p, i_f], value=turned)
    return out


def inputs():
    random = np.random.default_rng(6)
    x = random.standard_normal((256, 128), np.float32)
    angles = np.arange(256)[:, None] / 10000 ** (np.arange(64) / 64)
    return x, np.float32(np.cos(angles)), np.float32(np.sin(angles))


def reference(x, cos, sin):
    first, second = np.split(np.float64(x), 2, axis=1)
    return np.concatenate(
        (first * cos - second * sin, second * cos + first * sin), axis=1
    )
