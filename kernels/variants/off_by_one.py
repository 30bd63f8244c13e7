"""Softmax off by one: a query may attend to nothing, as if one more key had a score and value of 0.

Miller, *Attention Is Off By One* (2023, evanmiller.org/attention-is-off-by-one.html).
"""

from typing import Any

import jax.numpy as jnp

from kernels import masks
from kernels.attention.decorator import attention
from kernels.attention.softmax import State
from kernels.attention.variant import Variant
from kernels.masks import Mask


def off_by_one(mask: Mask = masks.causal) -> Variant:
    """`exp(s)` over `1 + sum of exp(s)`."""

    def finish(state: State, b: Any, h: Any, q: Any, d: Any) -> Any:
        return state.output / (state.total + jnp.exp(-state.greatest))

    return attention.monoid(finish=finish, mask=mask, name="off_by_one")
