"""Which tiles of each source a rank attends to, and how: the known integers of its kernel."""

import dataclasses
import functools
from typing import Any

import numpy as np

from emu import Known
from kernels.masks.catalogue import Mask
from kernels.masks.tile_map import DEAD, PARTIAL, patterns, tile_map
from kernels.tokens.placement import Placement
from kernels.trainium.context.sizes import ContextTiling
from kernels.trainium.flash.online_softmax import MASKED

_ZERO = np.int32(0)


@dataclasses.dataclass(frozen=True, eq=False)
class Sides:
    """Where queries and keys of a sequence stand.

    Attributes:
      q: placement of the queries: of all tokens, or of the last ones.
      kv: placement of keys and values, of all tokens.
      s: sizes of one rank.
    """

    q: Placement
    kv: Placement
    s: ContextTiling

    @property
    def first(self) -> int:
        """Position of the first query in the sequence."""
        return self.kv.tokens - self.q.tokens

    @property
    def q_positions(self) -> np.ndarray:
        """int32 `[ranks, tiles, rows]`; those of padding are beyond the sequence."""
        return self.q.positions().reshape(self.q.ranks, -1, self.s.rows) + np.int32(
            self.first
        )

    @property
    def k_positions(self) -> np.ndarray:
        """int32 `[ranks, key tiles, columns]`."""
        return self.kv.positions().reshape(self.kv.ranks, -1, self.s.columns)

    def map(self, mask: Mask) -> np.ndarray:
        """`tile_map` of every block of queries and every key tile, int8 `[ranks, blocks, ranks,
        key tiles]`."""
        grids = self.q.grids(self.s.block_tiles * self.s.rows)
        moved = dataclasses.replace(grids, start=grids.start + self.first)
        return tile_map(mask, self.kv.tokens, moved, self.kv.grids(self.s.columns))


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

    def for_all_ranks(self) -> "Tables":
        """The tables of one program that cannot skip by rank: a tile is dead or whole only where it
        is on every rank, and masked else."""
        least, most = self.status.min(0), self.status.max(0)
        same = np.where(least == most, most, np.int8(PARTIAL))
        return dataclasses.replace(
            self, status=np.broadcast_to(same, self.status.shape)
        )

    def kept(self, sources: Any) -> "Tables":
        """Only some of the sources, by index."""
        pick = {x: getattr(self, x)[:, sources] for x in ("status", "q_of", "k_of")}
        return dataclasses.replace(self, **pick)

    @functools.cached_property
    def needed(self) -> np.ndarray:
        """Whether a rank attends to anything of a source, bool `[ranks, sources]`."""
        return (self.status != DEAD).any((2, 3))

    @functools.cached_property
    def masks(self) -> tuple[np.ndarray, np.ndarray]:
        """Distinct masks of query tile and key tile, and which of them each pair has.

        Returns:
          bool `[masks, rows, columns]`, and int32 `[ranks, sources, tiles, key tiles]`, 0 where no
          mask is wanted.
        """
        tiles = self.q_positions.shape[1]
        each = np.repeat(self.status == PARTIAL, tiles // self.status.shape[2], axis=2)
        rank, source, tile, key = np.nonzero(each)
        which = np.zeros(each.shape, np.int32)
        if not len(rank):
            shape = self.q_positions.shape[2], self.k_positions.shape[2]
            return np.ones((1, *shape), bool), which
        rows = self.q_positions[self.q_of[rank, source], tile]
        columns = self.k_positions[self.k_of[rank, source], key]
        found, index = patterns(self.mask, self.tokens, rows, columns)
        which[rank, source, tile, key] = index
        return found, which

    def joined(self) -> "Tables":
        """All sources as one: their key tiles one after another."""
        ranks, sources, blocks, tiles = self.status.shape
        status = self.status.transpose(0, 2, 1, 3).reshape(
            ranks, 1, blocks, sources * tiles
        )
        k_positions = self.k_positions.reshape(1, sources * tiles, -1)
        one = np.zeros((ranks, 1), int)
        return Tables(
            self.mask,
            self.tokens,
            status,
            self.q_positions,
            k_positions,
            self.q_of[:, :1],
            one,
        )

    def tiled(self, rows: int, columns: int) -> "Tables":
        """For ranks in a mesh of rows and columns: source n of a rank is the queries of column n of
        its row, against the keys of its own column, row after row. `self` is from `by_source`."""
        blocks, tiles = self.status.shape[2:]
        by_mesh = self.status.reshape(rows, columns, rows, columns, blocks, tiles)
        # [row, queries' column, keys' row, column, ...] to [row, column, queries' column, ...]
        status = by_mesh.transpose(0, 3, 1, 4, 2, 5).reshape(
            rows * columns, columns, blocks, rows * tiles
        )
        k_positions = self.k_positions.reshape(rows, columns, tiles, -1).swapaxes(0, 1)
        k_positions = k_positions.reshape(columns, rows * tiles, -1)
        rank, source = np.indices((rows * columns, columns))
        q_of = rank // columns * columns + source
        k_of = rank % columns
        return Tables(
            self.mask, self.tokens, status, self.q_positions, k_positions, q_of, k_of
        )

    def known(
        self, *, with_masks: bool, lead: tuple[int, ...], first: int = 0
    ) -> dict[str, Any]:
        """The kernel's known integers, by rank; see `attend_source`.

        Args:
          with_masks: False leaves out which mask is whose: the clock does not look.
          lead: dimensions of the mesh that ranks fill.
          first: place of the first mask among those that the kernel is given.
        """
        shape = (
            *self.status.shape[:2],
            self.q_positions.shape[1],
            self.status.shape[3],
        )
        which = (
            self.masks[1] + np.int32(first)
            if with_masks
            else np.broadcast_to(_ZERO, shape)
        )
        some = (self.status != DEAD).any(-1).astype(np.int8)
        needed = self.needed.astype(np.int8)
        tables = {
            "status": self.status,
            "some": some,
            "pattern": which,
            "needed": needed,
        }
        return by_rank(tables, lead)

    def biases(self, dtype: Any, count: int | None = None) -> np.ndarray:
        """The masks as the kernel adds them to scores; see `biases`."""
        return biases(self.masks[0], dtype, count)


def by_rank(tables: dict[str, np.ndarray], lead: tuple[int, ...]) -> dict[str, Any]:
    """Arrays of ranks as known arguments in the form of the mesh."""
    return {name: Known(x.reshape(*lead, *x.shape[1:])) for name, x in tables.items()}


def biases(masks: np.ndarray, dtype: Any, count: int | None = None) -> np.ndarray:
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
    status = sides.map(mask).transpose(0, 2, 1, 3)
    ranks, sources = status.shape[:2]
    pairs = np.indices((ranks, sources))
    positions = sides.q_positions, sides.k_positions
    return Tables(mask, sides.kv.tokens, status, *positions, pairs[0], pairs[1])


__all__ = ["Sides", "Tables", "biases", "by_rank", "by_source"]
