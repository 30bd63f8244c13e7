"""Everything that is known of one kernel's run on one machine: clock, bounds, split, path."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from emu import BANDS, Program
from emu.clock.reading import Reading
from emu.errors import OutOfMemory, UnreadInstruction
from emu.report.attribution import Spent, Split, last_core, split
from emu.report.bounds import Bounds, Quantities, Utilisation, bounds, utilisation
from emu.report.critical_path import Line, Stretch, by_line, critical_path
from emu.report.explain import Reason, explain
from emu.report.trials import Trials
from emu.trainium.datasheets.sheet import NeuronCoreSheet
from emu.trainium.profile import account, dma_events, peaks, quantities
from kernels.trainium.catalogue import Entry


@dataclasses.dataclass(frozen=True)
class Run:
    """One kernel with its sizes, on one machine.

    Attributes:
      entry: of the catalogue.
      given: sizes and parameters that are not the defaults.
      sheet: the machine.
      program, arguments: what was built.
      peak_bytes: memory space to the most bytes in use at once.
    """

    entry: Entry
    given: dict[str, Any]
    sheet: NeuronCoreSheet
    program: Program
    arguments: tuple[Any, ...]
    peak_bytes: dict[str, int]

    @property
    def title(self) -> str:
        return title(self.entry, self.given)

    @property
    def machine(self) -> str:
        """Of what its times are: the chip, the program's cores, and how much of a chip runs."""
        cores = "one core" if self.cores == 1 else f"{self.cores} cores"
        return f"{self.sheet.name}, {cores} ({self.sheet.deployed})"

    def read(self) -> None:
        """Reads every clock there is now, so that nothing of the kernel's can be wrong later.

        Raises:
          EmulationError: the machine cannot run it.
        """
        _ = self.clock, self.time_s, self.as_written_s
        if not self.clock.end_ticks:
            raise UnreadInstruction(
                f"{self.entry.name}: takes no time; a kernel returns what its instructions made"
            )

    @functools.cached_property
    def clock(self) -> Reading:
        """Nominal, with every instruction of the core that ends last."""
        device = self.sheet.at()
        core = (0,) * len(self.program.mesh)
        if self.cores > 1:
            core = last_core(self.program.read(device, *self.arguments))
        return self.program.read(device, *self.arguments, trace_core=core)

    @property
    def cores(self) -> int:
        """Of the program's mesh."""
        return math.prod(self.program.mesh.values())

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
        sizes = {
            key: value for key, value in self.given.items() if key in self.entry.sizes
        }
        body, _ = self.program.trace(self.arguments)
        of_one_core = [argument.aval for argument in body.invars]
        useful = self.entry.useful_flops(**sizes) or None
        return quantities(self.clock, of_one_core, useful)

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
        return split(
            self.spent,
            engine,
            peaks(self.quantities, self.clock.device.tick_hz).get(engine),
        )

    @functools.cached_property
    def reasons(self) -> list[Reason]:
        clock = self.clock
        trials = Trials(
            self.program, clock.device, self.arguments, clock.end_ticks, clock.events
        )
        events = [*clock.events, *dma_events(clock.events)]
        return explain(self.split, clock.device.tick_hz, events, trials=trials)

    @functools.cached_property
    def path(self) -> list[Stretch]:
        return critical_path(
            self.clock.events, self.clock.end_ticks, self.clock.device.causes
        )

    @functools.cached_property
    def path_lines(self) -> list[Line]:
        return by_line(self.path)

    def us(self, ticks: int) -> float:
        """Ticks in microseconds."""
        return ticks / self.clock.device.tick_hz * 1e6


def title(entry: Entry, given: dict[str, Any]) -> str:
    """A kernel with every size, and the parameters that were given."""
    chosen = {**entry.sizes, **given}
    return " ".join([entry.name, *(f"{key}={value}" for key, value in chosen.items())])


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


def built(entry: Entry, given: dict[str, Any], sheet: NeuronCoreSheet) -> Run:
    """Builds a kernel and checks that it fits; figures are computed when asked for.

    Raises:
      EmulationError: the machine cannot run it, or it does not fit.
      ValueError: sizes that the kernel does not take.
    """
    program, arguments = entry.build(**given)
    check_arguments(arguments, sheet)
    peaks = program.memory(sheet.at(), *arguments)
    return Run(entry, dict(given), sheet, program, arguments, peaks)
