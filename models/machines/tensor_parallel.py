"""Which heads, FFN columns and logits each core of a chip computes under tensor parallelism.

Cores are physical ones. A logical core of the SDK (LNC=2) is two neighbours here: together they
hold what one of half as many cores would, unless a core had only one head to divide.
"""

import dataclasses
import math
from types import ModuleType
from typing import TypeAlias

import jax
import numpy as np

from models.config import ModelConfig

FEWEST_LOGITS = 8  # nc_max8 looks at eight values at least
PADDING = -1

Array: TypeAlias = np.ndarray | jax.Array


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
        # SmolLM2 on 8 cores has `[0 0 1 1 2 2 - -]`: places 0, 2 and 4.
        held, first = np.unique(self.kv_heads, return_index=True)
        return first[held != PADDING]


def divide_model(config: ModelConfig, cores: int, columns_together: int = 1) -> Shares:
    """The shares of `cores` cores; with one core, the whole model in its own order.

    Args:
      config: of the model.
      cores: of a chip.
      columns_together: so many neighbours among the MLP's columns stay on one core, as those that
        share a scale must.

    SmolLM2 on 8 cores: each of its 3 KV heads serves 3 query heads, which stand on two cores, 2
    and 1. So a core has 2 query heads and 1 KV head, and two cores have padding only:

        heads     [0 1] [2 -] [3 4] [5 -] [6 7] [8 -] [- -] [- -]
        kv_heads  [0]   [0]   [1]   [1]   [2]   [2]   [-]   [-]
    """
    # Of latents every query head makes keys and values of its own, whatever a config says.
    latent = config.latent is not None
    kv_heads = config.num_attention_heads if latent else config.num_key_value_heads
    group = config.num_attention_heads // kv_heads
    kv_places, queries = _places(kv_heads, group, cores)
    copies = math.ceil(group / queries)
    # SmolLM2 on 8 cores: the group `[0 1 2]` becomes `[0 1 2 -]`, two copies of its KV head with
    # two query heads each. Every core then finds the KV head of its query heads with itself.
    query_heads = np.arange(config.num_attention_heads).reshape(kv_heads, group)
    query_heads = _padded(query_heads, copies * queries).ravel()
    columns = np.arange(config.intermediate_size)
    together = math.ceil(math.ceil(columns.size / columns_together) / cores)
    # One core has them all as they are, without padding.
    share = min(together * columns_together, columns.size)
    return Shares(
        _shared_out(query_heads, cores, kv_places * queries),
        _shared_out(np.repeat(np.arange(kv_heads), copies), cores, kv_places),
        _shared_out(columns, cores, share),
        _vocabulary(config.vocab_size, cores),
    )


def _places(kv_heads: int, group: int, cores: int) -> tuple[int, int]:
    """KV heads on a core, and the query heads that use each.

    Every query head costs its columns of `wq` and rows of `wo`, every KV head its columns of `wk`
    and `wv`: the fewest of both together, and of equals the fewest query heads.
    """
    # SmolLM2, 3 KV heads of 3 query heads, on 8 cores. With 1 query head a copy, 9 copies: 2 on a
    # core, with 2 query heads, 4 in all. With 2, 6 copies: 1 on a core, with 2 query heads, 3 in
    # all, the least. With 3, 3 copies: 1 and 3, 4 in all.
    cases = []
    for queries in range(1, group + 1):
        copies = math.ceil(group / queries)
        places = math.ceil(kv_heads * copies / cores)
        both = places * queries + places
        cases.append((both, places * queries, places, queries))
    _, _, places, queries = min(cases)
    return places, queries


def _vocabulary(size: int, cores: int) -> np.ndarray:
    """Consecutive ids of each core, int `[cores, share]`.

    5 cores of a vocabulary of 42 take 9 ids each from 0, 9, 18, 27 and, not to pass the end, 33.
    """
    # Never more than there are: the last cores' ids may overlap, but none may be made up.
    share = min(size, max(math.ceil(size / cores), FEWEST_LOGITS))
    first = np.minimum(np.arange(cores) * share, size - share)
    return first[:, None] + np.arange(share)


def _shared_out(indices: np.ndarray, cores: int, share: int) -> np.ndarray:
    """`indices` in order, `share` of them a core, `PADDING` at the end."""
    return _padded(indices, cores * share).reshape(cores, share)


def _padded(indices: np.ndarray, size: int) -> np.ndarray:
    """The last dimension lengthened to `size` by `PADDING`."""
    missing = size - indices.shape[-1]
    widths = [(0, 0)] * (indices.ndim - 1) + [(0, missing)]
    return np.pad(indices, widths, constant_values=PADDING)


def deal(
    weight: Array, index: np.ndarray, axis: int, unit: int, xp: ModuleType
) -> Array:
    """Each core's part of a weight.

    Args:
      weight: the whole one, `[..., K, N]`.
      index: one of `Shares`' attributes.
      axis: the dimension that is divided, -1 or -2.
      unit: how many of its elements an index stands for: `head_dim` where it names heads.
      xp: numpy, or jax.numpy where only shapes are wanted.

    Returns:
      `[..., cores, K, N]`, the dimension now `share · unit` long; zeros where the index is
      `PADDING`. With one core, the weight itself.
    """
    cores = len(index)
    if cores == 1:
        return weight
    divided = weight.ndim + axis
    before, after = weight.shape[:divided], weight.shape[divided + 1 :]
    units = weight.reshape(*before, -1, unit, *after)
    if (index == PADDING).any():
        # One more unit, of zeros: the last one, which is where PADDING, -1, points.
        units = xp.pad(units, [(0, int(i == divided)) for i in range(units.ndim)])
    taken = xp.take(units, index % units.shape[divided], axis=divided)
    # [..., cores, share, unit, ...] with the cores brought in front of K and N.
    taken = xp.moveaxis(taken, divided, weight.ndim - 2)
    rows, columns = weight.shape[-2:]
    held = (-1, columns) if axis == -2 else (rows, -1)
    return taken.reshape(*weight.shape[:-2], cores, *held)
