"""What one pass over a program told: the clock and the counts of every core."""

import dataclasses
import functools
import math

import numpy as np

from emu.clock.tally import Tally
from emu.clock.ticks import Ticks
from emu.clock.tiles import Value
from emu.datasheet import Device

IN_USE = (
    " in use"  # engine of an event that is a tile's lifetime: the memory space and this
)
THROTTLE = "throttle"  # engine of an event during which a throttled engine runs slow


@dataclasses.dataclass(frozen=True)
class Event:
    """One instruction on one engine of the traced core, in ticks.

    Attributes:
      engine: the engine; `"sbuf in use"` and the like for a tile's lifetime, whose name is its
        bytes; `"throttle"` while an engine, named by `name`, runs slow.
      name: the instruction.
      start, end: the engine is busy in between.
      done: the result is written.
      ready: a dependent instruction may start.
      where: the kernel's file and line.
      cause: what the start waited for: `"engine"`, the source of an operand, `"buffer:"` and the
        last user of the destination, `"shared"`, `"interval"`, `"bank"`, `"port"` or `"lead"`.
    """

    engine: str
    name: str
    start: int
    end: int
    where: str
    cause: str = ""
    done: int = 0
    ready: int = 0


@dataclasses.dataclass(frozen=True)
class Reading:
    """The clock and the counts of a program on a mesh.

    Attributes:
      device: the machine and band it was read on.
      grid: the mesh's sizes.
      end: when each core is done.
      last: engine to when it was last free, per core.
      spent: `(engine, what)` to its ticks per core, so that those of one engine add up to `last`:
        `"work"`, causes in `Cost.lost`, `"throttle"`, `"fill"` before its first instruction, and
        `"wait:"` with the cause.
      tally: FLOPs, bytes and counts summed over cores.
      outputs: flat list of output values.
      events: the traced core's instructions, if asked for.
      stepped: instructions walked one by one.
      issued: instructions times cores, loops expanded.
      unjumped: loops that had to be stepped to their end.
    """

    device: Device
    grid: tuple[int, ...]
    end: Ticks
    last: dict[str, Ticks]
    spent: dict[tuple[str, str], Ticks]
    tally: Tally
    outputs: list[Value]
    events: list[Event]
    stepped: int
    issued: int
    unjumped: list[str]

    def __str__(self) -> str:
        """Five lines: time, engines, FLOPs, bytes, and how it was read."""
        busy = sorted(self.busy_ticks, key=lambda e: -self.busy_ticks[e])
        used = [f"{e} {self.utilisation(e):.0%}" for e in busy if self.busy_ticks[e]]
        flops = {k: n for k, n in self.tally.by("flops").items() if n}
        moved = {k: n for k, n in self.tally.by("bytes").items() if n}
        walked = f"{self.stepped:,} walked one by one"
        if self.unjumped:
            walked += f", loops stepped to their end at {', '.join(self.unjumped)}"
        shape = " x ".join(map(str, self.grid))
        return "\n".join(
            [
                f"{self.device.name} ({self.device.band}), {shape} {self.device.core}: "
                f"{self.seconds * 1e6:,.2f} us, {self.end_ticks:,} ticks",
                f"busy: {', '.join(used) or 'nothing'}",
                f"FLOPs: {_figures(flops)}",
                f"bytes: {_figures(moved)}",
                f"instructions: {self.issued:,} on all cores, {walked}",
            ]
        )

    @property
    def cores(self) -> int:
        """How many cores the mesh has."""
        return math.prod(self.grid)

    @property
    def end_ticks(self) -> int:
        """When the last core is done."""
        return int(np.max(self.end))

    @functools.cached_property
    def _busy(self) -> dict[str, Ticks]:
        busy: dict[str, Ticks] = dict.fromkeys(self.last, 0)
        for (engine, what), ticks in self.spent.items():
            if what != "fill" and not what.startswith("wait:"):
                busy[engine] = busy[engine] + ticks
        return busy

    @property
    def busy_ticks(self) -> dict[str, float]:
        """Engine to its mean busy ticks over cores."""
        return {
            e: float(np.broadcast_to(b, self.grid).mean())
            for e, b in self._busy.items()
        }

    @property
    def most_busy_ticks(self) -> dict[str, int]:
        """Engine to the largest busy ticks of any core."""
        return {e: int(np.max(b)) for e, b in self._busy.items()}

    @property
    def seconds(self) -> float:
        return self.end_ticks / self.device.tick_hz

    def cycles(self, engine: str) -> float:
        """Mean busy cycles of an engine over cores."""
        return self.busy_ticks[engine] / self.device.ticks_per_cycle[engine]

    def utilisation(self, engine: str) -> float:
        """Mean over cores of busy over span."""
        return self.busy_ticks[engine] / self.end_ticks if self.end_ticks else 0.0


def _figures(sums: dict[str, int]) -> str:
    """Sums by name, the largest first."""
    names = sorted(sums, key=lambda name: -sums[name])
    return ", ".join(f"{name} {sums[name]:,}" for name in names) or "none"
