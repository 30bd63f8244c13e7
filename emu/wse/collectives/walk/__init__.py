"""An activation from the last PE of one region's line to every PE of the next region's."""

from emu.wse.collectives.collective import Collective
from emu.wse.collectives.walk import arrival, meaning

COLLECTIVE = Collective(instruction=meaning.walk, arrival=arrival.walk)

__all__ = ["COLLECTIVE"]
