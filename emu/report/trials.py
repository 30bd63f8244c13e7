"""Whether a change makes a kernel faster, and by how much: the kernel is read again with it."""

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from emu.checks import memory
from emu.clock.reading import Event
from emu.datasheet import Device
from emu.errors import EmulationError
from emu.program import Program
from emu.report import changes
from emu.report.changes import DeeperRings, OtherParameter
from emu.report.critical_path import instructions
from emu.tracing import jaxpr as jx
from emu.tracing.changed import Change, changed

# Where else an engine's instructions may run: the parameter that says so, and its other values.
ELSEWHERE: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "load_queue": ("queue", ("load_queue2",)),
    "load_queue2": ("queue", ("load_queue",)),
    "store_queue": ("queue", ("store_queue2",)),
    "store_queue2": ("queue", ("store_queue",)),
    "vector": ("engine", ("gpsimd", "scalar")),
    "scalar": ("engine", ("vector", "gpsimd")),
    "gpsimd": ("engine", ("vector", "scalar")),
}
MOVED = 2  # instructions of an engine that are tried elsewhere, the longest first


@dataclasses.dataclass(frozen=True)
class Faster:
    """A change with which a kernel takes less time.

    Attributes:
      told: the change in words.
      ticks: of the whole kernel with it.
    """

    told: str
    ticks: int


class Trials:
    """A kernel that can be read again with changes.

    Attributes:
      program, device, arguments: as the kernel is read.
      ticks: that it takes as it is.
      events: of the core that ends last.
    """

    def __init__(
        self,
        program: Program,
        device: Device,
        arguments: Sequence[Any],
        ticks: int,
        events: Iterable[Event],
    ):
        self.program = program
        self.device = device
        self.arguments = tuple(arguments)
        self.ticks = ticks
        self.events = instructions(events)
        self._read: dict[Change, int | None] = {}
        self._deeper: list[Faster] | None = None

    def with_change(self, change: Change) -> int | None:
        """The ticks that the kernel takes with a change; None where it cannot run so."""
        if change not in self._read:
            try:
                clock = self.program.read(self.device, *self.arguments, change=change)
                self._read[change] = clock.end_ticks
            except EmulationError:
                self._read[change] = None
        return self._read[change]

    # --- rings ---

    def deeper_rings(self) -> list[Faster]:
        """Rings one buffer deeper: the fewest that gain what all together do; empty if nothing."""
        if self._deeper is None:
            self._deeper = self._deeper_rings()
        return self._deeper

    def _deeper_rings(self) -> list[Faster]:
        lines = self._that_fit(changes.ring_lines(self._body))
        best = self._ticks_of(lines)
        if best is None or best >= self.ticks:
            return []
        # Example: of 8 rings the third alone is what helps. The first 4 gain as much as all, of
        # those the last 2 do, and of these the first: three to six readings name it.
        while len(lines) > 1:
            middle = len(lines) // 2
            halves = (lines[:middle], lines[middle:])
            enough = [half for half in halves if self._ticks_of(half) == best]
            if not enough:
                break
            lines = enough[0]
        return [Faster(f"rings one buffer deeper at {', '.join(lines)}", best)]

    def _ticks_of(self, lines: Sequence[str]) -> int | None:
        return self.with_change(DeeperRings(frozenset(lines))) if lines else None

    def _that_fit(self, lines: Sequence[str]) -> list[str]:
        """Those that can be deeper at once in the machine's memories, first ones first."""
        if self._fits(lines):
            return list(lines)
        kept: list[str] = []
        for line in lines:
            if self._fits([*kept, line]):
                kept.append(line)
        return kept

    def _fits(self, lines: Sequence[str]) -> bool:
        try:
            memory.peaks(
                changed(self._body, DeeperRings(frozenset(lines))), self.device
            )
        except EmulationError:
            return False
        return True

    # --- other engines, queues and banks ---

    def moved(self, engines: Iterable[str]) -> list[Faster]:
        """The longest instructions of some engines on another engine, or queue, where faster."""
        among = list(changes.instructions(self._body))
        found: list[Faster] = []
        for engine, name, line in self._longest(engines):
            parameter, values = ELSEWHERE[engine]
            if not changes.takes(name, parameter, among):
                continue
            for value in values:
                told = f'{name.rpartition(".")[2]} at {line} with {parameter}="{value}"'
                change = OtherParameter(name, line, parameter, value)
                found += self._if_faster(told, change)
        return found

    def _longest(self, engines: Iterable[str]) -> list[tuple[str, str, str]]:
        """Engine, instruction and line of those that keep the engines busy longest."""
        busy: collections.Counter[tuple[str, str, str]] = collections.Counter()
        wanted = {engine for engine in engines if engine in ELSEWHERE}
        for event in self.events:
            if event.engine in wanted:
                busy[event.engine, event.name, event.where] += event.end - event.start
        return [key for key, _ in busy.most_common(MOVED)]

    def own_banks(self) -> list[Faster]:
        """Every tile in banks of its own instead of those that the kernel names."""
        return self._if_faster("every tile in banks of its own", changes.own_banks)

    def _if_faster(self, told: str, change: Change) -> list[Faster]:
        ticks = self.with_change(change)
        if ticks is None or ticks >= self.ticks:
            return []
        return [Faster(told, ticks)]

    @property
    def _body(self) -> jx.Body:
        body, _ = self.program.trace(self.arguments)
        return body
