"""What a variant's functions come to: which pairs are attended, and the score where they are.

Both machines take a variant in this form. A score's -inf has become part of the mask, so tiles
that it leaves out are skipped however the user wrote it, and what remains of the score is plain
arithmetic.
"""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from emu import lower
from emu.lower import CannotLower, Elementwise, Input, Slot
from emu.tracing.scalar import defined_at
from kernels.attention.fold import Fold
from kernels.attention.infinities import take_apart
from kernels.masks import catalogue
from kernels.masks.catalogue import Allowed, Mask, Positions

Score: TypeAlias = Callable[..., Any]
"""`score(s, b, h, q, k)`: the score of a query and a key, scaled; batch, head and positions."""

SCORE_INPUTS = (
    Input("s", frozenset({"q", "k"}), jnp.float32),
    Input("b", frozenset(), jnp.int32),
    Input("h", frozenset(), jnp.int32),
    Input("q", frozenset({"q"}), jnp.int32),
    Input("k", frozenset({"k"}), jnp.int32),
)
"""Arguments of a score, by position."""

# Masks decide a floor division exactly, and only loosely what JAX makes of it.
_DIVISIONS = ("floor_divide", "remainder")


@dataclasses.dataclass(frozen=True, eq=False)
class Reading:
    """A variant as machines take it.

    Attributes:
      name: of the variant.
      mask: which pairs are attended, by its own mask and by the score's -inf; None: all.
      score: the score where attended, of the arguments `SCORE_INPUTS`; None: `s` itself. What it
        gives for other pairs means nothing, and may be no number.
      fold: what is made of scores and values; None: their softmax.
    """

    name: str
    mask: Mask | None
    score: Elementwise | None
    fold: Fold | None = None

    @property
    def tells_log_sum_exp(self) -> bool:
        """Whether a log-sum-exp of the scores comes with the output."""
        return self.fold is None or self.fold.tells_log_sum_exp


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


__all__ = ["Reading", "SCORE_INPUTS", "Score", "check_arguments", "read"]
