"""The hops of a ring: which distances are live, how far blocks are sent, and who sends.

A few key tiles that nearly every rank attends to, attention sinks for instance, would keep every
hop of a ring alive. They are replicated instead: sent to all ranks once, ahead of the ring.

How a mask's tile map becomes hops, for four contiguous ranks that each attend to their own keys and
to those of the rank two before, where there is one:

    tile map by source       by distance d: source is rank - d
    source  0 1 2 3                d  0 1 2 3
    rank 0  x . . .          rank 0   x . . .
    rank 1  . x . .          rank 1   x . . .
    rank 2  x . x .          rank 2   x . x .
    rank 3  . x . x          rank 3   x . x .

Distances 1 and 3 are dead on every rank, so `distances` is (0, 2): two hops, with one shift by two
ranks between them. `sends` after hop 0 is [1, 1, 0, 0]: what ranks 2 and 3 hold nobody needs.
"""

import dataclasses

import numpy as np

from kernels.masks.by_head import Masks
from kernels.masks.tile_map import DEAD
from kernels.trainium.context.tables import (
    Sides,
    Tables,
    by_rank,
    by_source,
    predicates,
)
from kernels.trainium.context.work import HopWork, RingWork

MOST_REPLICATED = 8  # key tiles

Roots = tuple[tuple[int, int], ...]  # of replicated key tiles, `(rank, key tile)`


@dataclasses.dataclass(frozen=True, eq=False)
class Hops:
    """A mask on a ring, hop by hop.

    Attributes:
      tables: tiles of each hop; source n of a rank is the block that it meets at hop n.
      distances: of the live hops: the block met at hop n set out `distances[n]` ranks before.
      static: whether one program serves all ranks, so that every rank sends at every hop.
      roots: replicated key tiles, `(rank, key tile)`.
      replicated: their tables, a source of one key tile for each.
    """

    tables: Tables
    distances: tuple[int, ...]
    static: bool
    roots: Roots
    replicated: Tables

    def __len__(self) -> int:
        return len(self.distances)

    @property
    def ranks(self) -> int:
        return self.tables.status.shape[0]

    @property
    def shifts(self) -> np.ndarray:
        """How far blocks go on after each hop, int32 `[hops]`; 0 after the last."""
        last = self.distances[-1]
        return np.diff(self.distances, append=last).astype(np.int32)

    @property
    def sends(self) -> np.ndarray:
        """Whether the block that a rank holds is used at a later hop, bool `[ranks, hops]`."""
        hops = len(self)
        is_last = np.arange(hops) == hops - 1
        if self.static:
            return np.broadcast_to(~is_last, (self.ranks, hops))
        rank = np.arange(self.ranks)
        needed = self.tables.needed
        # By origin of a block: whether the rank that it is with at each hop attends to it. On three
        # contiguous causal ranks the block of rank 0 is used at hops 0, 1 and 2, that of rank 1 at
        # 0 and 1, and that of rank 2 at 0 only: [[1, 1, 1], [1, 1, 0], [1, 0, 0]].
        used = []
        for hop, distance in enumerate(self.distances):
            holder = (rank + distance) % self.ranks
            used.append(needed[holder, hop])
        used = np.stack(used)
        # [[3, 2, 1], [2, 1, 0], [1, 0, 0]]: more than is used now, where it is used later.
        used_from_here_on = np.cumsum(used[::-1], axis=0)[::-1]
        used_later = used_from_here_on > used  # [hops, origin]
        # Back to who holds the block then: at hop 1 that of rank 0 is with rank 1.
        by_holder = []
        for hop, distance in enumerate(self.distances):
            origin = (rank - distance) % self.ranks
            by_holder.append(used_later[hop, origin])
        return np.stack(by_holder, axis=1) & ~is_last

    def known(self, *, with_masks: bool, lead: tuple[int, ...]) -> RingWork:
        """The kernel's known integers, of every rank; see `Tables.known`."""
        shifts = np.broadcast_to(self.shifts, (self.ranks, len(self)))
        sends = self.sends.astype(np.int32)
        hops = HopWork(
            source=self.tables.known(with_masks=with_masks, lead=lead),
            shift=by_rank(shifts, lead),
            sends=by_rank(sends, lead),
        )
        # The masks of replicated tiles stand behind those of hops.
        first = 0
        if with_masks:
            of_hops, _ = self.tables.masks
            first = len(of_hops)
        replicated = self.replicated.known(
            with_masks=with_masks,
            lead=lead,
            first=first,
        )
        return RingWork(hops, replicated)

    def predicates(self, count: int | None = None) -> np.ndarray:
        """The masks of hops and of replicated tiles; see `Tables.predicates`."""
        of_hops, _ = self.tables.masks
        of_replicated, _ = self.replicated.masks
        found = np.concatenate([of_hops, of_replicated])
        return predicates(found, count)


def ring_hops(
    masks: Masks,
    sides: Sides,
    *,
    static: bool = False,
    every_hop: bool = False,
    queries_travel: bool = False,
    most_replicated: int = MOST_REPLICATED,
) -> Hops:
    """Works out the hops of a mask.

    Args:
      masks: `mask(b, h, q, k)` on positions in the sequence, one, or one for each head.
      sides: where queries and keys stand.
      static: see `Hops`.
      every_hop: keeps dead hops, as many as ranks whatever the mask, and replicates nothing, so
        that one compiled program serves every mask. Dead hops cost nothing.
      queries_travel: the block is a rank's queries, and keys stay.
      most_replicated: key tiles that may be replicated.
    """
    whole = by_source(masks, sides)
    replicates = not every_hop and not queries_travel
    most = most_replicated if replicates else 0
    roots = _worth_replicating(whole, most)
    replicated, whole = _taken_out(whole, roots)
    ranks = sides.kv.ranks
    # What a rank meets at a distance set out that many ranks before; what stays is its own.
    here, ranks_before = np.indices((ranks, ranks))
    there = (here - ranks_before) % ranks
    q_of, k_of = (there, here) if queries_travel else (here, there)
    tables = dataclasses.replace(
        whole,
        status=whole.status[q_of, k_of],
        q_of=q_of,
        k_of=k_of,
    )
    live = np.asarray(tables.needed.any(axis=0))
    # A rank's own block is always a hop, so that there is one.
    distances = [0]
    for distance in range(1, ranks):
        if every_hop or live[distance]:
            distances.append(distance)
    tables = tables.kept(distances)
    if static:
        tables = tables.for_all_ranks()
        replicated = replicated.for_all_ranks()
    return Hops(
        tables=tables,
        distances=tuple(distances),
        static=static,
        roots=roots,
        replicated=replicated,
    )


def _worth_replicating(whole: Tables, most: int) -> Roots:
    """Key tiles without which fewer blocks cross the ring, those that most ranks attend to first.

    A replicated tile counts as its part of a block at every rank but its own; ranks only saved a
    fraction of a hop are not worth an instruction more.

    Four sinks and a window over 16 ranks of 8 key tiles keep all 15 hops alive, because every rank
    attends to the first key tile of rank 0. Without that tile 1 hop is left; with the tile's eighth
    of a block, 1.125 blocks cross the ring instead of 15.
    """
    live = whole.status != DEAD
    wanted = live.any(axis=2)  # [rank, source, key tile]
    _, _, key_tiles = wanted.shape
    ranks_wanting = wanted.sum(axis=0).ravel()
    # Stable: of tiles that as many ranks want, those of the first ranks go first.
    by_demand = np.argsort(-ranks_wanting, kind="stable")
    places = [divmod(tile, key_tiles) for tile in by_demand[:most].tolist()]
    left = wanted.copy()
    least_blocks = _hops(wanted)
    worth = 0
    for count, (source, key_tile) in enumerate(places, 1):
        left[:, source, key_tile] = False
        blocks = _hops(left) + count / key_tiles
        if blocks <= least_blocks - 1:
            least_blocks = blocks
            worth = count
    return tuple(places[:worth])


def _hops(wanted: np.ndarray) -> int:
    """Hops after the first; `wanted` is bool `[rank, source, key tile]`."""
    ranks = len(wanted)
    meets = wanted.any(axis=2)
    rank, source = np.nonzero(meets)
    distances = np.unique((rank - source) % ranks)
    return int(np.count_nonzero(distances))


def _taken_out(whole: Tables, roots: Roots) -> tuple[Tables, Tables]:
    """The tables of single key tiles, and those of all sources without them."""
    ranks = whole.status.shape[0]
    sources, key_tiles = np.array(roots, int).reshape(-1, 2).T
    # NumPy puts the dimension of two index arrays that a slice parts first.
    by_root = whole.status[:, sources, :, key_tiles]
    root, rank, block = range(3)
    status = by_root.transpose(rank, root, block)
    k_positions = whole.k_positions[sources, key_tiles]
    q_of, k_of = np.indices((ranks, len(roots)))
    single = dataclasses.replace(
        whole,
        status=status[..., np.newaxis],
        k_positions=k_positions[:, np.newaxis],
        q_of=q_of,
        k_of=k_of,
    )
    status = whole.status.copy() if roots else whole.status
    status[:, sources, :, key_tiles] = DEAD
    return single, dataclasses.replace(whole, status=status)


__all__ = ["Hops", "ring_hops"]
