"""Causal attention with a running softmax in bfloat16, as a kernel for `nki`."""

import nki
import nki.isa as nisa
import nki.language as nl
import numpy as np

ROWS = 128
KEYS = 256
LOWEST = -1e30


def sbuf(rows, columns, dtype=nl.float32):
    return nl.ndarray((rows, columns), dtype=dtype, buffer=nl.sbuf)


def psum(rows, columns, dtype=nl.float32):
    return nl.ndarray((rows, columns), dtype=dtype, buffer=nl.psum)


class Running:
    """A row tile's sum of values, its sum of powers and the highest score so far."""

    def __init__(self, d):
        self.total = sbuf(ROWS, d)
        self.weight = sbuf(ROWS, 1)
        self.highest = sbuf(ROWS, 1)
        nisa.memset(dst=self.total, value=0)
        nisa.memset(dst=self.weight, value=0)
        nisa.memset(dst=self.highest, value=LOWEST)

    def raise_to(self, scores):
        """Takes the highest score of a tile in; gives its negation and the older sums' factor."""
        highest, less, factor = sbuf(ROWS, 1), sbuf(ROWS, 1), sbuf(ROWS, 1)
        nisa.tensor_reduce(dst=highest, op=nl.maximum, data=scores, axis=1)
        nisa.tensor_tensor(
            dst=highest, data1=highest, data2=self.highest, op=nl.maximum
        )
        nisa.tensor_scalar(dst=less, data=highest, op0=nl.multiply, operand0=-1.0)
        nisa.activation(dst=factor, op=nl.exp, data=self.highest, bias=less)
        nisa.tensor_copy(dst=self.highest, src=highest)
        return less, factor

    def add(self, factor, sums, product):
        """`total = total · factor + product`, and the weights likewise."""
        for held, more in ((self.weight, sums), (self.total, product)):
            nisa.scalar_tensor_tensor(
                dst=held,
                data=held,
                op0=nl.multiply,
                operand0=factor,
                op1=nl.add,
                operand1=more,
            )


@nki.jit
def causal_attention(q_t, k_t, v):
    """`softmax(q·kᵀ / sqrt(d))·v` of one head, a query seeing keys up to its own place.

    Tiles of keys behind a tile of queries are left out by Python, those on the diagonal are
    selected from element by element.

    Args:
      q_t, k_t: HBM `[d, s]`, s whole tiles of 256.
      v: HBM `[s, d]`.

    Returns:
      HBM `[s, d]`.
    """
    d, length = q_t.shape
    out = nl.ndarray((length, d), dtype=nl.float32, buffer=nl.shared_hbm)
    for row in range(0, length, ROWS):
        q_tile = sbuf(d, ROWS, q_t.dtype)
        nisa.dma_copy(dst=q_tile, src=q_t[:, nl.ds(row, ROWS)])
        running = Running(d)
        for key in range(0, row + ROWS, KEYS):
            k_tile = sbuf(d, KEYS, k_t.dtype)
            nisa.dma_copy(dst=k_tile, src=k_t[:, nl.ds(key, KEYS)])
            products = psum(ROWS, KEYS)
            nisa.nc_matmul(dst=products, stationary=q_tile, moving=k_tile)
            scores = sbuf(ROWS, KEYS)
            nisa.activation(dst=scores, op=nl.copy, data=products, scale=d**-0.5)
            if key + KEYS > row + 1:
                nisa.affine_select(
                    dst=scores,
                    pattern=[[-1, KEYS]],
                    offset=row - key,
                    channel_multiplier=1,
                    on_true_tile=scores,
                    on_false_value=LOWEST,
                    cmp_op=nl.greater_equal,
                )
            less, factor = running.raise_to(scores)
            powers, sums = sbuf(ROWS, KEYS, nl.bfloat16), sbuf(ROWS, 1)
            nisa.activation_reduce(
                dst=powers,
                op=nl.exp,
                data=scores,
                bias=less,
                reduce_op=nl.add,
                reduce_res=sums,
            )
            product = psum(ROWS, d)
            for block in range(0, KEYS, ROWS):
                v_tile = sbuf(ROWS, d, v.dtype)
                nisa.dma_copy(dst=v_tile, src=v[nl.ds(key + block, ROWS), :])
                turned, weights = (
                    psum(ROWS, ROWS, nl.bfloat16),
                    sbuf(ROWS, ROWS, nl.bfloat16),
                )
                nisa.nc_transpose(dst=turned, data=powers[:, nl.ds(block, ROWS)])
                nisa.tensor_copy(dst=weights, src=turned)
                nisa.nc_matmul(dst=product, stationary=weights, moving=v_tile)
            running.add(factor, sums, product)
        share, mean = sbuf(ROWS, 1), sbuf(ROWS, d)
        nisa.reciprocal(dst=share, data=running.weight)
        nisa.tensor_scalar(
            dst=mean, data=running.total, op0=nl.multiply, operand0=share
        )
        nisa.dma_copy(dst=out[nl.ds(row, ROWS), :], src=mean)
    return out


def inputs():
    random = np.random.default_rng(24)
    q_t, k_t = random.standard_normal((2, 64, 512), np.float32).astype(nl.bfloat16)
    return q_t, k_t, random.standard_normal((512, 64), np.float32).astype(nl.bfloat16)


def reference(q_t, k_t, v):
    scores = q_t.astype(np.float64).T @ k_t.astype(np.float64) / np.sqrt(len(q_t))
    scores = np.where(np.tri(len(scores), dtype=bool), scores, -np.inf)
    powers = np.exp(scores - np.max(scores, axis=1, keepdims=True))
    return powers / np.sum(powers, axis=1, keepdims=True) @ v.astype(np.float64)
