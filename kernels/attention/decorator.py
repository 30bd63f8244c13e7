"""The door: `@attention` makes a variant of one function, `attention.monoid` of three."""

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, overload

import numpy as np

from emu.lower import CannotLower
from emu.tracing.captured import with_jax_arrays
from emu.tracing.scalar import defined_at
from kernels.attention import softmax
from kernels.attention.monoid import Finish, Merge, Monoid, Partial
from kernels.attention.packed import packed
from kernels.attention.reading import check_arguments
from kernels.attention.variant import Variant
from kernels.masks import catalogue
from kernels.masks.catalogue import Mask, NamedMask
from kernels.scores.form import Score

Function: TypeAlias = Callable[..., Any]
"""A score, a mask, or a variant of which another is made."""


class Attention:
    """Makes attention variants: `attention`, of which there is one.

    ```python
    from kernels import attention, masks

    @attention(mask=masks.causal)
    def alibi(s, b, h, q, k):
        return s - 0.5 ** (h + 1) * (q - k)
    ```
    """

    @overload
    def __call__(
        self,
        function: Function | Variant,
        *,
        mask: Mask | None = None,
        scale: float | None = None,
        name: str | None = None,
    ) -> Variant: ...

    @overload
    def __call__(
        self,
        *,
        mask: Mask | None = None,
        scale: float | None = None,
        name: str | None = None,
    ) -> Callable[[Function], Variant]: ...

    def __call__(
        self,
        function: Function | Variant | None = None,
        *,
        mask: Mask | None = None,
        scale: float | None = None,
        name: str | None = None,
    ) -> Variant | Callable[[Function], Variant]:
        """A variant; without a function, a decorator that makes one.

        Args:
          function: a score `(s, b, h, q, k)`, a mask `(b, h, q, k)`, told apart by how many values
            they take, as FlexAttention does, or a variant to which the rest is added.
          mask: pairs that it leaves out are not attended.
          scale: of the scores before they reach the function; None: `1 / sqrt(head_dim)`.
          name: of the variant; None: the function's.

        Raises:
          CannotLower: a function of other arguments.
        """
        if function is None:
            return lambda found: self(found, mask=mask, scale=scale, name=name)
        made = _variant(function)
        given = None if mask is None else with_jax_arrays(mask)
        masks = [x for x in (made.mask, given) if x is not None]
        return dataclasses.replace(
            made,
            name=name or made.name,
            mask=catalogue.and_masks(*masks)
            if len(masks) > 1
            else next(iter(masks), None),
            scale=made.scale if scale is None else scale,
        )

    @staticmethod
    def monoid(
        *,
        partial: Partial = softmax.partial,
        merge: Merge = softmax.merge,
        finish: Finish = softmax.finish,
        score: Score | None = None,
        mask: Mask | None = None,
        scale: float | None = None,
        name: str | None = None,
    ) -> Variant:
        """A variant that changes the softmax: all three are functions of scalars.

        ```python
        from kernels.attention import softmax

        def finish(state, b, h, q, d):
            return state.output / (state.total + jnp.exp(-state.greatest))

        off_by_one = attention.monoid(finish=finish, mask=masks.causal)
        ```

        Args:
          partial: `(s, v, b, h, q, k)`, the state of one key: a NamedTuple, a tuple, a dictionary
            or another tree of scalars, of which one is in proportion to `v`, one feature of the
            key's value, and no other depends on it. `s` is the score as `score` makes it.
          merge: `(one, other)`, the state of the keys of both.
          finish: `(state, b, h, q, d)`, feature `d` of the output; 0 where nothing is attended.
          score: `(s, b, h, q, k)`, what becomes of a scaled score; None: nothing.
          mask: pairs that it leaves out are not attended, and never reach `partial`.
          scale: of the scores before they reach `score`; None: `1 / sqrt(head_dim)`.
          name: of the variant; None: that of the first of the three that is not softmax's.
        """
        functions = {"partial": partial, "merge": merge, "finish": finish}
        given = [x for kind, x in functions.items() if x is not getattr(softmax, kind)]
        made = Monoid(*map(with_jax_arrays, functions.values()))
        found = name or (catalogue.name(given[0]) if given else "softmax")
        return Variant(
            found,
            score=None if score is None else with_jax_arrays(score),
            mask=None if mask is None else with_jax_arrays(mask),
            scale=scale,
            monoid=made,
        )

    @staticmethod
    def mask(function: Mask) -> NamedMask:
        """A mask that composes with `&`, `|` and `~`, of a function `(b, h, q, k)`.

        Raises:
          CannotLower: a function of other arguments.
        """
        name = catalogue.name(function)
        check_arguments(name, function, "mask", ("b", "h", "q", "k"))
        return NamedMask(name, with_jax_arrays(function))

    @staticmethod
    def packed(
        function: Function | Variant, cu_seqlens: Sequence[int] | np.ndarray
    ) -> Variant:
        """A variant within each of several sequences that stand one behind the other.

        Args:
          function: a score, a mask or a variant, of positions in a sequence.
          cu_seqlens: where each sequence begins, and where the last one ends: 0, 3, 5 for sequences
            of 3 tokens and of 2.
        """
        return packed(_variant(function), cu_seqlens)

    @staticmethod
    def and_masks(*masks: Mask) -> NamedMask:
        """Pairs that every mask allows; `a & b` for two."""
        return catalogue.and_masks(*map(with_jax_arrays, masks))

    @staticmethod
    def or_masks(*masks: Mask) -> NamedMask:
        """Pairs that any mask allows; `a | b` for two."""
        return catalogue.or_masks(*map(with_jax_arrays, masks))


def _variant(function: Function | Variant) -> Variant:
    if isinstance(function, Variant):
        return function
    name = catalogue.name(function)
    if _takes(function, 5):
        return Variant(name, score=with_jax_arrays(function))
    if _takes(function, 4):
        return Variant(name, mask=with_jax_arrays(function))
    raise CannotLower(
        f"attention: {name} takes neither (s, b, h, q, k), as a score does, nor (b, h, q, k), as a "
        "mask does",
        defined_at(function) if callable(function) else "",
    )


def _takes(function: Any, count: int) -> bool:
    """Whether it can be called with that many values by position."""
    try:
        inspect.signature(function).bind(*range(count))
    except (TypeError, ValueError):
        return False
    return True


attention = Attention()

__all__ = ["Attention", "attention"]
