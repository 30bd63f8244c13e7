"""The clock of one token's way through a plan: embedding, every layer, output head.

A kind of layers has one program, which is read once for each distance between two regions, and the
phases' times add up: a layer's PEs start when the activation walks in, and only then. A model of 32
equal layers whose regions lie 0 or 7 hops apart costs two readings, not 32.
"""

import dataclasses
from typing import Any

from emu import Device, Program, Reading
from emu.clock.reading import Event
from emu.report.bands import Bound, bound
from emu.wse.datasheets.datasheet import ENGINE
from kernels.wse.decode.head import (
    embed_arguments,
    embed_program,
    head_arguments,
    head_program,
)
from kernels.wse.decode.layer import layer_arguments, layer_program
from kernels.wse.decode.plan import WaferPlan


@dataclasses.dataclass(frozen=True)
class StepReading:
    """The clock of one token.

    Attributes:
      device: machine and band.
      phase_cycles: cycles of `embed`, `layers` (walks included) and `head` (walk included).
      busy_cycles: engine to its mean busy cycles of a PE, over all PEs in use.
      flops: floating-point operations, over all PEs.
      sram_read_bytes, sram_write_bytes: traffic of all PEs with their memory.
      wavelet_hops: 32-bit words times router-to-router hops.
      pes: PEs in use.
    """

    device: Device
    phase_cycles: dict[str, int]
    busy_cycles: dict[str, float]
    flops: int
    sram_read_bytes: int
    sram_write_bytes: int
    wavelet_hops: int
    pes: int

    @property
    def cycles(self) -> int:
        """From the token id at the head's corner PE to the next one there."""
        return sum(self.phase_cycles.values())

    @property
    def seconds(self) -> float:
        return self.cycles / self.device.tick_hz


@dataclasses.dataclass(frozen=True)
class Trace:
    """What the PE at the origin of each region did during one token.

    Attributes:
      events: instructions of these PEs, in cycles from the start of the token.
      starts: when embedding, each layer and the head began.
      cycles: when the token was done.
    """

    events: list[Event]
    starts: list[int]
    cycles: int

    def layer_window(self, layer: int) -> tuple[int, int]:
        """First and last cycle of a layer."""
        phase = 1 + layer  # the embedding comes first
        return self.starts[phase], self.starts[phase + 1]


class TokenClock:
    """Reads a plan's programs; what was read once is kept."""

    def __init__(self, plan: WaferPlan, device: Device):
        self.plan = plan
        self.device = device
        self.programs: dict[str, Program] = {
            "embed": embed_program(plan.head),
            "head": head_program(plan.head),
        }
        for number, kind in enumerate(plan.kinds):
            program = layer_program(kind.map, kind.attention)
            self.programs[layer_phase(number)] = program
        self._kept: dict[Any, Reading] = {}

    def read(self, pos: int, band: str = "nominal") -> StepReading:
        """The clock of the token at `pos` on this wafer under `band`."""
        readings = self.stops(pos, band)
        embed, *layers, head = readings
        phases = {
            "embed": embed.end_ticks,
            "layers": sum(reading.end_ticks for reading in layers),
            "head": head.end_ticks,
        }
        # A reading's cycles are the mean of its own PEs. Regions differ in size, so totals are
        # added, and the head's PEs count with what they do at both ends of the token.
        busy = sum(reading.cycles(ENGINE) * reading.cores for reading in readings)
        return StepReading(
            device=embed.device,
            phase_cycles=phases,
            busy_cycles={ENGINE: busy / self.plan.pes},
            flops=sum(reading.tally.flops for reading in readings),
            sram_read_bytes=_total(readings, "bytes", "sram_read"),
            sram_write_bytes=_total(readings, "bytes", "sram_write"),
            wavelet_hops=_total(readings, "other", "wavelet_hops"),
            pes=self.plan.pes,
        )

    def stops(self, pos: int, band: str, **options: Any) -> list[Reading]:
        """Readings of the embedding, of each layer and of the head, in order."""
        *gaps, last_gap = self.plan.gaps
        readings = [self.one("embed", band, **options)]
        for gap, kind in zip(gaps, self.plan.of_layers, strict=True):
            phase = layer_phase(kind)
            readings.append(self.one(phase, band, pos, gap, **options))
        readings.append(self.one("head", band, last_gap, **options))
        return readings

    def one(self, phase: str, band: str, *at: int, **options: Any) -> Reading:
        """One program's reading; the embedding's and the head's serve every position.

        Args:
          phase: `"embed"`, `"head"`, or a layer's, see `layer_phase`.
          band: of the datasheet.
          at: nothing; position and hops from the region behind; hops.
          options: see `Program.read`.
        """
        # The distance into a layer's region is in `at`: layers at one distance share a reading.
        key = (phase, band, *at, *options.items())
        if key not in self._kept:
            device = self.device.sheet.at(band)
            program = self.programs[phase]
            shapes = self.shapes(phase, *at)
            self._kept[key] = program.read(device, *shapes, **options)
        return self._kept[key]

    def shapes(self, phase: str, *at: int) -> tuple[Any, ...]:
        """A program's arguments without data; `at` as for `one`."""
        if phase == "embed":
            return embed_arguments(self.plan.head)
        if phase == "head":
            return head_arguments(self.plan.head, *at)
        (kind,) = [
            kind
            for number, kind in enumerate(self.plan.kinds)
            if layer_phase(number) == phase
        ]
        return layer_arguments(kind.map, *at, variant=kind.attention)

    def bound(self, pos: int) -> Bound:
        """What keeps a layer, which is nearly all of a token, from being faster."""
        band = self.device.band
        gap = self.plan.gaps[-2]  # into the last layer; the last one leads to the head
        phase = layer_phase(self.plan.of_layers[-1])
        uncontended = self.one(phase, band, pos, gap, contended=False)
        contended = self.one(phase, band, pos, gap)
        return bound(contended, uncontended)

    def trace(self, pos: int, band: str = "nominal") -> Trace:
        """Every instruction of the PE at each region's origin, phase after phase."""
        events: list[Event] = []
        starts = []
        now = 0
        for reading in self.stops(pos, band, trace_core=(0, 0)):
            starts.append(now)
            for event in reading.events:
                # A phase begins when the one before has ended, so its events come later by all
                # before it.
                moved = dataclasses.replace(
                    event,
                    start=event.start + now,
                    end=event.end + now,
                )
                events.append(moved)
            now += reading.end_ticks
        return Trace(events, starts, now)


def layer_phase(kind: int) -> str:
    """The name of a layer's program: `layer`, and of layers of other kinds `layer 1`, ..."""
    return f"layer {kind}" if kind else "layer"


def _total(readings: list[Reading], kind: str, name: str) -> int:
    """A tally's number, over all readings."""
    return sum(reading.tally.by(kind).get(name, 0) for reading in readings)


__all__ = ["StepReading", "TokenClock", "Trace", "layer_phase"]
