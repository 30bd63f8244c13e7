"""A user's arithmetic on scores, between the matmul that makes them and their softmax.

A score function's values differ in what they depend on, and so in where they come from:

    depends on                   example                  comes from
    score                        20 tanh(s / 20)          instructions, for every tile of scores
    query and key, linearly      q - k                    one `iota`, for every pair of tiles
    query and key                (q - k) // 2             instructions on that, or a table of tiles
    key                          bias[k]                  a table, a row spread over all queries
    query                        log(q)                   a table, a column
    head or batch alone          slope[h]                 a table, one number in all rows

What does not depend on the score and cannot be computed by instructions is a table: it was worked
out before the kernel runs, as masks are, and is read from HBM. What does not depend on the head is
made once for all heads of a block, and what does not depend on the key before the loop over keys.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from emu.annotations import DType, KnownInt
from emu.lower import Constant, Elementwise, Operand, Operation, Slot
from emu.trainium.datasheets.sheet import LOAD_QUEUES
from emu.trainium.engines.memory import dma_load, sbuf
from emu.trainium.isa import iota
from emu.trainium.lower import (
    Column,
    Lowering,
    Value,
    Values,
    check_placeable,
    held,
    is_placeable,
)
from emu.trainium.spaces import Hbm, Psum, Sbuf
from kernels.trainium.context.sizes import ContextTiling
from kernels.trainium.context.work import Positions
from kernels.trainium.flash.lanes import Lane
from kernels.trainium.tiles import index

SCORE, BATCH, HEAD, QUERY, KEY = "s", "b", "h", "q", "k"

Home: TypeAlias = Literal["head", "query", "key", "linear", "pair"]
"""Where a value that does not depend on the score comes from."""


@dataclasses.dataclass(frozen=True)
class Linear:
    """`queries · q + keys · k + constant`, of whole numbers."""

    queries: int
    keys: int
    constant: int


@dataclasses.dataclass(frozen=True, eq=False)
class Leaf:
    """A value that does not depend on the score and that instructions read.

    Attributes:
      slot: of the function.
      home: where it comes from.
      by_head: whether it depends on head or batch.
      linear: for the home `linear`, what of.
      relative: for the home `pair`, whether it depends on `q - k` alone.
    """

    slot: Slot
    home: Home
    by_head: bool
    linear: Linear | None = None
    relative: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class ScorePlan:
    """What of a score function is computed when.

    Attributes:
      function: of score, batch, head, query and key; see `kernels.scores.form`.
      leaves: what is not computed by instructions.
      shared: operations on positions alone, the same for all heads.
      of_head: operations on positions that differ by head.
      of_score: operations on the score.
    """

    function: Elementwise
    leaves: tuple[Leaf, ...]
    shared: tuple[Operation, ...]
    of_head: tuple[Operation, ...]
    of_score: tuple[Operation, ...]

    @classmethod
    def of(cls, function: Elementwise) -> "ScorePlan":
        """Plans a score function.

        Raises:
          CannotLower: no instruction computes something of the score.
        """
        planner = _Planner(function)
        of_score = []
        for operation in function.operations:
            if function.depends_on(Slot(operation.result), SCORE):
                check_placeable(function, operation)
                of_score.append(operation)
        for operation in of_score:
            for operand in operation.operands:
                planner.want(operand)
        planner.want(function.result)
        computed = [x for x in function.operations if x.result in planner.computed]
        of_head = [x for x in computed if _by_head(function, Slot(x.result))]
        shared = [x for x in computed if x not in of_head]
        return cls(
            function,
            tuple(planner.leaves.values()),
            tuple(shared),
            tuple(of_head),
            tuple(of_score),
        )

    @property
    def by_head(self) -> bool:
        """Whether it matters which head a score is of."""
        return any(leaf.by_head for leaf in self.leaves)

    @property
    def pairs(self) -> Literal["none", "relative", "all"]:
        """Which pairs of tiles its tables are of."""
        of_pairs = [leaf for leaf in self.leaves if leaf.home == "pair"]
        if not of_pairs:
            return "none"
        return "relative" if all(leaf.relative for leaf in of_pairs) else "all"

    def of_home(self, *homes: Home, by_head: bool) -> list[tuple[int, Leaf]]:
        """The leaves of some homes with their places among all."""
        found = []
        for place, leaf in enumerate(self.leaves):
            if leaf.home in homes and leaf.by_head == by_head:
                found.append((place, leaf))
        return found


class _Planner:
    """Finds leaves, and what of positions is computed by instructions."""

    def __init__(self, function: Elementwise):
        self._function = function
        self.leaves: dict[int, Leaf] = {}
        self.computed: set[int] = set()

    def want(self, operand: Operand) -> None:
        """Something that instructions read."""
        function = self._function
        if isinstance(operand, Constant) or function.depends_on(operand, SCORE):
            return
        if operand.index in self.leaves or operand.index in self.computed:
            return
        axes = function.axes_of(operand)
        by_head = _by_head(function, operand)
        linear = None if by_head else self._linear(operand)
        if linear is not None and axes:
            leaf = Leaf(operand, "linear", by_head, linear)
        elif axes == {QUERY, KEY}:
            if self._compute(operand):
                return
            relative = self._relative(operand)
            leaf = Leaf(operand, "pair", by_head, relative=relative)
        elif axes == {KEY}:
            leaf = Leaf(operand, "key", by_head)
        elif axes == {QUERY}:
            leaf = Leaf(operand, "query", by_head)
        else:
            leaf = Leaf(operand, "head", by_head)
        self.leaves[operand.index] = leaf

    def _compute(self, operand: Slot) -> bool:
        """Whether instructions compute a value of queries and keys; then they are wanted."""
        within = self._within(operand)
        if within is None:
            return False
        for operation in within:
            self.computed.add(operation.result)
        for operation in within:
            for read in operation.operands:
                self.want(read)
        return True

    def _within(self, operand: Slot) -> list[Operation] | None:
        """The operations on both queries and keys that make an operand; None if one has no
        instruction."""
        function = self._function
        found: list[Operation] = []
        waiting = [operand]
        while waiting:
            slot = waiting.pop()
            operation = function.by_slot[slot.index]
            if not is_placeable(function, operation):
                return None
            found.append(operation)
            for read in operation.operands:
                if isinstance(read, Constant) or function.axes_of(read) != {QUERY, KEY}:
                    continue
                is_linear = (
                    not _by_head(function, read) and self._linear(read) is not None
                )
                if not is_linear:
                    waiting.append(read)
        return found

    def _linear(self, operand: Operand) -> Linear | None:
        """An operand as a linear expression of the positions; None if it is none."""
        function = self._function
        if isinstance(operand, Constant):
            number = operand.number
            whole = isinstance(number, int) and not isinstance(number, bool)
            return Linear(0, 0, int(number)) if whole and number is not None else None
        if operand.index < len(function.inputs):
            name = function.inputs[operand.index].name
            if name not in (QUERY, KEY):
                return None
            return Linear(int(name == QUERY), int(name == KEY), 0)
        operation = function.by_slot[operand.index]
        if operation.shape:
            return None
        parts = [self._linear(x) for x in operation.operands]
        if any(part is None for part in parts):
            return None
        return _combined(operation.name, [part for part in parts if part is not None])

    def _relative(self, operand: Slot) -> bool:
        """Whether positions matter to an operand by `q - k` alone."""
        function = self._function
        waiting: list[Operand] = [operand]
        while waiting:
            read = waiting.pop()
            if isinstance(read, Constant) or not (
                function.axes_of(read) & {QUERY, KEY}
            ):
                continue
            linear = self._linear(read)
            if linear is not None:
                if linear.queries + linear.keys:
                    return False
                continue
            waiting += function.by_slot[read.index].operands
        return True


def _combined(name: str, parts: Sequence[Linear]) -> Linear | None:
    if name == "convert_element_type":
        return parts[0]
    if name == "neg":
        return _times(parts[0], -1)
    if name in ("add", "sub"):
        first, second = parts
        second = _times(second, -1) if name == "sub" else second
        return Linear(
            first.queries + second.queries,
            first.keys + second.keys,
            first.constant + second.constant,
        )
    if name == "mul":
        first, second = parts
        for one, other in ((first, second), (second, first)):
            if not (one.queries or one.keys):
                return _times(other, one.constant)
    return None


def _times(linear: Linear, factor: int) -> Linear:
    return Linear(
        linear.queries * factor, linear.keys * factor, linear.constant * factor
    )


def _by_head(function: Elementwise, operand: Operand) -> bool:
    return function.depends_on(operand, BATCH) or function.depends_on(operand, HEAD)


# --- tables ---


@dataclasses.dataclass(frozen=True, eq=False)
class Grid:
    """What the tables of a score function are made for.

    Attributes:
      batch: sequences.
      heads: query heads of each.
      q: positions of all query tiles, int32 `[tiles, rows]`.
      k: of all key tiles, int32 `[tiles, columns]`.
      pairs: pairs of tiles, `(query tile, key tile)`, of which `pair` tables hold one tile each.
    """

    batch: int
    heads: int
    q: np.ndarray
    k: np.ndarray
    pairs: np.ndarray


def table_shapes(plan: ScorePlan, grid: Grid) -> list[jax.ShapeDtypeStruct]:
    """Shapes of `tables`, without computing them."""
    shapes = []
    _, rows = grid.q.shape
    for leaf in plan.leaves:
        heads = grid.batch * grid.heads if leaf.by_head else 1
        within: dict[str, tuple[int, ...]] = {
            "head": (rows, 1),
            "query": (*grid.q.shape, 1),
            "key": grid.k.shape,
            "linear": (),
            "pair": (len(grid.pairs), rows, grid.k.shape[1]),
        }
        shape = (heads, *within[leaf.home]) if leaf.home != "linear" else (1,)
        shapes.append(jax.ShapeDtypeStruct(shape, _dtype(plan, leaf)))
    return shapes


def tables(plan: ScorePlan, grid: Grid) -> list[jax.Array]:
    """The values of leaves, float32, in HBM.

    Returns:
      For each leaf, `[heads, ...]` or `[1, ...]` where it does not depend on the head: of the home
      `head` `[rows, 1]`, `query` `[tiles, rows, 1]`, `key` `[tiles, columns]`, `pair`
      `[pairs, rows, columns]`, and `linear` nothing.
    """
    return [_table(plan, leaf, grid) for leaf in plan.leaves]


def _dtype(plan: ScorePlan, leaf: Leaf) -> DType:
    """Of a leaf's table."""
    return held(plan.function.dtype_of(leaf.slot))


def _table(plan: ScorePlan, leaf: Leaf, grid: Grid) -> jax.Array:
    if leaf.home == "linear":
        return jnp.zeros((1,), jnp.float32)
    function = plan.function
    dtype = _dtype(plan, leaf)
    batch = np.arange(grid.batch if leaf.by_head else 1)
    head = np.arange(grid.heads if leaf.by_head else 1)
    of_heads = {BATCH: batch, HEAD: head}
    count = len(batch) * len(head)
    _, rows = grid.q.shape
    if leaf.home == "head":
        numbers = _over(function, leaf.slot, of_heads).astype(dtype)
        numbers = numbers.reshape(count, 1, 1)
        return jnp.broadcast_to(numbers, (count, rows, 1))
    if leaf.home == "query":
        found = _over(function, leaf.slot, {**of_heads, QUERY: grid.q.reshape(-1)})
        return found.astype(dtype).reshape(count, *grid.q.shape, 1)
    if leaf.home == "key":
        found = _over(function, leaf.slot, {**of_heads, KEY: grid.k.reshape(-1)})
        return found.astype(dtype).reshape(count, *grid.k.shape)
    tiles = []
    for query_tile, key_tile in grid.pairs:
        positions = {QUERY: grid.q[query_tile], KEY: grid.k[key_tile]}
        found = _over(function, leaf.slot, {**of_heads, **positions})
        tiles.append(found.astype(dtype).reshape(count, rows, -1))
    return jnp.stack(tiles, axis=1)


def _over(
    function: Elementwise, slot: Slot, along: Mapping[str, np.ndarray]
) -> jax.Array:
    """Values at all positions, whose gradients do not become none where nobody attends.

    Of `rate * log(q - k)` the logarithm is no number above the diagonal. Nobody takes it there, so
    its part in the gradient of `rate` is 0 times that, which is no number either. The gradient is
    therefore that of numbers which are finite at every step.
    """
    values = function.over(slot, along)
    if not isinstance(values, Tracer) or not jnp.issubdtype(values.dtype, jnp.floating):
        return values
    finite = function.over(slot, along, finite=True)
    return jax.lax.stop_gradient(values) + (finite - jax.lax.stop_gradient(finite))


# --- in the kernel ---


@dataclasses.dataclass(frozen=True)
class Scoring:
    """A score function in the kernel of one core.

    Attributes:
      plan: what is computed when.
      tables: of its leaves, in HBM.
      steps: from one row's query to the next, and from one column's key to the next.
      factor: of the scores before the function.
      first_head: known integer, which of all heads is the core's first.
    """

    plan: ScorePlan
    tables: Sequence[Hbm]
    steps: tuple[int, int]
    factor: float
    first_head: KnownInt

    def of_query_tile(
        self, positions: Positions, tile: KnownInt, tiling: ContextTiling
    ) -> Values:
        """What all keys and heads share: of a query tile."""
        values: Values = {}
        for place, leaf in self.plan.of_home("query", by_head=False):
            values[leaf.slot.index] = self._column(place, 0, positions, tile, tiling)
        for _, leaf in self.plan.of_home("linear", by_head=False):
            linear = leaf.linear
            assert linear is not None
            if not linear.keys:
                values[leaf.slot.index] = self._counted(
                    linear, positions, tile, None, (tiling.rows, 1), tiling
                )
        return values

    def of_head(
        self,
        positions: Positions,
        head: KnownInt,
        tile: KnownInt,
        tiling: ContextTiling,
    ) -> Values:
        """What all keys share: of a head, and of its query tile."""
        values: Values = {}
        of_all = self.first_head + head
        for place, leaf in self.plan.of_home("head", by_head=True):
            own = index(self.tables[place], of_all)
            values[leaf.slot.index] = Column(self._loaded(own, tiling))
        for place, leaf in self.plan.of_home("query", by_head=True):
            values[leaf.slot.index] = self._column(
                place, of_all, positions, tile, tiling
            )
        return values

    def of_key_tile(
        self, positions: Positions, key_tile: KnownInt, tiling: ContextTiling
    ) -> Values:
        """What all queries and heads share: of a key tile."""
        values: Values = {}
        for place, leaf in self.plan.of_home("key", by_head=False):
            values[leaf.slot.index] = self._row(place, 0, positions, key_tile, tiling)
        for _, leaf in self.plan.of_home("linear", by_head=False):
            linear = leaf.linear
            assert linear is not None
            if linear.keys and not linear.queries:
                values[leaf.slot.index] = self._counted(
                    linear, positions, None, key_tile, _wide(tiling), tiling
                )
        return values

    def of_pair(
        self,
        known: Values,
        positions: Positions,
        tile: KnownInt,
        key_tile: KnownInt,
        tiling: ContextTiling,
    ) -> Values:
        """What all heads share: of a query tile and a key tile."""
        values = dict(known)
        for _, leaf in self.plan.of_home("linear", by_head=False):
            linear = leaf.linear
            assert linear is not None
            if linear.keys and linear.queries:
                values[leaf.slot.index] = self._counted(
                    linear, positions, tile, key_tile, _wide(tiling), tiling
                )
        for place, leaf in self.plan.of_home("pair", by_head=False):
            values[leaf.slot.index] = self._pair(
                place, 0, positions, tile, key_tile, tiling
            )
        lowering = self._lowering(values, tiling, _OF_POSITIONS)
        for operation in self.plan.shared:
            lowering.carry_out(operation)
        return values

    def scored(
        self,
        scores: Psum,
        known: Values,
        positions: Positions,
        head: KnownInt,
        tile: KnownInt,
        key_tile: KnownInt,
        tiling: ContextTiling,
        output: DType = jnp.float32,
    ) -> Lane[Sbuf]:
        """A lane that takes scores out of PSUM as the function makes them, in a dtype."""
        values = dict(known)
        of_all = self.first_head + head
        for place, leaf in self.plan.of_home("key", by_head=True):
            values[leaf.slot.index] = self._row(
                place, of_all, positions, key_tile, tiling
            )
        for place, leaf in self.plan.of_home("pair", by_head=True):
            values[leaf.slot.index] = self._pair(
                place, of_all, positions, tile, key_tile, tiling
            )
        of_positions = self._lowering(values, tiling, _OF_POSITIONS)
        for operation in self.plan.of_head:
            of_positions.carry_out(operation)
            yield
        lowering = self._lowering(values, tiling, "vector", output)
        place = [x.name for x in self.plan.function.inputs].index(SCORE)
        lowering.scaled(Slot(place), scores, self.factor)
        for operation in self.plan.of_score:
            lowering.carry_out(operation)
            yield
        return lowering.result(scores.shape)

    # --- leaves ---

    def _counted(
        self,
        linear: Linear,
        positions: Positions,
        tile: KnownInt | None,
        key_tile: KnownInt | None,
        shape: tuple[int, int],
        tiling: ContextTiling,
    ) -> Value:
        """A linear expression of positions, counted out by GpSimd."""
        q_step, k_step = self.steps
        offset = jnp.int32(linear.constant)
        if tile is not None:
            offset = offset + linear.queries * index(positions.q_first, tile)
        if key_tile is not None:
            offset = offset + linear.keys * index(positions.k_first, key_tile)
        counted = iota(
            self._new(tiling, shape),
            offset,
            steps=(linear.keys * k_step,),
            multiplier=linear.queries * q_step,
        )
        return Column(counted) if shape[1] == 1 else counted

    def _column(
        self,
        place: int,
        head: KnownInt,
        positions: Positions,
        tile: KnownInt,
        tiling: ContextTiling,
    ) -> Column:
        own = index(self.tables[place], head)
        own = index(own, index(positions.q_tile, tile))
        return Column(self._loaded(own, tiling))

    def _row(
        self,
        place: int,
        head: KnownInt,
        positions: Positions,
        key_tile: KnownInt,
        tiling: ContextTiling,
    ) -> Sbuf:
        own = index(self.tables[place], head)
        own = index(own, index(positions.k_tile, key_tile))
        # The same row of HBM to every partition.
        spread = jnp.broadcast_to(own.reshape(1, -1), _wide(tiling))
        return self._loaded(spread, tiling)

    def _pair(
        self,
        place: int,
        head: KnownInt,
        positions: Positions,
        tile: KnownInt,
        key_tile: KnownInt,
        tiling: ContextTiling,
    ) -> Sbuf:
        own = index(self.tables[place], head)
        which = index(index(positions.pair, tile), key_tile)
        own = index(own, which)
        return self._loaded(own, tiling)

    def _loaded(self, own: Hbm, tiling: ContextTiling) -> Sbuf:
        tile = self._new(tiling, own.shape, own.dtype)
        return dma_load(tile, own, queue=_QUEUE)

    def _lowering(
        self,
        values: Values,
        tiling: ContextTiling,
        engine: str,
        output: DType = jnp.float32,
    ) -> Lowering:
        def new(shape: tuple[int, ...], dtype: DType) -> Sbuf:
            return self._new(tiling, shape, dtype)

        return Lowering(self.plan.function, values, new, engine, output)

    def _new(
        self,
        tiling: ContextTiling,
        shape: tuple[int, ...],
        dtype: DType = jnp.float32,
    ) -> Sbuf:
        return sbuf(*shape, dtype=dtype, buffers=tiling.depth)


_QUEUE = LOAD_QUEUES[0]
# The Vector Engine is what attention waits for; what scores are not part of goes to GpSimd.
_OF_POSITIONS = "gpsimd"


def _wide(tiling: ContextTiling) -> tuple[int, int]:
    return tiling.rows, tiling.columns


__all__ = [
    "Grid",
    "Leaf",
    "Linear",
    "ScorePlan",
    "Scoring",
    "table_shapes",
    "tables",
]
