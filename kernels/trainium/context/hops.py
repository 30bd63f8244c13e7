"""The hops of a ring: which distances are live, how far blocks are sent, and who sends.

A few key tiles that nearly every rank attends to, attention sinks for instance, would keep every
hop of a ring alive. They are replicated instead: sent to all ranks once, ahead of the ring.
"""

import dataclasses
from typing import Any

import numpy as np

from kernels.masks.catalogue import Mask
from kernels.masks.tile_map import DEAD
from kernels.trainium.context.tables import Sides, Tables, biases, by_rank, by_source

MOST_REPLICATED = 8  # key tiles


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
    roots: tuple[tuple[int, int], ...]
    replicated: Tables

    def __len__(self) -> int:
        return len(self.distances)

    @property
    def ranks(self) -> int:
        return self.tables.status.shape[0]

    @property
    def shifts(self) -> np.ndarray:
        """How far blocks go on after each hop, int32 `[hops]`; 0 after the last."""
        return np.diff(self.distances, append=self.distances[-1]).astype(np.int32)

    @property
    def live(self) -> np.ndarray:
        """Whether the block that a rank holds is used at a later hop, bool `[ranks, hops]`."""
        last = np.arange(len(self)) == len(self) - 1
        if self.static:
            return np.broadcast_to(~last, (self.ranks, len(self)))
        origin = np.arange(self.ranks)
        needed = self.tables.needed
        met = np.stack(
            [needed[(origin + d) % self.ranks, n] for n, d in enumerate(self.distances)]
        )
        later = np.cumsum(met[::-1], axis=0)[::-1] > met  # [hops, origin]
        held = [(origin - d) % self.ranks for d in self.distances]
        return np.stack([later[n, h] for n, h in enumerate(held)], axis=1) & ~last

    def known(self, *, with_masks: bool, lead: tuple[int, ...]) -> dict[str, Any]:
        """The kernel's known integers, by rank; see `ring_attention` and `Tables.known`."""
        shifts = np.broadcast_to(self.shifts, (self.ranks, len(self)))
        sends = by_rank({"live": self.live.astype(np.int32), "shift": shifts}, lead)
        first = len(self.tables.masks[0]) if with_masks else 0
        known = self.tables.known(with_masks=with_masks, lead=lead)
        single = self.replicated.known(with_masks=with_masks, lead=lead, first=first)
        return {"hops": known | sends, "replicated": single}

    def biases(self, dtype: Any, count: int | None = None) -> np.ndarray:
        """The masks of hops and of replicated tiles; see `Tables.biases`."""
        found = np.concatenate([self.tables.masks[0], self.replicated.masks[0]])
        return biases(found, dtype, count)


def ring_hops(
    mask: Mask,
    sides: Sides,
    *,
    static: bool = False,
    every_hop: bool = False,
    queries_travel: bool = False,
    most_replicated: int = MOST_REPLICATED,
) -> Hops:
    """Works out the hops of a mask.

    Args:
      mask: `mask(b, h, q, k)` on positions in the sequence.
      sides: where queries and keys stand.
      static: see `Hops`.
      every_hop: keeps dead hops, as many as ranks whatever the mask, and replicates nothing, so
        that one compiled program serves every mask. Dead hops cost nothing.
      queries_travel: the block is a rank's queries, and keys stay.
      most_replicated: key tiles that may be replicated.
    """
    whole = by_source(mask, sides)
    most = 0 if every_hop or queries_travel else most_replicated
    roots = _worth_replicating(whole, most)
    replicated, whole = _taken_out(whole, roots)
    ranks = sides.kv.ranks
    here, distance = np.indices((ranks, ranks))
    there = (here - distance) % ranks
    q_of, k_of = (there, here) if queries_travel else (here, there)
    tables = dataclasses.replace(
        whole, status=whole.status[q_of, k_of], q_of=q_of, k_of=k_of
    )
    live = np.asarray(tables.needed.any(0))
    distances = tuple(d for d in range(ranks) if every_hop or d == 0 or live[d])
    tables = tables.kept(list(distances))
    if static:
        tables = tables.for_all_ranks()
        replicated = replicated.for_all_ranks()
    return Hops(tables, distances, static, roots, replicated)


def _worth_replicating(whole: Tables, most: int) -> tuple[tuple[int, int], ...]:
    """Key tiles without which fewer blocks cross the ring, those that most ranks attend to first.

    A replicated tile counts as its part of a block at every rank but its own; ranks only saved a
    fraction of a hop are not worth an instruction more.
    """
    wanted = (whole.status != DEAD).any(2)  # [rank, source, key tile]
    ranks, _, tiles = wanted.shape
    order = np.argsort(-wanted.sum(0).ravel(), kind="stable")[:most]
    left = wanted.copy()
    best = _hops(wanted)
    found = 0
    for n, tile in enumerate(order, 1):
        left[:, tile // tiles, tile % tiles] = False
        if (blocks := _hops(left) + n / tiles) <= best - 1:
            best, found = blocks, n
    return tuple((int(t) // tiles, int(t) % tiles) for t in order[:found])


def _hops(wanted: np.ndarray) -> float:
    """Hops after the first; `wanted` is bool `[rank, source, key tile]`."""
    rank, source = np.nonzero(wanted.any(2))
    return len(set(((rank - source) % len(wanted)).tolist()) - {0})


def _taken_out(
    whole: Tables, roots: tuple[tuple[int, int], ...]
) -> tuple[Tables, Tables]:
    """The tables of single key tiles, and those of all sources without them."""
    ranks = whole.status.shape[0]
    sources, tiles = np.array(roots, int).reshape(-1, 2).T
    k_positions = whole.k_positions[sources, tiles][:, None]
    own = whole.status[:, sources, :, tiles].transpose(1, 0, 2)[..., None]
    q_of, k_of = np.indices((ranks, len(roots)))
    single = Tables(
        whole.mask, whole.tokens, own, whole.q_positions, k_positions, q_of, k_of
    )
    status = whole.status.copy() if roots else whole.status
    status[:, sources, :, tiles] = DEAD
    return single, dataclasses.replace(whole, status=status)


__all__ = ["Hops", "ring_hops"]
