"""Which heads, FFN columns and logits each core of a chip computes under tensor parallelism.

Cores are physical ones. A logical core of the SDK (LNC=2) is two neighbours here: together they
hold what one of half as many cores would, unless a core had only one head to divide.
"""

import dataclasses
import math
from typing import Any

import numpy as np

from models.config import ModelConfig

FEWEST_LOGITS = 8  # nc_max8 looks at eight values at least
PADDING = -1


@dataclasses.dataclass(frozen=True, eq=False)
class Shares:
    """A model divided over the cores of a chip, all of which run one program on equal shapes.

    Each attribute is int `[cores, share]`: indices into the model, `PADDING` for zeros.

    Attributes:
      heads: query heads; the heads of one KV head stand side by side.
      kv_heads: their KV heads; one stands on several cores where its query heads do.
      ffn: columns of the MLP.
      vocabulary: ids whose logits the core computes, consecutive; the last cores' overlap where the
        vocabulary does not divide, because a padded logit could be the largest.
    """

    heads: np.ndarray
    kv_heads: np.ndarray
    ffn: np.ndarray
    vocabulary: np.ndarray

    def kv_owners(self) -> np.ndarray:
        """For each KV head in order, the first of the cores' places that holds it, flattened."""
        held, first = np.unique(self.kv_heads, return_index=True)
        return first[held != PADDING]


def divide_model(config: ModelConfig, cores: int) -> Shares:
    """The shares of `cores` cores; with one core, the whole model in its own order."""
    c, count = config, config.num_key_value_heads
    group = c.num_attention_heads // count
    places, size = _places(count, group, cores)
    parts = math.ceil(group / size)
    heads = _padded(np.arange(count * group).reshape(count, group), parts * size)
    held = np.repeat(np.arange(count), parts)
    share = min(c.vocab_size, max(math.ceil(c.vocab_size / cores), FEWEST_LOGITS))
    first = np.minimum(np.arange(cores) * share, c.vocab_size - share)
    ffn = _padded(
        np.arange(c.intermediate_size), cores * math.ceil(c.intermediate_size / cores)
    )
    return Shares(
        _padded(heads.ravel(), cores * places * size).reshape(cores, -1),
        _padded(held, cores * places).reshape(cores, -1),
        ffn.reshape(cores, -1),
        first[:, None] + np.arange(share),
    )


def _places(kv_heads: int, group: int, cores: int) -> tuple[int, int]:
    """KV heads on a core, and the query heads that use each.

    Every query head costs its columns of `wq` and rows of `wo`, every KV head its columns of `wk`
    and `wv`: the fewest of both together, and of equals the fewest query heads.
    """
    cases = []
    for size in range(1, group + 1):
        places = math.ceil(kv_heads * math.ceil(group / size) / cores)
        cases.append((places * (size + 1), places * size, places, size))
    return min(cases)[2:]


def _padded(indices: np.ndarray, size: int) -> np.ndarray:
    lead = [(0, 0)] * (indices.ndim - 1)
    return np.pad(
        indices, [*lead, (0, size - indices.shape[-1])], constant_values=PADDING
    )


def deal(w: Any, index: np.ndarray, axis: int, unit: int, xp: Any) -> Any:
    """Each core's part of a weight.

    Args:
      w: the whole weight, `[..., K, N]`.
      index: one of `Shares`' attributes.
      axis: the dimension that is divided, -1 or -2.
      unit: its elements an index.
      xp: numpy, or jax.numpy where only shapes are wanted.

    Returns:
      `[..., cores, K, N]`, the dimension now `share · unit` long; zeros where the index is
      `PADDING`. With one core, the weight itself.
    """
    if len(index) == 1:
        return w
    at = w.ndim + axis
    x = w.reshape(*w.shape[:at], -1, unit, *w.shape[at + 1 :])
    if (index == PADDING).any():
        x = xp.pad(x, [(0, int(i == at)) for i in range(x.ndim)])
    x = xp.moveaxis(xp.take(x, index % x.shape[at], axis=at), at, w.ndim - 2)
    shape = [-1 if i == at else n for i, n in enumerate(w.shape)]
    return x.reshape(*shape[:-2], len(index), *shape[-2:])
