"""Attention of the oracle's layers: causal softmax, or a variant's own functions on every pair.

A variant's function is called for every score, as it is in its dense form. Where a sequence is
sharded over devices, keys and values go round them; what a device has summed for its queries then
meets one block of keys after another. With scores [1, 3 | 5, 4] of two blocks

    block     greatest   sum of exponentials
    [1, 3]    3          e^-2 + 1 = 1.135
    [5, 4]    5          1.135 · e^(3 - 5) + 1 + e^-1 = 1.522
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp

from kernels.attention.dense import attended_scores
from kernels.attention.variant import Variant

LOWEST = float(jnp.finfo(jnp.float32).min)
"""The greatest score of a query that has met no key: finite, so that no difference is NaN."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Positions:
    """Where a call's tokens and the keys that they may see stand.

    Attributes:
        cos: float32 `[seq, head_dim / 2]`, of RoPE.
        sin: As `cos`.
        b: int32 `[batch]`, which sequence of the whole batch each one is.
        q: int32 `[seq]`, of the queries in the whole sequence.
        k: int32 `[keys]`, of the keys. Keys that are not there yet stand behind every query.
    """

    cos: jax.Array
    sin: jax.Array
    b: jax.Array
    q: jax.Array
    k: jax.Array


Attend: TypeAlias = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""Queries, keys and values, as `attend` takes them, to `[batch, seq, heads * head_dim]`."""


def contract(subscripts: str, *operands: jax.Array) -> jax.Array:
    """An einsum whose products and sums are float32 on every backend."""
    # By default a GPU multiplies float32 in TF32 and a TPU in bfloat16: no oracle then.
    return jnp.einsum(
        subscripts,
        *operands,
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )


def grouped_scores(q: jax.Array, k: jax.Array, scale: float) -> jax.Array:
    """Scaled scores `[batch, kv_heads, heads / kv_heads, seq, keys]`.

    Args:
        q: `[batch, seq, heads, head_dim]`.
        k: `[batch, kv_heads, keys, head_dim]`; `heads / kv_heads` neighbours share one.
        scale: Of the scores.
    """
    batch, seq, heads, head_dim = q.shape
    kv_heads = k.shape[1]
    # Axes: b batch, s query position, t key position, g KV head, r query head of it, d element.
    grouped = q.reshape(batch, seq, kv_heads, heads // kv_heads, head_dim)
    return contract("bsgrd,bgtd->bgrst", grouped, k) * scale


def attend(q: jax.Array, k: jax.Array, v: jax.Array, positions: Positions) -> jax.Array:
    """Causal grouped-query attention.

    Args:
        q: `[batch, seq, heads, head_dim]`.
        k: `[batch, kv_heads, keys, head_dim]`; `heads / kv_heads` neighbours share one.
        v: As `k`.
        positions: Of queries and keys.

    Returns:
        `[batch, seq, heads * head_dim]`.
    """
    batch, seq, heads, head_dim = q.shape
    scores = grouped_scores(q, k, head_dim**-0.5)
    # Slots of a cache behind a query's own hold zeros or, within a prompt, its future.
    live = positions.k[None, :] <= positions.q[:, None]
    # -inf weighs exactly 0, whatever the scores beside it; no row is all -inf, as a query sees
    # itself.
    scores = jnp.where(live[None, None, None], scores, -jnp.inf)
    shares = jax.nn.softmax(scores, axis=-1)
    mixed = contract("bgrst,bgtd->bsgrd", shares, v)
    return mixed.reshape(batch, seq, heads * head_dim)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sums:
    """What queries have attended to so far.

    Attributes:
        greatest: float32 `[batch, kv_heads, heads / kv_heads, seq]`, of their scores.
        total: As `greatest`, the sum of exponentials of scores less `greatest`.
        values: `[batch, kv_heads, heads / kv_heads, seq, head_dim]`, of values so weighted.
    """

    greatest: jax.Array
    total: jax.Array
    values: jax.Array


def attend_block(
    variant: Variant,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    positions: Positions,
) -> Sums:
    """A variant's attention to one block of keys, not yet divided by the softmax's sum."""
    batch, seq, heads, head_dim = q.shape
    scale = head_dim**-0.5 if variant.scale is None else variant.scale
    scores = grouped_scores(q, k, scale)
    grouped = scores.shape
    by_head = scores.reshape(batch, heads, seq, -1)
    head_numbers = jnp.arange(heads, dtype=jnp.int32)
    scores, attended = attended_scores(
        by_head,
        variant.score,
        variant.mask,
        [positions.b, head_numbers, positions.q, positions.k],
    )
    scores, attended = scores.reshape(grouped), attended.reshape(grouped)
    greatest = jnp.max(scores, axis=-1, initial=LOWEST, where=attended)
    # The softmax is the same whatever is taken from all scores: no gradient goes that way.
    greatest = jax.lax.stop_gradient(greatest)
    below = jnp.where(attended, scores - greatest[..., None], 0)
    weights = jnp.where(attended, jnp.exp(below), 0)
    values = contract("bgrst,bgtd->bgrsd", weights, v)
    return Sums(greatest, jnp.sum(weights, axis=-1), values)


def joined(one: Sums, other: Sums) -> Sums:
    """Attention to the keys of both."""
    greatest = jnp.maximum(one.greatest, other.greatest)
    first = jnp.exp(one.greatest - greatest)
    second = jnp.exp(other.greatest - greatest)
    return Sums(
        greatest,
        one.total * first + other.total * second,
        one.values * first[..., None] + other.values * second[..., None],
    )


def finished(sums: Sums) -> jax.Array:
    """Attention's output `[batch, seq, heads * head_dim]`; zeros where nothing is attended."""
    is_empty = sums.total == 0
    mixed = sums.values / jnp.where(is_empty, 1, sums.total)[..., None]
    batch, _, _, seq, _ = mixed.shape
    return jnp.moveaxis(mixed, 3, 1).reshape(batch, seq, -1)


def attend_block_as(
    variants: Sequence[Variant],
    kind: jax.Array,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    positions: Positions,
) -> Sums:
    """`attend_block` by the variant number `kind`; each variant is traced once."""
    cases = [functools.partial(attend_block, variant) for variant in variants]
    if len(cases) == 1:
        return cases[0](q, k, v, positions)
    return jax.lax.switch(kind, cases, q, k, v, positions)
