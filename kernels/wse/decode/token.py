"""The clock of one token's way through a plan: embedding, every layer, output head, host.

A kind of layers has one program, which is read once, and the phases' times add up: a layer's PEs
start when the activation comes in, and only then. Layers of a kind that lie at other distances, or
on another wafer than the layer behind them, differ by their way in alone (`way_in`).
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
from kernels.wse.decode.pe_bytes import PlacedKind
from kernels.wse.decode.plan import WaferPlan, Way
from kernels.wse.decode.way_in import by_way, way_arguments, way_program

HOST = "host"
HERE = Way(0, crosses=False)
"""Into a region beside the one before, row by row."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of a token's way that begins when the one before has ended.

    Attributes:
      name: `embed`, `layer 0` and so on, `head` or `host`.
      wafer: where it is; the host's stage is at the head's.
      cycles: with the way into its region.
      crosses: whether that way comes from another wafer.
    """

    name: str
    wafer: int
    cycles: int
    crosses: bool = False


@dataclasses.dataclass(frozen=True)
class StepReading:
    """The clock of one token.

    Attributes:
      device: machine and band.
      phase_cycles: cycles of `embed`, `layers` and `head`, with the ways into their regions, and of
        `host`, which takes the token and gives it back.
      busy_cycles: engine to its mean busy cycles of a PE, over all PEs in use.
      flops: floating-point operations, over all PEs.
      sram_read_bytes, sram_write_bytes: traffic of all PEs with their memory.
      wavelet_hops: 32-bit words times router-to-router hops.
      io_bytes: that pass from wafer to wafer.
      pes: PEs in use.
    """

    device: Device
    phase_cycles: dict[str, int]
    busy_cycles: dict[str, float]
    flops: int
    sram_read_bytes: int
    sram_write_bytes: int
    wavelet_hops: int
    io_bytes: int
    pes: int

    @property
    def cycles(self) -> int:
        """From the token id at the head's corner PE to the next one there, by way of the host."""
        return sum(self.phase_cycles.values())

    @property
    def seconds(self) -> float:
        return self.cycles / self.device.tick_hz

    @property
    def wafer_cycles(self) -> int:
        """The same without the host: where the wafers go on from their own token."""
        return self.cycles - self.phase_cycles[HOST]

    @property
    def wafer_seconds(self) -> float:
        return self.wafer_cycles / self.device.tick_hz


@dataclasses.dataclass(frozen=True)
class Trace:
    """What the PE at the origin of each region did during one token.

    Attributes:
      events: instructions of these PEs, in cycles from the start of the token.
      starts: when embedding, each layer and the head began.
      cycles: when the token was chosen; the host takes it from there.
    """

    events: list[Event]
    starts: list[int]
    cycles: int

    def layer_window(self, layer: int) -> tuple[int, int]:
        """First and last cycle of a layer."""
        phase = 1 + layer  # the embedding comes first
        return self.starts[phase], self.starts[phase + 1]


class TokenClock:
    """Reads a plan's programs; what was read once is kept.

    Attributes:
      programs: of `embed`, `head` and each kind of layers, see `layer_phase`, by whether what comes
        in crosses from another wafer.
    """

    def __init__(self, plan: WaferPlan, device: Device):
        self.plan = plan
        self.device = device
        self.programs: dict[tuple[str, bool], Program] = {}
        self.programs["embed", False] = embed_program(plan.head)
        for crosses in (False, True):
            self.programs["head", crosses] = head_program(plan.head, crosses)
            for number, kind in enumerate(plan.kinds):
                program = layer_program(kind.map, kind.attention, crosses)
                self.programs[layer_phase(number), crosses] = program
        self._kept: dict[Any, Reading] = {}

    def read(self, pos: int, band: str = "nominal") -> StepReading:
        """The clock of the token at `pos` on these wafers under `band`."""
        readings = self.stops(pos, band)
        embed, *layers, head = readings
        phases = {
            "embed": embed.end_ticks,
            "layers": sum(reading.end_ticks for reading in layers),
            "head": head.end_ticks,
            HOST: self.host_cycles(band),
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
            io_bytes=_total(readings, "other", "io_bytes"),
            pes=self.plan.pes,
        )

    def stages(self, pos: int, band: str = "nominal") -> tuple[Stage, ...]:
        """What the token at `pos` goes through, in order; their cycles are the step's."""
        plan = self.plan
        embed, *layers, head = self.stops(pos, band)
        found = [Stage("embed", plan.head_wafer, embed.end_ticks)]
        *ways, last = plan.ways
        each = zip(layers, plan.of_wafers, ways, strict=True)
        for number, (layer, wafer, way) in enumerate(each):
            name = f"layer {number}"
            found.append(Stage(name, wafer, layer.end_ticks, way.crosses))
        found.append(Stage("head", plan.head_wafer, head.end_ticks, last.crosses))
        found.append(Stage(HOST, plan.head_wafer, self.host_cycles(band)))
        return tuple(found)

    def host_cycles(self, band: str) -> int:
        """From a token's choice until it is back on the wafer as the next step's."""
        device = self.device.sheet.at(band)
        return device.ticks(device.host_latency_s)

    def stops(self, pos: int, band: str, **options: Any) -> list[Reading]:
        """Readings of the embedding, of each layer and of the head, in order."""
        *ways, last = self.plan.ways
        readings = [self.one("embed", band, **options)]
        for way, kind in zip(ways, self.plan.of_layers, strict=True):
            readings.append(self.one(layer_phase(kind), band, pos, way, **options))
        readings.append(self.one("head", band, 0, last, **options))
        return readings

    def one(
        self,
        phase: str,
        band: str,
        pos: int = 0,
        way: Way = HERE,
        **options: Any,
    ) -> Reading:
        """One program's reading.

        Args:
          phase: `"embed"`, `"head"`, or a layer's, see `layer_phase`.
          band: of the datasheet.
          pos: the position, of a layer's; the embedding's and the head's serve every one.
          way: into the region, of a layer's and the head's.
          options: see `Program.read`.
        """
        key = (phase, band, pos, way, *options.items())
        if key not in self._kept:
            if options or way == HERE:
                self._kept[key] = self._read(phase, band, pos, way, **options)
            else:
                ways = (self._way_alone(phase, band, each) for each in (HERE, way))
                self._kept[key] = by_way(self.one(phase, band, pos), *ways)
        return self._kept[key]

    def _read(
        self, phase: str, band: str, pos: int, way: Way, **options: Any
    ) -> Reading:
        device = self.device.sheet.at(band)
        shapes = self.shapes(phase, pos, way.hops)
        return self.programs[phase, way.crosses].read(device, *shapes, **options)

    def _way_alone(self, phase: str, band: str, way: Way) -> Reading:
        """The reading of a way into a region of that phase, without what is done there."""
        of = self.plan.head if phase == "head" else self._kind(phase).map
        # Regions of one size are as far for all that come in.
        key = ("way", of.rows, of.cols, band, way)
        if key not in self._kept:
            device, program = self.device.sheet.at(band), way_program(of, way.crosses)
            self._kept[key] = program.read(device, *way_arguments(of, way.hops))
        return self._kept[key]

    def shapes(self, phase: str, pos: int, hops: int) -> tuple[Any, ...]:
        """A program's arguments without data; `pos` and `hops` as for `one`."""
        if phase == "embed":
            return embed_arguments(self.plan.head)
        if phase == "head":
            return head_arguments(self.plan.head, hops)
        kind = self._kind(phase)
        return layer_arguments(kind.map, pos, hops, variant=kind.attention)

    def _kind(self, phase: str) -> PlacedKind:
        """The kind of layers of a phase."""
        (kind,) = [
            kind
            for number, kind in enumerate(self.plan.kinds)
            if layer_phase(number) == phase
        ]
        return kind

    def bound(self, pos: int) -> Bound:
        """What keeps a layer, which is nearly all of a token, from being faster."""
        band = self.device.band
        way = self.plan.ways[-2]  # into the last layer; the last one leads to the head
        phase = layer_phase(self.plan.of_layers[-1])
        uncontended = self.one(phase, band, pos, way, contended=False)
        contended = self.one(phase, band, pos, way)
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


__all__ = ["HOST", "Stage", "StepReading", "TokenClock", "Trace", "layer_phase"]
