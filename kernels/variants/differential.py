"""Differential attention: one softmax less another, over the same values.

Ye et al., *Differential Transformer* (ICLR 2025, arXiv 2410.05258), section 2.1, with heads as
DiffLlama has them (`DiffLlamaAttention` of transformers): the first half are the first map's. What
a model does besides is its own: lambda from four learned vectors, the norm of a head's output and
the factor `1 - lambda_init` behind it.
"""

from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from kernels.attention.head_mix import HeadMix
from kernels.attention.variant import Variant
from kernels.variants.causal import causal

Lambda: TypeAlias = ArrayLike
"""A number, or one for each head."""


def differential(of: Lambda, variant: Variant | None = None) -> HeadMix:
    """`softmax(q1 k1) v - lambda softmax(q2 k2) v`.

    Args:
      of: lambda, a number or `[heads]`; differentiable.
      variant: of both maps; None: causal.
    """
    of_each = variant or causal()
    # An array of NumPy keeps its 64 bits for the oracle.
    array = of if isinstance(of, jax.Array) else np.asarray(of)
    return HeadMix("differential", of_each, (None, -array))


def lambda_of(
    q1: jax.Array, k1: jax.Array, q2: jax.Array, k2: jax.Array, depth: int
) -> jax.Array:
    """The paper's lambda, from its learned vectors `[..., head_dim]` and the depth of the layer.

    Layers count from 0, as in DiffLlama: `lambda_init = 0.8 - 0.6 exp(-0.3 depth)`.
    """
    first, second = (jnp.exp(jnp.sum(a * b, -1)) for a, b in ((q1, k1), (q2, k2)))
    return first - second + 0.8 - 0.6 * jnp.exp(-0.3 * depth)
