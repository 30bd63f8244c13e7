"""Attention with a running softmax, as a kernel for `neuronxcc.nki`."""

import neuronxcc.nki as nki
import neuronxcc.nki.isa as nisa
import neuronxcc.nki.language as nl
import numpy as np

ROWS = 128
KEYS = 512
LOWEST = -1e30


@nki.jit
def flash_attention(q_t, k_t, v):
    """`softmax(q·kᵀ / sqrt(d))·v` of one head, with no more scores than a tile of them.

    Dimensions: d, of a head, at most 128; q, query rows, whole tiles of 128; s, keys, whole tiles
    of 512.

    Args:
      q_t: HBM `[d, q]`.
      k_t: HBM `[d, s]`.
      v: HBM `[s, d]`.

    Returns:
      HBM `[q, d]`.
    """
    (d, queries), keys = q_t.shape, k_t.shape[1]
    out = nl.ndarray((queries, d), dtype=nl.float32, buffer=nl.shared_hbm)
    i_d = nl.arange(d)[:, None]
    i_d_free = nl.arange(d)[None, :]
    i_row = nl.arange(ROWS)[:, None]
    i_row_free = nl.arange(ROWS)[None, :]
    i_key_free = nl.arange(KEYS)[None, :]
    i_one = nl.arange(1)[None, :]
    for r in nl.affine_range(queries // ROWS):
        q_tile = nl.load(q_t[i_d, r * ROWS + i_row_free])
        q_scaled = nl.multiply(q_tile, d**-0.5)
        total = nl.zeros((nl.par_dim(ROWS), d), nl.float32, buffer=nl.sbuf)
        weight = nl.zeros((nl.par_dim(ROWS), 1), nl.float32, buffer=nl.sbuf)
        highest = nl.full((nl.par_dim(ROWS), 1), LOWEST, nl.float32, buffer=nl.sbuf)
        for c in nl.sequential_range(keys // KEYS):
            k_tile = nl.load(k_t[i_d, c * KEYS + i_key_free])
            scores = nisa.nc_matmul(q_scaled, k_tile)
            tile_highest = nisa.tensor_reduce(np.max, scores, axis=[1], keepdims=True)
            now = nl.maximum(highest[i_row, i_one], tile_highest)
            less = nl.negative(now)
            factor = nisa.activation(
                np.exp, highest[i_row, i_one], bias=less, scale=1.0
            )
            powers = nisa.activation(np.exp, scores, bias=less, scale=1.0)
            sums = nisa.tensor_reduce(np.add, powers, axis=[1], keepdims=True)
            product = nl.zeros((ROWS, d), nl.float32, buffer=nl.psum)
            for b in nl.affine_range(KEYS // ROWS):
                turned = nisa.nc_transpose(powers[i_row, b * ROWS + i_row_free])
                turned = nisa.tensor_copy(turned)
                v_tile = nl.load(v[c * KEYS + b * ROWS + i_row, i_d_free])
                product += nisa.nc_matmul(turned, v_tile)
            total[i_row, i_d_free] = nisa.scalar_tensor_tensor(
                data=total[i_row, i_d_free],
                op0=np.multiply,
                operand0=factor,
                op1=np.add,
                operand1=product,
            )
            weight[i_row, i_one] = nisa.scalar_tensor_tensor(
                data=weight[i_row, i_one],
                op0=np.multiply,
                operand0=factor,
                op1=np.add,
                operand1=sums,
            )
            highest[i_row, i_one] = nisa.tensor_copy(now)
        mean = nl.multiply(total, nl.reciprocal(weight))
        nl.store(out[r * ROWS + i_row, i_d_free], value=mean)
    return out


def inputs():
    random = np.random.default_rng(5)
    q_t = random.standard_normal((64, 256), np.float32)
    k_t = random.standard_normal((64, 1024), np.float32)
    return q_t, k_t, random.standard_normal((1024, 64), np.float32)


def reference(q_t, k_t, v):
    scores = q_t.astype(np.float64).T @ k_t.astype(np.float64) / np.sqrt(len(q_t))
    powers = np.exp(scores - np.max(scores, axis=1, keepdims=True))
    return powers / np.sum(powers, axis=1, keepdims=True) @ v.astype(np.float64)
