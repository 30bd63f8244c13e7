"""The largest value along a line of PEs and where it is, on the first PE."""

from emu.wse.collectives.chain_argmax import arrival, meaning
from emu.wse.collectives.collective import Collective

COLLECTIVE = Collective(instruction=meaning.chain_argmax, arrival=arrival.relay)

__all__ = ["COLLECTIVE"]
