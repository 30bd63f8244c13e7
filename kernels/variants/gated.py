"""A gated output: each feature of each head's output is multiplied by the sigmoid of a gate.

Qiu et al., *Gated Attention for Large Language Models: Non-linearity, Sparsity, and
Attention-Sink-Free* (NeurIPS 2025, arXiv 2505.06708), whose gates are a projection of the query's
token; in Qwen3-Next's attention layers.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kernels import masks
from kernels.attention.decorator import attention
from kernels.attention.softmax import State
from kernels.attention.variant import Variant
from kernels.masks import Mask


def gated(
    gates: np.ndarray | jax.Array | Callable[..., Any], mask: Mask = masks.causal
) -> Variant:
    """Softmax attention's output times `sigmoid(gate)`.

    Args:
      gates: `[batch, heads, tokens, head_dim]`, before their sigmoid, or a function `(b, h, q, d)`.
      mask: which keys a query attends to.
    """

    def finish(state: State, b: Any, h: Any, q: Any, d: Any) -> Any:
        gate = gates(b, h, q, d) if callable(gates) else jnp.asarray(gates)[b, h, q, d]
        # In the precision of the rest, where that is another.
        gate = jnp.asarray(gate, state.output.dtype)
        return state.output / state.total * jax.nn.sigmoid(gate)

    return attention.monoid(finish=finish, mask=mask, name="gated")
