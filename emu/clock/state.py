"""The clock's state as data: what engines, ports and rings were left in, and what was booked.

This is the ground floor: instructions (`emu.clock.issue`), branches, loops (`emu.loops`) and the
walk over a program (`emu.clock.timeline`) change it, and it knows none of them. All times are in
ticks.
"""

import dataclasses
import functools
from collections.abc import Hashable, Iterator, Mapping
from typing import Protocol, TypeAlias

import numpy as np

from emu.clock.names import CauseName
from emu.clock.price import BandPrices, Prices
from emu.clock.reading import Event, Spent
from emu.clock.resources import (
    CLOCKS,
    LEVELS,
    RESOURCES,
    Buffer,
    Clock,
    Engine,
    Path,
    Port,
    PortKey,
    Resource,
    Rings,
    Row,
)
from emu.clock.tally import Cores, Tally
from emu.clock.ticks import Active, Flags, PerCore, Ticks, is_late, settled
from emu.clock.tiles import Value
from emu.datasheet import Device
from emu.tracing import jaxpr as jx

Literals: TypeAlias = dict[jx.Body, dict[int, Value]]
"""Values of bodies' literals, by the atom's id."""


@dataclasses.dataclass(frozen=True)
class Setup:
    """What is read and how, the same from the first instruction to the last.

    Attributes:
      device: machine and band.
      mesh: axis name to size, outermost first.
      jump: whether loops are jumped; else every iteration is stepped.
      contended: False gives the critical path alone (engines and buffers without limit).
      trace_core: the core whose events are recorded, by its indices, or None.
      core: the core of a larger mesh that this state is of alone (see `emu.loops.one_core`).
      bands: the machine under each band that the mesh's first dimension stands for, `device` among
        them; empty where only `device` is read (see `emu.clock.bands`).
      grid, rank: the mesh's sizes, and how many they are.
    """

    device: Device
    mesh: Mapping[str, int]
    jump: bool = True
    contended: bool = True
    trace_core: tuple[int, ...] | None = None
    core: tuple[int, ...] | None = None
    bands: tuple[Device, ...] = ()
    grid: tuple[int, ...] = dataclasses.field(init=False)
    rank: int = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "grid", tuple(self.mesh.values()))
        object.__setattr__(self, "rank", len(self.mesh))

    @functools.cached_property
    def all_cores(self) -> Cores:
        return Cores(self.grid, None)

    def core_index(self, axis: str) -> np.ndarray:
        """Every core's index along a mesh axis, broadcastable to the mesh."""
        dimension = list(self.mesh).index(axis)
        # Alone its mesh is of size 1, but what it asks for is where it stands in the larger one.
        if self.core is not None:
            return np.full((1,) * self.rank, self.core[dimension], np.int32)
        shape = [1] * self.rank
        shape[dimension] = -1
        return np.arange(self.grid[dimension], dtype=np.int32).reshape(shape)


@dataclasses.dataclass(frozen=True)
class Lifetime:
    """What a buffer holds on the traced core: what its event is called, and its bytes."""

    buffer: Buffer
    engine: str
    nbytes: int


Tracked: TypeAlias = dict[int, Lifetime]
"""What each buffer holds, by the buffer's id."""


@dataclasses.dataclass(eq=False)
class Trace:
    """What is recorded of one core.

    Attributes:
      core: its indices.
      grid: the mesh's sizes.
      events: its instructions so far, and the lifetimes that have ended.
      tracked: what each buffer holds, by the buffer's id.
    """

    core: tuple[int, ...]
    grid: tuple[int, ...]
    events: list[Event] = dataclasses.field(default_factory=list[Event])
    tracked: Tracked = dataclasses.field(default_factory=Tracked)


@dataclasses.dataclass(eq=False, slots=True)
class ClockState:
    """Everything that the clock has come to, on every core.

    Attributes:
      setup: what is read, and how.
      prices: costs that no count changes, and what they tell of all instructions.
      engines: by name.
      trace: what is recorded of the traced core, or None.
      ports: by memory space and bank, those used so far.
      rings: the rings of tiles declared so far.
      spent: `(engine, what)` to ticks so far (see `Reading`).
      tally: counts, FLOPs and bytes.
      end: when the last instruction so far is done; inside a loop, the last of that loop.
      path: where in the program the walk is, by equation and branch numbers, innermost last.
      loops: paths of the loops around it, outermost first.
      iterations: of the loop being walked; 0 outside of loops.
      exchanged: mesh axes along which cores exchanged data in the loop being walked.
      all_at_once: whether loops are read on all cores at once, not class by class.
      literals: values of bodies' literals, by the atom's id.
      stepped: instructions walked.
      unjumped: loops that had to be stepped to their end.
      writes: how many writes there were: versions of buffers are numbers of writes.
      latest, latest_late: of one core, the latest time that came out of an instruction so far; and
        of those that follow from a late arrival (`emu.loops.late`). 0 where there is none.
      asked: of one core, by the time at which an operand of its loop is ready, the earliest start
        of an instruction that waits for it (`emu.loops.early`).
      kept_table: see `table`.
    """

    setup: Setup
    prices: Prices | BandPrices
    engines: dict[str, Engine]
    trace: Trace | None
    ports: dict[PortKey, Port] = dataclasses.field(default_factory=dict[PortKey, Port])
    rings: Rings = dataclasses.field(default_factory=Rings)
    spent: Spent = dataclasses.field(default_factory=Spent)
    tally: Tally = dataclasses.field(default_factory=Tally)
    end: Ticks = 0
    path: Path = ()
    loops: list[Path] = dataclasses.field(default_factory=list[Path])
    iterations: int = 0
    exchanged: set[str] = dataclasses.field(default_factory=set[str])
    all_at_once: bool = False
    literals: Literals = dataclasses.field(default_factory=Literals)
    stepped: int = 0
    unjumped: list[str] = dataclasses.field(default_factory=list[str])
    writes: int = 0
    latest: int = 0
    latest_late: int = 0
    asked: dict[int, int] = dataclasses.field(default_factory=dict[int, int])
    kept_table: "ClockTable | None" = None

    @property
    def is_plain(self) -> bool:
        """Whether all times are plain numbers, and nothing but they is asked for: of one core."""
        setup = self.setup
        return setup.core is not None and setup.contended and self.trace is None

    @property
    def is_in_line(self) -> bool:
        """Whether times are held as others shifted (`emu.clock.skew`).

        On a machine with one engine all that a core does follows from what it did before, so of
        nearly all times it is known which is later. Loops compare and move arrays.
        """
        return len(self.engines) == 1 and not self.loops

    # --- buffers and values ---

    def buffer(self, idle: Ticks = 0, user: CauseName = "") -> Buffer:
        """A new buffer."""
        return Buffer(idle, self.next_version(), user=user)

    def next_version(self) -> int:
        # No number is given twice, so two equal versions are one write.
        self.writes += 1
        return self.writes

    def note(self, time: int) -> None:
        """Keeps a time that came out of an instruction, on one core, if it is the latest."""
        if not is_late(time):
            if time > self.latest:
                self.latest = time
        elif time > self.latest_late:
            self.latest_late = time

    def ask(self, ready: int, start: int) -> None:
        """Keeps that an instruction which waits for what is ready by then starts no earlier."""
        asked = self.asked
        if ready in asked and start < asked[ready]:
            asked[ready] = start

    def port(self, key: PortKey) -> Port:
        """The port of a memory space's bank, or of the whole memory."""
        return self.ports.setdefault(key, Port())

    def there(self, aval: jx.Aval, space: str) -> Value:
        """A value in a buffer of its own, there from the start."""
        buffer = self.buffer()
        return Value(aval.shape, aval.dtype, space, 0, buffer, buffer.version)

    def made(self, aval: jx.Aval, space: str, ready: Ticks, source: CauseName) -> Value:
        """A value in a buffer of its own, which its maker writes until it is ready."""
        buffer = self.made_buffer(ready, source)
        version = buffer.version
        return Value(
            aval.shape, aval.dtype, space, ready, buffer, version, source=source
        )

    def made_buffer(self, ready: Ticks, source: CauseName) -> Buffer:
        """A buffer that somebody writes until it is ready."""
        # Nobody may overwrite it before. That is a use like another: a core that is read for others
        # of its class tells them when the buffers are idle that the loop has used.
        buffer = self.buffer(ready, source)
        buffer.uses = 1
        return buffer

    # --- every clock, by name ---

    def settle(self, values: list[Value]) -> list[Value]:
        """Has all times that a loop at this path meets be numbers and arrays.

        Args:
          values: that it is given.

        Returns:
          The same values.
        """
        for engine in self.engines.values():
            is_one = engine.free is engine.last
            engine.last = settled(engine.last)
            engine.free = engine.last if is_one else settled(engine.free)
            engine.paced = settled(engine.paced)
        for port in self.ports.values():
            port.until = settled(port.until)
        self.end = settled(self.end)
        self.spent = {key: settled(ticks) for key, ticks in self.spent.items()}
        buffers = [value.buffer for value in values]
        for ring in self.rings.inside.get(self.path, []):
            buffers.extend(ring.buffers)
        for buffer in buffers:
            if buffer is not None:
                buffer.idle = settled(buffer.idle)
        return [value.settled() for value in values]

    def table(self) -> "ClockTable":
        """Every clock of engines and ports: its row, whose it is, and its fields."""
        # Made anew only if an engine or port came to be: every iteration of every loop asks.
        # Engines and ports are never taken away, so as many as before are the same as before.
        size = sum(len(getattr(self, table)) for table in RESOURCES)
        if self.kept_table is None or self.kept_table.size != size:
            self.kept_table = ClockTable(self, size)
        return self.kept_table

    def clocks(self) -> dict[Row, Ticks]:
        """The time of every clock of engines and ports."""
        table = self.table()
        return dict(zip(table.rows, table.times(), strict=True))

    def labels(self) -> dict[Row, CauseName]:
        """The name under which a wait for a clock is booked, where that is not fixed."""
        table = self.table()
        return dict(zip(table.labelled_rows, table.labels(), strict=True))

    def levels(self) -> dict[Row, PerCore | Flags]:
        """What else decides the future of engines that throttle."""
        found: dict[Row, PerCore | Flags] = {}
        for name, engine in self.engines.items():
            # Its charge stays 0, and would only lengthen what is compared.
            if engine.law is None:
                continue
            for field in LEVELS:
                found[field, name] = getattr(engine, field)
        return found

    def resource(self, row: Row) -> Resource:
        """Whose clock, or level, a row is; what was not used yet is made."""
        kind, key = row
        is_level = kind in LEVELS
        name = "engines" if is_level else CLOCKS[kind].table
        table: dict[Hashable, Resource] = getattr(self, name)
        # A loop read on one core may be the first to use a bank: the mesh has no port for it yet.
        if key not in table:
            table[key] = RESOURCES[name]()
        return table[key]


class ClockTable:
    """The rows of `CLOCKS`, one for every engine or port that has such a clock.

    Attributes:
      rows: their names.
      resources, clocks: whose they are, and their fields.
      size: how many engines and ports there are.
      labelled_rows: those that have a label.
    """

    def __init__(self, state: ClockState, size: int):
        self.size = size
        self.rows: list[Row] = []
        self.resources: list[Resource] = []
        self.clocks: list[Clock] = []
        for clock in CLOCKS.values():
            resources: Mapping[Hashable, Resource] = getattr(state, clock.table)
            for key, resource in resources.items():
                self.rows.append((clock.kind, key))
                self.resources.append(resource)
                self.clocks.append(clock)
        # Lists side by side, for `map(getattr, ...)`: every loop takes them all after each
        # iteration walked.
        self._time_fields = [clock.time for clock in self.clocks]
        self._mark_fields = [clock.mark for clock in self.clocks]
        self.labelled_rows: list[Row] = []
        self._labelled: list[Resource] = []
        self._label_fields: list[str] = []
        for row, resource, clock in self:
            if clock.label is not None:
                self.labelled_rows.append(row)
                self._labelled.append(resource)
                self._label_fields.append(clock.label)

    def __iter__(self) -> Iterator[tuple[Row, Resource, Clock]]:
        return zip(self.rows, self.resources, self.clocks, strict=True)

    def times(self) -> list[Ticks]:
        return list(map(getattr, self.resources, self._time_fields))

    def marks(self) -> list[object]:
        return list(map(getattr, self.resources, self._mark_fields))

    def labels(self) -> list[CauseName]:
        return list(map(getattr, self._labelled, self._label_fields))


def initial_state(setup: Setup) -> ClockState:
    """The state before the first instruction."""
    device = setup.device
    engines: dict[str, Engine] = {}
    for name in device.ticks_per_cycle:
        cause = device.causes.get(name, name)
        law = device.throttle_laws.get(name)
        engines[name] = Engine(name, cause, law)
    trace = None
    if setup.trace_core is not None:
        trace = Trace(setup.trace_core, setup.grid)
    prices = BandPrices(setup.bands, setup.rank) if setup.bands else Prices(device)
    state = ClockState(setup, prices, engines, trace)
    # A single core is all of its class: dividing would be for nothing.
    state.all_at_once = setup.all_cores.count == 1
    return state


class Walk(Protocol):
    """Reads a jaxpr's equations: what branches and loops ask of the timeline above them."""

    def __call__(
        self, state: ClockState, body: jx.Body, inputs: list[Value], active: Active, /
    ) -> list[Value]:
        """The body's outputs, once its instructions are issued on the active cores."""
        ...


__all__ = [
    "ClockState",
    "ClockTable",
    "Lifetime",
    "Setup",
    "Trace",
    "Walk",
    "initial_state",
]
