"""What one pass over a program told: the clock and the counts of every core."""

import dataclasses
import functools
import math
from typing import TypeAlias

import numpy as np

from emu.clock.tally import Tally
from emu.clock.ticks import PerCore, Ticks
from emu.clock.tiles import Value
from emu.datasheet import Device

# Engine of an event that is a tile's lifetime: the memory space and this.
IN_USE = " in use"
# Engine of an event during which a throttled engine runs slow.
THROTTLE = "throttle"

Spent: TypeAlias = dict[tuple[str, str], Ticks]
"""Ticks of an engine by what they went to: `(engine, what)` (see `Reading.spent`)."""


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
    end: PerCore
    last: dict[str, PerCore]
    spent: dict[tuple[str, str], PerCore]
    tally: Tally
    outputs: list[Value]
    events: list[Event]
    stepped: int
    issued: int
    unjumped: list[str]

    def __str__(self) -> str:
        """Five lines: time, engines, FLOPs, bytes, and how it was read."""
        busy = self.busy_ticks
        used: list[str] = []
        for engine in sorted(busy, key=lambda engine: -busy[engine]):
            if busy[engine]:
                used.append(f"{engine} {self.utilisation(engine):.0%}")
        walked = f"{self.stepped:,} walked one by one"
        if self.unjumped:
            walked += f", loops stepped to their end at {', '.join(self.unjumped)}"
        lines = [
            f"{self.machine}: {self.seconds * 1e6:,.2f} us, {self.end_ticks:,} ticks",
            f"busy: {', '.join(used) or 'nothing'}",
            f"FLOPs: {_figures(self.tally.by('flops'))}",
            f"bytes: {_figures(self.tally.by('bytes'))}",
            f"instructions: {self.issued:,} on all cores, {walked}",
        ]
        return "\n".join(lines)

    @property
    def machine(self) -> str:
        """Of what this is the time: machine, band, cores, and how much of it runs."""
        device = self.device
        shape = " x ".join(map(str, self.grid))
        deployed = device.sheet.deployed
        more = f"; {deployed}" if deployed else ""
        return f"{device.name} ({device.band}), {shape} {device.core}{more}"

    @property
    def cores(self) -> int:
        """How many cores the mesh has."""
        return math.prod(self.grid)

    @functools.cached_property
    def end_ticks(self) -> int:
        """When the last core is done."""
        return int(np.max(self.end))

    @functools.cached_property
    def _busy(self) -> dict[str, PerCore]:
        busy: dict[str, PerCore] = dict.fromkeys(self.last, 0)
        for (engine, what), ticks in self.spent.items():
            # Lost and throttled ticks are the instructions' own; waits, for peers too, are not.
            if what != "fill" and not what.startswith("wait:"):
                busy[engine] = busy[engine] + ticks
        return busy

    @functools.cached_property
    def busy_ticks(self) -> dict[str, float]:
        """Engine to its mean busy ticks over cores."""
        mean: dict[str, float] = {}
        for engine, ticks in self._busy.items():
            per_core = np.broadcast_to(ticks, self.grid)
            mean[engine] = float(per_core.mean())
        return mean

    @property
    def most_busy_ticks(self) -> dict[str, int]:
        """Engine to the largest busy ticks of any core."""
        return {engine: int(np.max(ticks)) for engine, ticks in self._busy.items()}

    @property
    def seconds(self) -> float:
        return self.end_ticks / self.device.tick_hz

    def cycles(self, engine: str) -> float:
        """Mean busy cycles of an engine over cores."""
        return self.busy_ticks[engine] / self.device.ticks_per_cycle[engine]

    def utilisation(self, engine: str) -> float:
        """Mean over cores of busy over span."""
        if not self.end_ticks:
            return 0.0
        return self.busy_ticks[engine] / self.end_ticks


def _figures(sums: dict[str, int]) -> str:
    """Sums by name, the largest first; those that are 0 are left out."""
    counted = [name for name in sums if sums[name]]
    largest_first = sorted(counted, key=lambda name: -sums[name])
    return ", ".join(f"{name} {sums[name]:,}" for name in largest_first) or "none"
