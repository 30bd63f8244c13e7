"""A variant's prefill on a mesh of Trainium chips: context attention with its mask and its score.

Arrays come and go as FlexAttention has them, `[batch, heads, tokens, features]`. On the mesh the
heads of all sequences stand side by side, since to attention a batch is only more heads:

    batch 2, 4 query heads over 2 KV heads     8 query heads over 4 KV heads
    sequence 1, head 2                         head 6, of KV head 3
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kernels import masks
from kernels.attention.shapes import check_shapes
from kernels.masks.catalogue import Allowed, Mask, Positions
from kernels.scores.form import Reading
from kernels.trainium.context.attention import ContextAttention, Results


def prefill(
    reading: Reading, q: ArrayLike, k: ArrayLike, v: ArrayLike, **options: Any
) -> Results:
    """Attention on a mesh of chips, computed by the kernel that `context_attention` times.

    Args:
      reading: the variant.
      q: `[batch, heads, queries, head_dim]`; query n is at position n.
      k: `[batch, kv_heads, keys, head_dim]`.
      v: `[batch, kv_heads, keys, value_dim]`.
      options: as for `context_attention`.

    Returns:
      `[batch, heads, queries, value_dim]`, and the log-sum-exp of each query's scores,
      `[batch, heads, queries]`, -inf where it attends to nothing and the output is 0, or None of a
      monoid that does not sum their exponentials.

    Raises:
      EmulationError: sizes that do not fit each other or the mesh, or a function of the variant
        that cannot be carried out.
    """
    queries, keys, values = (jnp.asarray(x) for x in (q, k, v))
    check_shapes(queries, keys, values)
    options.setdefault("dtype", queries.dtype)
    attention = context_attention(
        reading,
        q=queries.shape,
        k=keys.shape,
        value_dim=values.shape[-1],
        **options,
    )
    missing = attention.tokens - keys.shape[2]
    out, lse = attention.run(
        by_token(queries), by_token(keys, missing), by_token(values, missing)
    )
    batch = len(queries)
    sums = None if lse is None else by_sequence(lse, batch)
    return by_sequence(out, batch), sums


def context_attention(
    reading: Reading,
    *,
    q: tuple[int, ...],
    k: tuple[int, ...],
    value_dim: int | None = None,
    chips: int = 1,
    placement: str = "auto",
    scheme: str = "ring",
    scale: float | None = None,
    first_query: int = 0,
    **options: Any,
) -> ContextAttention:
    """The program of a variant's prefill, to be run or timed.

    Args:
      reading: the variant.
      q: sizes of the queries, `(batch, heads, queries, head_dim)`.
      k: sizes of the keys, `(batch, kv_heads, keys, head_dim)`.
      value_dim: features of a value; None: as many as of a key.
      chips: that the sequence is spread over.
      placement: where tokens stand, one of `kernels.PLACEMENTS`, or `auto`.
      scheme: how chips exchange, see `ContextAttention`.
      scale: factor of the scores, before the variant's function; None: 1 / sqrt(head_dim).
      first_query: its position: as many keys before it are of a cache.
      options: further fields of `ContextAttention`: `cores`, `dtype`, `inner` and others.
    """
    batch, heads, queries, head_dim = q
    _, kv_heads, keys, _ = k
    # More queries than keys, as of cross-attention: keys that nobody attends to stand behind.
    tokens = max(queries, keys)
    mask: Mask = masks.full if reading.mask is None else reading.mask
    if tokens > keys:
        mask = masks.and_masks(_within(keys), mask)
    return ContextAttention(
        mask=mask,
        score=reading.score,
        fold=reading.fold,
        scale=scale,
        batch=batch,
        tokens=tokens,
        queries=None if queries == tokens else queries,
        first_query=first_query,
        ranks=chips,
        heads=batch * heads,
        kv_heads=batch * kv_heads,
        head_dim=head_dim,
        value_dim=value_dim,
        placement=placement,
        scheme=scheme,
        **options,
    )


def _within(keys: int) -> Mask:
    def real(b: Positions, h: Positions, q: Positions, k: Positions) -> Allowed:
        return k < keys

    return masks.named(real)


def by_token(x: jax.Array, missing: int = 0) -> jax.Array:
    """`[batch, heads, tokens, features]` to `[tokens, batch * heads, features]`.

    Args:
      x: queries, keys or values.
      missing: tokens of zeros that are put behind.
    """
    batch, heads, tokens, features = x.shape
    turned = x.transpose(2, 0, 1, 3).reshape(tokens, batch * heads, features)
    return jnp.pad(turned, ((0, missing), (0, 0), (0, 0)))


def by_sequence(x: jax.Array, batch: int) -> jax.Array:
    """`[tokens, batch * heads, ...]` to `[batch, heads, tokens, ...]`."""
    tokens, _, *rest = x.shape
    return jnp.moveaxis(x.reshape(tokens, batch, -1, *rest), 0, 2)


__all__ = ["by_sequence", "by_token", "context_attention", "prefill"]
