"""A router's choice for one token, on a block of PEs: scores, ranks, the list of the best.

Every PE of a block's column holds the scores of that column's experts; what its row is asked for is
summed along the row from where it lies. How many of a column's experts come before each of a row's,
summed along the row, is the rank of those. See `emu.wse.pe.ranking` for an example.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from emu.annotations import KnownInt
from emu.wse import (
    best_sums,
    copy,
    copy_into,
    exp,
    fill,
    fold,
    listed,
    of_best_blocks,
    outranked,
    reciprocal,
    renumbered,
    scalar_of_one_live,
    sram_tile,
    vector,
    vector_scale,
)
from emu.wse.spaces import Sram
from kernels.moe.router import LEAST_SUM
from kernels.moe.wafer.placed import ExpertMap
from kernels.wse.decode.blocks import Weights, gemv
from kernels.wse.decode.sums import all_reduce, unchanged, zeros

BEST_OF_GROUP = 2  # scores that a group of experts is weighed by


class Choice(NamedTuple):
    """Where one token goes.

    Attributes:
      at: float32 `[active]`, numbers of its experts, the best first and shared ones last.
      weights: float32 `[active]`, what each counts; 1 for shared ones.
    """

    at: Sram
    weights: Sram


class Places(NamedTuple):
    """Where a PE stands in its block, known: the first expert of its column, and of its row."""

    of_column: KnownInt
    of_row: KnownInt


def places(layout: ExpertMap) -> Places:
    """Of this PE."""
    high, wide = layout.block
    column = lax.rem(lax.axis_index("col"), jnp.int32(wide))
    row = lax.rem(lax.axis_index("row"), jnp.int32(high))
    return Places(column * jnp.int32(layout.own), row * jnp.int32(layout.turned))


def choose(layout: ExpertMap, normed: Sram, weights: Weights) -> Choice:
    """The experts of a token and their weights, on every PE.

    Args:
      layout: the mapping.
      normed: `[depth]`, split over rows.
      weights: of this PE.

    Pseudocode:
      own = score(all_reduce_row(normed @ router));  turned = own, dealt to rows
      rank = all_reduce_col(outranked(turned, own))
      list = all_reduce_row(listed(turned, rank));  list = scale * list / sum(list)
    """
    routing = layout.routing
    high, wide = layout.block
    here = places(layout)
    logits = all_reduce(gemv(weights["router"], normed), "row")
    if "router_bias" in weights:
        logits = vector(logits, logits, weights["router_bias"], op="add")
    scores = scores_of(layout, logits, here)
    compared = scores
    if routing.selection_bias:
        compared = sram_tile(shape=(layout.own,), dtype="float32")
        compared = vector(compared, scores, weights["selection_bias"], op="add")
    turned = to_rows(layout, scores, here)
    turned_compared = turned
    if routing.selection_bias:
        turned_compared = to_rows(layout, compared, here)
    if routing.groups > 1:
        ranks = ranks_of_groups(layout, turned_compared, compared, here)
        compared = in_best_groups(layout, compared, ranks, here.of_column)
        turned_compared = in_best_groups(layout, turned_compared, ranks, here.of_row)

    rank = ranked(layout, turned_compared, compared, here, routing.experts)
    best = sram_tile(shape=(2, routing.chosen), dtype="float32")
    best = listed(best, turned, rank, here.of_row, count=routing.experts)
    best = all_reduce(best, "row", group=high)
    at = lax.slice_in_dim(best, 0, 1)
    of_chosen = weighted(layout, lax.slice_in_dim(best, 1, 2))
    return with_shared(layout, at, of_chosen)


def scores_of(layout: ExpertMap, logits: Sram, here: Places) -> Sram:
    """Scores of a column's experts, float32 `[own]`, on every row; 0 for padding of a softmax.

    Exponentials are scalar code: each row of a block does `score_share` experts of its column, and
    a sum over the block's rows puts them together. A softmax's scores are divided by their sum only
    where that is more than a factor of all which the normalisation takes out again.
    """
    routing = layout.routing
    high, wide = layout.block
    share = layout.score_share
    left = jnp.int32(routing.experts) - here.of_column
    valid = lax.clamp(jnp.int32(0), left, jnp.int32(layout.own))
    row = lax.rem(lax.axis_index("row"), jnp.int32(high))
    start = row * jnp.int32(share)
    has_experts = start < layout.own

    def sigmoids(out: Sram, logits: Sram, start: KnownInt) -> Sram:
        mine = lax.dynamic_slice_in_dim(logits, start, share).reshape(1, share)
        tile = sram_tile(shape=(1, share), dtype="float32")
        tile = scalar_of_one_live(
            *(tile, mine, jnp.int32(share)),
            op="logistic",
            arithmetic="float32",
            opens=True,
        )
        return copy_into(out, tile.reshape(share), start, axis=0)

    def exponentials(
        out: Sram, logits: Sram, top: Sram, live: KnownInt, start: KnownInt
    ) -> Sram:
        mine = lax.dynamic_slice_in_dim(logits, start, share).reshape(1, share)
        tile = sram_tile(shape=(1, share), dtype="float32")
        tile = exp(tile, mine, top, live, scale=1.0)
        return copy_into(out, tile.reshape(share), start, axis=0)

    scores = zeros((layout.own,))
    if routing.score == "sigmoid":
        operands = scores, logits, start
        scores = lax.cond(has_experts, sigmoids, unchanged, *operands)
        return all_reduce(scores, "row", group=high)

    top = sram_tile(shape=(1,), dtype="float32")
    top = fold(top, logits.reshape(1, -1), valid, op="max")
    # Each column's largest, of the block's.
    top = all_reduce(top, "col", op="max", group=wide)
    live = lax.clamp(jnp.int32(0), valid - start, jnp.int32(share))
    operands = scores, logits, top, live, start
    scores = lax.cond(has_experts, exponentials, unchanged, *operands)
    scores = all_reduce(scores, "row", group=high)
    if routing.selection_bias or not routing.normalised:
        total = sram_tile(shape=(1,), dtype="float32")
        total = fold(total, scores.reshape(1, -1), valid, op="add")
        total = all_reduce(total, "col", group=wide)
        scores = vector_scale(scores, scores, reciprocal(total, total))
    return scores


def to_rows(layout: ExpertMap, x: Sram, here: Places) -> Sram:
    """A column's numbers `[own]` as a row's, float32 `[turned]`, on every column of the block."""
    _, wide = layout.block
    turned = sram_tile(shape=(layout.turned,), dtype="float32")
    turned = renumbered(turned, x, here.of_row, here.of_column)
    # One column has a number, the others 0: the sum is exact.
    return all_reduce(turned, "col", group=wide)


def ranked(
    layout: ExpertMap, turned: Sram, own: Sram, here: Places, block: int
) -> Sram:
    """Ranks of a row's experts within their `block` of all, float32 `[turned]`."""
    _, wide = layout.block
    rank = sram_tile(shape=turned.shape, dtype="float32")
    rank = outranked(
        rank,
        turned,
        own,
        here.of_row,
        here.of_column,
        count=layout.routing.experts,
        block=block,
    )
    return all_reduce(rank, "col", group=wide)


def ranks_of_groups(layout: ExpertMap, turned: Sram, own: Sram, here: Places) -> Sram:
    """Ranks of all groups of experts by the sums of their two best scores, float32 `[groups]`."""
    routing = layout.routing
    high, wide = layout.block
    size = routing.experts // routing.groups
    in_group = ranked(layout, turned, own, here, size)
    sums = sram_tile(shape=(layout.groups,), dtype="float32")
    sums = best_sums(
        sums, turned, in_group, here.of_row, best=BEST_OF_GROUP, block=size
    )
    sums = all_reduce(sums, "row", group=high)
    # Every column of the block ranks its share of them.
    share = layout.group_share

    def ranked_share(out: Sram, sums: Sram, first: KnownInt) -> Sram:
        mine = lax.dynamic_slice_in_dim(sums, first, share)
        rank = sram_tile(shape=(share,), dtype="float32")
        whole = {"count": routing.groups, "block": routing.groups}
        rank = outranked(rank, mine, sums, first, jnp.int32(0), **whole)
        return copy_into(out, rank, first, axis=0)

    column = lax.rem(lax.axis_index("col"), jnp.int32(wide))
    first = column * jnp.int32(share)
    ranks = zeros(sums.shape)
    operands = ranks, sums, first
    ranks = lax.cond(first < routing.groups, ranked_share, unchanged, *operands)
    return all_reduce(ranks, "col", group=wide)


def in_best_groups(layout: ExpertMap, x: Sram, ranks: Sram, first: KnownInt) -> Sram:
    """Numbers of experts in the chosen groups; minus infinity for others."""
    routing = layout.routing
    size = routing.experts // routing.groups
    kept = sram_tile(shape=x.shape, dtype="float32")
    return of_best_blocks(kept, x, ranks, first, best=routing.chosen_groups, block=size)


def weighted(layout: ExpertMap, scores: Sram) -> Sram:
    """What the chosen experts' scores `[1, chosen]` count."""
    routing = layout.routing
    factor = None
    if routing.normalised:
        total = sram_tile(shape=(1,), dtype="float32")
        total = fold(total, scores, jnp.int32(routing.chosen), op="add")
        least = fill(sram_tile(shape=(1,), dtype="float32"), value=LEAST_SUM)
        total = vector(total, total, least, op="add")
        factor = reciprocal(total, total)
    if routing.scale != 1:
        scale = fill(sram_tile(shape=(1,), dtype="float32"), value=routing.scale)
        if factor is not None:
            factor = vector(factor, factor, scale, op="mul")
        else:
            factor = scale
    if factor is None:
        return scores
    result = sram_tile(shape=scores.shape, dtype="float32")
    return vector_scale(result, scores, factor)


def with_shared(layout: ExpertMap, at: Sram, weights: Sram) -> Choice:
    """The chosen experts `[1, chosen]` and the shared ones, whose tiles lie behind all others."""
    chosen = layout.routing.chosen
    numbers = sram_tile(shape=(layout.active,), dtype="float32")
    if not layout.shared:
        numbers = copy(numbers, at.reshape(chosen))
        return Choice(numbers, weights.reshape(chosen))
    counts = sram_tile(shape=(layout.active,), dtype="float32")
    counts = fill(counts, value=1.0)
    numbers = fill(numbers, value=float(layout.routing.experts))
    for n in range(1, layout.shared):
        one = fill(
            sram_tile(shape=(1,), dtype="float32"),
            value=float(layout.routing.experts + n),
        )
        numbers = copy_into(numbers, one, chosen + n, axis=0)
    numbers = copy_into(numbers, at.reshape(chosen), 0, axis=0)
    counts = copy_into(counts, weights.reshape(chosen), 0, axis=0)
    return Choice(numbers, counts)


__all__ = ["Choice", "Places", "choose", "places"]
