"""Chunked attention: causal within chunks that do not see each other.

Meta AI, *The Llama 4 herd* (2025, https://ai.meta.com/blog/llama-4-multimodal-intelligence/): the
layers with rotary embeddings, in chunks of 8192.
"""

from kernels import masks
from kernels.attention.decorator import attention
from kernels.attention.variant import Variant


def chunked(size: int) -> Variant:
    """Chunks of `size` tokens."""
    return attention(masks.chunked(size), name="chunked")
