"""An activation from a region's last column over two wafers' edges to the next one's region."""

from emu.wse.collectives.collective import Collective
from emu.wse.collectives.cross import arrival, meaning

COLLECTIVE = Collective(instruction=meaning.cross, arrival=arrival.cross)

__all__ = ["COLLECTIVE"]
