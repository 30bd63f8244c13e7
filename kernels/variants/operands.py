"""Operands drawn at random, for any variant of the catalogue: of its forms and its newest query.

Forms of one variant take the same operands, but for decode, which has one query and a cache.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from kernels.attention.head_mix import HeadMix
from kernels.attention.latent import LatentVariant
from kernels.attention.paged import PagedVariant
from kernels.attention.protocol import AttentionVariant


@dataclasses.dataclass(frozen=True)
class Operands:
    """Operands of a variant's forms.

    Attributes:
      whole: of `dense` and `prefill`.
      newest: of `decode`.
      row: of `dense`, for the same query.
      at: options of `dense` that say where that query is.
      largest: of the values, which errors are over.
    """

    whole: tuple[Any, ...]
    newest: tuple[Any, ...]
    row: tuple[Any, ...]
    at: Mapping[str, Any]
    largest: float


def draw(
    variant: AttentionVariant,
    of_q: tuple[int, ...],
    of_k: tuple[int, ...],
    seed: int = 0,
) -> Operands:
    """Queries, keys and values, float32, from a normal distribution.

    Args:
      variant: whose.
      of_q, of_k: shapes of the queries, and of keys and values.
      seed: of the numbers.
    """
    rng = np.random.default_rng(seed)
    if isinstance(variant, LatentVariant):
        return _latents(of_q, of_k, rng)
    shapes = _shapes(variant, of_q, of_k)
    q, k, v = (rng.standard_normal(x).astype(np.float32) for x in shapes)
    newest, last = q[:, :, -1:], k.shape[2] - 1
    return Operands(
        whole=(q, k, v),
        newest=(newest, (k, v)),
        row=(newest, k, v),
        at={"q_offset": variant.newest if isinstance(variant, PagedVariant) else last},
        largest=float(np.abs(v).max()),
    )


def _latents(
    of_q: tuple[int, ...], of_k: tuple[int, ...], rng: np.random.Generator
) -> Operands:
    """Latents of four times a head's features, and rotary keys of half as many, as DeepSeek's."""
    batch, heads, tokens, head_dim = of_q
    keys, rank, rope = of_k[2], 4 * head_dim, head_dim // 2
    shapes = (
        (batch, heads, tokens, head_dim + rope),
        (batch, keys, rank),
        (batch, keys, rope),
        (rank, heads, head_dim),
        (rank, heads, head_dim),
    )
    q, latent, rotary, *weights = (
        rng.standard_normal(x).astype(np.float32) for x in shapes
    )
    w_k, w_v = (x / np.float32(rank**0.5) for x in weights)
    others = latent, rotary, w_k, w_v
    newest = q[:, :, -1:]
    return Operands(
        whole=(q, *others),
        newest=(newest, *others),
        row=(newest, *others),
        at={"q_offset": keys - 1},
        largest=float(np.abs(np.einsum("bkr,rhn->bkhn", latent, w_v)).max()),
    )


def _shapes(
    variant: AttentionVariant, of_q: tuple[int, ...], of_k: tuple[int, ...]
) -> tuple[tuple[int, ...], ...]:
    """Of queries, keys and values as the variant takes them."""
    batch, heads, *rest_of_q = of_q
    of_batch, kv_heads, keys, head_dim = of_k
    if isinstance(variant, PagedVariant):
        memory = (1, kv_heads, variant.table.slots, head_dim)
        return of_q, memory, memory
    if isinstance(variant, HeadMix):
        queries = (batch, variant.maps * heads, *rest_of_q)
        return queries, (of_batch, variant.maps * kv_heads, keys, head_dim), of_k
    return of_q, of_k, of_k


__all__ = ["Operands", "draw"]
