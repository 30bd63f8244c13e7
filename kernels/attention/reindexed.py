"""A variant called with indices of another kind: what a machine counts, told in the user's terms.

A machine may hold keys in another order than a sequence has, or heads in another order than a model
has. A variant's functions know neither, so they are called with what they expect: `Reindexed` takes
the machine's batch, head, query and key to theirs.
"""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

import jax.numpy as jnp

from kernels.attention.monoid import Monoid
from kernels.attention.variant import Variant
from kernels.masks import catalogue
from kernels.masks.catalogue import Allowed, Mask, NamedMask, Positions

Indices: TypeAlias = tuple[Positions, Positions, Positions, Positions]
"""Batch, head, query and key."""


def reindexed(
    variant: Variant,
    to_users: Callable[[Positions, Positions, Positions, Positions], Indices],
    *among: Mask,
) -> Variant:
    """A variant whose functions are called with the user's indices.

    Args:
      variant: of the user's indices.
      to_users: the machine's batch, head, query and key to these.
      among: masks of the machine's indices; pairs that they leave out are not attended.
    """
    masks = list(among)
    if variant.mask is not None:
        masks.append(_mask(variant.mask, to_users))
    score = variant.score
    if score is not None:
        score = _score(score, to_users)
    mask = catalogue.and_masks(*masks) if len(masks) > 1 else next(iter(masks), None)
    monoid = variant.monoid
    if monoid is not None:
        monoid = _monoid(monoid, to_users)
    return dataclasses.replace(variant, score=score, mask=mask, monoid=monoid)


def _mask(mask: Mask, to_users: Callable[..., Indices]) -> Mask:
    def of_users(b: Positions, h: Positions, q: Positions, k: Positions) -> Allowed:
        return mask(*to_users(b, h, q, k))

    # Errors tell the place in the user's own function.
    of_users.__wrapped__ = inspect.unwrap(mask)  # type: ignore[attr-defined]
    return NamedMask(catalogue.name(mask), of_users)


def _score(
    score: Callable[..., Any], to_users: Callable[..., Indices]
) -> Callable[..., Any]:
    def of_users(s: Any, b: Positions, h: Positions, q: Positions, k: Positions) -> Any:
        return score(s, *to_users(b, h, q, k))

    of_users.__wrapped__ = inspect.unwrap(score)  # type: ignore[attr-defined]
    return of_users


def _monoid(monoid: Monoid, to_users: Callable[..., Indices]) -> Monoid:
    def partial(
        s: Any, v: Any, b: Positions, h: Positions, q: Positions, k: Positions
    ) -> Any:
        return monoid.partial(s, v, *to_users(b, h, q, k))

    def finish(state: Any, b: Positions, h: Positions, q: Positions, d: Any) -> Any:
        # Of no key, but for the others it does not matter of which.
        own_b, own_h, own_q, _ = to_users(b, h, q, jnp.int32(0))
        return monoid.finish(state, own_b, own_h, own_q, d)

    partial.__wrapped__ = inspect.unwrap(monoid.partial)  # type: ignore[attr-defined]
    finish.__wrapped__ = inspect.unwrap(monoid.finish)  # type: ignore[attr-defined]
    return dataclasses.replace(monoid, partial=partial, finish=finish)


__all__ = ["Indices", "reindexed"]
