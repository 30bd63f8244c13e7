"""Hops between a region and the edges of its wafer, over which a model's next wafer is reached."""

from emu.wse.placement.regions import Rect


def edge_hops(region: Rect, width: int) -> int:
    """Hops along a region's own rows to the nearer of the wafer's west and east edges.

    Columns 10 to 14 of a wafer 17 PEs wide are 10 hops from the west edge and 2 from the east one.

    Args:
      region: on the wafer.
      width: of the wafer, in PEs.
    """
    return min(region.x, width - region.end)


def crossing_hops(behind: Rect, ahead: Rect, width: int) -> int:
    """Hops from a region out to its wafer's edge, and from the next one's edge in to a region."""
    return edge_hops(behind, width) + edge_hops(ahead, width)


__all__ = ["crossing_hops", "edge_hops"]
