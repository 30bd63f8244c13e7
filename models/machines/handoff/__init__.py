"""The KV cache's way from the chips that prefilled it to the PEs that decode from it."""

from models.machines.handoff.asked import Source, Way, evenly
from models.machines.handoff.route import Landing, landings
from models.machines.handoff.streaming import Handoff, handoff

__all__ = ["Handoff", "Landing", "Source", "Way", "evenly", "handoff", "landings"]
