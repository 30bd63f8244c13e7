"""A variant of attention: one function or three, and all that follows from them."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from kernels.attention.check import Forms, Report, check, with_cache
from kernels.attention.clock import VariantTime, variant_time
from kernels.attention.decode import Cache, decode
from kernels.attention.dense import dense
from kernels.attention.dense_fold import folded
from kernels.attention.explain import Explanation, explain
from kernels.attention.monoid import Monoid
from kernels.attention.prefill import prefill
from kernels.attention.reading import read
from kernels.attention.recognise import read_fold
from kernels.masks import catalogue
from kernels.masks.catalogue import Allowed, Mask, Positions
from kernels.scores.form import Reading, Score


@dataclasses.dataclass(frozen=True, eq=False)
class Variant:
    """A variant of attention; made by `attention`.

    Attributes:
      name: of the function.
      score: `score(s, b, h, q, k)`, FlexAttention's `score_mod`; None: the score itself.
      mask: `mask(b, h, q, k)`, FlexAttention's `mask_mod`; None: all pairs.
      scale: of the scores before `score`; None: `1 / sqrt(head_dim)`.
      monoid: what is made of scores and values; None: their softmax.
      cache_dtype: in which its clock takes the wafer's cache to be, such as "int8" where keys and
        values are such codes; None: as the queries. Decode holds what it is given.
    """

    name: str
    score: Score | None = None
    mask: Mask | None = None
    scale: float | None = None
    monoid: Monoid | None = None
    cache_dtype: str | None = None

    @functools.cached_property
    def reading(self) -> Reading:
        """What machines take of it.

        Raises:
          CannotLower: see `kernels.attention.reading.read` and `recognise.read_fold`.
        """
        reading = read(self.name, self.score, self.mask)
        if self.monoid is None:
            return reading
        fold = read_fold(self.name, self.monoid)
        # Softmax written out is softmax.
        is_plain = fold.is_softmax and fold.divides_by_sum
        return dataclasses.replace(reading, fold=None if is_plain else fold)

    def dense(
        self,
        q: Any,
        k: Any,
        v: Any,
        *,
        q_offset: int = 0,
        dtype: DTypeLike = "float64",
    ) -> tuple[jax.Array, jax.Array | None]:
        """The oracle: every pair's score at once, on no machine.

        Args and results are those of `kernels.attention.dense.dense`; without a log-sum-exp where
        weights are not those of a softmax.

        Raises:
          CannotLower: the functions are none that a machine could carry out.
          LimitExceeded: shapes that do not fit together.
        """
        # What no machine takes is refused by its oracle too, and with the same words.
        reading = self.reading
        has_sums_only = reading.fold is not None and reading.fold.greatest is None
        return dense(
            q,
            k,
            v,
            score=self.score,
            mask=self.mask,
            monoid=self.monoid,
            sums=reading.tells_log_sum_exp,
            starts_at_zero=has_sums_only,
            scale=self.scale,
            q_offset=q_offset,
            dtype=dtype,
        )

    def prefill(
        self,
        q: Any,
        k: Any,
        v: Any,
        *,
        chips: int = 1,
        placement: str = "auto",
        scheme: str = "ring",
        **options: Any,
    ) -> tuple[jax.Array, jax.Array | None]:
        """Context-parallel prefill on a mesh of emulated Trainium chips.

        Args:
          q: `[batch, heads, queries, head_dim]`; query n is at position n.
          k: `[batch, kv_heads, keys, head_dim]`.
          v: `[batch, kv_heads, keys, value_dim]`.
          chips: that the sequence is spread over.
          placement: where tokens stand, one of `kernels.PLACEMENTS`, or `auto`, by the mask.
          scheme: how chips exchange, see `kernels.ContextAttention`.
          options: as for `kernels.attention.prefill.context_attention`.

        Returns:
          Output and log-sum-exp, as `dense`.
        """
        return prefill(
            self.reading,
            q,
            k,
            v,
            chips=chips,
            placement=placement,
            scheme=scheme,
            scale=self.scale,
            **options,
        )

    def decode(
        self, q: Any, cache: Cache, **options: Any
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Attention of the newest query on a region of the emulated wafer.

        Args:
          q: `[batch, heads, 1, head_dim]`, at the cache's last position.
          cache: keys and values, `[batch, kv_heads, context, head_dim]` each.
          options: `rows`, `parts`, `powers` and more, as for `kernels.attention.decode.decode`.

        Returns:
          Output and log-sum-exp, as `dense`.
        """
        return decode(self.reading, q, cache, scale=self.scale, **options)

    def time(self, **sizes: Any) -> VariantTime:
        """The clock of both machines, from sizes alone.

        Args:
          sizes: `tokens`, `heads`, `kv_heads`, `head_dim`, `chips` and more, as for
            `kernels.attention.clock.variant_time`.
        """
        sizes = {"cache_dtype": self.cache_dtype, **sizes}
        return variant_time(self.name, self.reading, scale=self.scale, **sizes)

    def explain(
        self,
        *,
        tokens: int,
        heads: int = 1,
        kv_heads: int = 1,
        head_dim: int = 128,
        **sizes: Any,
    ) -> Explanation:
        """Its live tiles, where its tokens stand and why, what is done to every score, and bounds.

        Args:
          tokens, heads, kv_heads, head_dim: of attention.
          sizes: `chips` and more, as for `time`.
        """
        attended = dict(
            tokens=tokens, heads=heads, kv_heads=kv_heads, head_dim=head_dim
        )
        clock = self.time(**attended, **sizes)
        return explain(self.name, self.reading, clock, **attended, **sizes)

    def check(self, **sizes: Any) -> Report:
        """Compares all its forms at a small size.

        Args:
          sizes: `tokens`, `heads`, `chips`, `placements` and more, as for
            `kernels.attention.check.check`.

        Returns:
          A report to print; `report.agrees` says whether all is well.
        """
        of_fold = None if self.reading.fold is None else self._folded
        forms = Forms(self._dense_of, self.prefill, with_cache(self.decode), of_fold)
        return check(self.name, forms, **sizes)

    def _dense_of(
        self, *operands: Any, only: np.ndarray | None = None, q_offset: int = 0
    ) -> tuple[jax.Array, jax.Array | None]:
        """Dense attention to some of the keys."""
        if only is None:
            return self.dense(*operands, q_offset=q_offset)

        def among(b: Positions, h: Positions, q: Positions, k: Positions) -> Allowed:
            return jnp.asarray(only)[k]

        masks = [among] if self.mask is None else [among, self.mask]
        some = dataclasses.replace(self, mask=catalogue.and_masks(*masks))
        return some.dense(*operands, q_offset=q_offset)

    def _folded(
        self, *operands: Any, part_of: np.ndarray, backwards: bool
    ) -> tuple[jax.Array, jax.Array | None]:
        """What was read of the monoid, in float64."""
        assert self.monoid is not None
        return folded(
            *operands,
            fold=read_fold(self.name, self.monoid, "float64"),
            score=self.score,
            mask=self.mask,
            scale=self.scale,
            part_of=part_of,
            backwards=backwards,
        )

    def __repr__(self) -> str:
        return f"<attention {self.name}>"


__all__ = ["Variant"]
