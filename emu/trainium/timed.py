"""Everything that is known of a program's time on NeuronCores: clock, bounds, split, critical path.

Figures are computed when they are asked for and kept: a table, a JSON document and a picture of one
program are of the same readings.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from emu.clock.reading import Reading
from emu.datasheet import BANDS
from emu.errors import OutOfMemory, UnreadInstruction
from emu.program import Program
from emu.report.attribution import Spent, Split, last_core, split
from emu.report.bounds import Bounds, Quantities, Utilisation, bounds, utilisation
from emu.report.critical_path import Line, Stretch, by_line, critical_path
from emu.report.explain import Reason, explain
from emu.report.trials import Trials
from emu.trainium.datasheets.sheet import NeuronCoreSheet
from emu.trainium.profile import account, dma_events, peaks, quantities


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timed:
    """A program with its arguments, on one machine.

    Attributes:
      title: what reports call it.
      sheet: the machine.
      program: what is timed.
      arguments: arrays or abstract ones, and `Known` numbers, as `Program.read` takes them.
      useful_flops: of the operation itself, a multiply-add counting 2; None takes the
        instructions'.
    """

    title: str
    sheet: NeuronCoreSheet
    program: Program
    arguments: tuple[Any, ...]
    useful_flops: int | None = None

    @property
    def machine(self) -> str:
        """Of what its times are: the chip, the program's cores, and how much of a chip runs."""
        cores = "one core" if self.cores == 1 else f"{self.cores} cores"
        return f"{self.sheet.name}, {cores} ({self.sheet.deployed})"

    @property
    def cores(self) -> int:
        """Of the program's mesh."""
        return math.prod(self.program.mesh.values())

    def read(self) -> None:
        """Reads every clock there is now, so that nothing of the kernel's can be wrong later.

        Raises:
          EmulationError: the machine cannot run it.
        """
        _ = self.clock, self.time_s, self.as_written_s
        if not self.clock.end_ticks:
            raise UnreadInstruction(
                f"{self.title}: takes no time; a kernel returns what its instructions made"
            )

    @functools.cached_property
    def peak_bytes(self) -> dict[str, int]:
        """Memory space to the most bytes in use at once.

        Raises:
          OutOfMemory: they do not fit.
        """
        return self.program.memory(self.sheet.at(), *self.arguments)

    @functools.cached_property
    def clock(self) -> Reading:
        """Nominal, with every instruction of the core that ends last."""
        device = self.sheet.at()
        core = (0,) * len(self.program.mesh)
        if self.cores > 1:
            core = last_core(self.program.read(device, *self.arguments))
        return self.program.read(device, *self.arguments, trace_core=core)

    @functools.cached_property
    def time_s(self) -> dict[str, float]:
        """Seconds by band of the datasheet."""
        seconds = {}
        for band in BANDS:
            reading = self.program.read(self.sheet.at(band), *self.arguments)
            seconds[band] = reading.seconds
        return seconds

    @functools.cached_property
    def as_written_s(self) -> float:
        """Seconds if every ring of tiles were one buffer."""
        device = self.sheet.at()
        reading = self.program.read(device, *self.arguments, as_written=True)
        return reading.seconds

    @functools.cached_property
    def spent(self) -> Spent:
        """Engine to what its time went to, in ticks."""
        return account(self.clock)

    @functools.cached_property
    def quantities(self) -> Quantities:
        body, _ = self.program.trace(self.arguments)
        of_one_core = [argument.aval for argument in body.invars]
        return quantities(self.clock, of_one_core, self.useful_flops)

    @functools.cached_property
    def bounds(self) -> Bounds:
        return bounds(self.quantities)

    @functools.cached_property
    def utilisation(self) -> Utilisation:
        return utilisation(self.quantities)

    @functools.cached_property
    def split(self) -> Split:
        """Of the engine that is active longest."""
        engine = self.bounds.bottleneck_engine
        of_engine = peaks(self.quantities, self.clock.device.tick_hz).get(engine)
        return split(self.spent, engine, of_engine)

    @functools.cached_property
    def reasons(self) -> list[Reason]:
        """The largest ones why it is not at its bound."""
        clock = self.clock
        trials = Trials(
            self.program, clock.device, self.arguments, clock.end_ticks, clock.events
        )
        events = [*clock.events, *dma_events(clock.events)]
        return explain(self.split, clock.device.tick_hz, events, trials=trials)

    @functools.cached_property
    def path(self) -> list[Stretch]:
        """The critical path."""
        clock = self.clock
        return critical_path(clock.events, clock.end_ticks, clock.device.causes)

    @functools.cached_property
    def path_lines(self) -> list[Line]:
        """The critical path by source line."""
        return by_line(self.path)

    def us(self, ticks: int) -> float:
        """Ticks in microseconds."""
        return ticks / self.clock.device.tick_hz * 1e6


def check_arguments(arguments: tuple[Any, ...], sheet: NeuronCoreSheet) -> None:
    """That the arrays fit, before anything is traced whose integers they could overflow.

    Raises:
      OutOfMemory: they do not.
    """
    device = sheet.at()
    needed, allowed = 0, device.capacity_bytes[device.home]
    for argument in jax.tree.leaves(arguments):
        if isinstance(argument, jax.ShapeDtypeStruct):  # and no number
            needed += math.prod(argument.shape) * jnp.dtype(argument.dtype).itemsize
    if allowed is not None and needed > allowed:
        raise OutOfMemory(
            f"{device.core}: the arrays take {needed:,} bytes of {device.home}, has {allowed:,}; "
            "give smaller sizes"
        )


__all__ = ["Timed", "check_arguments"]
