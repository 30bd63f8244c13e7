"""Which tiles of each source a rank attends to, and how: from a mask and a placement."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from emu import Known
from kernels.masks.catalogue import Mask
from kernels.masks.tile_map import DEAD, PARTIAL, patterns, tile_map
from kernels.refusal import refuse
from kernels.tokens.placement import Placement
from kernels.trainium.context.sizes import ContextTiling
from kernels.trainium.context.work import SourceWork

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
    """

    q: Placement
    kv: Placement
    tiling: ContextTiling

    @property
    def first(self) -> int:
        """Position of the first query in the sequence."""
        return self.kv.tokens - self.q.tokens

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

    def map(self, mask: Mask) -> np.ndarray:
        """`tile_map` of every block of queries and every key tile, int8 `[ranks, blocks, ranks,
        key tiles]`."""
        block_rows = self.tiling.block_tiles * self.tiling.rows
        among_queries = self.q.grids(block_rows)
        # Of 1,000 tokens the last 100 are queries: the first of them is at position 900.
        start = among_queries.start + self.first
        queries = dataclasses.replace(among_queries, start=start)
        keys = self.kv.grids(self.tiling.columns)
        return tile_map(mask, self.kv.tokens, queries, keys)


@dataclasses.dataclass(frozen=True, eq=False)
class Tables:
    """The tiles of every rank's sources.

    Attributes:
      mask: which keys a query attends to.
      tokens: of the sequence.
      status: int8 `[ranks, sources, blocks, key tiles]`: `DEAD`, `PARTIAL` (masked) or `FULL`.
      q_positions: int32 `[groups, tiles, rows]`.
      k_positions: int32 `[groups, key tiles, columns]`.
      q_of, k_of: int `[ranks, sources]`: which group of positions a rank's queries and keys have.
    """

    mask: Mask
    tokens: int
    status: np.ndarray
    q_positions: np.ndarray
    k_positions: np.ndarray
    q_of: np.ndarray
    k_of: np.ndarray

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
          mask is wanted.
        """
        blocks = self.status.shape[_BLOCK]
        # A block is masked as a whole, and each of its query tiles has a mask of its own.
        block_tiles = self.query_tiles // blocks
        partial_blocks = self.status == PARTIAL
        partial = np.repeat(partial_blocks, block_tiles, axis=_BLOCK)
        which = np.zeros(partial.shape, np.int32)
        rank, source, tile, key_tile = np.nonzero(partial)
        if not len(rank):
            # One mask that masks nothing: the kernel's operand cannot be empty.
            _, _, rows = self.q_positions.shape
            _, _, columns = self.k_positions.shape
            return np.ones((1, rows, columns), bool), which
        q_group = self.q_of[rank, source]
        k_group = self.k_of[rank, source]
        found, index = patterns(
            self.mask,
            self.tokens,
            self.q_positions[q_group, tile],
            self.k_positions[k_group, key_tile],
        )
        which[rank, source, tile, key_tile] = index
        return found, which

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
            shape = ranks, sources, self.query_tiles, key_tiles
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


def by_source(mask: Mask, sides: Sides) -> Tables:
    """Every rank's queries against every rank's keys: source n is rank n."""
    by_block = sides.map(mask)  # [ranks, blocks, sources, key tiles]
    status = by_block.transpose(0, 2, 1, 3)
    ranks, sources, *_ = status.shape
    q_of, k_of = np.indices((ranks, sources))
    return Tables(
        mask=mask,
        tokens=sides.kv.tokens,
        status=status,
        q_positions=sides.q_positions,
        k_positions=sides.k_positions,
        q_of=q_of,
        k_of=k_of,
    )


__all__ = ["Sides", "Tables", "by_rank", "by_source", "predicates"]
