"""Dense attention by a variant's own functions, for every pair at once: what all else is held to.

It shares nothing with what the machines run: the functions are called as they are, each pair's
score is kept, and the softmax is taken over whole rows, or a monoid's own functions merge them.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from kernels.attention import dense_monoid
from kernels.attention.monoid import Monoid
from kernels.attention.shapes import check_shapes
from kernels.masks.catalogue import Mask
from kernels.scores.form import Score


def dense(
    q: Any,
    k: Any,
    v: Any,
    *,
    score: Score | None = None,
    mask: Mask | None = None,
    monoid: Monoid | None = None,
    sums: bool = True,
    starts_at_zero: bool = False,
    scale: float | None = None,
    q_offset: int = 0,
    dtype: DTypeLike = "float64",
) -> tuple[jax.Array, jax.Array | None]:
    """Attention with a score, a mask and a monoid of one's own.

    Differentiable in `q`, `k`, `v` and in the arrays that the functions hold.

    *Dimensions*: B batch, Hq query heads, Hkv key heads (of which each serves Hq / Hkv query heads
    in a row), L queries, S keys, D and Dv the head dimensions.

    Args:
      q: queries, `[B, Hq, L, D]`.
      k: keys, `[B, Hkv, S, D]`.
      v: values, `[B, Hkv, S, Dv]`.
      score: of `(s, b, h, q, k)`, what becomes of a scaled score; None: nothing. -inf means that
        the pair is not attended.
      mask: of `(b, h, q, k)`, which pairs are attended; None: all.
      monoid: what is made of scores and values; None: their softmax.
      sums: whether the second result is wanted.
      starts_at_zero: of a monoid, whether it has a state of no key, of zeros.
      scale: of the scores; None: `1 / sqrt(D)`.
      q_offset: position of the first query; keys begin at 0. The last of S positions, decoding, is
        `S - 1`.
      dtype: of the computation and of the results; float64 needs no setting of JAX.

    Returns:
      The output, `[B, Hq, L, Dv]`, and the logarithm of the sum of the exponentials of the scores,
      `[B, Hq, L]`, or None. A query that attends to nothing gives zeros and -inf; of a monoid that
      starts at zero it gives what is finished of zeros.

    Raises:
      LimitExceeded: shapes that do not fit together.
    """
    # A number of 64 bits exists in JAX only inside this block.
    is_wide = jnp.dtype(dtype).itemsize == 8
    with jax.enable_x64(True) if is_wide else contextlib.nullcontext():
        operands = [jnp.asarray(x).astype(dtype) for x in (q, k, v)]
        check_shapes(*operands)

        # Compiled as a whole: operation by operation it takes ten times as long. Anew each time, as
        # the functions may hold arrays that have changed.
        @jax.jit
        def attend(
            q: jax.Array, k: jax.Array, v: jax.Array
        ) -> tuple[jax.Array, jax.Array | None]:
            scores, attended = scored(q, k, score, mask, scale, q_offset)
            v = jnp.repeat(v, q.shape[1] // k.shape[1], axis=1)
            out, log_sum_exp = _softmax(scores, attended, v)
            if monoid is not None:
                out = dense_monoid.attend(
                    scores,
                    attended,
                    v,
                    monoid=monoid,
                    first=q_offset,
                    starts_at_zero=starts_at_zero,
                )
            return out, log_sum_exp if sums else None

        return attend(*operands)


def scored(
    q: jax.Array,
    k: jax.Array,
    score: Score | None,
    mask: Mask | None,
    scale: float | None,
    q_offset: int,
) -> tuple[jax.Array, jax.Array]:
    """The scores, `[B, Hq, L, S]`, and which pairs are attended; see `dense`."""
    k = jnp.repeat(k, q.shape[1] // k.shape[1], axis=1)
    exact = jax.lax.Precision.HIGHEST
    scores = jnp.einsum("bhqd,bhkd->bhqk", q, k, precision=exact)
    scores *= q.shape[-1] ** -0.5 if scale is None else scale
    indices = indices_of(scores.shape, q_offset)
    return attended_scores(scores, score, mask, indices)


def attended_scores(
    scores: jax.Array,
    score: Score | None,
    mask: Mask | None,
    indices: Sequence[jax.Array],
) -> tuple[jax.Array, jax.Array]:
    """What becomes of the scores, `[B, Hq, L, S]`, and which pairs are attended.

    Args:
      scores: scaled.
      score, mask: as for `dense`.
      indices: int32, of sequences `[B]`, heads `[Hq]`, queries `[L]` and keys `[S]`.
    """
    # A user's arithmetic mixes integers and floats, whatever the program around it allows.
    with jax.numpy_dtype_promotion("standard"):
        allowed = None if mask is None else for_every_pair(mask, 0)(*indices)
        if score is not None:
            changed = _changed(scores, score, allowed, indices)
            scores = changed.astype(scores.dtype)
        attended = scores != -jnp.inf
        if allowed is not None:
            attended &= allowed
    return scores, attended


def _changed(
    scores: jax.Array,
    score: Score,
    allowed: jax.Array | None,
    indices: Sequence[jax.Array],
) -> jax.Array:
    """What a score function makes of every pair that a mask allows.

    Others are not called with their own positions, where it may be no number: of
    `s - rate * log(q - k)` the logarithm is none above the diagonal, and 0 times that, which is the
    part of such pairs in the gradient of `rate`, would be none either.
    """
    if allowed is None:
        return for_every_pair(score, 1)(scores, *indices)
    *sizes, _, keys = scores.shape
    # Each index along its own of the four axes.
    along = [[-1 if place == axis else 1 for axis in range(4)] for place in range(4)]
    b, h, q, k = (x.reshape(shape) for x, shape in zip(indices, along, strict=True))
    # In their place stands one pair that is allowed, if any is.
    first = jnp.argmax(allowed.reshape(*sizes, -1), axis=-1)[..., None, None]
    q = jnp.where(allowed, q, indices[2][first // keys])
    k = jnp.where(allowed, k, indices[3][first % keys])
    of_pairs = jnp.vectorize(lambda *values: jnp.asarray(score(*values)))
    return of_pairs(scores, b, h, q, k)


def _softmax(
    scores: jax.Array, attended: jax.Array, v: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Output and log-sum-exp over the attended keys of each query."""
    greatest = jnp.max(scores, axis=-1, initial=-jnp.inf, where=attended)
    is_empty = jnp.all(~attended, axis=-1)
    # Where nothing is attended a finite number stands in, of which no gradient becomes NaN.
    shift = jax.lax.stop_gradient(jnp.where(is_empty, 0, greatest))
    below = jnp.where(attended, scores - shift[..., None], 0)
    weights = jnp.where(attended, jnp.exp(below), 0)
    total = jnp.where(is_empty, 1, jnp.sum(weights, axis=-1))
    exact = jax.lax.Precision.HIGHEST
    sums = jnp.einsum("bhqk,bhkd->bhqd", weights, v, precision=exact)
    log_sum_exp = jnp.where(is_empty, -jnp.inf, shift + jnp.log(total))
    return sums / total[..., None], log_sum_exp


def indices_of(shape: tuple[int, ...], q_offset: int) -> list[jax.Array]:
    """Batch, head and positions of scores `[B, Hq, L, S]`, each along its own axis."""
    batch, heads, queries, keys = (jnp.arange(n, dtype=jnp.int32) for n in shape)
    return [batch, heads, queries + jnp.int32(q_offset), keys]


def for_every_pair(
    function: Callable[..., Any], scores: int
) -> Callable[..., jax.Array]:
    """A function of scalars on `[B, Hq, L, S]` scores, if it takes one, and the four indices."""

    def of_scalars(*values: Any) -> jax.Array:
        return jnp.asarray(function(*values))

    found: Callable[..., jax.Array] = of_scalars
    # From the keys outwards, each index runs along its own axis and the score along all.
    for place in reversed(range(4)):
        of_indices = [0 if place == other else None for other in range(4)]
        found = jax.vmap(found, in_axes=(*[0] * scores, *of_indices))
    return found


__all__ = ["attended_scores", "dense", "for_every_pair", "indices_of", "scored"]
