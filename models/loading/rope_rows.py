"""The order in which files hold the outputs that RoPE turns, brought to Hugging Face's usual one.

A head of 6 whose pairs are `(0, 3)`, `(1, 4)`, `(2, 5)` may be stored as `0, 3, 1, 4, 2, 5`, the
second of each pair beside the first. In the other convention's order every pair would be two
elements that do not belong together: worse answers, and no error.
"""

import numpy as np
from numpy.typing import NDArray

from models.config import ModelConfig
from models.tensors import Tensor


def in_halves(
    values: NDArray[np.float32], config: ModelConfig, tensor: Tensor
) -> NDArray[np.float32]:
    """Weights whose turned outputs stand in pairs, with the first of all pairs before the second.

    Args:
        values: `[..., outputs]`, of a linear layer or of its bias.
        config: Says how wide heads are, and how many of their features turn.
        tensor: Which weight it is; others than those of queries and keys stay as they are.
    """
    width, first = _turned(config, tensor)
    if not width:
        return values
    by_head = values.reshape(*values.shape[:-1], -1, width)
    kept, turned = by_head[..., :first], by_head[..., first:]
    rest = turned[..., config.rotated_width :]
    turned = turned[..., : config.rotated_width]
    pairs = turned.reshape(*turned.shape[:-1], -1, 2)
    halves = pairs.swapaxes(-1, -2).reshape(turned.shape)
    return np.concatenate([kept, halves, rest], axis=-1).reshape(values.shape)


def _turned(config: ModelConfig, tensor: Tensor) -> tuple[int, int]:
    """How wide a head of these outputs is, and the first of its features that turns; 0: none."""
    latent = config.latent
    if latent is None:
        return (config.head_dim, 0) if tensor.rotated else (0, 0)
    if tensor.name in ("wq", "wq_up"):
        return latent.key_width, latent.plain
    if tensor.name == "wkv_down":
        # One key for all heads, behind the latent.
        return latent.cached_width, latent.rank
    return 0, 0


__all__ = ["in_halves"]
