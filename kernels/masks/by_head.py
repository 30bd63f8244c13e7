"""Masks that differ between sequences of a batch, or between heads: one for each head."""

import functools
from collections.abc import Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from emu import lower
from emu.lower import CannotLower, Elementwise, Input, Operand, Slot
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
    function = _read(mask)
    of_heads = _told_of_heads(function)
    if not of_heads:
        return (mask,)
    along = {"b": np.arange(batch), "h": np.arange(heads)}
    # A mask may be read while a kernel is traced, into which JAX would write this arithmetic.
    with jax.ensure_compile_time_eval():
        told = [np.asarray(function.over(x, along)) for x in of_heads]
    kinds: dict[bytes, Mask] = {}
    found = []
    for b in range(batch):
        for h in range(heads):
            kind = b"".join(values[b, h].tobytes() for values in told)
            if kind not in kinds:
                kinds[kind] = _bound(mask, b, h)
            found.append(kinds[kind])
    return tuple(found)


def _read(mask: Mask) -> Elementwise:
    try:
        return lower.read(mask, _INPUTS, f"mask {name(mask)}")
    except CannotLower as error:
        raise UnreadableMask(str(error)) from None


def _told_of_heads(function: Elementwise) -> list[Operand]:
    """All that a mask makes of `b` and `h` alone and uses with positions, or as its result.

    Of `q - k < 9 * (h // 4 + 1)` it is `9 * (h // 4 + 1)`: eight heads have two masks, not eight.
    """

    def depends(operand: Operand, *names: str) -> bool:
        return any(function.depends_on(operand, name) for name in names)

    def of_heads_alone(operand: Operand) -> bool:
        return depends(operand, "b", "h") and not depends(operand, "q", "k")

    readers = [
        x.operands for x in function.operations if depends(Slot(x.result), "q", "k")
    ]
    found: dict[Operand, None] = {}
    for operands in (*readers, (function.result,)):
        found.update((x, None) for x in operands if of_heads_alone(x))
    return list(found)


def _bound(mask: Mask, b: int, h: int) -> Mask:
    """A mask of one sequence and one head."""

    @functools.wraps(mask)
    def bound(_b: object, _h: object, q: object, k: object) -> object:
        return mask(jnp.int32(b), jnp.int32(h), q, k)  # type: ignore[arg-type]

    bound.__name__ = f"{name(mask)}[{b}, {h}]"
    return bound  # type: ignore[return-value]


__all__ = ["Masks", "masks_of"]
