"""A fold in plain JAX, as machines take it: keys in parts, a state of each, merged and finished.

It stands between a monoid, whose own functions `dense_monoid` calls, and the machines, which have
tiles and rounding besides: `check` holds the one to the other.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from emu.lower import Elementwise
from kernels.attention.dense import for_every_pair, indices_of, scored
from kernels.attention.shapes import check_shapes
from kernels.masks.catalogue import Mask
from kernels.scores.fold import Fold, Sum
from kernels.scores.form import Score


class Attended(NamedTuple):
    """What queries know of a part of the keys.

    Attributes:
      live: whether a query attends to any of them, `[B, Hq, L]`.
      greatest: likewise, 0 where it does not; None: there is none.
      sums: likewise, of each sum.
      values: `[B, Hq, L, Dv]`.
    """

    live: jax.Array
    greatest: jax.Array | None
    sums: tuple[jax.Array, ...]
    values: jax.Array


def folded(
    q: Any,
    k: Any,
    v: Any,
    *,
    fold: Fold,
    score: Score | None = None,
    mask: Mask | None = None,
    scale: float | None = None,
    part_of: np.ndarray,
    backwards: bool = False,
) -> tuple[jax.Array, jax.Array | None]:
    """Attention as a fold over parts of the keys, in float64.

    Args:
      q, k, v, score, mask, scale: as for `kernels.attention.dense.dense`.
      fold: read in float64.
      part_of: the part that each key is in, `[keys]`.
      backwards: merges the last two parts first, and not the first two.

    Returns:
      As `dense`.
    """
    with jax.enable_x64(True):
        queries, keys, values = (jnp.asarray(x).astype("float64") for x in (q, k, v))
        check_shapes(queries, keys, values)
        values = jnp.repeat(values, queries.shape[1] // keys.shape[1], axis=1)
        scores, attended = scored(queries, keys, score, mask, scale, 0)
        parts = []
        for part in np.unique(part_of):
            of_part = jnp.broadcast_to(part_of == part, attended.shape)
            parts.append(_of_keys(fold, scores, attended & of_part, values))
        if backwards:
            parts.reverse()
        merge = functools.partial(_merged, fold)
        whole = functools.reduce(merge, parts)
        return _finished(fold, whole), _log_sum_exp(fold, whole)


def _of_keys(
    fold: Fold, scores: jax.Array, attended: jax.Array, values: jax.Array
) -> Attended:
    """The state of those keys that are attended."""
    safe = jnp.where(attended, scores, 0)
    greatest = None
    weights = jnp.ones_like(safe)
    if fold.weight is not None:
        own = safe if fold.exponent is None else _of_pairs(fold.exponent, safe)
        highest = jnp.max(own, axis=-1, initial=-jnp.inf, where=attended)
        greatest = jnp.where(jnp.isinf(highest), 0, highest)
        weights = _weight(fold, own, greatest[..., None])
    weights = jnp.where(attended, weights, 0)

    def weighed(of: Sum) -> jax.Array:
        if of.coefficient is None:
            return weights
        return weights * _of_pairs(of.coefficient, safe)

    return Attended(
        live=jnp.any(attended, axis=-1),
        greatest=greatest,
        sums=tuple(jnp.sum(weighed(x), axis=-1) for x in fold.sums),
        values=jnp.einsum("bhqk,bhkd->bhqd", weighed(fold.values), values),
    )


def _merged(fold: Fold, one: Attended, other: Attended) -> Attended:
    """The state of both parts."""
    greatest = None
    factors = [jnp.where(x.live, 1.0, 0.0) for x in (one, other)]
    if one.greatest is not None and other.greatest is not None:
        both = jnp.maximum(one.greatest, other.greatest)
        # Of a part with no key nothing counts, its greatest neither.
        of_one = jnp.where(one.live, one.greatest, other.greatest)
        greatest = jnp.where(one.live & other.live, both, of_one)
        factors = [
            jnp.where(x.live, _weight(fold, own, greatest), 0)
            for x, own in ((one, one.greatest), (other, other.greatest))
        ]
    of_one, of_other = factors
    sums = tuple(
        a * of_one + b * of_other for a, b in zip(one.sums, other.sums, strict=True)
    )
    values = one.values * of_one[..., None] + other.values * of_other[..., None]
    return Attended(one.live | other.live, greatest, sums, values)


def _finished(fold: Fold, state: Attended) -> jax.Array:
    """The output; with a greatest it is 0 where nothing is attended."""
    greatest = () if state.greatest is None else (state.greatest,)
    sums = state.sums
    if greatest:
        # Where nothing is attended numbers stand in of which no division fails.
        sums = tuple(jnp.where(state.live, x, 1) for x in sums)
    of_queries = [x[..., None] for x in (*greatest, *sums)]
    indices = jnp.indices(state.values.shape, dtype=jnp.int32)
    given = jnp.broadcast_arrays(state.values, *of_queries, *indices)
    out = _of_arrays(fold.finish, *given)
    if not greatest:
        return out
    return jnp.where(state.live[..., None], out, 0)


def _log_sum_exp(fold: Fold, state: Attended) -> jax.Array | None:
    if not fold.tells_log_sum_exp or state.greatest is None:
        return None
    (total,) = state.sums
    total = jnp.where(state.live, total, 1)
    return jnp.where(state.live, state.greatest + jnp.log(total), -jnp.inf)


def _weight(fold: Fold, own: jax.Array, greatest: jax.Array) -> jax.Array:
    assert fold.weight is not None
    return _of_arrays(fold.weight, *jnp.broadcast_arrays(own, greatest))


def _of_pairs(function: Elementwise, scores: jax.Array) -> jax.Array:
    """A function of `SCORE_INPUTS` on scores `[B, Hq, L, S]`."""
    names = [x.name for x in function.inputs]

    def of_scalars(*scalars: jax.Array) -> jax.Array:
        known = dict(zip(names, scalars, strict=True))
        return function.evaluate(function.result, known)

    indices = indices_of(scores.shape, 0)
    return for_every_pair(of_scalars, 1)(scores, *indices)


def _of_arrays(function: Elementwise, *arrays: jax.Array) -> jax.Array:
    """A function element by element."""
    names = [x.name for x in function.inputs]

    def of_scalars(*scalars: jax.Array) -> jax.Array:
        known = dict(zip(names, scalars, strict=True))
        return function.evaluate(function.result, known)

    flat = jax.vmap(of_scalars)(*(x.reshape(-1) for x in arrays))
    return flat.reshape(arrays[0].shape)


__all__ = ["folded"]
