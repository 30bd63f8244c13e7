"""Weights and sums of a fold that is not softmax's: each column works out its share of the slots.

Of 3 sums that differ by what multiplies the weight w, such as those of

    values    c(k) w(k) v(k)        a cache whose values have a scale each
    sum       w(k)                  of the weights as they are

every column has w on its share of the slots, multiplies it by each c there, and folds what is to be
one number. What multiplies the values is needed in every column, as each has other features of
them: that tile is put together over the group, as a softmax's weights are.
"""

import jax.numpy as jnp
from jax import lax

from emu.annotations import KnownInt
from emu.wse import (
    copy,
    copy_into,
    exp,
    fill,
    fold,
    select_live,
    sram_tile,
    vector_live,
)
from emu.wse.lower import Lowered, Tiles
from emu.wse.spaces import Sram
from kernels.wse.decode.attention_map import Heads, Span
from kernels.wse.decode.hooks import (
    FoldOnPe,
    Hooks,
    number,
    scored,
    spread,
    viewed_tiles,
)
from kernels.wse.decode.sums import all_reduce, unchanged, zeros
from kernels.wse.decode.weights import largest, share_of_column


def fold_terms(
    heads: Heads, scores: Sram, span: Span, hooks: Hooks, on_pe: FoldOnPe
) -> tuple[Sram, Sram | None, Sram | None]:
    """What multiplies the values, and the sums of this row's keys.

    Args:
      heads: the mapping.
      scores: float32 `[queries, slots]`, on every column of a group.
      span: the slots gone through.
      hooks: the variant, with the fold `on_pe`.
      on_pe: the fold.

    Returns:
      `[queries, slots]` in the cache's dtype and float32 `[queries, number of sums]`, on every
      column of a group, and the greatest exponent `[queries]` of all rows. None without sums, or
      without a greatest.
    """
    share = heads.slot_share
    start, own = share_of_column(heads, span)
    live = own.live
    tiles = viewed_tiles(share, own, hooks)
    mine = lax.dynamic_slice_in_dim(scores, start, share, axis=1)
    if hooks.score is None:
        mine = vector_live(mine, mine, number(heads.scale), live, op="mul")
    else:
        mine = scored(mine, heads.scale, tiles, live, hooks.score)
    attended = None if hooks.mask is None else hooks.mask.run({}, tiles, live)
    weight = top = None
    if on_pe.greatest is not None:
        weight, top = _weights(heads, mine, attended, tiles, live, hooks, on_pe)

    # Sums with the same factor, such as none, are of one tile.
    terms: dict[Lowered | None, Sram] = {}

    def term(factor: Lowered | None) -> Sram:
        if factor not in terms:
            made = _term(mine, weight, factor, tiles, live)
            # A weight of what is not attended is 0 already, but not 0 times any factor.
            is_exp = on_pe.greatest is not None and on_pe.weight is None
            is_zero = factor is None and is_exp
            if attended is not None and not is_zero:
                made = select_live(_like(mine), attended, made, number(0.0), live)
            terms[factor] = made
        return terms[factor]

    sums = None
    if on_pe.sums:
        sums = sram_tile(shape=(heads.queries, len(on_pe.sums)), dtype="float32")
        for place, factor in enumerate(on_pe.sums.values()):
            total = sram_tile(shape=(heads.queries,), dtype="float32")
            total = fold(total, term(factor), live, op="add")
            sums = copy_into(sums, total.reshape(-1, 1), place, axis=1)
        sums = all_reduce(sums, "col", group=heads.parts)
    p = _on_every_column(heads, term(on_pe.factor), start, span)
    return p, sums, top


def _like(tile: Sram) -> Sram:
    return sram_tile(shape=tile.shape, dtype="float32")


def _weights(
    heads: Heads,
    mine: Sram,
    attended: Sram | None,
    tiles: Tiles,
    live: KnownInt,
    hooks: Hooks,
    on_pe: FoldOnPe,
) -> tuple[Sram, Sram]:
    """Weights of a column's share and the greatest exponent."""
    exponent = mine
    if on_pe.exponent is not None:
        exponent = on_pe.exponent.run({"s": mine}, tiles, live, overwrite=False)
        if exponent.shape != mine.shape:
            exponent = spread(_like(mine), exponent, live)
    if attended is not None:
        # In a tile of its own: factors are of the score itself.
        lowest = number(-jnp.inf)
        exponent = select_live(_like(mine), attended, exponent, lowest, live)
    top = largest(exponent, live, hooks, heads.parts)
    if on_pe.weight is None:
        return exp(_like(mine), exponent, top, live, scale=1.0), top
    data = {"own": exponent, "greatest": top.reshape(-1, 1)}
    weight = on_pe.weight.run(data, tiles, live, overwrite=False)
    if weight.shape != mine.shape:
        weight = spread(_like(mine), weight, live)
    return weight, top


def _term(
    mine: Sram,
    weight: Sram | None,
    factor: Lowered | None,
    tiles: Tiles,
    live: KnownInt,
) -> Sram:
    """A weight times its factor, either of which may be missing: `[queries, share]`."""
    if factor is None:
        return fill(_like(mine), value=1.0) if weight is None else weight
    given = factor.run({"s": mine}, tiles, live, overwrite=False)
    if weight is not None:
        return vector_live(_like(mine), weight, given, live, op="mul")
    return given if given.shape == mine.shape else spread(_like(mine), given, live)


def _on_every_column(heads: Heads, mine: Sram, start: KnownInt, span: Span) -> Sram:
    """The shares of a group's columns side by side, `[queries, slots]` in the cache's dtype."""
    if heads.dtype != "float32":
        mine = copy(sram_tile(shape=mine.shape, dtype=heads.dtype), mine)
    column = lax.rem(lax.axis_index("col"), jnp.int32(heads.parts))
    has_slots = column * jnp.int32(heads.slot_share) < heads.slots

    def placed(p: Sram, mine: Sram, start: KnownInt) -> Sram:
        return copy_into(p, mine, start, axis=1)

    p = zeros((heads.queries, heads.slots), heads.dtype)
    p = lax.cond(has_slots, placed, unchanged, p, mine, start)
    elements = span.live * heads.queries
    return all_reduce(p, "col", group=heads.parts, elements=elements)


__all__ = ["fold_terms"]
