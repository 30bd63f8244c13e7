"""Chooses where tokens stand from the mask itself: balance, live tiles and hops in one number."""

import dataclasses
import math
from collections.abc import Callable, Mapping

import numpy as np

from kernels import masks
from kernels.masks.tile_map import DEAD, tile_map
from kernels.tokens.placement import PLACEMENTS, Placement, place

Sizes = tuple[int, int, int, int]


@dataclasses.dataclass(frozen=True)
class Row:
    """What one placement makes of a mask. Work is counted in live tiles of the first placement's
    cost; a placement with costlier tiles counts each for more.

    Attributes:
      placement: with its sizes.
      q_tile, k_tile: tokens of a query and of a key tile.
      work: `[hops, ranks]`, live tiles of each rank at hop d, when it holds the keys of rank
        `(rank − d) mod ranks`.
      live: hops that have any work, hop 0 included, in order.
      tiles: all live tiles.
      sync: sum over hops of the busiest rank's work, over the even share; every rank waits for
        the slowest at each hop. 1 is perfect balance.
      free: the busiest rank's total work over the even share: no waiting before the end.
      inflation: live tiles over the fewest of all placements.
      score: sum over live hops of the busiest rank's work or one hop's transfer, the larger. The
        time of the ring in tiles; a dead hop is skipped.
    """

    placement: Placement
    q_tile: int
    k_tile: int
    work: np.ndarray
    live: tuple[int, ...]
    tiles: float
    sync: float
    free: float
    inflation: float
    score: float

    @property
    def hops(self) -> int:
        return len(self.live)


@dataclasses.dataclass(frozen=True)
class Choice:
    """The placement with the least score, and why.

    Attributes:
      name: of `PLACEMENTS`; of equals the first.
      rows: one for each placement, by name.
    """

    name: str
    rows: Mapping[str, Row]

    @property
    def placement(self) -> Placement:
        return self.rows[self.name].placement


def choose(
    mask: masks.Mask,
    tokens: int,
    ranks: int,
    *,
    slots_of: Callable[[str], Sizes],
    hop_tiles: float = 0.0,
    cost: Callable[[str], float] | None = None,
) -> Choice:
    """Scores every placement under a mask.

    Args:
      mask: `mask(b, h, q, k) -> bool`.
      tokens: real tokens of the sequence.
      ranks: of the ring.
      slots_of: placement's name to `(slots, unit, q_tile, k_tile)`: slots of each rank and, in
        tokens, the unit of tile-cyclic and the tiles of queries and keys.
      hop_tiles: time to send one rank's keys and values on, in units of a tile's time; transfers
        run beside the work.
      cost: placement's name to the time of one of its tiles, in any unit; None takes their area,
        which flatters tiles that are too small to fill an engine.

    Raises:
      ValueError: sizes that a placement cannot take.
      UnreadableMask: see `TracedMask`.
    """
    sizes = {name: slots_of(name) for name in PLACEMENTS}
    costs = {
        name: cost(name) if cost else math.prod(of[2:]) for name, of in sizes.items()
    }
    works = {}
    for name, (slots, unit, q_tile, k_tile) in sizes.items():
        placement = place(name, tokens, ranks, slots, unit)
        relative = costs[name] / costs[PLACEMENTS[0]]
        works[name] = hop_work(mask, placement, q_tile, k_tile) * relative
    fewest = min(float(work.sum()) for work in works.values())
    rows = {}
    for name, (slots, unit, q_tile, k_tile) in sizes.items():
        placement = place(name, tokens, ranks, slots, unit)
        rows[name] = _row(placement, q_tile, k_tile, works[name], fewest, hop_tiles)
    return Choice(min(PLACEMENTS, key=lambda name: rows[name].score), rows)


def hop_work(
    mask: masks.Mask, placement: Placement, q_tile: int, k_tile: int
) -> np.ndarray:
    """Live tiles of each rank at each hop, int64 `[hops, ranks]`."""
    q, k = placement.grids(q_tile), placement.grids(k_tile)
    live = tile_map(mask, placement.tokens, q, k) != DEAD
    by_source = live.sum(axis=(1, 3), dtype=np.int64)  # [rank of queries, rank of keys]
    rank = np.arange(placement.ranks)
    return by_source[rank, (rank - rank[:, None]) % placement.ranks]


def _row(
    placement: Placement,
    q_tile: int,
    k_tile: int,
    work: np.ndarray,
    fewest: float,
    hop_tiles: float,
) -> Row:
    tiles = float(work.sum())
    busiest = work.max(axis=1)
    share = tiles / placement.ranks or 1.0  # nothing at all is live: nothing to balance
    live = np.flatnonzero(busiest)
    return Row(
        placement=placement,
        q_tile=q_tile,
        k_tile=k_tile,
        work=work,
        live=tuple(int(d) for d in live),
        tiles=tiles,
        sync=float(busiest.sum()) / share,
        free=float(work.sum(axis=0).max()) / share,
        inflation=tiles / (fewest or 1.0),
        score=float(np.maximum(busiest[live], hop_tiles).sum()),
    )
