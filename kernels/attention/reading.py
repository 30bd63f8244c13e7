"""Reads a variant's functions: which pairs are attended, and the score where they are."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from emu import lower
from emu.lower import CannotLower, Elementwise, Slot
from emu.tracing.scalar import defined_at
from kernels.attention.infinities import take_apart
from kernels.masks import catalogue
from kernels.masks.catalogue import Allowed, Mask, Positions
from kernels.scores.form import SCORE_INPUTS, Reading, Score

# Masks decide a floor division exactly, and only loosely what JAX makes of it.
_DIVISIONS = ("floor_divide", "remainder")


def read(name: str, score: Score | None = None, mask: Mask | None = None) -> Reading:
    """Reads a variant.

    Args:
      name: of the variant.
      score: FlexAttention's `score_mod`, of scalars; None: the score itself.
      mask: FlexAttention's `mask_mod`; None: all pairs. Pairs whose score is -inf are not attended
        either.

    Raises:
      CannotLower: JAX cannot trace the score, it takes other arguments, gives +inf or no number, or
        whether it is -inf depends on `s`; with the user's line.
    """
    if mask is not None:
        check_arguments(name, mask, "mask", ("b", "h", "q", "k"))
    if score is None:
        return Reading(name, mask, None)
    check_arguments(name, score, "score", ("s", "b", "h", "q", "k"))
    what = f"score of {name}"
    number = _as_number(score, what)
    finite = take_apart(lower.read(number, SCORE_INPUTS, what)).finite
    attended = take_apart(lower.read(number, SCORE_INPUTS, what, _DIVISIONS)).attended
    masks = [] if mask is None else [mask]
    if attended is not None:
        masks.append(_as_mask(name, attended))
    both = catalogue.and_masks(*masks) if len(masks) > 1 else None
    return Reading(
        name,
        both or (masks[0] if masks else None),
        None if finite.result == Slot(0) else finite,
    )


def check_arguments(
    name: str, function: Callable[..., Any], kind: str, arguments: tuple[str, ...]
) -> None:
    """Refuses a function that cannot take that many values by position."""
    try:
        signature = inspect.signature(function)
        signature.bind(*arguments)
    except TypeError as error:
        raise CannotLower(
            f"{kind} of {name}: is called with {len(arguments)} values, "
            f"({', '.join(arguments)}), but: {error}",
            defined_at(function),
        ) from None
    except ValueError:  # a built-in without a signature; tracing will tell
        pass


def _as_number(score: Score, what: str) -> Score:
    """The score as float32, whatever number it gives."""

    def number(*arguments: Any) -> Any:
        returned = score(*arguments)
        if returned is None:
            raise CannotLower(
                f"{what}: gives None, must give a number; is its `return` missing?",
                defined_at(score),
            )
        given = jnp.asarray(returned)
        if given.dtype == bool:
            raise CannotLower(
                f"{what}: gives True or False, must give a number; a function of "
                "(b, h, q, k) that does is a mask",
                defined_at(score),
            )
        return given.astype(jnp.float32)

    # Errors tell the place in the user's own function.
    number.__wrapped__ = inspect.unwrap(score)  # type: ignore
    return number


def _as_mask(name: str, attended: Elementwise) -> Mask:
    """Where a score is not -inf, as a mask."""
    for operation in attended.operations:
        for dtype in map(attended.dtype_of, operation.operands):
            # That it has come from the arithmetic to a decision is what its own dtype tells.
            if _is_whole(operation.dtype) and not _is_whole(dtype):
                raise CannotLower(
                    f"{attended.name}: which keys are attended depends on {operation.name} of "
                    f"{dtype}; decide it by whole numbers",
                    operation.line,
                )

    def of_scalars(*indices: Positions) -> jax.Array:
        b, h, q, k = indices
        arguments = {"b": b, "h": h, "q": q, "k": k}
        return attended.evaluate(attended.result, arguments)

    of_arrays = jnp.vectorize(of_scalars)

    def mask(b: Positions, h: Positions, q: Positions, k: Positions) -> Allowed:
        return of_arrays(b, h, q, k)

    return catalogue.NamedMask(f"{name} > -inf", mask)


def _is_whole(dtype: np.dtype) -> bool:
    return any(jnp.issubdtype(dtype, kind) for kind in (np.integer, np.bool_))


__all__ = ["check_arguments", "read"]
