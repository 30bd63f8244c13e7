"""Which tiles of each source a rank attends to, and how: from a mask and a placement."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np

from emu import Known
from kernels.masks.by_head import Masks
from kernels.masks.catalogue import Mask
from kernels.masks.tile_map import DEAD, FULL, PARTIAL, patterns, tile_map
from kernels.refusal import refuse
from kernels.tokens.placement import Placement
from kernels.trainium.context.sizes import ContextTiling
from kernels.trainium.context.work import Positions, SourceWork

PairTable: TypeAlias = Literal["none", "relative", "all"]
"""What a score function's table of pairs of tiles holds: none, one for each distance between two
tiles, or one for each pair."""

_ZERO = np.int32(0)

# Dimensions of `Tables.status`.
_RANK, _SOURCE, _BLOCK, _KEY_TILE = range(4)


@dataclasses.dataclass(frozen=True, eq=False)
class Sides:
    """Where queries and keys of a sequence stand.

    Attributes:
      q: placement of the queries: of all tokens, or of the last ones.
      kv: placement of keys and values, of all tokens.
      tiling: sizes of one rank.
      first: position of the first query in the sequence.
      pairs: which table a score function reads by pairs of tiles; see `Located`.
    """

    q: Placement
    kv: Placement
    tiling: ContextTiling
    first: int = 0
    pairs: PairTable | None = None

    @property
    def q_positions(self) -> np.ndarray:
        """int32 `[ranks, tiles, rows]`; those of padding are beyond the sequence."""
        among_queries = self.q.positions()
        by_tile = among_queries.reshape(self.q.ranks, -1, self.tiling.rows)
        # Padding stands behind the last query, which is the last token: it is beyond the sequence
        # as well.
        return by_tile + np.int32(self.first)

    @property
    def k_positions(self) -> np.ndarray:
        """int32 `[ranks, key tiles, columns]`."""
        positions = self.kv.positions()
        return positions.reshape(self.kv.ranks, -1, self.tiling.columns)

    @functools.cached_property
    def located(self) -> "Located | None":
        """Where tiles stand, if a score function asks."""
        if self.pairs is None:
            return None
        return Located.of(self.q_positions, self.k_positions, self.pairs)

    def map(self, masks: Masks) -> np.ndarray:
        """`tile_map` of every block of queries and every key tile, int8 `[ranks, blocks, ranks,
        key tiles]`.

        Args:
          masks: one, or one for each head; then blocks are those of each group of heads in turn.
        """
        # A kernel's tables are made of it, and a report counts it again.
        kept = tuple(masks)
        if kept not in self._maps:
            self._maps[kept] = self._map_of_heads(masks)
        return self._maps[kept].copy()

    @functools.cached_property
    def _maps(self) -> dict[tuple[Mask, ...], np.ndarray]:
        return {}

    def _map_of_heads(self, masks: Masks) -> np.ndarray:
        if len(masks) == 1:
            return self._map(masks[0])
        maps: dict[int, np.ndarray] = {}
        for mask in masks:
            if id(mask) not in maps:
                maps[id(mask)] = self._map(mask)
        by_head = [maps[id(mask)] for mask in masks]
        together = self.tiling.block_heads
        groups = []
        for first in range(0, len(masks), together):
            # Heads of a block are worked on together: it is dead or whole where it is for all.
            heads = np.stack(by_head[first : first + together])
            least, most = heads.min(0), heads.max(0)
            groups.append(np.where(least == most, most, np.int8(PARTIAL)))
        return np.concatenate(groups, axis=1)

    def _map(self, mask: Mask) -> np.ndarray:
        block_rows = self.tiling.block_tiles * self.tiling.rows
        among_queries = self.q.grids(block_rows)
        # Of 1,000 tokens the last 100 are queries: the first of them is at position 900.
        start = among_queries.start + self.first
        queries = dataclasses.replace(among_queries, start=start)
        keys = self.kv.grids(self.tiling.columns)
        return tile_map(mask, self.kv.tokens, queries, keys)


@dataclasses.dataclass(frozen=True, eq=False)
class Located:
    """All tiles of a sequence, in its order, so that a tile is known by its first position.

    Attributes:
      q: positions of all query tiles, int32 `[tiles, rows]`, sorted.
      k: of all key tiles, int32 `[key tiles, columns]`, sorted.
      steps: from one row's query to the next, and from one column's key to the next.
      pairs: see `PairTable`.
    """

    q: np.ndarray
    k: np.ndarray
    steps: tuple[int, int]
    pairs: PairTable

    @classmethod
    def of(
        cls, q_positions: np.ndarray, k_positions: np.ndarray, pairs: PairTable
    ) -> "Located":
        """From positions `[ranks, tiles, n]` of queries and of keys."""
        q, q_step = _in_order(q_positions)
        k, k_step = _in_order(k_positions)
        return cls(q, k, (q_step, k_step), pairs)

    @functools.cached_property
    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """The pairs of tiles that a table holds, int `[pairs, 2]`, and which one each pair of all
        tiles has, int32 `[tiles, key tiles]`."""
        first_q, first_k = self.q[:, 0], self.k[:, 0]
        queries, keys = np.indices((len(first_q), len(first_k))).reshape(2, -1)
        if self.pairs == "all":
            places = np.arange(len(queries), dtype=np.int32)
        elif self.pairs == "relative":
            # At one distance all pairs of tiles are alike: they have the same steps.
            apart = first_q[queries] - first_k[keys]
            _, first, places = np.unique(apart, return_index=True, return_inverse=True)
            shape = len(first_q), len(first_k)
            chosen = np.stack([queries[first], keys[first]], axis=1)
            return chosen, places.astype(np.int32).reshape(shape)
        else:
            return np.zeros((0, 2), int), np.zeros((1, 1), np.int32)
        return np.stack([queries, keys], axis=1), places.reshape(len(first_q), -1)


def _in_order(positions: np.ndarray) -> tuple[np.ndarray, int]:
    """Tiles by their first position, and the one step from each position to the next."""
    *_, size = positions.shape
    tiles = positions.reshape(-1, size)
    tiles = tiles[np.argsort(tiles[:, 0], kind="stable")]
    steps = np.unique(np.diff(tiles, axis=1))
    if len(steps) > 1:
        refuse(f"positions within a tile are {steps.tolist()} apart, must be one step")
    return tiles, int(steps[0]) if len(steps) else 1


@dataclasses.dataclass(frozen=True, eq=False)
class Tables:
    """The tiles of every rank's sources.

    Attributes:
      masks_of: which keys a query attends to: one mask, or one for each head.
      tokens: of the sequence.
      status: int8 `[ranks, sources, blocks, key tiles]`: `DEAD`, `PARTIAL` (masked) or `FULL`.
      q_positions: int32 `[groups, tiles, rows]`.
      k_positions: int32 `[groups, key tiles, columns]`.
      q_of, k_of: int `[ranks, sources]`: which group of positions a rank's queries and keys have.
      blocks: of query tiles of one head.
      located: where tiles stand, if a score function asks.
    """

    masks_of: Masks
    tokens: int
    status: np.ndarray
    q_positions: np.ndarray
    k_positions: np.ndarray
    q_of: np.ndarray
    k_of: np.ndarray
    blocks: int
    located: Located | None = None

    @property
    def query_tiles(self) -> int:
        """Query tiles of a source."""
        return self.q_positions.shape[1]

    def for_all_ranks(self) -> "Tables":
        """The tables of one program that cannot skip by rank: a tile is dead or whole only where it
        is on every rank, and masked else."""
        # Masked is always right: the mask of a dead tile leaves nothing, that of a whole one all.
        least = self.status.min(_RANK)
        most = self.status.max(_RANK)
        agreed = np.where(least == most, most, np.int8(PARTIAL))
        status = np.broadcast_to(agreed, self.status.shape)
        return dataclasses.replace(self, status=status)

    def kept(self, sources: Sequence[int]) -> "Tables":
        """Only some of the sources, by index."""
        which = list(sources)
        return dataclasses.replace(
            self,
            status=self.status[:, which],
            q_of=self.q_of[:, which],
            k_of=self.k_of[:, which],
        )

    @functools.cached_property
    def needed(self) -> np.ndarray:
        """Whether a rank attends to anything of a source, bool `[ranks, sources]`."""
        live = self.status != DEAD
        return live.any((_BLOCK, _KEY_TILE))

    @functools.cached_property
    def masks(self) -> tuple[np.ndarray, np.ndarray]:
        """Distinct masks of query tile and key tile, and which of them each pair has.

        Returns:
          bool `[masks, rows, columns]`, and int32 `[ranks, sources, tiles, key tiles]`, 0 where no
          mask is wanted; where masks differ by head, the tiles are those of each head in turn.
        """
        partial = self._partial
        which = np.zeros(partial.shape, np.int32)
        found = []
        count = 0
        for head, mask in enumerate(self.masks_of):
            own = slice(head * self.query_tiles, (head + 1) * self.query_tiles)
            rank, source, tile, key_tile = np.nonzero(partial[:, :, own])
            if not len(rank):
                continue
            q_group = self.q_of[rank, source]
            k_group = self.k_of[rank, source]
            of_head, index = patterns(
                mask,
                self.tokens,
                self.q_positions[q_group, tile],
                self.k_positions[k_group, key_tile],
            )
            which[rank, source, own.start + tile, key_tile] = index + count
            count += len(of_head)
            found.append(of_head)
        if not found:
            # One mask that masks nothing: the kernel's operand cannot be empty.
            _, _, rows = self.q_positions.shape
            _, _, columns = self.k_positions.shape
            return np.ones((1, rows, columns), bool), which
        return np.concatenate(found), which

    def pairs(self) -> np.ndarray:
        """Pairs of a query and a key that are attended, int64 of each mask in `masks_of`."""
        _, _, rows = self.q_positions.shape
        _, _, columns = self.k_positions.shape
        found, which = self.masks
        of_mask = found.sum((1, 2), dtype=np.int64)
        # Of a whole tile all pairs are of real tokens.
        full, partial = self._tiles_of(FULL), self._partial
        pairs = np.where(full, rows * columns, np.where(partial, of_mask[which], 0))
        ranks, sources, _, key_tiles = pairs.shape
        shape = ranks, sources, len(self.masks_of), self.query_tiles, key_tiles
        return pairs.reshape(shape).sum((0, 1, 3, 4), dtype=np.int64)

    @property
    def _partial(self) -> np.ndarray:
        """Whether a query tile is masked, bool `[ranks, sources, tiles, key tiles]`."""
        return self._tiles_of(PARTIAL)

    def _tiles_of(self, kind: int) -> np.ndarray:
        """Whether a query tile has a status, bool `[ranks, sources, tiles, key tiles]`."""
        ranks, sources, blocks, key_tiles = self.status.shape
        blocks_of = self.status == kind
        # A block is masked as a whole, and each of its query tiles has a mask of its own.
        if len(self.masks_of) == 1:
            return np.repeat(blocks_of, self.query_tiles // blocks, axis=_BLOCK)
        # Two groups of two heads with one block each: heads 0 and 1 are masked where group 0 is.
        heads = len(self.masks_of)
        groups = blocks // self.blocks
        by_group = blocks_of.reshape(ranks, sources, groups, self.blocks, key_tiles)
        by_head = np.repeat(by_group, heads // groups, axis=2)
        by_tile = np.repeat(by_head, self.query_tiles // self.blocks, axis=3)
        return by_tile.reshape(ranks, sources, heads * self.query_tiles, key_tiles)

    def joined(self) -> "Tables":
        """All sources as one: their key tiles one after another."""
        ranks, sources, blocks, key_tiles = self.status.shape
        # A gathered buffer has rank after rank, and key tiles within: this is the same order.
        all_key_tiles = sources * key_tiles
        by_block = self.status.transpose(_RANK, _BLOCK, _SOURCE, _KEY_TILE)
        status = by_block.reshape(ranks, 1, blocks, all_key_tiles)
        k_positions = self.k_positions.reshape(1, all_key_tiles, -1)
        return dataclasses.replace(
            self,
            status=status,
            k_positions=k_positions,
            q_of=self.q_of[:, :1],
            k_of=np.zeros((ranks, 1), int),
        )

    def tiled(self, rows: int, columns: int) -> "Tables":
        """For ranks in a mesh of rows and columns: source n of a rank is the queries of column n of
        its row, against the keys of its own column, row after row. `self` is from `by_source`."""
        _, _, blocks, key_tiles = self.status.shape
        ranks = rows * columns
        all_key_tiles = rows * key_tiles
        # Both ranks of a status are split: whose queries, and whose keys.
        by_mesh = self.status.reshape(
            rows,
            columns,
            rows,
            columns,
            blocks,
            key_tiles,
        )
        q_row, q_column, k_row, k_column, block, key_tile = range(6)
        # A rank is at the row of the queries and the column of the keys that it meets.
        rank_axes = q_row, k_column
        key_axes = k_row, key_tile
        by_rank = by_mesh.transpose(*rank_axes, q_column, block, *key_axes)
        status = by_rank.reshape(ranks, columns, blocks, all_key_tiles)
        by_row = self.k_positions.reshape(rows, columns, key_tiles, -1)
        by_column = by_row.swapaxes(0, 1)
        k_positions = by_column.reshape(columns, all_key_tiles, -1)
        # On a mesh of 2 by 3, rank 4 is at row 1 and column 1: it meets the queries of ranks 3, 4
        # and 5 with the keys of column 1.
        rank, source = np.indices((ranks, columns))
        first_of_row = rank // columns * columns
        return dataclasses.replace(
            self,
            status=status,
            k_positions=k_positions,
            q_of=first_of_row + source,
            k_of=rank % columns,
        )

    def known(
        self,
        *,
        with_masks: bool,
        lead: tuple[int, ...],
        first: int = 0,
    ) -> SourceWork:
        """The kernel's known integers, of every rank and source.

        Args:
          with_masks: False leaves out which mask is whose: the clock does not look.
          lead: dimensions of the mesh that ranks fill.
          first: place of the first mask among those that the kernel is given.
        """
        if with_masks:
            _, which = self.masks
            pattern = which + np.int32(first)
        else:
            ranks, sources, _, key_tiles = self.status.shape
            heads = len(self.masks_of)
            shape = ranks, sources, heads * self.query_tiles, key_tiles
            # One zero seen everywhere: of 64 ranks with 128 by 32 tiles the table would be 67 MB.
            pattern = np.broadcast_to(_ZERO, shape)
        needed = self.needed.astype(np.int8)
        live = self.status != DEAD
        block_needed = live.any(_KEY_TILE).astype(np.int8)
        return SourceWork(
            needed=by_rank(needed, lead),
            pattern=by_rank(pattern, lead),
            block_needed=by_rank(block_needed, lead),
            status=by_rank(self.status, lead),
            positions=self._positions(with_masks, lead),
        )

    def _positions(self, with_pairs: bool, lead: tuple[int, ...]) -> Positions | None:
        """Where each source's tiles stand; the clock does not look which pair a tile has."""
        located = self.located
        if located is None:
            return None
        q_first = self.q_positions[self.q_of][..., 0]
        k_first = self.k_positions[self.k_of][..., 0]
        q_tile = np.searchsorted(located.q[:, 0], q_first).astype(np.int32)
        k_tile = np.searchsorted(located.k[:, 0], k_first).astype(np.int32)
        pair = np.broadcast_to(_ZERO, (*q_tile.shape, k_tile.shape[-1]))
        if with_pairs and located.pairs != "none":
            _, places = located.places
            pair = places[q_tile[..., np.newaxis], k_tile[:, :, np.newaxis]]
        return Positions(
            q_first=by_rank(q_first, lead),
            k_first=by_rank(k_first, lead),
            q_tile=by_rank(q_tile, lead),
            k_tile=by_rank(k_tile, lead),
            pair=by_rank(pair, lead),
        )

    def predicates(self, count: int | None = None) -> np.ndarray:
        """The masks as the kernel selects scores by them; see `predicates`."""
        found, _ = self.masks
        return predicates(found, count)


def by_rank(table: np.ndarray, lead: tuple[int, ...]) -> Known:
    """`[ranks, ...]` as a known argument in the form of the mesh, `[*lead, ...]`."""
    _, *rest = table.shape
    return Known(table.reshape(*lead, *rest))


def predicates(masks: np.ndarray, count: int | None = None) -> np.ndarray:
    """Masks as the kernel selects scores by them: uint8, 1 where a score counts, else 0.

    Args:
      masks: bool `[masks, rows, columns]`.
      count: how many masks to make of them, by further ones that nobody uses.
    """
    if count is not None:
        if count < len(masks):
            refuse(f"masks is {count}, must be {len(masks)} or more for this mask")
        more = (0, count - len(masks))
        as_they_are = (0, 0)
        masks = np.pad(masks, (more, as_they_are, as_they_are))
    return masks.astype(np.uint8)


def by_source(masks: Masks, sides: Sides) -> Tables:
    """Every rank's queries against every rank's keys: source n is rank n."""
    by_block = sides.map(masks)  # [ranks, blocks, sources, key tiles]
    status = by_block.transpose(0, 2, 1, 3)
    ranks, sources, *_ = status.shape
    q_of, k_of = np.indices((ranks, sources))
    return Tables(
        masks_of=masks,
        tokens=sides.kv.tokens,
        status=status,
        q_positions=sides.q_positions,
        k_positions=sides.k_positions,
        q_of=q_of,
        k_of=k_of,
        blocks=sides.tiling.blocks,
        located=sides.located,
    )


__all__ = [
    "Located",
    "PairTable",
    "Sides",
    "Tables",
    "by_rank",
    "by_source",
    "predicates",
]
