"""Attention by blocks of query tiles that share K/V tiles: which tiles meet, and in which order."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeAlias

import jax.numpy as jnp
from jax import lax

from emu.annotations import KnownInt
from emu.tracing.loop import loop
from emu.trainium.engines.memory import dma_store, hbm
from emu.trainium.spaces import Hbm, Sbuf
from kernels.refusal import refuse
from kernels.trainium.flash.lanes import Lane
from kernels.trainium.flash.step import (
    Attended,
    FlashTiling,
    Masked,
    after_diagonal,
    attend,
    empty,
    load_tokens,
    load_values,
    normalised,
    step_banks,
)
from kernels.trainium.tiles import divide, index, largest_divisor

Lanes: TypeAlias = list[Attended]
"""What each lane of a block has attended to so far."""

Run: TypeAlias = Callable[[Iterable[Lane[Attended]]], Lanes]
"""Runs the lanes of a block: `lanes.in_turn` or `lanes.abreast`."""

Use: TypeAlias = Callable[[Lanes, bool], Lanes]
"""`(done, masked) -> done`: attends to a key tile, masked or whole."""


class Visit(Protocol):
    """Which key tiles a block attends to, and whether masked."""

    def __call__(
        self, use: Use, done: Lanes, offset: KnownInt, span: int, tiling: FlashTiling
    ) -> Lanes:
        """What the block attended to with this key tile.

        Args:
          use: attends to the tile.
          done: what was attended to so far.
          offset: first query's position minus first key's.
          span: queries of the block, without a gap.
          tiling: sizes.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Block:
    """The query tiles that are worked on together: `tiles` of each of `heads` heads.

    Attributes:
      heads: they share a KV head, or are all the query heads of `kv_heads` KV heads.
      kv_heads: KV heads of the block.
      tiles: of a head; they hold no more queries than a K/V tile has keys.
      rows: queries of a tile.
    """

    heads: int
    kv_heads: int
    tiles: int
    rows: int

    @classmethod
    def of(cls, q: Hbm, k: Hbm, tiling: FlashTiling, lanes: int) -> "Block":
        """The largest block of at most `lanes` query tiles.

        With 8 query heads over 2 KV heads, tiles of 128 queries by 512 keys and 16 lanes, a block
        is 4 tiles (512 queries) of the 4 heads that share a KV head.
        """
        all_heads, all_kv_heads = len(q), len(k)
        group = all_heads // all_kv_heads
        # No more queries than a key tile has keys. A block of 8 tiles of 128 queries over keys of
        # 512 would have two key tiles on its diagonal, and the second follows every query of the
        # first four tiles.
        tiles = largest_divisor(
            q.shape[2] // tiling.rows,
            min(lanes, max(1, tiling.columns // tiling.rows)),
        )
        # Whole KV heads or a part of one: 6 heads, where 4 share one, would load a second KV head
        # for half of its queries.
        most_heads = lanes // tiles
        fit = [
            heads
            for heads in range(1, most_heads + 1)
            if all_heads % heads == 0 and (group % heads == 0 or heads % group == 0)
        ]
        heads = max(fit)
        return cls(heads, max(1, heads // group), tiles, tiling.rows)

    @property
    def span(self) -> int:
        """Queries of each head."""
        return self.tiles * self.rows

    @property
    def starts(self) -> range:
        """Where the tiles start in the block."""
        return range(0, self.span, self.rows)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How tiles meet: their sizes, which of them do, and in which order.

    Attributes:
      tiling: sizes of tiles.
      block: the query tiles that share K/V tiles.
      visit: which key tiles a block attends to, and which masked.
      run: in which order the instructions of its lanes are issued.
    """

    tiling: FlashTiling
    block: Block
    visit: Visit
    run: Run


def attention(
    q: Hbm,
    k: Hbm,
    v: Hbm,
    tiling: FlashTiling,
    *,
    visit: Visit,
    run: Run,
    lanes: int = 1,
) -> Hbm:
    """Attends every query tile to the key tiles that it visits, one block after another.

    Args:
      q: HBM `[heads, D, T]`.
      k: HBM `[kv_heads, D, T]`.
      v: HBM `[kv_heads, T, D]`.
      tiling: sizes of tiles.
      visit: which key tiles, and whether masked: `none_masked`, `all_masked`, `up_to_diagonal`.
      run: runs the lanes of a block: `lanes.in_turn` or `lanes.abreast`.
      lanes: most query tiles of a block.

    Returns:
      HBM `[heads, T, D]`.
    """
    heads, _, tokens = q.shape
    if heads % len(k) or len(k) != len(v):
        refuse(
            f"attention: {heads} query heads over {len(k)} heads of keys and {len(v)} of values, "
            "must be a multiple of as many of each"
        )
    block = Block.of(q, k, tiling, lanes)
    schedule = Schedule(tiling, block, visit, run)
    blocks_a_head = tokens // block.span

    def of_group(out: Hbm, group: KnownInt) -> Hbm:
        # 8 query heads over 2 KV heads in blocks of 4: group 1 begins with head 4, of KV head 4 //
        # 4 = 1.
        kv_head, _ = divide(group * block.heads, heads // len(k))
        # Views; what is loaded of them is loaded once for all lanes of a KV head.
        kv = [
            (index(k, kv_head + place), index(v, kv_head + place))
            for place in range(block.kv_heads)
        ]
        own = [group * block.heads + place for place in range(block.heads)]

        def of_block(out: Hbm, place: KnownInt) -> Hbm:
            # A head's queries of a block have no gap, so that one DMA brings all its tiles.
            loaded = [
                load_tokens(index(q, head), place, block.span, tiling) for head in own
            ]
            queries = [
                _tile(tokens, start, tiling)
                for tokens in loaded
                for start in block.starts
            ]
            done = _over_keys(queries, place * block.span, kv, schedule)
            # Tiles are stored as they will be read, head by head: head 1's first of 2 blocks of 4
            # tiles starts at (1 · 2 + 0) · 4 = 8.
            targets = [
                (head * blocks_a_head + place) * block.tiles + tile
                for head in own
                for tile in range(block.tiles)
            ]
            for y, target in zip(normalised(done, tiling), targets, strict=True):
                out = dma_store.at[target](out, y)
            return out

        return loop(of_block, out, blocks_a_head)

    out = hbm(
        heads * tokens // tiling.rows, tiling.rows, tiling.value_dim, dtype=tiling.dtype
    )
    out = loop(of_group, out, heads // block.heads)
    return out.reshape(heads, tokens, tiling.value_dim)


def _tile(queries: Sbuf, start: int, tiling: FlashTiling) -> Sbuf:
    return lax.slice_in_dim(queries, start, start + tiling.rows, axis=1)


def _over_keys(
    queries: Sequence[Sbuf],
    first: KnownInt,
    kv: Sequence[tuple[Hbm, Hbm]],
    schedule: Schedule,
) -> Lanes:
    """Attends the lanes of one block to the key tiles that it visits.

    Args:
      queries: SBUF `[D, rows]` of each lane, head by head.
      first: position of the block's first query.
      kv: HBM keys `[D, T]` and values `[T, D]` of each of the block's KV heads.
      schedule: how tiles meet.

    Returns:
      What each lane attended to.
    """
    tiling, block = schedule.tiling, schedule.block
    lanes_a_kv_head = len(queries) // len(kv)

    def of_key_tile(done: Lanes, place: KnownInt) -> Lanes:
        # Positions run without a gap in a tile, so this one number tells of every score whether its
        # key follows its query.
        offset = first - place * tiling.columns

        # Tiles of a block start at different queries, and so have masks of their own.
        def mask_at(start: int) -> Masked:
            return functools.partial(
                after_diagonal, offset=offset + start, tiling=tiling
            )

        def use(done: Lanes, masked: bool) -> Lanes:
            # Loaded inside the case, so that a dead key tile is not loaded either.
            tiles = [
                (
                    load_tokens(keys, place, tiling.columns, tiling),
                    load_values(values, place, tiling),
                )
                for keys, values in kv
            ]
            masks = [
                mask_at(start) if masked else None
                for _ in range(block.heads)
                for start in block.starts
            ]
            banks = step_banks(tiling)
            # Only made here; `run` issues their instructions, and in which order is the whole
            # difference between `flash_grouped` and `flash_pipelined`.
            lanes = []
            for lane, (q, before, mask) in enumerate(
                zip(queries, done, masks, strict=True)
            ):
                k, v = tiles[lane // lanes_a_kv_head]
                lanes.append(attend([q], [k], v, before, mask, banks, tiling))
            return schedule.run(lanes)

        return schedule.visit(use, done, offset, block.span, tiling)

    # Dead tiles are in the loop too: `offset` is known ahead, and the case that skips has no
    # instruction.
    begun = [empty(tiling) for _ in queries]
    tokens = kv[0][0].shape[1]
    return loop(of_key_tile, begun, tokens // tiling.columns)


# --- which key tiles, and which of them masked: see `Visit` for the arguments ---


def none_masked(
    use: Use, done: Lanes, offset: KnownInt, span: int, tiling: FlashTiling
) -> Lanes:
    """Every key tile as it is."""
    return use(done, False)


def all_masked(
    use: Use, done: Lanes, offset: KnownInt, span: int, tiling: FlashTiling
) -> Lanes:
    """Every key tile, masked."""
    return use(done, True)


def up_to_diagonal(
    use: Use, done: Lanes, offset: KnownInt, span: int, tiling: FlashTiling
) -> Lanes:
    """No key tile that follows every query; those that follow some are masked.

    With 4 queries from position 8 on and key tiles of 4, `offset` is 8, 4, 0, -4 for the first four
    key tiles: two are whole (offset ≥ 3: the last key is not after the first query), the third is
    masked, the fourth dead (offset ≤ -4: the first key is after the last query).
    """
    # The last query, `span - 1` after the first, sees the first key.
    some_allowed = offset > -span
    # The first query sees the last key.
    all_allowed = offset >= tiling.columns - 1
    skip_mask_whole = (
        lambda done: done,
        lambda done: use(done, True),
        lambda done: use(done, False),
    )
    # All implies some, so the sum is 0, 1 or 2.
    case = jnp.int32(some_allowed) + jnp.int32(all_allowed)
    return lax.switch(case, skip_mask_whole, done)


__all__ = [
    "Block",
    "Run",
    "Visit",
    "all_masked",
    "attention",
    "none_masked",
    "up_to_diagonal",
]
