"""The router: logits, scores, the chosen experts of each token and what they count.

It chooses as `kernels.moe.router.route` does, of equal scores the lower number. The Vector Engine
finds eight maxima at a time and takes them away; what was taken is the mask of chosen experts.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from emu.annotations import KnownInt
from emu.tracing.loop import loop
from emu.trainium.engines.memory import dma_load, psum, sbuf
from emu.trainium.isa import (
    activation,
    activation_reduce,
    memset,
    nc_match_replace8,
    nc_match_replace8_index,
    nc_matmul,
    nc_max8,
    nc_n_gather,
    reciprocal,
    tensor_copy,
    tensor_immediate,
    tensor_reduce,
    tensor_scalar,
    tensor_tensor,
)
from emu.trainium.spaces import Hbm, Psum, Sbuf
from kernels.moe.mesh.form import BEST, MoeForm
from kernels.moe.router import LEAST_SUM
from kernels.refusal import refuse
from kernels.trainium.layer.norm import in_every_row, transposed_into
from kernels.trainium.tiles import index

LOWEST = -3.0e38  # below any score: what was chosen, and columns of no expert
OUTSIDE = 1.0e30  # far above any score; less of it is what experts outside the best groups have
NEVER = 3.0e38  # above any score: a value that is looked for and not found


class RouterWeights(NamedTuple):
    """A router in HBM.

    Attributes:
      matrix: `[hidden tile, hidden tiles, experts]`; behind the experts a column for the shared
        MLP's gate, where it has one.
      bias: float32 `[1, experts]` of the logits, or None.
      selection: float32 `[1, experts]`, added where experts are compared, or None.
    """

    matrix: Hbm
    bias: Hbm | None = None
    selection: Hbm | None = None


class Held(NamedTuple):
    """A router in SBUF: the matrix `[hidden tile, hidden tiles, experts]`, biases in every row."""

    matrix: Sbuf
    bias: Sbuf | None
    selection: Sbuf | None


class Chosen(NamedTuple):
    """What a tile of tokens chose.

    Attributes:
      experts: int32 `[rows, picks]`, the best first; of the columns behind `chosen` nobody asks.
      weights: float32 `[rows, picks]`, likewise.
      mask: `[rows, experts]`, 1 where a token chose an expert, else 0.
      shared: float32 `[rows, 1]`, the shared MLP's factor, or None.
    """

    experts: Sbuf
    weights: Sbuf
    mask: Sbuf
    shared: Sbuf | None


def hold(weights: RouterWeights, form: MoeForm) -> Held:
    """Loads a router, once for all tokens."""
    # Packed as it stands in SBUF: one copy of 128 long descriptors, where a copy for each of 56
    # tiles of 256 experts would take 0.85 us each.
    matrix = sbuf(*weights.matrix.shape, dtype=weights.matrix.dtype)
    matrix = dma_load(matrix, weights.matrix)

    def rows(bias: Hbm | None) -> Sbuf | None:
        return None if bias is None else in_every_row(bias, form.rows)

    return Held(matrix, rows(weights.bias), rows(weights.selection))


def choose(h: Sbuf, router: Held, form: MoeForm) -> Chosen:
    """Routes one tile of tokens.

    Args:
      h: SBUF `[rows, hidden padded]`, normalised.
      router: held.
      form: sizes.

    Pseudocode:
      logits = h · matrix; scores = softmax or sigmoid; compared = scores + selection
      for eight at a time: best = max8(compared); take them away
      weights = scores[best], normalised and scaled
    """
    sums = _products(h, router, form)
    experts = form.routing.experts
    logits: Psum | Sbuf = sums[:, :experts]
    if router.bias is not None:
        biased = sbuf(form.rows, experts)
        logits = tensor_tensor(biased, logits, router.bias, op="add")
    scores = _scores(logits, form)
    shared = None
    if form.mixture.shared_is_scaled:
        shared = sbuf(form.rows, 1)
        shared = activation(shared, sums[:, experts:], op="sigmoid")
    compared = _compared(scores, router, form)
    routing = form.routing
    # Else experts are compared by something else than what they count by.
    alike = not routing.selection_bias and routing.groups == 1
    best = sbuf(form.rows, form.picks)
    left, numbers, of_best = _take_best(compared, best if alike else None, form)
    mask = sbuf(form.rows, experts, dtype=form.arithmetic)
    # What was taken away is what differs.
    mask = tensor_tensor(mask, compared[:, :experts], left[:, :experts], op="not_equal")
    if of_best is None:
        of_best = nc_n_gather(best, scores, numbers)
    return Chosen(numbers, _weighed(of_best, form), mask, shared)


def _products(h: Sbuf, router: Held, form: MoeForm) -> Psum:
    count, size = form.hidden_tiles
    columns = router.matrix.shape[2]
    turned = sbuf(size, count, form.rows, dtype=h.dtype)
    turned = transposed_into(turned, h, jnp.int32(0))

    def add(sums: Psum, place: KnownInt) -> Psum:
        tokens = index(turned, place, 1)
        matrix = index(router.matrix, place, 1)
        return nc_matmul(sums, tokens, matrix, jnp.int32(place > 0))

    return loop(add, psum(form.rows, columns), count)


def _scores(logits: Psum | Sbuf, form: MoeForm) -> Sbuf:
    rows, experts = logits.shape
    scores = sbuf(rows, experts)
    if form.routing.score == "sigmoid":
        return activation(scores, logits, op="sigmoid")
    lowered = sbuf(rows, 1)
    lowered = tensor_reduce(lowered, logits, op="max", negate=True)
    powers = sbuf(rows, experts)
    total = sbuf(rows, 1)
    powers, total = activation_reduce(powers, total, logits, lowered, op="exp")
    inverse = sbuf(rows, 1)
    inverse = reciprocal(inverse, total)
    return tensor_scalar(scores, powers, inverse, op="multiply")


def _compared(scores: Sbuf, router: Held, form: MoeForm) -> Sbuf:
    """What experts are compared by, in eight columns at least."""
    rows, experts = scores.shape
    compared = sbuf(rows, max(BEST, experts))
    if experts < BEST:
        compared = memset(compared, value=LOWEST)
    own = (slice(None), slice(0, experts))
    if router.selection is None:
        compared = tensor_copy.at[own](compared, scores)
    else:
        compared = tensor_tensor.at[own](compared, scores, router.selection, op="add")
    if form.routing.groups == 1:
        return compared
    inside = _best_groups(compared[:, :experts], form)
    size = experts // form.routing.groups
    outside = sbuf(*inside.shape)
    # 0 for the best groups, far below any score for the others.
    outside = tensor_immediate(
        outside, inside, op="subtract", value=1.0, op1="multiply", value1=OUTSIDE
    )
    # A view: a group's number for each of its experts.
    wide = lax.broadcast_in_dim(outside, (*outside.shape, size), (0, 1))
    kept = sbuf(*compared.shape)
    if experts < BEST:
        kept = memset(kept, value=LOWEST)
    flat = wide.reshape(rows, experts)
    return tensor_tensor.at[own](kept, compared[:, :experts], flat, op="add")


def _best_groups(compared: Sbuf, form: MoeForm) -> Sbuf:
    """1 for each of the best groups, else 0: SBUF `[rows, groups]`."""
    rows, experts = compared.shape
    groups = form.routing.groups
    size = experts // groups
    chosen = form.routing.chosen_groups
    if chosen > BEST:
        refuse(f"a token's experts may be in {chosen} groups, at most {BEST}")
    sums = sbuf(rows, max(BEST, groups))
    if groups < BEST:
        sums = memset(sums, value=LOWEST)
    for group in range(groups):
        own = compared[:, group * size : (group + 1) * size]
        if size < BEST:
            wide = sbuf(rows, BEST)
            wide = memset(wide, value=LOWEST)
            own = tensor_copy.at[:, :size](wide, own)
        best = sbuf(rows, BEST)
        best = nc_max8(best, own)
        first, second = best[:, :1], best[:, 1:2]
        sums = tensor_tensor.at[:, group : group + 1](sums, first, second, op="add")
    best = sbuf(rows, BEST)
    best = _only(nc_max8(best, sums), chosen)
    left = sbuf(*sums.shape)
    left = nc_match_replace8(left, sums, best, value=LOWEST)
    inside = sbuf(rows, groups)
    return tensor_tensor(inside, sums[:, :groups], left[:, :groups], op="not_equal")


def _only(best: Sbuf, wanted: int) -> Sbuf:
    """Of eight values the first ones; in place of the others what is found nowhere."""
    if wanted >= BEST:
        return best
    some = sbuf(*best.shape)
    some = tensor_copy(some, best)
    return memset.at[:, wanted:](some, value=NEVER)


def _take_best(
    compared: Sbuf, scores: Sbuf | None, form: MoeForm
) -> tuple[Sbuf, Sbuf, Sbuf | None]:
    """Takes the best away.

    Args:
      compared: SBUF `[rows, experts]`.
      scores: SBUF `[rows, picks]`, takes the best ones' if there is one.
      form: sizes.

    Returns:
      What is left of what was compared, the numbers of the best, `[rows, picks]`, and `scores`.
    """
    rows = compared.shape[0]
    numbers = sbuf(rows, form.picks, dtype=jnp.int32)
    left = compared
    for turn in range(math.ceil(form.routing.chosen / BEST)):
        best = sbuf(rows, BEST)
        best = nc_max8(best, left)
        places = sbuf(rows, BEST, dtype=jnp.int32)
        fewer = sbuf(*left.shape)
        wanted = _only(best, form.routing.chosen - turn * BEST)
        left, places = nc_match_replace8_index(
            fewer, places, left, wanted, value=LOWEST
        )
        own = (slice(None), slice(turn * BEST, (turn + 1) * BEST))
        numbers = tensor_copy.at[own](numbers, places)
        if scores is not None:
            scores = tensor_copy.at[own](scores, best)
    return left, numbers, scores


def _weighed(scores: Sbuf, form: MoeForm) -> Sbuf:
    """What experts count by: their scores, over their sum where that is wanted, and scaled."""
    routing = form.routing
    rows = scores.shape[0]
    weights = sbuf(*scores.shape)
    if not routing.normalised:
        return tensor_immediate(
            weights, scores, op="multiply", value=float(routing.scale)
        )
    total = sbuf(rows, 1)
    total = tensor_reduce(total, scores[:, : routing.chosen], op="add")
    some = sbuf(rows, 1)
    some = tensor_immediate(some, total, op="add", value=LEAST_SUM)
    inverse = sbuf(rows, 1)
    inverse = reciprocal(inverse, some)
    return tensor_scalar(
        weights,
        scores,
        inverse,
        op="multiply",
        op1="multiply",
        value1=float(routing.scale),
    )


__all__ = ["Chosen", "Held", "RouterWeights", "choose", "hold"]
