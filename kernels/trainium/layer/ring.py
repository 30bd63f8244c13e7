"""The causal ring of a decoder's layers: where a prompt's tokens stand, and its hops."""

import dataclasses

from kernels.masks.catalogue import causal
from kernels.tokens.placement import Placement, place
from kernels.trainium.context.hops import Hops, ring_hops
from kernels.trainium.context.ring import Ring
from kernels.trainium.context.sizes import ContextTiling
from kernels.trainium.context.tables import Sides
from kernels.trainium.context.work import RingWork
from kernels.trainium.layer.tiling import LayerTiling


@dataclasses.dataclass(frozen=True)
class LayerRing:
    """A prompt on a ring of chips.

    Attributes:
      where: the placement of its tokens.
      hops: of causal attention.
      ring: where they run.
    """

    where: Placement
    hops: Hops
    ring: Ring

    def known(self, *, with_masks: bool) -> RingWork:
        """The known integers of every chip; see `Hops.known`."""
        return self.hops.known(with_masks=with_masks, lead=(self.where.ranks,))


def attention_tiling(tiling: LayerTiling) -> ContextTiling:
    """How a layer's attention is cut."""
    token_tiles = tiling.blocks * tiling.tiles
    # The projections have tiled the tokens already: attention takes q, k and v as they stand in
    # HBM, so a key tile is some of those token tiles.
    return ContextTiling(
        heads=tiling.heads,
        kv_heads=tiling.kv_heads,
        parts=(tiling.head_dim,),
        value_dim=tiling.head_dim,
        tiles=token_tiles,
        rows=tiling.rows,
        run=tiling.kv_tiles,
        key_tiles=token_tiles // tiling.kv_tiles,
        span=tiling.kv_tiles,
        keys=tiling.rows,
        dtype=tiling.dtype,
    )


def layer_ring(
    tiling: LayerTiling,
    *,
    tokens: int,
    chips: int,
    axis: str,
    placement: str = "contiguous",
) -> LayerRing:
    """The ring of a prompt.

    Args:
      tiling: sizes of one chip.
      tokens: of the prompt; at most `chips · tiling.tokens`.
      chips: size of the ring.
      axis: its mesh axis.
      placement: one of `PLACEMENTS`; zigzag needs `tiling` to be of two chunks.
    """
    # Queries and keys are of the same tokens, and stand alike.
    where = place(placement, tokens, chips, tiling.tokens, tiling.rows)
    sides = Sides(q=where, kv=where, tiling=attention_tiling(tiling))
    # Chip by chip contiguous tokens leave hops without work, but no hop is without work on all
    # chips: the last one attends to every other's keys.
    hops = ring_hops((causal,), sides)
    ring = Ring(axis, (axis,), hops=len(hops), roots=hops.roots)
    return LayerRing(where, hops, ring)


__all__ = ["LayerRing", "attention_tiling", "layer_ring"]
