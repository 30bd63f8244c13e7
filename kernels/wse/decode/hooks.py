"""What an attention variant changes in decode: its scores, and who is not attended."""

import dataclasses

import jax.numpy as jnp
from jax import lax

from emu.wse import fill, select_live, sram_tile, vector, vector_live
from emu.wse.lower import Lowered, Tiles
from emu.wse.pe.scalar import LOWEST
from emu.wse.spaces import Sram
from kernels.wse.decode.attention_map import Span

LEAST = float(jnp.finfo(jnp.float32).tiny)
"""The sum of a softmax is at least 1, or 0 where nothing is attended."""


@dataclasses.dataclass(frozen=True, eq=False)
class Hooks:
    """A variant on a PE.

    Attributes:
      score: of the scaled score; None: the score itself.
      mask: whether a slot is attended; None: all live ones are.
      tiles: what both keep and what arrives for them, by key: `[1 or queries, 1 or slots held]`.
      nothing: whether a query may attend to nothing, which then gives zeros.
      shared: whether each column of a group works out its share of the slots, else all of them all.
    """

    score: Lowered | None = None
    mask: Lowered | None = None
    tiles: Tiles = dataclasses.field(default_factory=dict)
    nothing: bool = False
    shared: bool = False

    @property
    def guarded(self) -> bool:
        """Whether a score may be -inf, or the sum of a softmax 0."""
        return self.nothing or self.mask is not None or self.score is not None


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
    tiles = _viewed(scores.shape[1], span, hooks)
    if hooks.score is not None:
        scores = vector_live(scores, scores, number(scale), live, op="mul")
        given = hooks.score.run(scores, tiles, live)
        if given.shape != scores.shape:
            # A score that is the same for all heads or slots.
            given = vector_live(scores, given, number(0.0), live, op="add")
        scores = given
    if hooks.mask is not None:
        attended = hooks.mask.run(None, tiles, live)
        scores = select_live(scores, attended, scores, number(-jnp.inf), live)
    return scores


def _viewed(slots: int, span: Span, hooks: Hooks) -> Tiles:
    """The part of every tile that belongs to the slots gone through."""
    if span.first is None:
        return hooks.tiles
    leaves = {}
    for lowered in (hooks.score, hooks.mask):
        leaves.update(lowered.leaves if lowered is not None else {})
    viewed = {}
    for key, tile in hooks.tiles.items():
        if leaves[key].shape[1]:
            tile = lax.dynamic_slice_in_dim(tile, span.first, slots, axis=1)
        viewed[key] = tile
    return viewed


def at_least(x: Sram, least: float) -> Sram:
    """The greater of each element and a number, in place."""
    bound = fill(sram_tile(shape=x.shape, dtype="float32"), value=least)
    return vector(x, x, bound, op="max")


__all__ = ["Hooks", "LEAST", "LOWEST", "PLAIN", "at_least", "number", "varied"]
