"""Attention of a sequence spread over chips, as a program: run for its values, read for its time.

`ContextAttention` takes and gives arrays in the order of the sequence: where tokens stand is its
own business, so positions follow the placement and nobody shuffles tokens.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from emu import Device, Program, Reading, Sheet, given
from emu.annotations import DType, PyTree
from emu.datasheet import BANDS
from emu.lower import Elementwise
from kernels.masks.by_head import Masks, masks_of
from kernels.masks.catalogue import Mask, or_masks
from kernels.refusal import refuse
from kernels.scores.fold import Fold
from kernels.tokens.choose import Choice, Slots, choose
from kernels.tokens.placement import PLACEMENTS, Placement, place
from kernels.trainium.context import checks, finish_tables, layout, layout_mx
from kernels.trainium.context.finish_plan import FinishPlan
from kernels.trainium.context.finish_tables import Span
from kernels.trainium.context.hops import Hops
from kernels.trainium.context.ring import Ring
from kernels.trainium.context.schemes import (
    CORE,
    SCHEMES,
    TENSOR,
    Asked,
    FoldTables,
    Scheme,
    ScoreTables,
    ring_of,
)
from kernels.trainium.context.score_factors import ScoreFactors, split
from kernels.trainium.context.score_plan import ScorePlan
from kernels.trainium.context.score_tables import Grid, table_shapes, tables
from kernels.trainium.context.sizes import RECIPES, ContextTiling, key_tiling
from kernels.trainium.context.tables import PairTable, Sides
from kernels.trainium.context.weighing import HeadGroups, WeighPlan
from kernels.trainium.tiles import BANK_COLUMNS, PARTITIONS

AUTO, MXFP8 = "auto", "mxfp8"

Results: TypeAlias = tuple[jax.Array, jax.Array | None]
"""Attention's output, and the log-sum-exp of its scores, which a monoid may not have."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContextAttention:
    """Attention over chips.

    Attributes:
      mask: `mask(b, h, q, k) -> bool` on positions in the sequence.
      score: what is done to scores before their softmax: a function of score, batch, head, query
        and key as `emu.lower` reads it, where the mask allows the pair; None: nothing.
      fold: what is made of scores and values, read of a monoid; None: their softmax.
      scale: factor of the scores, before that function; None: 1 / sqrt(head_dim).
      batch: sequences whose heads stand one behind the other among `heads` and `kv_heads`: of 2
        sequences with 4 heads each, head 5 is head 1 of the second.
      tokens: length of the sequence.
      ranks: chips.
      heads, kv_heads, head_dim: of attention; heads may be any multiple of KV heads.
      value_dim: features of a value; None: as many as of a key.
      parts: features of a key as they are contracted, at most 128 at a time; None: as few parts
        as that takes.
      queries: how many tokens are queries; None: all. The others are a cache.
      first_query: position of the first query; None: the queries are the last tokens.
      maps: KV heads in a row that have one head of values between them: of 4 KV heads in maps of 2
        the values have 2 heads. See `MixedAttention`.
      scheme: one of `SCHEMES`.
      inner: of schemes over two mesh axes, the size of the inner one; it divides the ranks.
      placement: one of `PLACEMENTS`, or `auto`, chosen from the mask.
      dtype: of queries, keys, values and weights: a float, or `mxfp8`.
      recipe: see `ContextTiling`.
      cores: NeuronCores of each chip that share its heads; they divide the KV heads.
      tensor: chips of each rank that share its heads, each with its cores: of 8 heads on 2 chips of
        2 cores a core has 2. With all their cores they divide the KV heads.
      static_program: models one program for all ranks, which cannot skip tiles by rank.
      overlap, unroll: see `Ring`.
      columns: most keys of a key tile.
      lanes: most query tiles that are worked on together.
      turned: dtype of transposed weights in PSUM: float32 on Trainium1; see `FlashTiling`.
      scalar_copies: of a key tile's transposed weights, how many the Scalar Engine takes out of
        PSUM: 0 on Trainium1, where it cannot; None: half.
      every_hop: see `ring_hops`.
      masks: how many masks of partly live tiles to make room for; None: as many as there are.
      even_rows: whether tiles have an even number of tokens, as latents must whose keys and values
        are products in MX.
      hop_tiles: for `auto`, one hop's transfer in block by key tile steps.
    """

    mask: Mask
    tokens: int
    ranks: int
    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int | None = None
    parts: tuple[int, ...] | None = None
    queries: int | None = None
    scheme: str = "ring"
    inner: int = 1
    placement: str = AUTO
    dtype: DType = jnp.float32
    recipe: str = "fp32"
    cores: int = 1
    tensor: int = 1
    static_program: bool = False
    overlap: bool = True
    unroll: bool = False
    columns: int = BANK_COLUMNS
    lanes: int = 16
    turned: DType = None
    scalar_copies: int | None = None
    every_hop: bool = False
    masks: int | None = None
    hop_tiles: float = 1.0
    even_rows: bool = False
    score: Elementwise | None = None
    fold: Fold | None = None
    scale: float | None = None
    batch: int = 1
    first_query: int | None = None
    maps: int = 1

    def __post_init__(self) -> None:
        if not callable(self.mask):
            refuse(
                f"mask is {given.told(self.mask)}, must be a function of b, h, q and k"
            )
        checks.one_of("scheme", self.scheme, SCHEMES)
        checks.one_of("placement", self.placement, (*PLACEMENTS, AUTO))
        checks.one_of("recipe", self.recipe, RECIPES)
        # Positions are 32-bit integers, and tables are kept of all ranks and heads.
        checks.whole("tokens", self.tokens, most=given.INT32[1])
        checks.whole("ranks", self.ranks, most=checks.MOST_RANKS)
        checks.whole("queries", self.queries)
        for name in ("heads", "kv_heads", "head_dim"):
            checks.whole(name, getattr(self, name), most=checks.MOST_FEATURES)
        # A matmul's sums fill at most a bank of PSUM.
        checks.whole("value_dim", self.value_dim, most=BANK_COLUMNS)
        checks.whole("columns", self.columns, most=BANK_COLUMNS)
        checks.whole("lanes", self.lanes, most=checks.MOST_LANES)
        for name in ("inner", "cores", "tensor", "masks", "maps"):
            checks.whole(name, getattr(self, name))
        checks.whole("scalar_copies", self.scalar_copies, least=0)
        checks.number("hop_tiles", self.hop_tiles)
        for name in ("static_program", "overlap", "unroll", "every_hop", "even_rows"):
            checks.flag(name, getattr(self, name))
        checks.parts_of(self.head_dim, self.parts, PARTITIONS)
        checks.dtype("dtype", self.dtype, MXFP8)
        if self.turned is not None:
            checks.dtype("turned", self.turned)
        _check_divides("ranks by inner ranks", self.ranks, self.inner)
        _check_divides("query heads by KV heads", self.heads, self.kv_heads)
        _check_divides("KV heads by cores of a rank", self.kv_heads, self.sharers)
        checks.whole("batch", self.batch)
        checks.whole("first_query", self.first_query, least=0)
        _check_divides("KV heads by sequences of a batch", self.kv_heads, self.batch)
        _check_divides(
            "KV heads of a core by maps", self.kv_heads // self.sharers, self.maps
        )
        if self.mx and self.maps > 1:
            refuse(
                f"maps is {self.maps} and dtype {self.dtype}, must be 1 or a plain float"
            )
        if self.scale is not None:
            checks.number("scale", self.scale)
        if self.mx and self.fold is not None and not self.fold.is_softmax:
            refuse(
                f"{self.fold.name}: weights and sums are not a softmax's, as those of microscaled "
                "operands must be; use another dtype"
            )
        if not 1 <= self.query_count <= self.tokens:
            refuse(f"{self.queries} queries of {self.tokens} tokens, must be 1 to all")
        last = (self.first_query or 0) + self.query_count
        if last > self.tokens:
            refuse(
                f"first_query is {self.first_query}, so the last of {self.query_count} queries "
                f"is at {last - 1} of {self.tokens} tokens, must be within"
            )

    @property
    def sharers(self) -> int:
        """Cores of a rank, which share its heads."""
        return self.tensor * self.cores

    @property
    def query_count(self) -> int:
        """How many tokens are queries."""
        return self.tokens if self.queries is None else self.queries

    # --- where tokens stand ---

    @functools.cached_property
    def placed(self) -> str:
        """The placement in use."""
        return self.placement if self.placement != AUTO else self.choice.name

    @functools.cached_property
    def choice(self) -> Choice:
        """Every placement's figures under the mask."""

        def slots(placement: str) -> Slots:
            tiling = self._sizes(placement)
            if self.queries is None:
                q_tile = tiling.block_tiles * tiling.rows
            else:
                # The score deals all tokens out as queries. Blocks of the few real ones need not
                # divide a rank's slots; key tiles do.
                q_tile = tiling.columns
            # 4 ranks of Ulysses that are dealt to as one hold 4 shares of slots in that one.
            share = self.ranks // self.dealt
            key_slots = share * tiling.key_slots
            return Slots(key_slots, tiling.keys, q_tile, tiling.columns)

        def cost(placement: str) -> float:
            return self._sizes(placement).block_cost

        return choose(
            # Of heads with masks of their own, a tile is work where it is for any.
            self.masks_of[0]
            if len(self.masks_of) == 1
            else or_masks(*set(self.masks_of)),
            self.tokens,
            self.dealt,
            slots_of=slots,
            hop_tiles=self.hop_tiles,
            cost=cost,
        )

    @functools.cached_property
    def masks_of(self) -> Masks:
        """The mask of all heads, or of each of them."""
        return masks_of(self.mask, self.batch, self.heads // self.batch)

    @functools.cached_property
    def plan(self) -> ScorePlan | None:
        """What of the score function is computed when, with what a monoid makes of scores."""
        score = self.factors.rest if self.weigh is None else self.weigh.score
        return None if score is None else ScorePlan.of(score)

    @functools.cached_property
    def factors(self) -> ScoreFactors:
        """What of the score function multiplies keys, or scores within the softmax."""
        return split(
            self.score,
            fold=self.fold,
            groups=self._head_groups,
            scale=self._scale,
            # Keys of parts that are given may be expanded in the kernel, as MLA's are.
            scales_keys=not self.mx and self.parts is None,
        )

    @property
    def _scale(self) -> float:
        """Of scores, before their function."""
        return 1 / math.sqrt(self.head_dim) if self.scale is None else self.scale

    @functools.cached_property
    def weigh(self) -> WeighPlan | None:
        """What is made of scores besides a softmax; None: nothing."""
        if self.fold is None or self.fold.is_softmax:
            return None
        return WeighPlan.of(self.fold, self.factors.rest, self._head_groups)

    @property
    def _head_groups(self) -> HeadGroups:
        batch = self.batch
        return HeadGroups(
            batch, self.heads // batch, self.kv_heads // batch, self.tokens
        )

    @functools.cached_property
    def finish(self) -> FinishPlan | None:
        """What of the last step is computed when; None: it is softmax's."""
        fold = self.fold
        if fold is None:
            return None
        # Only a sum of plain weights is softmax's to divide by.
        plain = [x.coefficient for x in fold.sums] == [None]
        is_softmax = fold.divides_by_sum and fold.greatest is not None and plain
        return None if is_softmax else FinishPlan.of(fold)

    @property
    def dealt(self) -> int:
        """Ranks that tokens are dealt out to."""
        return SCHEMES[self.scheme].dealt(self.ranks, self.inner)

    @functools.cached_property
    def sizes(self) -> ContextTiling:
        """Sizes of one core."""
        return self._sizes(self.placed)

    def _sizes(self, placement: str) -> ContextTiling:
        # Zigzag deals a rank two chunks, and a key tile is within one.
        # `every_hop` is one program for all masks, so its sizes suit zigzag too, whichever is
        # chosen.
        cut = functools.partial(
            key_tiling,
            ranks=self.ranks,
            even=placement == "zigzag" or self.every_hop,
            columns=self.columns,
            mx=self.mx,
            even_rows=self.even_rows,
        )
        key_tiles, span, keys = cut(self.tokens)
        runs, run, rows = cut(self.query_count)
        fold, weigh, factors = self.fold, self.weigh, self.factors
        return ContextTiling(
            heads=self.heads // self.sharers,
            kv_heads=self.kv_heads // self.sharers,
            parts=self.parts or self._fewest_parts(),
            value_dim=self.value_dim or self.head_dim,
            tiles=runs * run,
            rows=rows,
            run=run,
            key_tiles=key_tiles,
            span=span,
            keys=keys,
            dtype=self.element,
            mx=self.mx,
            recipe=self.recipe,
            lanes=self.lanes,
            turned=self.turned,
            scalar_copies=self.scalar_copies,
            scale=self._scale * factors.number,
            # Then maxima are of scaled scores.
            scored=self.plan is not None or factors.rows is not None,
            greatest=fold is None or fold.greatest is not None,
            sums=0 if weigh is None else len(weigh.sums),
            maps=self.maps,
        )

    def _fewest_parts(self) -> tuple[int, ...]:
        """Features of a key as they are contracted: 160 are 128 and 32."""
        full, rest = divmod(self.head_dim, PARTITIONS)
        parts = [PARTITIONS] * full
        if rest:
            parts.append(rest)
        return tuple(parts)

    @property
    def mx(self) -> bool:
        """Whether operands are microscaled."""
        return isinstance(self.dtype, str) and self.dtype == MXFP8

    @property
    def element(self) -> DType:
        """Dtype of the operands' elements."""
        if self.mx:
            # The finer of the two FP8 formats: the scales of MX bring the range.
            return jnp.dtype(jnp.float8_e4m3fn)
        return jnp.dtype(self.dtype)

    @functools.cached_property
    def sides(self) -> Sides:
        """Where queries and keys stand, on as many ranks as the scheme deals tokens out to."""
        tiling = self.sizes
        share = self.ranks // self.dealt  # ranks that share what is dealt to one

        def where(tokens: int, slots: int, unit: int) -> Placement:
            all_slots = share * slots
            return place(self.placed, tokens, self.dealt, all_slots, unit)

        queries = where(self.query_count, tiling.slots, tiling.rows)
        keys = where(self.tokens, tiling.key_slots, tiling.keys)
        pairs = self._pairs
        first = self.first_query
        if first is None:
            first = self.tokens - self.query_count
        return Sides(queries, keys, tiling, first, pairs)

    @property
    def _pairs(self) -> PairTable | None:
        """Which table functions read by pairs of tiles; None: nobody asks where tiles stand."""
        plans = [] if self.plan is None else [self.plan]
        has_scales = False
        if self.factors.rows is not None:
            plans.append(self.factors.rows)
        if self.weigh is not None:
            plans += self.weigh.functions
            has_scales = self.weigh.scales is not None
        found = {plan.pairs for plan in plans}
        order: tuple[PairTable, ...] = ("all", "relative", "none")
        for pairs in order:
            if pairs in found:
                return pairs
        return "none" if has_scales else None

    # --- the program ---

    @functools.cached_property
    def built(self) -> Scheme:
        """The scheme for these sizes: its mesh, its kernel and its known integers."""
        return SCHEMES[self.scheme].of(self._asked)

    @property
    def _asked(self) -> Asked:
        return Asked(
            masks=self.masks_of,
            sides=self.sides,
            score=self.plan,
            factors=self.factors,
            finish=self.finish,
            weigh=self.weigh,
            ranks=self.ranks,
            inner=self.inner,
            cores=self.cores,
            tensor=self.tensor,
            static_program=self.static_program,
            every_hop=self.every_hop,
            overlap=self.overlap,
            unroll=self.unroll,
        )

    @property
    def hops(self) -> Hops:
        """The hops of the ring.

        Raises:
          LimitExceeded: a scheme without any.
        """
        if not isinstance(self.built.tables, Hops):
            refuse(f"{self.scheme} has no ring, and so no hops")
        return self.built.tables

    @property
    def ring(self) -> Ring:
        """Where the hops are made, and how.

        Raises:
          LimitExceeded: a scheme without any.
        """
        return ring_of(self._asked, self.hops)

    @functools.cached_property
    def program(self) -> Program:
        """The kernel on its mesh."""
        return Program(self.built.kernel, self.mesh, self.specs)

    @property
    def mesh(self) -> dict[str, int]:
        """Axis to size, outermost first."""
        mesh = dict(self.built.mesh)
        if self.tensor > 1:
            # Inner to the ranks: the chips of a rank are neighbours, and hops go over all of them.
            mesh[TENSOR] = self.tensor
        if self.cores > 1:
            # Innermost: cores are parts of a chip, and no exchange between chips runs along them.
            mesh[CORE] = self.cores
        return mesh

    @property
    def core_axes(self) -> tuple[str, ...]:
        """Axes of the mesh over the cores of a rank."""
        return tuple(axis for axis in self.mesh if axis in (TENSOR, CORE))

    @property
    def specs(self) -> tuple[Any, ...]:
        """Along which axes of the mesh each of the program's arguments is dealt out."""
        all_axes = tuple(self.mesh)
        specs = (
            all_axes,  # q
            all_axes,  # k
            all_axes,  # v
            self.built.table_axes,  # work
            (),  # patterns, the same everywhere
        )
        if self._has_score_tables or self.fold is not None:
            # Tables of the score function: the same everywhere, but for factors of keys.
            factored = [all_axes] if self.factors.keys is not None else []
            specs = (*specs, ScoreTables((), (), factored))
        if self.fold is not None:
            # Of a monoid: the same everywhere, and by query.
            specs = (*specs, (), all_axes)
        return specs

    @property
    def lead(self) -> tuple[int, ...]:
        """Sizes of the mesh."""
        return tuple(self.mesh.values())

    # --- values ---

    def run(self, q: ArrayLike, k: ArrayLike, v: ArrayLike) -> Results:
        """Attention.

        Args:
          q: `[queries, heads, head_dim]`.
          k: `[tokens, kv_heads, head_dim]`.
          v: `[tokens, kv_heads, value_dim]`, a head for every `maps` KV heads.

        Returns:
          `[queries, heads, value_dim]`, and the log-sum-exp of the scores, `[queries, heads]`, None
          of a monoid that does not sum their exponentials.
        """
        arguments = self.arguments(q, k, v)
        results = self.program.run(*arguments)
        return self.results(results)

    def exact(self, q: ArrayLike, k: ArrayLike, v: ArrayLike) -> Results:
        """`run` with every tile in float64."""
        arguments = self.arguments(q, k, v)
        results = self.program.exact(*arguments)
        return self.results(results)

    def arguments(self, q: ArrayLike, k: ArrayLike, v: ArrayLike) -> tuple[PyTree, ...]:
        """The program's arguments, operands cast to their dtype."""
        keys_of_a_head = self.tokens, self.kv_heads
        checks.operand("q", q, (self.query_count, self.heads, self.head_dim))
        checks.operand("k", k, (*keys_of_a_head, self.head_dim))
        of_values = self.tokens, self.kv_heads // self.maps
        checks.operand("v", v, (*of_values, self.value_dim or self.head_dim))
        form = layout_mx if self.mx else layout
        laid_out = form.laid_out(q, k, v, self.sides, self.element)
        return *jax.tree.map(self.on_mesh, laid_out), *self.known()

    def known(self) -> tuple[PyTree, ...]:
        """The program's arguments behind its operands: what masks and functions come to."""
        # With which mask is whose: values depend on it, the clock does not.
        work = self.built.known(True)
        patterns = self.built.predicates(self.masks)
        arguments = work, patterns
        of_score = self._tables_of_score()
        if self.fold is None:
            return (*arguments, of_score) if self._has_score_tables else arguments
        return *arguments, of_score, self._tables_of_fold(), self._own_tables()

    @property
    def _has_score_tables(self) -> bool:
        """Whether the kernel takes tables of the score function."""
        factors = self.factors
        is_split = factors.keys is not None or factors.rows is not None
        return self.plan is not None or is_split

    def _tables_of_score(self) -> ScoreTables:
        """What the score function and its factors look up."""
        plan, factors = self.plan, self.factors
        score = [] if plan is None else tables(plan, self._grid(True))
        rows = [] if factors.rows is None else tables(factors.rows, self._grid(True))
        keys = [] if factors.keys is None else [self._by_key(factors.keys)]
        return ScoreTables(score, rows, keys)

    def _by_key(self, factor: Elementwise) -> jax.Array:
        """A factor of keys, laid out as these are: `[*mesh, pieces, kv_heads, 1, keys]`."""
        tiling = self.sizes
        found = self._head_groups.scales(factor, np.arange(self.tokens))
        by_token = found.T[:, :, None]
        by_row = layout.tiled(by_token, self.sides.kv, tiling.keys, tiling.kv_heads)
        (turned,) = layout.by_part(by_row, (1,))
        return self.on_mesh(turned)

    def _tables_of_fold(self) -> FoldTables:
        """What a monoid's functions look up and all ranks have."""
        functions, scales, of_finish = [], [], []
        if self.weigh is not None:
            grid = self._grid(True)
            functions = [tables(plan, grid) for plan in self.weigh.functions]
        if self.weigh is not None and self.weigh.scales is not None:
            located = self.sides.located
            assert located is not None
            found = self._head_groups.scales(self.weigh.scales, located.k.reshape(-1))
            scales = [found.reshape(self._scales_shape)]
        if self.finish is not None:
            of_finish = finish_tables.shared_tables(self.finish, self._span)
        return FoldTables(functions, scales, of_finish)

    @property
    def _scales_shape(self) -> tuple[int, ...]:
        """`[all KV heads, key tiles, span, keys]`."""
        tiling, located = self.sizes, self.sides.located
        assert located is not None
        return self.kv_heads, len(located.k), tiling.span, tiling.keys

    def _own_tables(self) -> list[jax.Array]:
        """Tables of the last step that are of queries, laid out as these are."""
        if self.finish is None:
            return []
        found = []
        tiling = self.sizes
        for table in finish_tables.own_tables(self.finish, self._span):
            by_row = layout.tiled(table, self.sides.q, tiling.rows, tiling.heads)
            by_tile = by_row.transpose(layout.TILES_OF_HEADS)
            found.append(self.on_mesh(by_tile))
        return found

    @property
    def _span(self) -> Span:
        """What the tables of the last step are made for."""
        return Span(
            batch=self.batch,
            heads=self.heads // self.batch,
            first=self.sides.first,
            queries=self.query_count,
            features=self.sizes.value_dim,
        )

    def _grid(self, with_pairs: bool) -> Grid:
        """What the score function's tables are made for; the clock takes one pair of tiles."""
        located = self.sides.located
        assert located is not None
        pairs = np.zeros((1, 2), int)
        if with_pairs:
            pairs, _ = located.places
        heads = self.heads // self.batch
        return Grid(self.batch, heads, located.q, located.k, pairs)

    def on_mesh(self, x: jax.Array) -> jax.Array:
        """`[dealt ranks, cores of a rank, tiles, ...]` to `[*mesh, tiles of a rank, ...]`."""
        dealt, cores, _, *rest = x.shape
        share = self.ranks // dealt
        # The tiles of one that tokens are dealt to are those of the ranks that share them.
        shared = x.reshape(dealt, cores, share, -1, *rest)
        core_axis, share_axis = 1, 2
        cores_last = shared.swapaxes(core_axis, share_axis)
        return cores_last.reshape(*self.lead, -1, *rest)

    def results(self, results: Results) -> Results:
        """The program's results in the order of the sequence."""
        raw_out, raw_lse = results
        where, ranks, cores = self.sides.q, self.ranks, self.sharers
        # Padding is dropped here: its rows attended to nothing, and are 0 with a log-sum-exp of
        # −inf.
        out = layout.output(raw_out, where, ranks, cores)
        if raw_lse is None:
            return out, None
        tiles = self.sizes.block_tiles
        lse = layout.logsumexp(raw_lse, where, ranks, cores, tiles)
        return out, lse

    # --- time ---

    def abstract(self) -> tuple[PyTree, ...]:
        """Shapes of the arguments, and the integers that the clock looks at."""
        tiling = self.sizes
        form = layout_mx if self.mx else layout
        operands = form.abstract(self.lead, tiling)
        work = self.built.known(False)
        masks = self.masks or 1  # the clock does not look which one a tile has
        shape = masks, tiling.rows, tiling.columns
        patterns = jax.ShapeDtypeStruct(shape, jnp.uint8)
        arguments = *operands, work, patterns
        of_score = self._shapes_of_score()
        if self.fold is None:
            return (*arguments, of_score) if self._has_score_tables else arguments
        functions, scales, of_finish, own = [], [], [], []
        if self.weigh is not None:
            grid = self._grid(False)
            functions = [table_shapes(plan, grid) for plan in self.weigh.functions]
            if self.weigh.scales is not None:
                scales = [jax.ShapeDtypeStruct(self._scales_shape, jnp.float32)]
        if self.finish is not None:
            of_finish = finish_tables.shared_shapes(self.finish, self._span)
            for features in finish_tables.own_widths(self.finish, self._span):
                shape = *self.lead, tiling.tiles, tiling.heads, tiling.rows, features
                own.append(jax.ShapeDtypeStruct(shape, jnp.float32))
        return *arguments, of_score, FoldTables(functions, scales, of_finish), own

    def _shapes_of_score(self) -> ScoreTables:
        """Shapes of `_tables_of_score`."""
        plan, factors = self.plan, self.factors
        score = [] if plan is None else table_shapes(plan, self._grid(False))
        rows, keys = [], []
        if factors.rows is not None:
            rows = table_shapes(factors.rows, self._grid(False))
        if factors.keys is not None:
            tiling = self.sizes
            pieces = tiling.key_tiles * tiling.span
            shape = *self.lead, pieces, tiling.kv_heads, 1, tiling.keys
            keys = [jax.ShapeDtypeStruct(shape, jnp.float32)]
        return ScoreTables(score, rows, keys)

    def read(self, device: Device, **options: Any) -> Reading:
        """Reads the clock.

        Raises:
          EmulationError: what `Program.read` raises.
        """
        arguments = self.abstract()
        return self.program.read(device, *arguments, **options)

    def read_bands(
        self, sheet: Sheet, bands: Sequence[str] = BANDS
    ) -> dict[str, Reading]:
        """Reads the clock under bands of a datasheet, by default every one, in one pass."""
        arguments = self.abstract()
        return self.program.read_bands(sheet, *arguments, bands=bands)

    def memory(self, device: Device) -> dict[str, int]:
        """Peak bytes per memory space of one core; masks count as one.

        Raises:
          OutOfMemory: a space is too small.
        """
        arguments = self.abstract()
        return self.program.memory(device, *arguments)


def _check_divides(what: str, whole: int, part: int) -> None:
    if part < 1 or whole < 1 or whole % part:
        refuse(f"{what}: {whole} by {part}, must divide without a rest")


__all__ = ["AUTO", "CORE", "MXFP8", "TENSOR", "ContextAttention"]
