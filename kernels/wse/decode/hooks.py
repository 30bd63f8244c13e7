"""What an attention variant changes in decode: its scores, who is not attended, what is summed."""

import dataclasses
from collections.abc import Iterator, Mapping

import jax.numpy as jnp
from jax import lax

from emu.annotations import KnownInt
from emu.wse import fill, select_live, sram_tile, vector, vector_live
from emu.wse.lower import Lowered, Tiles
from emu.wse.pe.scalar import LOWEST
from emu.wse.spaces import Sram
from kernels.wse.decode.attention_map import Span

LEAST = float(jnp.finfo(jnp.float32).tiny)
"""The sum of a softmax is at least 1, or 0 where nothing is attended."""


@dataclasses.dataclass(frozen=True, eq=False)
class FoldOnPe:
    """What replaces the softmax: sums over keys, and what is made of them.

    Attributes:
      values: name by which `finish` takes the sum of values.
      greatest: name of the greatest of all keys, by which each is weighed; None: there is none.
      exponent: what the greatest is of, of a score; None: the score itself.
      weight: of a key's exponent, `own`, and the `greatest`; None: the exponential of their
        difference, or there is no greatest.
      sums: by name, what multiplies the weight in each sum, of a score; None: nothing.
      factor: what multiplies it in the sum of values.
      finish: the output, of values `[queries, value_dims]` and of the others `[queries, 1]`; None:
        values over the one sum.
    """

    values: str
    greatest: str | None
    exponent: Lowered | None
    weight: Lowered | None
    sums: Mapping[str, Lowered | None]
    factor: Lowered | None
    finish: Lowered | None

    @property
    def is_softmax(self) -> bool:
        """Whether only `finish` is another than softmax's."""
        return self.has_log_sum_exp and self.factor is None

    @property
    def has_log_sum_exp(self) -> bool:
        """Whether its sum is that of the scores' exponentials as they are."""
        is_exp = self.greatest is not None and self.weight is None
        of_scores = self.exponent is None and list(self.sums.values()) == [None]
        return is_exp and of_scores

    def of_slots(self) -> Iterator[Lowered]:
        """Functions that are carried out on tiles of slots."""
        found = (*self.sums.values(), self.factor, self.exponent, self.weight)
        yield from (x for x in found if x is not None)


@dataclasses.dataclass(frozen=True, eq=False)
class Hooks:
    """A variant on a PE.

    Attributes:
      score: of the scaled score; None: the score itself.
      mask: whether a slot is attended; None: all live ones are.
      fold: what replaces the softmax; None: nothing does.
      tiles: what they keep and what arrives for them, by key: `[1 or queries, 1 or slots held]`, or
        `[1 or queries, 1 or value_dims]` for what a fold finishes with.
      nothing: whether a query may attend to nothing, which then gives zeros.
      shared: whether each column of a group works out its share of the slots, else all of them all.
      dealt: whether the tiles of a column have no more than its share.
    """

    score: Lowered | None = None
    mask: Lowered | None = None
    fold: FoldOnPe | None = None
    tiles: Tiles = dataclasses.field(default_factory=dict)
    nothing: bool = False
    shared: bool = False
    dealt: bool = False

    @property
    def guarded(self) -> bool:
        """Whether a score may be -inf, or the sum of a softmax 0."""
        has_exponent = self.fold is not None and self.fold.exponent is not None
        of_scores = self.mask is not None or self.score is not None
        return self.nothing or of_scores or has_exponent

    def of_slots(self) -> Iterator[Lowered]:
        """Functions that are carried out on tiles of slots."""
        yield from (x for x in (self.score, self.mask) if x is not None)
        if self.fold is not None:
            yield from self.fold.of_slots()


PLAIN = Hooks()


def number(value: float, dtype: str = "float32") -> Sram:
    """One number in SRAM, `[1, 1]`."""
    return fill(sram_tile(shape=(1, 1), dtype=dtype), value=value)


def varied(scores: Sram, scale: float, span: Span, hooks: Hooks) -> Sram:
    """The variant's scores: of the scaled ones, and -inf where a slot is not attended.

    Args:
      scores: float32 `[queries, slots]`, overwritten.
      scale: factor of a score.
      span: where these slots lie among those of the cache.
      hooks: the variant.
    """
    live = span.live
    tiles = viewed_tiles(scores.shape[1], span, hooks)
    if hooks.score is not None:
        scores = scored(scores, scale, tiles, live, hooks.score)
    if hooks.mask is not None:
        attended = hooks.mask.run({}, tiles, live)
        scores = select_live(scores, attended, scores, number(-jnp.inf), live)
    return scores


def scored(
    scores: Sram, scale: float, tiles: Tiles, live: KnownInt, score: Lowered
) -> Sram:
    """A score function's value, `[queries, slots]`; `scores` is overwritten."""
    scores = vector_live(scores, scores, number(scale), live, op="mul")
    given = score.run({"s": scores}, tiles, live)
    return given if given.shape == scores.shape else spread(scores, given, live)


def spread(dst: Sram, x: Sram, live: KnownInt) -> Sram:
    """What is the same for all heads or slots, for each of them: in the tile `dst`."""
    return vector_live(dst, x, number(0.0), live, op="add")


def viewed_tiles(slots: int, span: Span, hooks: Hooks) -> Tiles:
    """The part of every tile that belongs to the slots gone through."""
    if span.first is None or hooks.dealt:
        return hooks.tiles
    leaves = {}
    for lowered in hooks.of_slots():
        leaves.update(lowered.leaves)
    viewed = {}
    for key, tile in hooks.tiles.items():
        # What only a fold's last step takes lies by features, not by slots.
        if key in leaves and leaves[key].shape[1]:
            tile = lax.dynamic_slice_in_dim(tile, span.first, slots, axis=1)
        viewed[key] = tile
    return viewed


def at_least(x: Sram, least: float) -> Sram:
    """The greater of each element and a number, in place."""
    bound = fill(sram_tile(shape=x.shape, dtype="float32"), value=least)
    return vector(x, x, bound, op="max")


__all__ = [
    "FoldOnPe",
    "Hooks",
    "LEAST",
    "LOWEST",
    "PLAIN",
    "at_least",
    "number",
    "scored",
    "spread",
    "varied",
    "viewed_tiles",
]
