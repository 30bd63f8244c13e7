"""All queries of a rank attend to the keys and values of one source, as far as a table says."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import jax.numpy as jnp
from jax import lax

from emu.annotations import KnownInt, PyTree
from emu.tracing.loop import loop
from emu.trainium.datasheets.sheet import LOAD_QUEUES
from emu.trainium.engines.memory import dma_load, sbuf
from emu.trainium.isa import tensor_tensor
from emu.trainium.spaces import Hbm, Psum, Sbuf
from kernels.trainium.context.forms import Form, form_of
from kernels.trainium.context.operands import KEYS
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
    unit_tiles,
)
from kernels.trainium.context.work import SourceWork
from kernels.trainium.flash.lanes import Lane, abreast
from kernels.trainium.flash.step import Attended, Masked, empty, step_banks
from kernels.trainium.tiles import divide, index


@dataclasses.dataclass(frozen=True)
class RankOperands:
    """What a rank attends with, in HBM and in the form that `form_of` names.

    Attributes:
      q: its queries, as the form's `load_queries` takes them.
      block: keys and values of one source, as its `load_kv` takes them.
      patterns: bfloat16 `[patterns, rows, columns]`, added to scores: 0, or `MASKED`.
    """

    q: Sequence[Hbm]
    block: PyTree
    patterns: Hbm

    def meeting(self, block: PyTree) -> "RankOperands":
        """The same queries with the keys and values of another source."""
        return dataclasses.replace(self, block=block)


class _Place(NamedTuple):
    """Which block of which group of heads."""

    group: KnownInt
    block: KnownInt


Queries: TypeAlias = list[list[Sbuf]]  # tiles of each head of a block
Held: TypeAlias = tuple[Queries, Unit]  # a block in SBUF: its queries and their state


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

    Two sets of tiles take turns, so the carry is: state, the block that was fetched, free tiles.
    """
    work, tiling, first = source.work, source.tiling, source.first
    last_block = tiling.blocks - 1

    def attend_block(
        carry: tuple[State, Held, Held], block: KnownInt
    ) -> tuple[State, Held, Held]:
        state, (queries, own), spare = carry
        place = _Place(group, block)
        alive = index(work.block_needed, block) != 0
        over_keys = functools.partial(_over_keys, source, place, queries)
        # What is dead at first must hold nothing when it comes to life.
        otherwise = functools.partial(nothing, tiling=tiling) if first else _as_it_is
        own = lax.cond(alive, over_keys, otherwise, own)
        # Fetched before this block is stored: its state does not wait for that.
        after = jnp.minimum(block + 1, last_block)
        wanted = (index(work.block_needed, after) != 0) & (block < last_block)
        ahead = _fetch(source, _Place(group, after), spare, state, wanted)
        put = functools.partial(store, unit=source.unit(place))
        # A dead block's state in HBM is written at first too, or nobody ever would.
        otherwise = put if first else lambda state, own: state
        state = lax.cond(alive, put, otherwise, state, own)
        return state, ahead, (queries, own)

    begin = jnp.int32(0)
    tiles = _block_tiles(source)
    wanted = index(work.block_needed, begin) != 0
    held = _fetch(source, _Place(group, begin), tiles, state, wanted)
    carry = state, held, _block_tiles(source)
    state, _, _ = loop(attend_block, carry, tiling.blocks)
    return state


def _as_it_is(own: Unit) -> Unit:
    return own


def _block_tiles(source: _Source) -> Held:
    """SBUF for a block: each head's queries, and the state of its lanes."""
    tiling = source.tiling
    queries = [source.form.query_tiles(tiling) for _ in range(tiling.block_heads)]
    return queries, unit_tiles(tiling)


def _fetch(
    source: _Source, place: _Place, tiles: Held, state: State, wanted: KnownInt
) -> Held:
    """Brings the queries and state of a block into SBUF, if they are `wanted`."""
    tiling = source.tiling

    def fetch(queries: Queries, own: Unit) -> Held:
        first_tile = place.block * tiling.block_tiles
        loaded = []
        for offset, head_tiles in enumerate(queries):
            head = place.group * tiling.block_heads + offset
            queue = LOAD_QUEUES[offset % 2]
            loaded.append(
                source.form.load_queries(
                    head_tiles, source.operands.q, first_tile, head, queue
                )
            )
        if source.first:
            return loaded, own
        return loaded, load(own, state, source.unit(place))

    return lax.cond(wanted, fetch, lambda queries, own: (queries, own), *tiles)


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
    query_tiles = [
        form.query_of(head_tiles, tile, tiling)
        for head_tiles in queries
        for tile in range(tiling.block_tiles)
    ]
    lanes_a_kv_head = len(query_tiles) // tiling.block_kv_heads
    kv_head, _ = divide(place.group * tiling.block_heads, tiling.group)
    status = index(source.work.status, place.block)

    def attend_key_tile(lanes: list[Attended], key_tile: KnownInt) -> list[Attended]:
        def use(lanes: list[Attended], masked: bool) -> list[Attended]:
            kv = [
                form.load_kv(source.operands.block, kv_head + offset, key_tile, tiling)
                for offset in range(tiling.block_kv_heads)
            ]
            masks: list[Masked | None] = [None] * tiling.block_tiles
            if masked:
                masks = _masks(source, place, key_tile)
            banks = step_banks(tiling.step)
            steps = []
            for lane, done in enumerate(lanes):
                mask = masks[lane % tiling.block_tiles]
                keys_values = kv[lane // lanes_a_kv_head]
                q = query_tiles[lane]
                steps.append(form.step(q, keys_values, done, mask, banks, tiling))
            return abreast(steps)

        # In the order of `DEAD`, `PARTIAL`, `FULL`.
        cases = (
            lambda lanes: lanes,
            functools.partial(use, masked=True),
            functools.partial(use, masked=False),
        )
        case = index(status, key_tile).astype(jnp.int32)
        return lax.switch(case, cases, lanes)

    begun = _begun(source, own)
    done = loop(attend_key_tile, begun, tiling.key_tiles)
    return closed(own, _joined(source, own, done), last=source.last)


def _begun(source: _Source, own: Unit) -> list[Attended]:
    """Lanes before their first key tile."""
    tiling = source.tiling
    lanes = range(tiling.block_lanes)
    if source.starts_anew:
        return [empty(tiling.step) for _ in lanes]
    return [stepping(opened(own, lane, tiling), tiling) for lane in lanes]


def _joined(source: _Source, own: Unit, done: Sequence[Attended]) -> list[LaneState]:
    """Lanes after their last key tile, with what they attended to in other sources."""
    tiling = source.tiling
    after = [stepped(lane) for lane in done]
    if source.first or not source.starts_anew:
        return after
    merged = []
    for lane, new in enumerate(after):
        before = opened(own, lane, tiling)
        merged.append(merge(before, new, tiling))
    return merged


def _masks(source: _Source, place: _Place, key_tile: KnownInt) -> list[Masked | None]:
    """How each query tile of the block masks a key tile; its heads share their masks."""
    tiling, patterns = source.tiling, source.operands.patterns
    masks: list[Masked | None] = []
    for offset in range(tiling.block_tiles):
        query_tile = place.block * tiling.block_tiles + offset
        which = index(index(source.work.pattern, query_tile), key_tile)
        tile = sbuf(*patterns.shape[1:], dtype=patterns.dtype, buffers=tiling.buffers)
        bias = dma_load(tile, index(patterns, which), queue=KEYS)
        masks.append(functools.partial(_biased, bias=bias, tiling=tiling))
    return masks


def _biased(scores: Psum, bias: Sbuf, tiling: ContextTiling) -> Lane[Sbuf]:
    """Adds a mask to scores, out of PSUM into SBUF."""
    tile = sbuf(*scores.shape, buffers=tiling.buffers)
    biased = tensor_tensor(tile, scores, bias, op="add")
    yield
    return biased


__all__ = ["RankOperands", "attend_source"]
