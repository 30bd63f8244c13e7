"""Chooses where tokens stand from the mask itself: balance, live tiles and hops in one number."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from kernels.masks.catalogue import Mask
from kernels.masks.tile_map import DEAD, tile_map
from kernels.tokens.placement import PLACEMENTS, Placement, place


@dataclasses.dataclass(frozen=True)
class Slots:
    """How each rank's slots are cut.

    Attributes:
      slots: of each rank.
      unit: tokens that tile-cyclic deals at a time.
      q_tile, k_tile: tokens of a query and of a key tile.
    """

    slots: int
    unit: int
    q_tile: int
    k_tile: int


@dataclasses.dataclass(frozen=True)
class Score:
    """What one placement makes of a mask. Work is counted in live tiles of the first placement's
    cost; a placement with costlier tiles counts each for more.

    Under a causal mask, four tiles on two ranks: contiguously the first rank has 3 live tiles of
    its own keys and none of the other's, the second 3 and 4, so a score of 3 + 4. Zigzag gives
    the first rank tiles 0 and 3, the second 1 and 2: 3 and 3, then 2 and 2, a score of 3 + 2.

    Attributes:
      placement: with its sizes.
      work: `[hops, ranks]`, live tiles of each rank at hop d, when it holds the keys of rank
        `(rank − d) mod ranks`.
      live: hops that have any work, hop 0 included, in order.
      tiles: all live tiles.
      score: sum over live hops of the busiest rank's work or one hop's transfer, the larger. The
        time of the ring in tiles; a dead hop is skipped.
    """

    placement: Placement
    work: np.ndarray
    live: tuple[int, ...]
    tiles: float
    score: float

    @property
    def rank(self) -> tuple[float, float]:
        """What is least of the best: the score, and of equals the busiest ranks' work by itself.

        Where every hop takes as long as its transfer, scores say nothing of the work beside it: 8
        tiles of causal attention on 4 chips score 4 both contiguously, whose busiest chips work
        for 1 tile at each hop, and in zigzag, whose work for 0.75, 0.5, 0.5 and 0.5.
        """
        # One chip has no transfers beside its work: of equals the plainest, with the largest tiles.
        has_hops = self.placement.ranks > 1
        return self.score, float(self.work.max(axis=1).sum()) if has_hops else 0.0


@dataclasses.dataclass(frozen=True)
class Choice:
    """The placement with the least score, and why.

    Attributes:
      name: of `PLACEMENTS`, the least by `Score.rank`; of equals the first.
      scores: one for each placement, by name.
    """

    name: str
    scores: Mapping[str, Score]

    @property
    def placement(self) -> Placement:
        return self.scores[self.name].placement


def choose(
    mask: Mask,
    tokens: int,
    ranks: int,
    *,
    slots_of: Callable[[str], Slots],
    hop_tiles: float = 0.0,
    cost: Callable[[str], float] | None = None,
) -> Choice:
    """Scores every placement under a mask.

    Args:
      mask: `mask(b, h, q, k) -> bool`.
      tokens: real tokens of the sequence.
      ranks: of the ring.
      slots_of: placement's name to how its slots are cut.
      hop_tiles: time to send one rank's keys and values on, in units of a tile's time; transfers
        run beside the work.
      cost: placement's name to the time of one of its tiles, in any unit; None takes their area,
        which flatters tiles that are too small to fill an engine.

    Raises:
      ValueError: sizes that a placement cannot take.
      UnreadableMask: see `TracedMask`.
    """
    slots = {name: slots_of(name) for name in PLACEMENTS}
    costs: dict[str, float] = {}
    for name, cut in slots.items():
        # Placements may need other tile sizes: zigzag's must fit into half a rank's tokens. One of
        # its tiles of half the area counts half.
        costs[name] = cost(name) if cost else cut.q_tile * cut.k_tile
    scores = {}
    for name, cut in slots.items():
        placement = place(name, tokens, ranks, cut.slots, cut.unit)
        tiles = hop_work(mask, placement, cut.q_tile, cut.k_tile)
        relative_cost = costs[name] / costs[PLACEMENTS[0]]
        scores[name] = _score(placement, tiles * relative_cost, hop_tiles)
    # `min` keeps the first of equals, and so the plainest: the order of `PLACEMENTS` is a
    # preference.
    best = min(PLACEMENTS, key=lambda name: scores[name].rank)
    return Choice(best, scores)


def hop_work(mask: Mask, placement: Placement, q_tile: int, k_tile: int) -> np.ndarray:
    """Live tiles of each rank at each hop, int64 `[hops, ranks]`."""
    queries = placement.grids(q_tile)
    keys = placement.grids(k_tile)
    status = tile_map(mask, placement.tokens, queries, keys, live_only=True)
    live = status != DEAD
    by_source = live.sum(axis=(1, 3), dtype=np.int64)  # [rank of queries, rank of keys]
    rank = np.arange(placement.ranks)
    hop = rank[:, None]
    # Blocks go one rank on at each hop, so at hop d a rank holds what set out d ranks before it.
    source = (rank - hop) % placement.ranks
    return by_source[rank, source]


def _score(placement: Placement, work: np.ndarray, hop_tiles: float) -> Score:
    busiest = work.max(axis=1)
    # A hop costs nothing only when no rank has work at it: one busy rank makes all others wait.
    live = np.flatnonzero(busiest)
    # Every rank waits for the slowest at each hop, and for the transfer if that takes longer.
    time = np.maximum(busiest[live], hop_tiles)
    return Score(
        placement=placement,
        work=work,
        live=tuple(int(hop) for hop in live),
        tiles=float(work.sum()),
        score=float(time.sum()),
    )


__all__ = ["Choice", "Score", "Slots", "choose", "hop_work"]
