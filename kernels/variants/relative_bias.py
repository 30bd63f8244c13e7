"""T5's relative bias: a learned number for each bucket of distances, and no scale.

Raffel et al., *Exploring the Limits of Transfer Learning* (JMLR 2020, arXiv 1910.10683), section
2.1: half of the buckets stand for one distance each, the other half for ranges that grow as their
logarithm, and the last one for all that is farther.
"""

import jax
import jax.numpy as jnp
import numpy as np

from kernels import masks
from kernels.attention.decorator import attention
from kernels.attention.variant import Variant


def relative_bias(bias: np.ndarray | jax.Array, farthest: int = 128) -> Variant:
    """Causal, of a decoder.

    Args:
      bias: learned, `[buckets, heads]`.
      farthest: distance from which on all share the last bucket.
    """
    table = buckets(bias.shape[0], farthest)

    @attention(mask=masks.causal, scale=1.0)
    def relative_bias(s, b, h, q, k):
        # A key that is not attended lies behind the query, at no distance of the table's.
        distance = jnp.clip(q - k, 0, farthest)
        return s + jnp.asarray(bias)[jnp.asarray(table)[distance], h]

    return relative_bias


def buckets(count: int, farthest: int) -> np.ndarray:
    """The bucket of each distance from 0 to `farthest`, int32 `[farthest + 1]`."""
    distance = np.arange(farthest + 1)
    exact = count // 2
    ratio = np.log(np.maximum(distance, 1) / exact) / np.log(farthest / exact)
    in_ranges = exact + (ratio * (count - exact)).astype(np.int32)
    found = np.where(distance < exact, distance, np.minimum(in_ranges, count - 1))
    return found.astype(np.int32)
