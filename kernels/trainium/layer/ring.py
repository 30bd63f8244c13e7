"""The ring of a decoder's layers: where a prompt's tokens stand, its hops, and its attention.

Causal attention is what a layer has unless it is told otherwise. A variant brings a mask and a
score function of its own. Where either differs by head it matters which head of the model stands
where: three query heads on two cores are two places a core, of which the last is padding,

    core    0    1
    place   0 1  2 3
    head    0 1  2 -
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from emu.annotations import DType, KnownInt
from emu.trainium.spaces import Hbm
from kernels.masks.by_head import Masks, masks_of
from kernels.masks.catalogue import causal, full
from kernels.refusal import refuse
from kernels.scores.form import Reading
from kernels.tokens.placement import Placement, place
from kernels.trainium.context.attend import RankOperands
from kernels.trainium.context.finish_plan import FinishPlan
from kernels.trainium.context.finish_tables import Span, shared_shapes, shared_tables
from kernels.trainium.context.finishing import Finishing
from kernels.trainium.context.hops import Hops, ring_hops
from kernels.trainium.context.latent import expand
from kernels.trainium.context.projections import Projections
from kernels.trainium.context.ring import Ring, ring_attention
from kernels.trainium.context.score_plan import ScorePlan
from kernels.trainium.context.score_tables import Grid, table_shapes, tables
from kernels.trainium.context.scoring import Scoring
from kernels.trainium.context.sizes import ContextTiling
from kernels.trainium.context.tables import Sides
from kernels.trainium.context.work import RingWork
from kernels.trainium.layer.qkv import Queries
from kernels.trainium.layer.tiling import LayerTiling
from kernels.trainium.layer.weights import LayerWeights

Attend: TypeAlias = Callable[[Queries, Hbm, Hbm, LayerWeights], Hbm]
"""A layer's attention: q, k and v as `Project` gives them, and the layer's weights, which make keys
and values where these are of latents, to HBM `[heads, token tiles, value_dim, rows]`, or `[...,
rows, value_dim]` where a layer has activations in codes by token."""

Given: TypeAlias = tuple[RingWork, jax.Array, Sequence[jax.Array], Sequence[jax.Array]]
"""What a program is given for a layer's attention: known integers, masks, a score's tables, and
those of a last step."""


@dataclasses.dataclass(frozen=True, eq=False)
class LayerScores:
    """What a layer does to its scores before their softmax, and to its sums after it.

    Attributes:
      masks: which pairs are attended: one mask, or one for each place of a query head.
      score: what becomes of a scaled score; None: nothing.
      finish: what is made of a softmax's sums; None: its output.
      scale: of the scores; None: 1 / sqrt(head_dim).
      heads: int `[places]`, which head of the model stands in each place of all cores; negative
        where there is none.
    """

    masks: Masks = (causal,)
    score: ScorePlan | None = None
    finish: FinishPlan | None = None
    scale: float | None = None
    heads: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(1, int))

    @classmethod
    def of(
        cls, reading: Reading, scale: float | None, heads: np.ndarray
    ) -> "LayerScores":
        """Those of a variant.

        Args:
          reading: of the variant.
          scale: as the attribute.
          heads: as the attribute.

        Raises:
          CannotLower: arithmetic that no engine carries out, with the user's line.
        """
        mask = full if reading.mask is None else reading.mask
        by_head = masks_of(mask, 1, int(heads.max()) + 1)
        if len(by_head) > 1:
            by_head = tuple(by_head[head] for head in _or_first(heads))
        plan = None if reading.score is None else ScorePlan.of(reading.score)
        return cls(by_head, plan, _finish_of(reading), scale, heads)

    @property
    def heads_differ(self) -> bool:
        """Whether it matters which head a head is."""
        by_score = self.score is not None and self.score.by_head
        by_finish = self.finish is not None and self.finish.by_head
        return len(self.masks) > 1 or by_score or by_finish


def _finish_of(reading: Reading) -> FinishPlan | None:
    """A variant's last step, where it is another than softmax's.

    Raises:
      LimitExceeded: another monoid than a softmax with a last step of its own, or one by query.
    """
    fold = reading.fold
    if fold is None or (fold.is_softmax and fold.divides_by_sum):
        return None
    if not fold.is_softmax:
        refuse(
            f"{reading.name}: weights and sums of a layer must be softmax's on Trainium, this "
            "monoid has others; only its finish may be another"
        )
    plan = FinishPlan.of(fold)
    if plan.own:
        refuse(
            f"{reading.name}: finish depends on q, must be of the state, b, h and d in a layer"
        )
    return plan


def _by_head(plan: FinishPlan) -> list[bool]:
    """Whether each of its tables is by head."""
    return [leaf.by_head or leaf.home == "head" for leaf in plan.shared]


def _or_first(heads: np.ndarray) -> np.ndarray:
    """Heads, and the first one where there is none: padding may do what any head does."""
    return np.maximum(heads, 0)


CAUSAL = LayerScores()


@dataclasses.dataclass(frozen=True, eq=False)
class LayerRing:
    """A prompt on a ring of chips, under one variant of attention.

    Attributes:
      sides: where its tokens stand, as queries and as keys.
      hops: of its mask.
      ring: where they run.
      scores: what is done to scores.
      transposed: whether attention's output has features on partitions.
      elements: dtype of the MX elements that latents are quantised to where keys and values are
        made of them; None: they are not.
    """

    sides: Sides
    hops: Hops
    ring: Ring
    scores: LayerScores
    transposed: bool = True
    elements: DType | None = None

    @property
    def where(self) -> Placement:
        """The placement of its tokens."""
        return self.sides.kv

    def attend(
        self,
        work: RingWork,
        patterns: Hbm,
        tables: Sequence[Hbm] = (),
        of_finish: Sequence[Hbm] = (),
        first_head: KnownInt = 0,
    ) -> Attend:
        """A layer's attention in the kernel of one core.

        Args:
          work: known integers of this chip.
          patterns: masks of partial tiles, see `RankOperands`.
          tables: of the score function.
          of_finish: tables of the last step.
          first_head: known, which of all places is this core's first; asked where heads differ.
        """
        sizes = self.sides.tiling
        scoring = None
        located = self.sides.located
        if self.scores.score is not None and located is not None:
            scoring = Scoring(
                self.scores.score, tables, located.steps, sizes.factor, first_head
            )

        finishing = None
        if self.scores.finish is not None:
            finishing = Finishing(self.scores.finish, of_finish, (), first_head)

        def attend(q: Queries, k: Hbm, v: Hbm, weights: LayerWeights) -> Hbm:
            of_scores = patterns, scoring, first_head, finishing
            if isinstance(q, tuple):
                block, projections = _latents(k, v, weights, self.elements)
                operands = RankOperands(q, block, *of_scores, projections=projections)
            else:
                block = _parts(k, sizes), v
                operands = RankOperands(_parts(q, sizes), block, *of_scores)
            turned = self.transposed
            return ring_attention(operands, work, sizes, self.ring, transposed=turned)

        return attend

    # --- what a program is given ---

    def given(self) -> Given:
        """Known integers of every chip, masks, and the tables of score and last step."""
        of_score, of_finish = [], []
        plan, finish = self.scores.score, self.scores.finish
        if plan is not None:
            made = tables(plan, self._grid(with_pairs=True))
            of_score = self._by_place(made, [leaf.by_head for leaf in plan.leaves])
        if finish is not None:
            made = shared_tables(finish, self._span)
            of_finish = self._by_place(made, _by_head(finish))
        patterns = jnp.asarray(self.hops.predicates())
        return self.known(with_masks=True), patterns, of_score, of_finish

    def abstract(self) -> Given:
        """The same for the clock, which does not look which mask or pair a tile has."""
        tiling = self.sides.tiling
        of_score, of_finish = [], []
        plan, finish = self.scores.score, self.scores.finish
        if plan is not None:
            made = table_shapes(plan, self._grid(with_pairs=False))
            of_score = self._by_place(made, [leaf.by_head for leaf in plan.leaves])
        if finish is not None:
            made = shared_shapes(finish, self._span)
            of_finish = self._by_place(made, _by_head(finish))
        patterns: Any = jax.ShapeDtypeStruct(
            (1, tiling.rows, tiling.columns), jnp.uint8
        )
        return self.known(with_masks=False), patterns, of_score, of_finish

    def known(self, *, with_masks: bool) -> RingWork:
        """The known integers of every chip; see `Hops.known`."""
        return self.hops.known(with_masks=with_masks, lead=(self.where.ranks,))

    def _by_place(self, made: Sequence[Any], by_head: Sequence[bool]) -> list[Any]:
        """Tables by head of the model, or their shapes, as tables by place."""
        places = _or_first(self.scores.heads)

        def placed(table: Any) -> Any:
            if isinstance(table, jax.ShapeDtypeStruct):
                shape = (places.size, *table.shape[1:])
                return jax.ShapeDtypeStruct(shape, table.dtype)
            return jnp.take(table, places, axis=0)

        pairs = zip(made, by_head, strict=True)
        return [placed(table) if differs else table for table, differs in pairs]

    @property
    def _span(self) -> Span:
        """What the tables of a last step are made for."""
        heads = int(self.scores.heads.max()) + 1
        queries, features = self.sides.q.tokens, self.sides.tiling.value_dim
        return Span(batch=1, heads=heads, first=0, queries=queries, features=features)

    def _grid(self, *, with_pairs: bool) -> Grid:
        located = self.sides.located
        assert located is not None
        pairs = located.places[0] if with_pairs else np.zeros((1, 2), int)
        heads = int(self.scores.heads.max()) + 1
        return Grid(1, heads, located.q, located.k, pairs)

    # --- what it is worth ---

    @functools.cached_property
    def pairs(self) -> int:
        """Pairs of a query and a key that are attended, over all heads of the model."""
        by_mask = self.hops.tables.pairs() + self.hops.replicated.pairs()
        real = self.scores.heads >= 0
        if len(by_mask) == 1:
            return int(by_mask[0]) * int(real.sum())
        return int(by_mask[real].sum())


def _parts(x: Hbm, sizes: ContextTiling) -> tuple[Hbm, ...]:
    """Queries or keys, `[token tiles, heads, head_dim, rows]`, as views of what is contracted."""
    if len(sizes.parts) == 1:
        return (x,)
    found = []
    start = 0
    for size in sizes.parts:
        found.append(lax.slice_in_dim(x, start, start + size, axis=2))
        start += size
    return tuple(found)


def _latents(
    rotary: Hbm, latents: Hbm, weights: LayerWeights, elements: DType | None
) -> tuple[tuple[Hbm, Hbm], Projections]:
    """What travels of tokens with latents, and what makes keys and values of it.

    Args:
      rotary: turned keys of all heads, `[token tiles, 1, turned, rows]`.
      latents: `[key tiles, 1, parts, features of a part, columns]`.
      weights: `keys_up` and `values_up`.
      elements: see `LayerRing`.
    """
    assert "keys_up" in weights and "values_up" in weights
    up = weights["keys_up"], weights["values_up"]
    made = functools.partial(expand, weights=up, elements=elements)
    return (latents, rotary), Projections(block=made)


def attention_tiling(
    tiling: LayerTiling, scores: LayerScores = CAUSAL, placement: str = "contiguous"
) -> ContextTiling:
    """How a layer's attention is cut."""
    token_tiles = tiling.blocks * tiling.tiles
    # The projections have tiled the tokens already: attention takes q, k and v as they stand in
    # HBM, so a key tile is some of those token tiles.
    span = tiling.kv_tiles
    scored_or_latent = scores.score is not None or tiling.latent is not None
    if scored_or_latent and placement == "tile-cyclic":
        # Token tiles are dealt to all chips in turn, so two of a chip's are not neighbours, and
        # positions are counted out over neighbours only. Latents are stored alike for all layers,
        # whichever of them has a score function.
        span = 1
    return ContextTiling(
        heads=tiling.heads,
        kv_heads=tiling.kv_heads,
        parts=tiling.key_parts,
        value_dim=tiling.value_dim,
        tiles=token_tiles,
        rows=tiling.rows,
        run=tiling.kv_tiles,
        key_tiles=token_tiles // span,
        span=span,
        keys=tiling.rows,
        dtype=tiling.dtype,
        scale=scores.scale,
        scored=scores.score is not None,
    )


def layer_ring(
    tiling: LayerTiling,
    *,
    tokens: int,
    chips: int,
    axis: str,
    placement: str = "contiguous",
    scores: LayerScores = CAUSAL,
) -> LayerRing:
    """The ring of a prompt.

    Args:
      tiling: sizes of one chip.
      tokens: of the prompt; at most `chips · tiling.tokens`.
      chips: size of the ring.
      axis: its mesh axis.
      placement: one of `PLACEMENTS`; zigzag needs `tiling` to be of two chunks.
      scores: what is done to scores.
    """
    # Queries and keys are of the same tokens, and stand alike.
    where = place(placement, tokens, chips, tiling.tokens, tiling.rows)
    sizes = attention_tiling(tiling, scores, placement)
    pairs = None if scores.score is None else scores.score.pairs
    sides = Sides(q=where, kv=where, tiling=sizes, pairs=pairs)
    # Chip by chip contiguous tokens leave hops without work, but under a causal mask no hop is
    # without work on all chips: the last one attends to every other's keys.
    hops = ring_hops(scores.masks, sides)
    ring = Ring(axis, (axis,), hops=len(hops), roots=hops.roots)
    by_features = tiling.by_token is None
    return LayerRing(sides, hops, ring, scores, by_features, tiling.elements)


__all__ = [
    "Attend",
    "CAUSAL",
    "Given",
    "LayerRing",
    "LayerScores",
    "attention_tiling",
    "layer_ring",
]
