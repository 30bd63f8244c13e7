"""Hops between a region and the edges of its wafer, over which a model's next wafer is reached.

Ports are at the west and east edges. Rows of a region run there by themselves. Of a turned region,
whose rows lie side by side from west to east, each row's stream turns a corner. Of four rows, with
the edge to the east, the western one runs straight on and the others turn one line further each:

    rows      0 1 2 3
              > > > > >   row 0
                v > > >   row 1
                  v > >   row 2
                    v >   row 3

So every row has as far to go as the one that is farthest from the edge. Streams that meet in a
router have different links.
"""

from emu.wse.placement.regions import Rect


def edge_hops(region: Rect, width: int, turned: bool = False) -> int:
    """Hops from a region's rows to the nearer of the wafer's west and east edges.

    Columns 10 to 14 of a wafer 17 PEs wide are 10 hops from the west edge and 2 from the east one.
    Of a turned region the row in column 10 has 6 hops to the last column, where the edge is.

    Args:
      region: on the wafer.
      width: of the wafer, in PEs.
      turned: whether the region's rows lie side by side from west to east.
    """
    if turned:
        return min(region.end, width - region.x) - 1
    return min(region.x, width - region.end)


def crossing_hops(behind: Rect, ahead: Rect, width: int, turned: bool = False) -> int:
    """Hops from a region out to its wafer's edge, and from the next one's edge in to a region."""
    return edge_hops(behind, width, turned) + edge_hops(ahead, width, turned)


__all__ = ["crossing_hops", "edge_hops"]
