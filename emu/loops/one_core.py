"""One core of a mesh as a state of its own: plain numbers, so that its loops are read fast.

A clock that is past, too early to decide anything, is given as a mark (`emu.loops.marks`). Where it
comes out again, it stands for that clock.
"""

import dataclasses

import numpy as np

from emu.clock import names
from emu.clock.price import BandPrices
from emu.clock.resources import LEVELS, Buffer, Path, Ring, Row
from emu.clock.state import Setup, initial_state
from emu.clock.tiles import Value
from emu.loops import jump
from emu.loops.entry import LoopEntry
from emu.loops.late import Arrival
from emu.loops.marks import NEVER

# In place of the path of a loop around the one that is read.
OUTSIDE: Path = ((), -1)


class OneCore:
    """A core before a loop: its state, and copies of what the loop can touch.

    Attributes:
      entry, cell: the loop, and the cell whose core this is.
      traced: whether its events are recorded.
      arrival: what it waits for after all else, if that is to be left open.
      time: every clock of the loop on this core, or its mark.
      state: the clock of this core alone.
      copies, versions: of each buffer in its place, and the version it holds.
      values: the loop's operands.
    """

    def __init__(
        self,
        entry: LoopEntry,
        cell: int,
        past: list[Row],
        traced: bool = False,
        arrival: Arrival | None = None,
    ):
        """Args: the loop, the cell whose core to take, and the clocks to mark."""
        self.entry = entry
        self.arrival = arrival
        self.cell = cell
        self.traced = traced
        times: list[int] = entry.times[:, cell].tolist()
        self.time = dict(zip(entry.clocks, times, strict=True))
        for row in past:
            # Below every time, a mark loses every maximum, as the past clock itself would have.
            self.time[row] = entry.marks.mark(row)
        self.state = initial_state(self._setup())
        if arrival is not None:
            self.state.latest = arrival.before
            for row in arrival.rows:
                self.time[row] = arrival.in_place_of(self.time[row])
        self._take_clocks()
        self.copies: list[Buffer] = []
        for place, buffer in enumerate(entry.buffers):
            self.copies.append(self._copy(place, buffer))
        self.versions = [copy.version for copy in self.copies]
        self.values: list[Value] = []
        for place, value in enumerate(entry.values):
            self.values.append(self._value(place, value))
        for place, value in enumerate(self.values):
            if value.buffer is not None:
                self.state.asked[self.time["ready", place]] = NEVER
        self._declare_rings()

    def _setup(self) -> Setup:
        entry = self.entry
        outer = entry.state.setup
        device = outer.device
        if outer.bands:
            device = outer.bands[entry.band_of(self.cell)]
        # The axes stay, of size 1 each: the kernel still asks for its index along them, and `core`
        # answers. Inside a core that is read alone it is that core's, for cell 0 of its mesh of one
        # says nothing of where it stands.
        return dataclasses.replace(
            outer,
            device=device,
            bands=(),
            mesh=dict.fromkeys(outer.mesh, 1),
            trace_core=(0,) * outer.rank if self.traced else None,
            core=outer.core or entry.core_of(self.cell),
        )

    def _take_clocks(self) -> None:
        """Gives engines and ports the times, names and charges that they have on this core."""
        entry = self.entry
        outer = entry.state
        state = self.state
        # Shared: what one core was the first to price no other asks for, and the longest lead is
        # that of all instructions read so far.
        state.prices = outer.prices
        if isinstance(outer.prices, BandPrices):
            band = entry.band_of(self.cell)
            state.prices = outer.prices.each[band]
        state.literals = outer.literals
        for row, _, clock in outer.table():
            resource = state.resource(row)
            setattr(resource, clock.time, self.time[row])
            if clock.label is not None:
                setattr(resource, clock.label, self._label(row))
        for engine in state.engines.values():
            # Times that were set one by one are equal but no longer one object, and each start
            # would list `shared` as a candidate of its own.
            engine.share_clock()
        for row, level in entry.levels.items():
            field, _ = row
            kind = LEVELS[field]
            own = entry.per_cell(level)[self.cell]
            setattr(state.resource(row), field, kind(own))
        if outer.loops:
            # Else this loop were taken for an outermost one, which keeps every slice's time.
            state.loops = [OUTSIDE]
            state.rings.inside[OUTSIDE] = []

    def _label(self, row: Row) -> str:
        entry = self.entry
        core = entry.core_of(self.cell)
        return names.on_core(entry.labels[row], entry.frame, core)

    def _copy(self, place: int, buffer: Buffer) -> Buffer:
        row: Row = ("idle", place)
        is_aside = place in self.entry.aside
        bank = self.entry.banks[place]
        copy = Buffer(
            # The loop's own last use is what is to come out; a reader outside that is done later
            # would hide it.
            idle=0 if is_aside else self.time[row],
            version=self.state.next_version(),
            writer=buffer.writer,
            user=self._label(row),
            port=None if bank is None else self.state.ports[bank],
            packing=buffer.packing,
        )
        outer = self.entry.state.trace
        if self.traced and buffer.since is not None:
            copy.since = buffer.since
            assert outer is not None and self.state.trace is not None
            held = outer.tracked[id(buffer)]
            own = dataclasses.replace(held, buffer=copy)
            self.state.trace.tracked[id(copy)] = own
        return copy

    def _value(self, place: int, value: Value) -> Value:
        entry = self.entry
        known = value.known
        if known is not None:
            known = entry.known_at(known, self.cell)
        if value.buffer is None:
            return Value(value.shape, value.dtype, value.space, 0, known=known)
        copy = self.copies[entry.place[id(value.buffer)]]
        stale = entry.stale[place]
        if isinstance(stale, np.ndarray):
            stale = bool(entry.per_cell(stale)[self.cell])
        row: Row = ("ready", place)
        return Value(
            value.shape,
            value.dtype,
            value.space,
            self.time[row],
            copy,
            version=-1 if stale else copy.version,
            known=known,
            source=self._label(row),
        )

    def _declare_rings(self) -> None:
        state = self.state
        state.rings.inside[()] = []
        for path, around, places in self.entry.ring_places:
            buffers = [self.copies[place] for place in places]
            loops = [*state.loops, *around]
            state.rings.declare(Ring(buffers, path, loops))

    def walk(self) -> list[Value]:
        """Reads the loop."""
        entry = self.entry
        return jump.scan(entry.walk, self.state, entry.eqn, self.values, None)


__all__ = ["OneCore"]
