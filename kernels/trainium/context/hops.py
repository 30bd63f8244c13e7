"""The hops of a ring: which distances are live, how far blocks are sent, and who sends."""

import dataclasses
from typing import Any

import numpy as np

from emu import Known
from kernels.masks import Mask
from kernels.trainium.context.tables import Sides, Tables, by_source


@dataclasses.dataclass(frozen=True, eq=False)
class Hops:
    """A mask on a ring, hop by hop.

    Attributes:
      tables: tiles of each hop; source n of a rank is the block that it meets at hop n.
      distances: of the live hops: the block met at hop n set out `distances[n]` ranks before.
      static: whether one program serves all ranks, so that every rank sends at every hop.
    """

    tables: Tables
    distances: tuple[int, ...]
    static: bool

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
        met = np.stack([needed[(origin + d) % self.ranks, n] for n, d in enumerate(self.distances)])
        later = np.cumsum(met[::-1], axis=0)[::-1] > met  # [hops, origin]
        held = [(origin - d) % self.ranks for d in self.distances]
        return np.stack([later[n, h] for n, h in enumerate(held)], axis=1) & ~last

    @property
    def sent_blocks(self) -> int:
        """Blocks that are sent, over all ranks and hops; a shift over dead hops counts once."""
        return int(self.live.sum())

    def known(self, *, with_masks: bool) -> dict[str, Any]:
        """The kernel's known integers, ranks first; see `ring_attention`."""
        shifts = np.broadcast_to(self.shifts, (self.ranks, len(self)))
        sends = {"live": Known(self.live.astype(np.int32)), "shift": Known(shifts)}
        return self.tables.known(with_masks=with_masks) | sends


def ring_hops(
    mask: Mask, sides: Sides, *, static: bool = False, every_hop: bool = False,
    queries_travel: bool = False,
) -> Hops:  # fmt: skip
    """Works out the hops of a mask.

    Args:
      mask: `mask(b, h, q, k)` on positions in the sequence.
      sides: where queries and keys stand.
      static: see `Hops`.
      every_hop: keeps dead hops, as many as ranks whatever the mask, so that one compiled program
        serves every mask. They cost nothing.
      queries_travel: the block is a rank's queries, and keys stay.
    """
    whole = by_source(mask, sides)
    ranks = sides.kv.ranks
    here, distance = np.indices((ranks, ranks))
    there = (here - distance) % ranks
    q_of, k_of = (there, here) if queries_travel else (here, there)
    tables = dataclasses.replace(
        whole, status=whole.status[q_of, k_of], q_of=q_of, k_of=k_of
    )
    live = tables.needed.any(0)
    distances = [d for d in range(ranks) if every_hop or d == 0 or live[d]]
    tables = tables.kept(distances)
    return Hops(tables.for_all_ranks() if static else tables, tuple(distances), static)


__all__ = ["Hops", "ring_hops"]
