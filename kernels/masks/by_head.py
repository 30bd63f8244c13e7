"""Masks that differ between sequences of a batch, or between heads: one for each head."""

import functools
from collections.abc import Sequence
from typing import TypeAlias

import jax.numpy as jnp

from emu import lower
from emu.lower import CannotLower, Input
from kernels.masks.catalogue import Mask, name
from kernels.masks.traced_mask import UnreadableMask

Masks: TypeAlias = Sequence[Mask]
"""One mask for all heads, or one for each head of each sequence: those of the first come first."""

_NONE: frozenset[str] = frozenset()
_INPUTS = tuple(Input(axis, _NONE, jnp.int32) for axis in ("b", "h", "q", "k"))


def masks_of(mask: Mask, batch: int, heads: int) -> Masks:
    """A mask as it is for each head, where they differ.

    Args:
      mask: `mask(b, h, q, k) -> bool`.
      batch: sequences.
      heads: query heads of each.

    Returns:
      One mask where it depends on neither `b` nor `h`, else `batch * heads`, of which those that
      are the same are one object.

    Raises:
      UnreadableMask: JAX cannot trace it.
    """
    by_batch, by_head = _depends(mask)
    if not (by_batch or by_head):
        return (mask,)
    kinds = {}
    found = []
    for b in range(batch):
        for h in range(heads):
            kind = (b if by_batch else 0, h if by_head else 0)
            if kind not in kinds:
                kinds[kind] = _bound(mask, *kind)
            found.append(kinds[kind])
    return tuple(found)


def _depends(mask: Mask) -> tuple[bool, bool]:
    """Whether a mask depends on the batch, and on the head."""
    try:
        function = lower.read(mask, _INPUTS, f"mask {name(mask)}")
    except CannotLower as error:
        raise UnreadableMask(str(error)) from None
    batch, head = (function.depends_on(function.result, axis) for axis in ("b", "h"))
    return batch, head


def _bound(mask: Mask, b: int, h: int) -> Mask:
    """A mask of one sequence and one head."""

    @functools.wraps(mask)
    def bound(_b: object, _h: object, q: object, k: object) -> object:
        return mask(jnp.int32(b), jnp.int32(h), q, k)  # type: ignore[arg-type]

    bound.__name__ = f"{name(mask)}[{b}, {h}]"
    return bound  # type: ignore[return-value]


__all__ = ["Masks", "masks_of"]
