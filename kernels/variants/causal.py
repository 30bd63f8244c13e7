"""Causal attention: a token sees itself and what came before.

Vaswani et al., *Attention Is All You Need* (NeurIPS 2017, arXiv 1706.03762), section 3.2.3.
"""

from kernels import masks
from kernels.attention.decorator import attention
from kernels.attention.variant import Variant


def causal() -> Variant:
    """Of a decoder."""
    return attention(masks.causal, name="causal")
