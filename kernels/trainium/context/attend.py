"""All queries of a rank attend to the keys and values of one source, as far as a table says."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from emu.annotations import DType, KnownInt, PyTree
from emu.tracing.loop import loop
from emu.trainium.datasheets.sheet import LOAD_QUEUES
from emu.trainium.engines.memory import dma_load, sbuf
from emu.trainium.isa import (
    memset,
    tensor_copy_predicated,
    tensor_copy_predicated_value,
)
from emu.trainium.lower import Values
from emu.trainium.spaces import Hbm, Psum, Sbuf
from kernels.trainium.context.factoring import RowFactors
from kernels.trainium.context.finishing import Finishing
from kernels.trainium.context.forms import Form, form_of
from kernels.trainium.context.operands import KEYS
from kernels.trainium.context.projections import Projections
from kernels.trainium.context.scoring import Scoring
from kernels.trainium.context.sizes import ContextTiling
from kernels.trainium.context.state import (
    LaneState,
    State,
    Unit,
    closed,
    load,
    merge,
    nothing,
    opened,
    stepped,
    stepping,
    store,
    summed,
    summing,
    unit_tiles,
)
from kernels.trainium.context.weighing import (
    Weighing,
    scaled_values,
    weigh_relative,
    weigh_sums,
)
from kernels.trainium.context.work import SourceWork
from kernels.trainium.flash.fold_step import (
    Summed,
    Weigh,
    attend_weighed,
    nothing_summed,
)
from kernels.trainium.flash.lanes import Lane, Lanes, apart, sharing, together
from kernels.trainium.flash.online_softmax import MASKED
from kernels.trainium.flash.step import Attended, Banks, Masked, empty, step_banks
from kernels.trainium.tiles import divide, index


@dataclasses.dataclass(frozen=True)
class RankOperands:
    """What a rank attends with, in HBM and in the form that `form_of` names.

    Attributes:
      q: its queries, as the form's `load_queries` takes them, or what `projections` make these of.
      block: keys and values of one source, as its `load_kv` takes them, or likewise.
      patterns: uint8 `[patterns, rows, columns]`: 1 where a score counts, else 0.
      scoring: what is done to scores before their softmax; None: nothing.
      first_head: known integer, which of all heads is the rank's first.
      finishing: what is made of the sums when all keys are there; None: a softmax's output.
      weighing: what is made of scores besides a softmax; None: nothing.
      projections: what is made of the operands where they are attended with.
      factors: what each row's scores are multiplied by; None: `FlashTiling.scale`.
    """

    q: Sequence[Hbm]
    block: PyTree
    patterns: Hbm
    scoring: Scoring | None = None
    first_head: KnownInt = 0
    finishing: Finishing | None = None
    weighing: Weighing | None = None
    projections: Projections = Projections()
    factors: RowFactors | None = None

    def meeting(self, block: PyTree, tiling: ContextTiling) -> "RankOperands":
        """The same queries with the keys and values of another source, which are made here."""
        made = self.projections.block(block, tiling)
        return dataclasses.replace(self, block=made)

    def asking(self, tiling: ContextTiling) -> "RankOperands":
        """The same block with its queries as they are attended with, which are made here."""
        made = self.projections.queries(self.q, tiling)
        return dataclasses.replace(self, q=made)


class _Place(NamedTuple):
    """Which block of which group of heads."""

    group: KnownInt
    block: KnownInt
    table: KnownInt  # the block's place in tables of blocks


Done: TypeAlias = Attended | Summed
"""What a lane attended to, by a softmax or by other weights."""

Queries: TypeAlias = list[list[Sbuf]]  # tiles of each head of a block
Held: TypeAlias = tuple[Queries, Unit]  # a block in SBUF: its queries and their state
Carry: TypeAlias = tuple[State, Held, Held]  # state, the block fetched, free tiles


@dataclasses.dataclass(frozen=True)
class _Source:
    """What `attend_source` was given, for the functions below."""

    operands: RankOperands
    work: SourceWork
    tiling: ContextTiling
    first: bool
    last: bool
    base: KnownInt

    @property
    def form(self) -> Form:
        return form_of(self.tiling)

    @property
    def starts_anew(self) -> bool:
        """Whether lanes start from nothing: at first, and where sources are merged afterwards."""
        return self.first or self.tiling.recipe != "fp32"

    @property
    def weighing(self) -> Weighing | None:
        """What makes the weights where a softmax does not."""
        weighing = self.operands.weighing
        return None if weighing is None or weighing.plan.is_softmax else weighing

    @property
    def by_head(self) -> bool:
        """Whether heads have masks of their own."""
        # Of blocks there may be one group only, and then as many as of one head.
        tiles, _ = cast(jax.Array, self.work.pattern).shape
        return tiles != self.tiling.tiles

    def place(self, group: KnownInt, block: KnownInt) -> _Place:
        """A block of a group of heads."""
        if not self.by_head:
            return _Place(group, block, block)
        # Tables are of all heads, of which the rank may have a part.
        before, _ = divide(jnp.int32(self.operands.first_head), self.tiling.block_heads)
        return _Place(group, block, (before + group) * self.tiling.blocks + block)

    def head(self, place: _Place, offset: int) -> KnownInt:
        """A head of a block's group, among those of the rank."""
        return place.group * self.tiling.block_heads + offset

    def unit(self, place: _Place) -> KnownInt:
        """Where a block's state is."""
        return self.base + place.group * self.tiling.blocks + place.block


def attend_source(
    operands: RankOperands,
    work: SourceWork,
    state: State,
    tiling: ContextTiling,
    *,
    first: bool,
    last: bool = False,
    base: KnownInt = 0,
) -> State:
    """Attends a rank's queries to one source.

    Args:
      operands: queries of the rank, keys and values of the source.
      work: known integers of this rank and source.
      state: from `empty_state`, or after the source before.
      tiling: sizes.
      first: the state holds nothing yet.
      last: nobody needs the row maxima any more, so they are not stored.
      base: known integer, where in the state the queries' part begins.

    Returns:
      The state, in the same buffers.

    Pseudocode:
      for group of heads, block of query tiles: if any key tile is live:
        load q and state; for key tile, if live: load k, v (and masks); for lane: flash step
        store state
    """
    source = _Source(operands, work, tiling, first, last, base)
    over_blocks = functools.partial(_over_blocks, source)
    return loop(over_blocks, state, tiling.groups)


# --- blocks: query tiles and their state ---


def _over_blocks(source: _Source, state: State, group: KnownInt) -> State:
    """Attends the blocks of a group of heads, each fetched while the one before is worked on.

    Two sets of tiles take turns: one holds the block at hand, the other takes the next.
    """
    work, tiling, first = source.work, source.tiling, source.first
    last_block = tiling.blocks - 1
    # What is dead at first must hold nothing when it comes to life, and its state in HBM is written
    # too, or nobody ever would.
    if_dead = functools.partial(nothing, tiling=tiling) if first else _as_it_is

    def attend_block(carry: Carry, block: KnownInt) -> Carry:
        state, held, spare = carry
        queries, own = held
        place = source.place(group, block)
        alive = index(work.block_needed, place.table) != 0
        over_keys = functools.partial(_over_keys, source, place, queries)
        own = lax.cond(alive, over_keys, if_dead, own)
        # Fetched before this block is stored: its state does not wait for that.
        # Nothing follows the last block; the index stays inside the table, and `wanted` says no.
        after = jnp.minimum(block + 1, last_block)
        next_place = source.place(group, after)
        alive_after = index(work.block_needed, next_place.table) != 0
        wanted = alive_after & (block < last_block)
        ahead = _fetch(source, next_place, spare, state, wanted)
        put = functools.partial(store, unit=source.unit(place))

        def leave(state: State, own: Unit) -> State:
            return state

        # Later a dead block's state is in HBM already, as it was.
        put_if_dead = put if first else leave
        state = lax.cond(alive, put, put_if_dead, state, own)
        # These tiles are free for the block after the next.
        return state, ahead, (queries, own)

    begin = jnp.int32(0)
    tiles = _block_tiles(source)
    first_place = source.place(group, begin)
    wanted = index(work.block_needed, first_place.table) != 0
    held = _fetch(source, first_place, tiles, state, wanted)
    spare = _block_tiles(source)
    carry = state, held, spare
    state, _, _ = loop(attend_block, carry, tiling.blocks)
    return state


def _as_it_is(own: Unit) -> Unit:
    return own


def _block_tiles(source: _Source) -> Held:
    """SBUF for a block: each head's queries, and the state of its lanes."""
    tiling = source.tiling
    queries = []
    for _ in range(tiling.block_heads):
        queries.append(source.form.query_tiles(tiling))
    own = unit_tiles(tiling)
    return queries, own


def _fetch(
    source: _Source,
    place: _Place,
    tiles: Held,
    state: State,
    wanted: KnownInt,
) -> Held:
    """Brings the queries and state of a block into SBUF, if they are `wanted`."""
    tiling = source.tiling

    def fetch(queries: Queries, own: Unit) -> Held:
        first_tile = place.block * tiling.block_tiles
        loaded = []
        for offset, head_tiles in enumerate(queries):
            of_head = source.form.load_queries(
                head_tiles,
                source.operands.q,
                first=first_tile,
                head=source.head(place, offset),
                # Heads in turn on both queues, each of which starts one load after another.
                queue=LOAD_QUEUES[offset % 2],
            )
            loaded.append(of_head)
        # Fresh HBM holds NaN: of the first source there is no state to fetch.
        if source.first:
            return loaded, own
        own = load(own, state, source.unit(place))
        return loaded, own

    def leave(queries: Queries, own: Unit) -> Held:
        return queries, own

    return lax.cond(wanted, fetch, leave, *tiles)


# --- a block's key tiles ---


def _over_keys(source: _Source, place: _Place, queries: Queries, own: Unit) -> Unit:
    """Attends a block's lanes to the source's live key tiles.

    Args:
      source: keys and values, and what is known of them.
      place: of the block.
      queries: tiles of each of its heads.
      own: its state.

    Returns:
      The state, in the same tiles.
    """
    tiling, form = source.tiling, source.form
    # Lanes stand head by head: of 2 heads with 4 tiles each, lane 5 is tile 1 of the second.
    query_tiles = []
    for head_tiles in queries:
        for tile in range(tiling.block_tiles):
            query_tiles.append(form.query_of(head_tiles, tile, tiling))
    lanes_a_kv_head = len(query_tiles) // tiling.block_kv_heads
    first_head = place.group * tiling.block_heads
    # 8 query heads a KV head in blocks of 4: group 3 begins with head 12, of KV head 1.
    first_kv_head, _ = divide(first_head, tiling.group)
    status = index(source.work.status, place.table)
    known = _known_of_block(source, place, source.operands.scoring)
    of_functions = _known_of_functions(source, place)
    factors = _row_factors(source, place)

    def attend_key_tile(lanes: Lanes, key_tile: KnownInt) -> Lanes:
        def use(lanes: Lanes, masked: bool) -> Lanes:
            block = source.operands.block
            kv = []
            for offset in range(tiling.block_kv_heads):
                kv_head = first_kv_head + offset
                loaded = form.load_kv(block, kv_head, key_tile, tiling)
                kv.append(_scaled(source, loaded, kv_head, key_tile))
            counts = _counts(source, place, key_tile) if masked else []
            taken = _taken(source, place, key_tile, known, counts)
            weighs = []
            if source.weighing is not None:
                weighs = _weighs(source, place, key_tile, taken, of_functions, counts)

            def step(lane: int, done: Any, banks: Banks) -> Lane[Any]:
                of_kv_head = kv[lane // lanes_a_kv_head]
                if weighs:
                    keys, values = of_kv_head
                    return attend_weighed(
                        query_tiles[lane],
                        keys,
                        values,
                        done,
                        weighs[lane],
                        banks,
                        tiling.step,
                    )
                return form.step(
                    q=query_tiles[lane],
                    kv=of_kv_head,
                    done=done,
                    masked=taken[lane],
                    banks=banks,
                    tiling=tiling,
                    factor=factors[lane],
                )

            # Banks are shared by all lanes: while one waits for its softmax, another's scores take
            # the next bank.
            share = functools.partial(step_banks, tiling.step)
            return sharing(step, lanes, tiling.block_lanes, share)

        # In the order of `DEAD`, `PARTIAL`, `FULL`.
        cases = (
            lambda lanes: lanes,
            functools.partial(use, masked=True),
            functools.partial(use, masked=False),
        )
        case = index(status, key_tile).astype(jnp.int32)
        return lax.switch(case, cases, lanes)

    begun = together(_begun(source, own))
    done = loop(attend_key_tile, begun, tiling.key_tiles)
    lanes = _joined(source, own, apart(done, tiling.block_lanes))
    return closed(own, lanes, tiling, last=source.last)


def _scaled(
    source: _Source, kv: PyTree, kv_head: KnownInt, key_tile: KnownInt
) -> PyTree:
    """Keys and values of a tile, the values times their factor if they have one."""
    weighing, positions = source.operands.weighing, source.work.positions
    if weighing is None or weighing.scales is None or positions is None:
        return kv
    keys, values = kv
    before, _ = divide(jnp.int32(source.operands.first_head), source.tiling.group)
    of_head = index(weighing.scales, before + kv_head)
    of_tile = index(of_head, index(positions.k_tile, key_tile))
    return keys, scaled_values(values, of_tile, source.tiling)


def _row_factors(source: _Source, place: _Place) -> Sequence[Sbuf | None]:
    """Of each lane of a block what its rows' scores are multiplied by, if they differ."""
    tiling, factors = source.tiling, source.operands.factors
    positions = source.work.positions
    if factors is None or positions is None:
        return [None] * tiling.block_lanes
    first_head = source.operands.first_head + source.head(place, 0)
    first_tile = _tile(source, place, 0)
    return factors.columns(positions, first_head, first_tile, tiling)


def _begun(source: _Source, own: Unit) -> list[Done]:
    """Lanes before their first key tile."""
    tiling = source.tiling
    lanes = range(tiling.block_lanes)
    is_softmax = source.weighing is None
    # In `bf16-o` a source's output is summed in float32 from nothing, and rounded to bfloat16 only
    # when it is done.
    if source.starts_anew:
        if is_softmax:
            return [empty(tiling.step) for _ in lanes]
        greatest = tiling.greatest
        return [
            nothing_summed(tiling.step, tiling.sums, greatest=greatest) for _ in lanes
        ]
    begun = []
    for lane in lanes:
        before = opened(own, lane, tiling)
        take = stepping if is_softmax else summing
        begun.append(take(before, tiling))
    return begun


def _joined(source: _Source, own: Unit, done: Sequence[Done]) -> list[LaneState]:
    """Lanes after their last key tile, with what they attended to in other sources."""
    tiling = source.tiling
    after = [
        stepped(lane) if isinstance(lane, Attended) else summed(lane) for lane in done
    ]
    # Lanes that began with the state hold it already.
    if source.first or not source.starts_anew:
        return after
    merged = []
    for lane, new in enumerate(after):
        before = opened(own, lane, tiling)
        merged.append(merge(before, new, tiling))
    return merged


# --- scores on their way from PSUM to their softmax ---


def _known_of_functions(source: _Source, place: _Place) -> list[list[Values]]:
    """The same as `_known_of_block` of every factor of weights and sums."""
    weighing = source.weighing
    if weighing is None:
        return []
    return [_known_of_block(source, place, x) for x in weighing.functions]


def _known_of_block(
    source: _Source, place: _Place, scoring: Scoring | None
) -> list[Values]:
    """What a score function knows of each lane before its first key tile."""
    tiling = source.tiling
    positions = source.work.positions
    if scoring is None or positions is None:
        return []
    of_tiles = []
    for offset in range(tiling.block_tiles):
        tile = _tile(source, place, offset)
        of_tiles.append(scoring.of_query_tile(positions, tile, tiling))
    known = []
    for head_offset in range(tiling.block_heads):
        head = source.head(place, head_offset)
        for offset in range(tiling.block_tiles):
            tile = _tile(source, place, offset)
            of_head = scoring.of_head(positions, head, tile, tiling)
            known.append({**of_tiles[offset], **of_head})
    return known


def _tile(source: _Source, place: _Place, offset: int) -> KnownInt:
    """A query tile of a block, among those of a head."""
    return place.block * source.tiling.block_tiles + offset


def _taken(
    source: _Source,
    place: _Place,
    key_tile: KnownInt,
    known: Sequence[Values],
    counts: Sequence[Sbuf],
) -> list[Masked | None]:
    """How each lane's scores are taken out of PSUM: as a function makes them, masked, or both."""
    tiling = source.tiling
    # Without a greatest the function gives weights, of which the values' are as values are.
    weighs = source.weighing is not None and not tiling.greatest
    is_summed = (
        weighs and source.weighing is not None and source.weighing.plan.sums_weights
    )
    scored = _scored(
        source,
        place,
        key_tile,
        known,
        source.operands.scoring,
        tiling.step.dtype if weighs and not is_summed else jnp.float32,
    )
    nothing = 0.0 if weighs else MASKED
    # However small a row's factor is, nothing of what it multiplies may be left.
    masked_score = MASKED if source.operands.factors is None else -np.inf
    taken: list[Masked | None] = []
    for lane in range(tiling.block_lanes):
        # Lanes stand head by head. Where all heads have the same masks, lane 5 of 4 tiles a head
        # has that of tile 1.
        of_lane = counts[lane % len(counts)] if counts else None
        score = scored[lane] if scored else None
        if score is not None:
            masked = functools.partial(
                _scored_and_masked, score, counts=of_lane, nothing=nothing
            )
            taken.append(masked)
        elif of_lane is not None:
            selected = functools.partial(
                _selected, counts=of_lane, tiling=tiling, nothing=masked_score
            )
            taken.append(selected)
        else:
            taken.append(None)
    return taken


def _weighs(
    source: _Source,
    place: _Place,
    key_tile: KnownInt,
    taken: Sequence[Masked | None],
    of_functions: Sequence[Sequence[Values]],
    counts: Sequence[Sbuf],
) -> list[Weigh]:
    """How each lane's scores become weights that are not a softmax's."""
    weighing, tiling = source.weighing, source.tiling
    assert weighing is not None
    by_function = [
        _scored(source, place, key_tile, known, scoring, jnp.float32)
        for known, scoring in zip(of_functions, weighing.functions, strict=True)
    ]
    weighs: list[Weigh] = []
    for lane in range(tiling.block_lanes):
        of_lane = counts[lane % len(counts)] if counts else None
        functions: list[Masked] = []
        for scored in by_function:
            # Of a pair that is not attended nothing is summed, whatever its factor is.
            function = functools.partial(
                _scored_and_masked, scored[lane], counts=of_lane, nothing=0.0
            )
            functions.append(function)
        first = taken[lane]
        if tiling.greatest:
            weigh = weigh_relative(weighing.plan, first, functions, tiling)
        else:
            assert first is not None
            weigh = weigh_sums(weighing.plan, first, functions, tiling)
        weighs.append(weigh)
    return weighs


def _scored(
    source: _Source,
    place: _Place,
    key_tile: KnownInt,
    known: Sequence[Values],
    scoring: Scoring | None,
    dtype: DType,
) -> list[Masked]:
    """What a function does to each lane's scores, in tiles of a dtype; nothing without one."""
    tiling = source.tiling
    positions = source.work.positions
    if scoring is None or positions is None:
        return []
    of_keys = scoring.of_key_tile(positions, key_tile, tiling)
    of_pairs = []
    for offset in range(tiling.block_tiles):
        tile = _tile(source, place, offset)
        # What a tile's heads know in common: they stand one behind the other in `known`.
        shared = {**known[offset], **of_keys}
        pair = scoring.of_pair(shared, positions, tile, key_tile, tiling)
        of_pairs.append(pair)
    scored: list[Masked] = []
    for lane, of_lane in enumerate(known):
        head_offset, offset = divmod(lane, tiling.block_tiles)
        function = functools.partial(
            scoring.scored,
            known={**of_pairs[offset], **of_lane},
            positions=positions,
            head=source.head(place, head_offset),
            tile=_tile(source, place, offset),
            key_tile=key_tile,
            tiling=tiling,
            output=dtype,
        )
        scored.append(function)
    return scored


def _counts(source: _Source, place: _Place, key_tile: KnownInt) -> list[Sbuf]:
    """Which scores of a key tile count for each query tile of a block, or for each of its lanes.

    A block is partial as a whole; a whole query tile in it has a mask of ones.
    """
    tiling, patterns = source.tiling, source.operands.patterns
    _, *shape = patterns.shape
    heads = tiling.block_heads if source.by_head else 1
    counts = []
    for head_offset in range(heads):
        for offset in range(tiling.block_tiles):
            query_tile = _tile(source, place, offset)
            if source.by_head:
                head = source.operands.first_head + source.head(place, head_offset)
                query_tile = head * tiling.tiles + query_tile
            by_key_tile = index(source.work.pattern, query_tile)
            which = index(by_key_tile, key_tile)
            tile = sbuf(*shape, dtype=patterns.dtype, buffers=tiling.buffers)
            own = index(patterns, which)
            counts.append(dma_load(tile, own, queue=KEYS))
    return counts


def _selected(
    scores: Psum, counts: Sbuf, tiling: ContextTiling, nothing: float
) -> Lane[Sbuf]:
    """Takes the scores that count out of PSUM into SBUF, among `nothing` for those that do not."""
    # Selected, not moved far down by a sum: NaN or infinity in a key that nobody attends to would
    # still be one, and its row's maximum with it.
    tile = sbuf(*scores.shape, buffers=tiling.buffers)
    # By GpSimd, which has time, while the Tensor Engine is at the scores.
    tile = memset(tile, value=nothing, engine="gpsimd")
    yield
    selected = tensor_copy_predicated(tile, scores, counts)
    yield
    return selected


def _scored_and_masked(
    score: Masked, scores: Psum, counts: Sbuf | None, nothing: float
) -> Lane[Sbuf]:
    """Takes scores out of PSUM as a function makes them, and `nothing` in place of those that do
    not count."""
    scored = yield from score(scores)
    if counts is None:
        return scored
    yield
    return tensor_copy_predicated_value(scored, counts, value=nothing, reverse=True)


__all__ = ["RankOperands", "attend_source"]
