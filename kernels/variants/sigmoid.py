"""Sigmoid attention: every weight by itself, with no sum to divide by.

Ramapuram et al., *Theory, Analysis, and Best Practices for Sigmoid Self-Attention* (ICLR 2025,
arXiv 2409.04431): `sigmoid(s + bias)`, with a bias of `-log(n)` for a sequence of n tokens.
"""

import math
from typing import Any

import jax

from kernels import masks
from kernels.attention.decorator import attention
from kernels.attention.variant import Variant
from kernels.masks import Mask


def sigmoid(tokens: int, mask: Mask = masks.causal) -> Variant:
    """`sigmoid(s - log(tokens))` in place of a share in a softmax."""
    bias = -math.log(tokens)

    def partial(s: Any, v: Any, b: Any, h: Any, q: Any, k: Any) -> tuple[Any]:
        return (jax.nn.sigmoid(s + bias) * v,)

    def merge(one: tuple[Any], other: tuple[Any]) -> tuple[Any]:
        return (one[0] + other[0],)

    def finish(state: tuple[Any], b: Any, h: Any, q: Any, d: Any) -> Any:
        return state[0]

    return attention.monoid(
        partial=partial, merge=merge, finish=finish, mask=mask, name="sigmoid"
    )
