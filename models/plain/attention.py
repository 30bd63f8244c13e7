"""Attention of the oracle's layers: as a form says, or by a variant's own functions on every pair.

A variant's function is called for every score, as it is in its dense form. Where a sequence is
sharded over devices, keys and values go round them; what a device has summed for its queries then
meets one block of keys after another. With scores [1, 3 | 5, 4] of two blocks

    block     greatest   sum of exponentials
    [1, 3]    3          e^-2 + 1 = 1.135
    [5, 4]    5          1.135 · e^(3 - 5) + 1 + e^-1 = 1.522
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from kernels.attention import dense_monoid
from kernels.attention.dense import attended_scores
from kernels.attention.monoid import Monoid
from kernels.attention.variant import Variant
from models.layer_form import AttentionForm

LOWEST = float(jnp.finfo(jnp.float32).min)
"""The greatest score of a query that has met no key: finite, so that no difference is NaN."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Positions:
    """Where a call's tokens and the keys that they may see stand.

    Attributes:
        cos: float32 `[seq, pairs]`, of the layer's RoPE.
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


Around: TypeAlias = Callable[
    [jax.Array, jax.Array, jax.Array],
    Iterable[tuple[jax.Array, jax.Array, jax.Array]],
]
"""From this device's keys, values and where they stand to those of each other device in turn."""


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


def attend(
    form: AttentionForm,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    positions: Positions,
    sinks: jax.Array | None = None,
) -> jax.Array:
    """Causal grouped-query attention, as far as a form lets a query see.

    Args:
        form: Of the layer.
        q: `[batch, seq, heads, key_dim]`.
        k: `[batch, kv_heads, keys, key_dim]`; `heads / kv_heads` neighbours share one.
        v: `[batch, kv_heads, keys, value_dim]`.
        positions: Of queries and keys.
        sinks: `[heads]`, scores without a value, where the form has them.

    Returns:
        `[batch, seq, heads * value_dim]`.
    """
    batch, seq, _, _ = q.shape
    kv_heads = k.shape[1]
    scores = grouped_scores(q, k, form.scale)
    if form.soft_cap is not None:
        scores = form.soft_cap * jnp.tanh(scores / form.soft_cap)
    live = seen(form, positions)
    # -inf weighs exactly 0, whatever the scores beside it; no row is all -inf, as a query sees
    # itself.
    scores = jnp.where(live[None, None, None], scores, -jnp.inf)
    if sinks is not None:
        of_heads = sinks.reshape(1, kv_heads, -1, 1, 1)
        shape = (*scores.shape[:-1], 1)
        scores = jnp.concatenate([jnp.broadcast_to(of_heads, shape), scores], axis=-1)
    shares = jax.nn.softmax(scores, axis=-1)
    if sinks is not None:
        shares = shares[..., 1:]
    mixed = contract("bgrst,bgtd->bsgrd", shares, v)
    return mixed.reshape(batch, seq, -1)


def seen(form: AttentionForm, positions: Positions) -> jax.Array:
    """Which keys each query sees, boolean `[seq, keys]`."""
    q, k = positions.q[:, None], positions.k[None, :]
    # Slots of a cache behind a query's own hold zeros or, within a prompt, its future.
    live = k <= q
    if form.window is not None:
        live &= k > q - form.window
    if form.chunk is not None:
        live &= k // form.chunk == q // form.chunk
    return live


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sums:
    """What queries have attended to so far.

    Attributes:
        greatest: float32 `[batch, kv_heads, heads / kv_heads, seq]`, of their scores.
        total: As `greatest`, the sum of exponentials of scores less `greatest`.
        values: `[batch, kv_heads, heads / kv_heads, seq, value_dim]`, of values so weighted.
    """

    greatest: jax.Array
    total: jax.Array
    values: jax.Array


def scored(
    variant: Variant, q: jax.Array, k: jax.Array, positions: Positions
) -> tuple[jax.Array, jax.Array]:
    """A variant's scores `[batch, heads, seq, keys]`, and which pairs are attended."""
    batch, seq, heads, key_dim = q.shape
    scale = key_dim**-0.5 if variant.scale is None else variant.scale
    scores = grouped_scores(q, k, scale).reshape(batch, heads, seq, -1)
    indices = indices_of(heads, positions)
    return attended_scores(scores, variant.score, variant.mask, indices)


def indices_of(heads: int, positions: Positions) -> list[jax.Array]:
    """Sequences, heads, queries and keys, each a number."""
    return [
        positions.b,
        jnp.arange(heads, dtype=jnp.int32),
        positions.q,
        positions.k,
    ]


class Softmax:
    """Attention to block after block of keys, by a softmax."""

    def __init__(self, variant: Variant):
        self._variant = variant

    def of_block(
        self, q: jax.Array, k: jax.Array, v: jax.Array, positions: Positions
    ) -> Sums:
        """Attention to one block, not yet divided by the softmax's sum."""
        scores, attended = scored(self._variant, q, k, positions)
        batch, heads, seq, keys = scores.shape
        kv_heads = k.shape[1]
        grouped = batch, kv_heads, heads // kv_heads, seq, keys
        scores, attended = scores.reshape(grouped), attended.reshape(grouped)
        greatest = jnp.max(scores, axis=-1, initial=LOWEST, where=attended)
        # The softmax is the same whatever is taken from all scores: no gradient goes that way.
        greatest = jax.lax.stop_gradient(greatest)
        below = jnp.where(attended, scores - greatest[..., None], 0)
        weights = jnp.where(attended, jnp.exp(below), 0)
        values = contract("bgrst,bgtd->bgrsd", weights, v)
        return Sums(greatest, jnp.sum(weights, axis=-1), values)

    def joined(self, one: Sums, other: Sums) -> Sums:
        """Attention to the keys of both."""
        greatest = jnp.maximum(one.greatest, other.greatest)
        first = jnp.exp(one.greatest - greatest)
        second = jnp.exp(other.greatest - greatest)
        return Sums(
            greatest,
            one.total * first + other.total * second,
            one.values * first[..., None] + other.values * second[..., None],
        )

    def finished(self, sums: Sums, positions: Positions) -> jax.Array:
        """Attention's output `[batch, heads, seq, head_dim]`; zeros where nothing is attended."""
        is_empty = sums.total == 0
        mixed = sums.values / jnp.where(is_empty, 1, sums.total)[..., None]
        batch, kv_heads, group, seq, head_dim = mixed.shape
        return mixed.reshape(batch, kv_heads * group, seq, head_dim)


class ByMonoid:
    """Attention to block after block of keys, by a monoid's own functions."""

    def __init__(self, variant: Variant, monoid: Monoid):
        self._variant = variant
        self._monoid = monoid

    def of_block(
        self, q: jax.Array, k: jax.Array, v: jax.Array, positions: Positions
    ) -> dense_monoid.Found:
        """The state of one block's keys."""
        scores, attended = scored(self._variant, q, k, positions)
        heads = scores.shape[1]
        values = jnp.repeat(v, heads // v.shape[1], axis=1)
        indices = indices_of(heads, positions)
        return dense_monoid.state_of(
            scores, attended, values, indices, monoid=self._monoid
        )

    def joined(
        self, one: dense_monoid.Found, other: dense_monoid.Found
    ) -> dense_monoid.Found:
        """The state of the keys of both."""
        return dense_monoid.joined(one, other, monoid=self._monoid)

    def finished(self, found: dense_monoid.Found, positions: Positions) -> jax.Array:
        """Attention's output `[batch, heads, seq, head_dim]`."""
        _, live = found
        fold = self._variant.reading.fold
        return dense_monoid.finished(
            found,
            indices_of(live.shape[1], positions),
            monoid=self._monoid,
            # As the variant's dense form does.
            starts_at_zero=fold is not None and fold.greatest is None,
        )


def blockwise(variant: Variant) -> Softmax | ByMonoid:
    """How a variant attends to block after block."""
    if variant.monoid is None:
        return Softmax(variant)
    return ByMonoid(variant, variant.monoid)


def attend_as(
    variant: Variant,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    positions: Positions,
    around: Around | None = None,
) -> jax.Array:
    """Attention by a variant's own functions.

    Args:
        variant: What is attended to, and how.
        q: `[batch, seq, heads, head_dim]`.
        k: `[batch, kv_heads, keys, head_dim]`.
        v: As `k`.
        positions: Of queries and keys.
        around: Gives further keys and values, and where they stand; None: there are no others.

    Returns:
        `[batch, seq, heads * head_dim]`.
    """
    steps: Any = blockwise(variant)
    found = steps.of_block(q, k, v, positions)
    for k, v, stand in () if around is None else around(k, v, positions.k):
        there = dataclasses.replace(positions, k=stand)
        found = steps.joined(found, steps.of_block(q, k, v, there))
    mixed = steps.finished(found, positions)
    batch, _, seq, _ = mixed.shape
    return mixed.swapaxes(1, 2).reshape(batch, seq, -1)
