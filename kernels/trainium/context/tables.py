"""Which tiles of each source a rank attends to, and how: from a mask and a placement."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from emu import Known
from emu.annotations import DType
from kernels.masks.catalogue import Mask
from kernels.masks.tile_map import DEAD, PARTIAL, patterns, tile_map
from kernels.tokens.placement import Placement
from kernels.trainium.context.sizes import ContextTiling
from kernels.trainium.context.work import SourceWork
from kernels.trainium.flash.online_softmax import MASKED

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
        return by_tile + np.int32(self.first)

    @property
    def k_positions(self) -> np.ndarray:
        """int32 `[ranks, key tiles, columns]`."""
        return self.kv.positions().reshape(self.kv.ranks, -1, self.tiling.columns)

    def map(self, mask: Mask) -> np.ndarray:
        """`tile_map` of every block of queries and every key tile, int8 `[ranks, blocks, ranks,
        key tiles]`."""
        among_queries = self.q.grids(self.tiling.block_tiles * self.tiling.rows)
        queries = dataclasses.replace(
            among_queries, start=among_queries.start + self.first
        )
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
        least, most = self.status.min(_RANK), self.status.max(_RANK)
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
        return (self.status != DEAD).any((_BLOCK, _KEY_TILE))

    @functools.cached_property
    def masks(self) -> tuple[np.ndarray, np.ndarray]:
        """Distinct masks of query tile and key tile, and which of them each pair has.

        Returns:
          bool `[masks, rows, columns]`, and int32 `[ranks, sources, tiles, key tiles]`, 0 where no
          mask is wanted.
        """
        blocks = self.status.shape[_BLOCK]
        # A block is masked as a whole, and each of its query tiles has a mask of its own.
        partial = np.repeat(
            self.status == PARTIAL, self.query_tiles // blocks, axis=_BLOCK
        )
        which = np.zeros(partial.shape, np.int32)
        rank, source, tile, key_tile = np.nonzero(partial)
        if not len(rank):
            shape = self.q_positions.shape[2], self.k_positions.shape[2]
            return np.ones((1, *shape), bool), which
        rows = self.q_positions[self.q_of[rank, source], tile]
        columns = self.k_positions[self.k_of[rank, source], key_tile]
        found, index = patterns(self.mask, self.tokens, rows, columns)
        which[rank, source, tile, key_tile] = index
        return found, which

    def joined(self) -> "Tables":
        """All sources as one: their key tiles one after another."""
        ranks, sources, blocks, key_tiles = self.status.shape
        all_key_tiles = sources * key_tiles
        by_block = self.status.transpose(_RANK, _BLOCK, _SOURCE, _KEY_TILE)
        return dataclasses.replace(
            self,
            status=by_block.reshape(ranks, 1, blocks, all_key_tiles),
            k_positions=self.k_positions.reshape(1, all_key_tiles, -1),
            q_of=self.q_of[:, :1],
            k_of=np.zeros((ranks, 1), int),
        )

    def tiled(self, rows: int, columns: int) -> "Tables":
        """For ranks in a mesh of rows and columns: source n of a rank is the queries of column n of
        its row, against the keys of its own column, row after row. `self` is from `by_source`."""
        blocks, key_tiles = self.status.shape[_BLOCK:]
        ranks, all_key_tiles = rows * columns, rows * key_tiles
        by_mesh = self.status.reshape(rows, columns, rows, columns, blocks, key_tiles)
        # Both ranks of a status are split: whose queries, and whose keys.
        q_row, q_column, k_row, k_column, block, key_tile = range(6)
        # A rank is at the row of the queries and the column of the keys that it meets.
        status = by_mesh.transpose(q_row, k_column, q_column, block, k_row, key_tile)
        k_positions = self.k_positions.reshape(rows, columns, key_tiles, -1)
        rank, source = np.indices((ranks, columns))
        return dataclasses.replace(
            self,
            status=status.reshape(ranks, columns, blocks, all_key_tiles),
            k_positions=k_positions.swapaxes(0, 1).reshape(columns, all_key_tiles, -1),
            q_of=rank // columns * columns + source,
            k_of=rank % columns,
        )

    def known(
        self, *, with_masks: bool, lead: tuple[int, ...], first: int = 0
    ) -> SourceWork:
        """The kernel's known integers, of every rank and source.

        Args:
          with_masks: False leaves out which mask is whose: the clock does not look.
          lead: dimensions of the mesh that ranks fill.
          first: place of the first mask among those that the kernel is given.
        """
        ranks, sources, _, key_tiles = self.status.shape
        if with_masks:
            pattern = self.masks[1] + np.int32(first)
        else:
            shape = ranks, sources, self.query_tiles, key_tiles
            pattern = np.broadcast_to(_ZERO, shape)
        block_needed = (self.status != DEAD).any(_KEY_TILE)
        return SourceWork(
            needed=by_rank(self.needed.astype(np.int8), lead),
            pattern=by_rank(pattern, lead),
            block_needed=by_rank(block_needed.astype(np.int8), lead),
            status=by_rank(self.status, lead),
        )

    def biases(self, dtype: DType, count: int | None = None) -> np.ndarray:
        """The masks as the kernel adds them to scores; see `biases`."""
        return biases(self.masks[0], dtype, count)


def by_rank(table: np.ndarray, lead: tuple[int, ...]) -> Known:
    """`[ranks, ...]` as a known argument in the form of the mesh, `[*lead, ...]`."""
    return Known(table.reshape(*lead, *table.shape[1:]))


def biases(masks: np.ndarray, dtype: DType, count: int | None = None) -> np.ndarray:
    """Masks as the kernel adds them to scores: 0, or `MASKED`; both are exact in bfloat16.

    Args:
      masks: bool `[masks, rows, columns]`.
      dtype: of the result.
      count: how many masks to make of them, by further ones that nobody uses.
    """
    if count is not None:
        masks = np.pad(masks, ((0, count - len(masks)), (0, 0), (0, 0)))
    return np.where(masks, 0.0, MASKED).astype(dtype)


def by_source(mask: Mask, sides: Sides) -> Tables:
    """Every rank's queries against every rank's keys: source n is rank n."""
    by_block = sides.map(mask)  # [ranks, blocks, sources, key tiles]
    status = by_block.transpose(0, 2, 1, 3)
    ranks, sources, *_ = status.shape
    q_of, k_of = np.indices((ranks, sources))
    return Tables(
        mask,
        sides.kv.tokens,
        status,
        sides.q_positions,
        sides.k_positions,
        q_of,
        k_of,
    )


__all__ = ["Sides", "Tables", "biases", "by_rank", "by_source"]
