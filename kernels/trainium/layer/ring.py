"""The causal ring of a decoder's layers: where a prompt's tokens stand, and its hops."""

import dataclasses
from typing import Any

from kernels.masks.catalogue import causal
from kernels.tokens.placement import Placement, place
from kernels.trainium.context.hops import Hops, ring_hops
from kernels.trainium.context.ring import Ring
from kernels.trainium.context.sizes import ContextTiling
from kernels.trainium.context.tables import Sides
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

    def known(self, *, with_masks: bool) -> dict[str, Any]:
        """The known integers of every chip; see `Hops.known`."""
        return self.hops.known(with_masks=with_masks, lead=(self.where.ranks,))


def attention_tiling(s: LayerTiling) -> ContextTiling:
    """How a layer's attention is cut."""
    tiles = s.blocks * s.tiles
    return ContextTiling(
        s.heads,
        s.kv_heads,
        (s.head_dim,),
        s.head_dim,
        tiles,
        s.rows,
        s.kv_tiles,
        tiles // s.kv_tiles,
        s.kv_tiles,
        s.rows,
        s.dtype,
    )


def layer_ring(
    s: LayerTiling, *, tokens: int, chips: int, axis: str, placement: str = "contiguous"
) -> LayerRing:
    """The ring of a prompt.

    Args:
      s: sizes of one chip.
      tokens: of the prompt; at most `chips · s.tokens`.
      chips: size of the ring.
      axis: its mesh axis.
      placement: one of `PLACEMENTS`; zigzag needs `s` to be of two chunks.
    """
    where = place(placement, tokens, chips, s.tokens, s.rows)
    hops = ring_hops(causal, Sides(where, where, attention_tiling(s)))
    return LayerRing(where, hops, Ring(axis, (axis,), len(hops), hops.roots))


__all__ = ["LayerRing", "attention_tiling", "layer_ring"]
