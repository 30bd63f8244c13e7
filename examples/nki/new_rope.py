"""Rotary positions on neighbouring pairs, as a kernel for `nki`."""

import nki
import nki.isa as nisa
import nki.language as nl
import numpy as np

ROWS = 128


@nki.jit
def rope(x, cos, sin):
    """Turns the pairs (even, odd) of HBM `x [rows, d]` by its row's angles.

    Evens and odds are access patterns of stride 2 on one tile. `cos` and `sin` are `[rows, d / 2]`.
    """
    rows, d = x.shape
    half = d // 2
    out = nl.ndarray((rows, d), dtype=x.dtype, buffer=nl.shared_hbm)
    for row in range(0, rows, ROWS):
        part = nl.ds(row, ROWS)
        tile = nl.ndarray((ROWS, d), dtype=x.dtype, buffer=nl.sbuf)
        turned = nl.ndarray((ROWS, d), dtype=x.dtype, buffer=nl.sbuf)
        cos_tile = nl.ndarray((ROWS, half), dtype=cos.dtype, buffer=nl.sbuf)
        sin_tile = nl.ndarray((ROWS, half), dtype=sin.dtype, buffer=nl.sbuf)
        other = nl.ndarray((ROWS, half), dtype=nl.float32, buffer=nl.sbuf)
        nisa.dma_copy(dst=tile, src=x[part, :])
        nisa.dma_copy(dst=cos_tile, src=cos[part, :])
        nisa.dma_copy(dst=sin_tile, src=sin[part, :])
        # Every second element of each row, from the first one or from the second one on.
        pairs = [[d, ROWS], [2, half]]
        # Of each pair: even * cos - odd * sin, then odd * cos + even * sin.
        for place, combine in ((0, nl.subtract), (1, nl.add)):
            mine = tile.ap(pairs, offset=place)
            theirs = tile.ap(pairs, offset=1 - place)
            result = turned.ap(pairs, offset=place)
            nisa.tensor_tensor(dst=other, data1=theirs, data2=sin_tile, op=nl.multiply)
            nisa.tensor_tensor(dst=result, data1=mine, data2=cos_tile, op=nl.multiply)
            nisa.tensor_tensor(dst=result, data1=result, data2=other, op=combine)
        nisa.dma_copy(dst=out[part, :], src=turned)
    return out


def inputs():
    random = np.random.default_rng(25)
    x = random.standard_normal((256, 128), np.float32)
    frequencies = 10000 ** -(np.arange(64) / 64)
    angles = np.arange(256)[:, None] * frequencies
    cos = np.float32(np.cos(angles))
    sin = np.float32(np.sin(angles))
    return x, cos, sin


def reference(x, cos, sin):
    even = np.float64(x[:, ::2])
    odd = np.float64(x[:, 1::2])
    turned_even = even * cos - odd * sin
    turned_odd = odd * cos + even * sin
    return np.stack([turned_even, turned_odd], axis=2).reshape(x.shape)
