"""What one pass over a program told: the clock and the counts of every core."""

import dataclasses

from emu.datasheet import Device
from emu.tally import Tally
from emu.values import Value


@dataclasses.dataclass(frozen=True)
class Event:
    """One instruction on one engine of the traced core, in ticks."""

    engine: str
    name: str
    start: int
    end: int
    where: str


@dataclasses.dataclass(frozen=True)
class Reading:
    """The clock and the counts of a program on a mesh.

    Attributes:
      device: the machine and band it was read on.
      cores: how many cores the mesh has.
      end_ticks: when the last core is done.
      busy_ticks: engine to its mean busy ticks over cores.
      most_busy_ticks: engine to the largest busy ticks of any core.
      tally: FLOPs, bytes and counts summed over cores.
      outputs: flat list of output values.
      events: the traced core's instructions, if asked for.
      stepped: instructions walked one by one.
      issued: instructions times cores, loops expanded.
      unjumped: loops that had to be stepped to their end.
    """

    device: Device
    cores: int
    end_ticks: int
    busy_ticks: dict[str, float]
    most_busy_ticks: dict[str, int]
    tally: Tally
    outputs: list[Value]
    events: list[Event]
    stepped: int
    issued: int
    unjumped: list[str]

    @property
    def seconds(self) -> float:
        return self.end_ticks / self.device.tick_hz

    def cycles(self, engine: str) -> float:
        """Mean busy cycles of an engine over cores."""
        return self.busy_ticks[engine] / self.device.ticks_per_cycle[engine]

    def utilisation(self, engine: str) -> float:
        """Mean over cores of busy over span."""
        return self.busy_ticks[engine] / self.end_ticks if self.end_ticks else 0.0
