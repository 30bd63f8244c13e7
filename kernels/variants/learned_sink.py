"""A learned sink: a logit of each head joins the softmax's denominator, and no value.

OpenAI, *gpt-oss-120b & gpt-oss-20b Model Card* (2025, arXiv 2508.10925), section 2.2; after the
sink tokens of Xiao et al., *Efficient Streaming Language Models with Attention Sinks* (ICLR 2024,
arXiv 2309.17453).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kernels import masks
from kernels.attention.decorator import attention
from kernels.attention.softmax import State
from kernels.attention.variant import Variant
from kernels.masks import Mask


def learned_sink(sinks: np.ndarray | jax.Array, mask: Mask = masks.causal) -> Variant:
    """`exp(s)` over `exp(sink) + sum of exp(s)`.

    Args:
      sinks: `[heads]`, logits.
      mask: which keys a query attends to; gpt-oss has causal layers and layers of a window in turn.
    """

    def finish(state: State, b: Any, h: Any, q: Any, d: Any) -> Any:
        sink = jnp.exp(jnp.asarray(sinks)[h] - state.greatest)
        return state.output / (state.total + sink)

    return attention.monoid(finish=finish, mask=mask, name="learned_sink")
