"""Context parallel schemes: which mesh, which kernel and which known integers each of them takes.

| scheme | what crosses links |
|---|---|
| `ring` | keys and values, one rank on at a time, beside the computation |
| `all-gather` | keys and values, all before the computation |
| `ulysses` | everything, from tokens of all heads to all tokens of some heads, and outputs back |
| `ulysses-ring` | Ulysses over the inner ranks, a ring over the outer ones |
| `tiles` | queries along one mesh axis, keys and values along the other, partial outputs back |
| `pass-q` | queries around a ring, and partial outputs back: for few queries on a long cache |
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np
from jax import lax

from emu.annotations import KnownInt, PyTree
from emu.trainium.spaces import Hbm
from kernels.masks.by_head import Masks
from kernels.trainium.context import exchange
from kernels.trainium.context.attend import RankOperands
from kernels.trainium.context.exchange import Exchange
from kernels.trainium.context.factoring import RowFactors, scaled_keys
from kernels.trainium.context.finish import Finished
from kernels.trainium.context.finish_plan import FinishPlan
from kernels.trainium.context.finishing import Finishing
from kernels.trainium.context.hops import Hops, ring_hops
from kernels.trainium.context.projections import Projections
from kernels.trainium.context.ring import Ring, ring_attention
from kernels.trainium.context.score_factors import ScoreFactors
from kernels.trainium.context.score_plan import ScorePlan
from kernels.trainium.context.scoring import Scoring
from kernels.trainium.context.sizes import ContextTiling
from kernels.trainium.context.tables import Sides, Tables, by_source
from kernels.trainium.context.weighing import Weighing, WeighPlan
from kernels.trainium.context.work import RingWork, SourceWork

RING, INNER, TENSOR, CORE = "ring", "inner", "tensor", "core"  # mesh axes

Attend: TypeAlias = Callable[[RankOperands, Any], Finished]
"""`(operands, work)` of one core to its output and log-sum-exp; `work` as the tables' `known`."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Asked:
    """What a scheme is built for; see `ContextAttention` for what is not explained here.

    Attributes:
      masks: one, or one for each head of all cores.
      sides: where queries and keys stand, on as many ranks as the scheme deals tokens out to.
      score: what is done to scores before their softmax; None: nothing.
      factors: what they are multiplied by before that.
      finish: what is made of the sums; None: a softmax's output.
      weigh: what is made of scores besides a softmax; None: nothing.
    """

    masks: Masks
    sides: Sides
    score: ScorePlan | None
    factors: ScoreFactors
    finish: FinishPlan | None
    weigh: WeighPlan | None
    ranks: int
    inner: int
    cores: int
    tensor: int
    static_program: bool
    every_hop: bool
    overlap: bool
    unroll: bool

    def chips(self, *axes: str) -> tuple[str, ...]:
        """Every mesh axis over chips, of those over ranks: the chips of a rank are innermost."""
        return (*axes, TENSOR) if self.tensor > 1 else axes

    @property
    def heads_differ(self) -> bool:
        """Whether it matters which head a head is."""
        plans = [self.factors]
        plans += [x for x in (self.score, self.finish, self.weigh) if x is not None]
        return len(self.masks) > 1 or any(plan.by_head for plan in plans)

    def scoring(self, tables: Sequence[Hbm], first_head: KnownInt) -> Scoring | None:
        """The score function in the kernel."""
        if self.score is None:
            return None
        return self._in_kernel(self.score, tables, first_head)

    def weighing(
        self,
        tables: Sequence[Sequence[Hbm]],
        scales: Sequence[Hbm],
        first_head: KnownInt,
    ) -> Weighing | None:
        """What is made of scores besides a softmax, in the kernel."""
        if self.weigh is None:
            return None
        functions = tuple(
            self._in_kernel(plan, of_plan, first_head)
            for plan, of_plan in zip(self.weigh.functions, tables, strict=True)
        )
        return Weighing(self.weigh, functions, scales[0] if scales else None)

    def row_factors(self, tables: Sequence[Hbm]) -> RowFactors | None:
        """What the scores of each row are multiplied by, in the kernel."""
        plan = self.factors.rows
        return None if plan is None else RowFactors(plan, tables[0])

    def _in_kernel(
        self, plan: ScorePlan, tables: Sequence[Hbm], first_head: KnownInt
    ) -> Scoring:
        located = self.sides.located
        assert located is not None  # somebody asks where tiles stand
        return Scoring(plan, tables, located.steps, self.sizes.factor, first_head)

    @property
    def sizes(self) -> ContextTiling:
        """Sizes of one core."""
        return self.sides.tiling


class ScoreTables(NamedTuple):
    """What a score function looks up, in HBM.

    Attributes:
      score: of its plan.
      rows: factors of rows, one array or none; see `RowFactors`.
      keys: factors of the rank's own keys, one array or none; see `scaled_keys`.
    """

    score: Sequence[Any] = ()
    rows: Sequence[Any] = ()
    keys: Sequence[Any] = ()


class FoldTables(NamedTuple):
    """What a monoid's functions look up and all ranks have, in HBM.

    Attributes:
      functions: of each factor of weights and sums.
      scales: factors of values, one array or none; see `Weighing`.
      finish: of the last step; see `Finishing`.
    """

    functions: Sequence[Sequence[Any]]
    scales: Sequence[Any]
    finish: Sequence[Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Scheme:
    """A scheme for certain sizes.

    Attributes:
      mesh: axis to size, over chips, outermost first.
      table_axes: those along which known integers differ.
      attend: the kernel of one core.
      tables: the known integers.
      asked: what it was built for.
      heads_along: the axis along which a core's heads are dealt out while it attends, if any.
    """

    mesh: dict[str, int]
    table_axes: tuple[str, ...]
    attend: Attend
    tables: Hops | Tables
    asked: Asked
    heads_along: str | None = None

    def kernel(
        self,
        q: PyTree,
        k: PyTree,
        v: PyTree,
        work: RingWork | SourceWork,
        patterns: Hbm,
        tables: ScoreTables = ScoreTables(),
        of_fold: FoldTables | None = None,
        own: Sequence[Hbm] = (),
    ) -> Finished:
        """The kernel with its operands one by one, as a `Program` gives them.

        Args:
          q, k, v, work, patterns: see `RankOperands`.
          tables: of the score function.
          of_fold: of a monoid's functions, the same everywhere.
          own: of its last step, see `Finishing`.
        """
        if tables.keys:
            (factors,) = tables.keys
            k = scaled_keys(k, factors, self.asked.sizes)
        operands = self.operands(q, (k, v), patterns, tables, of_fold, own)
        return self.attend(operands, work)

    def operands(
        self,
        q: PyTree,
        block: PyTree,
        patterns: Hbm,
        tables: ScoreTables = ScoreTables(),
        of_fold: FoldTables | None = None,
        own: Sequence[Hbm] = (),
        *,
        projections: Projections = Projections(),
    ) -> RankOperands:
        """What a core attends with; `block` is what of keys and values it has."""
        first_head = self._first_head()
        asked = self.asked
        finishing = weighing = None
        if of_fold is not None:
            weighing = asked.weighing(of_fold.functions, of_fold.scales, first_head)
            if asked.finish is not None:
                finishing = Finishing(asked.finish, of_fold.finish, own, first_head)
        return RankOperands(
            q,
            block,
            patterns,
            asked.scoring(tables.score, first_head),
            first_head,
            finishing,
            weighing,
            projections,
            asked.row_factors(tables.rows),
        )

    @property
    def sharing(self) -> int:
        """Ranks among which a core's heads are dealt out while it attends."""
        return 1 if self.heads_along is None else self.mesh[self.heads_along]

    def _first_head(self) -> KnownInt:
        """Which of all heads is this core's first."""
        first = jnp.int32(0)
        # Asked only where heads differ: cores that ask for their index are followed one by one.
        if not self.asked.heads_differ:
            return first
        heads = self.asked.sizes.heads
        if self.asked.cores > 1:
            first = lax.axis_index(CORE) * heads
        if self.asked.tensor > 1:
            first = first + lax.axis_index(TENSOR) * (self.asked.cores * heads)
        if self.heads_along is not None:
            # Of a core's heads each of the ranks that exchange has a part while it attends.
            share = heads // self.sharing
            first = first + lax.axis_index(self.heads_along) * share
        return first

    def known(self, with_masks: bool) -> RingWork | SourceWork:
        """The kernel's known integers, in the form of the mesh; see `Tables.known`."""
        lead = tuple(self.mesh[axis] for axis in self.table_axes)
        return self.tables.known(with_masks=with_masks, lead=lead)

    def predicates(self, count: int | None) -> np.ndarray:
        """See `Tables.predicates`."""
        return self.tables.predicates(count)


@dataclasses.dataclass(frozen=True)
class Entry:
    """How a scheme is built.

    Attributes:
      of: what is asked for to its scheme.
      dealt: `(ranks, inner)` to the ranks that tokens are dealt out to; the others of each group
        share its part.
    """

    of: Callable[[Asked], Scheme]
    dealt: Callable[[int, int], int] = lambda ranks, inner: ranks


def ring_of(asked: Asked, hops: Hops, *, ranks: tuple[str, ...] = (RING,)) -> Ring:
    """The ring on which hops are made; `ranks` are all mesh axes over ranks."""
    return Ring(
        axis=RING,
        chips=asked.chips(*ranks),
        hops=len(hops),
        roots=hops.roots,
        overlap=asked.overlap,
        unroll=asked.unroll,
    )


def _ring(asked: Asked) -> Scheme:
    # Worked out before the kernel is traced: how many hops there are is part of the program, and
    # which tiles each has is in its integers.
    hops = ring_hops(
        asked.masks,
        asked.sides,
        static=asked.static_program,
        every_hop=asked.every_hop,
    )
    ring = ring_of(asked, hops)

    def attend(operands: RankOperands, work: RingWork) -> Finished:
        return ring_attention(
            operands,
            work,
            asked.sizes,
            ring,
            logsumexp=True,
        )

    return Scheme(
        mesh={RING: asked.ranks},
        table_axes=(RING,),
        attend=attend,
        tables=hops,
        asked=asked,
    )


def _all_gather(asked: Asked) -> Scheme:
    by_rank = by_source(asked.masks, asked.sides)
    # All keys are there before the first step, so there is nothing to take turns with: one source.
    tables = by_rank.joined()
    across = Exchange(RING, asked.ranks, asked.chips(RING))

    def attend(operands: RankOperands, work: SourceWork) -> Finished:
        return exchange.all_gather(
            operands,
            work,
            tiling=asked.sizes,
            across=across,
        )

    return Scheme(
        mesh={RING: asked.ranks},
        table_axes=(RING,),
        attend=attend,
        tables=_static(asked, tables),
        asked=asked,
    )


def _ulysses(asked: Asked, inner: int) -> Scheme:
    # Before 4 ranks of 8 heads exchange, each has a fourth of the group's tokens; while they
    # attend, each has 2 heads of all of them.
    by_heads = exchange.headwise(asked.sizes, inner)
    # While attention runs an outer rank has its inner ranks' tokens, and few of the heads.
    sides = dataclasses.replace(asked.sides, tiling=by_heads)
    hops = ring_hops(
        asked.masks,
        sides,
        static=asked.static_program,
        every_hop=asked.every_hop,
    )
    # Outermost first, so inner ranks are neighbours: with 4 of them, rank 2 of ring place 1 is chip
    # 6.
    ranks = RING, INNER
    ring = ring_of(asked, hops, ranks=ranks)
    among = Exchange(INNER, inner, asked.chips(*ranks))

    def attend(operands: RankOperands, work: RingWork) -> Finished:
        return exchange.ulysses(
            operands,
            work,
            tiling=asked.sizes,
            among=among,
            ring=ring,
        )

    return Scheme(
        # Inner ranks attend with other heads to the same tokens, so one table serves all of a
        # group.
        mesh={RING: asked.ranks // inner, INNER: inner},
        table_axes=(RING,),
        attend=attend,
        tables=hops,
        asked=asked,
        heads_along=INNER,
    )


def _tiles(asked: Asked) -> Scheme:
    # Each rank moves the queries of its row and the keys of its column. On 4 by 4 ranks those are 3
    # shares of queries and 3 of keys, where an all-gather would bring 15 of keys; partial outputs
    # go back for that.
    columns = asked.inner
    rows = asked.ranks // columns
    by_rank = by_source(asked.masks, asked.sides)
    tables = by_rank.tiled(rows, columns)
    ranks = RING, INNER
    down = Exchange(RING, rows, asked.chips(*ranks))
    along = Exchange(INNER, columns, asked.chips(*ranks))

    def attend(operands: RankOperands, work: SourceWork) -> Finished:
        return exchange.tiles(
            operands,
            work,
            tiling=asked.sizes,
            down=down,
            along=along,
        )

    return Scheme(
        mesh={RING: rows, INNER: columns},
        table_axes=ranks,
        attend=attend,
        tables=_static(asked, tables),
        asked=asked,
    )


def _pass_q(asked: Asked) -> Scheme:
    hops = ring_hops(
        asked.masks,
        asked.sides,
        static=asked.static_program,
        # The state has a part for each owner of queries, and the kernel a hop for each: dead hops
        # stay, and skip their work only.
        every_hop=True,
        queries_travel=True,
    )
    across = Exchange(RING, asked.ranks, asked.chips(RING))

    def attend(operands: RankOperands, work: RingWork) -> Finished:
        return exchange.pass_q(
            operands,
            work,
            tiling=asked.sizes,
            across=across,
        )

    return Scheme(
        mesh={RING: asked.ranks},
        table_axes=(RING,),
        attend=attend,
        tables=hops,
        asked=asked,
    )


def _static(asked: Asked, tables: Tables) -> Tables:
    # After the tables are in the scheme's order: ranks must agree on what each meets at one place.
    return tables.for_all_ranks() if asked.static_program else tables


SCHEMES = {
    "ring": Entry(_ring),
    "all-gather": Entry(_all_gather),
    # Ulysses alone is `ulysses-ring` with a ring of one: all ranks share what that one is dealt.
    "ulysses": Entry(
        of=lambda asked: _ulysses(asked, asked.ranks),
        dealt=lambda ranks, inner: 1,
    ),
    "ulysses-ring": Entry(
        of=lambda asked: _ulysses(asked, asked.inner),
        dealt=lambda ranks, inner: ranks // inner,
    ),
    "tiles": Entry(_tiles),
    "pass-q": Entry(_pass_q),
}

__all__ = [
    "CORE",
    "INNER",
    "RING",
    "SCHEMES",
    "TENSOR",
    "Asked",
    "Entry",
    "FoldTables",
    "Scheme",
    "ring_of",
]
