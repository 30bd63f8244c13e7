"""A loop about to be read: all that it can read or change on every core, by name.

A *cell* stands for cores whose times and known integers agree throughout. The loop's frame has a
mesh dimension of full size only where something tells cores apart: on a mesh of 4 x 16 cores whose
clocks differ between columns only, the frame is `(1, 16)`, and each of its 16 cells stands for 4
cores.
"""

import itertools
import math
from collections.abc import Iterable
from functools import cached_property
from typing import TypeAlias

import numpy as np

from emu.clock.names import CauseName, PerCoreNames, prefixed
from emu.clock.resources import Buffer, Path, PortKey, Ring, Row
from emu.clock.state import ClockState, Walk
from emu.clock.ticks import Active, Flags, Ticks
from emu.clock.tiles import Value
from emu.loops import relevant
from emu.loops.foresight import decides
from emu.loops.marks import Marks
from emu.loops.writes import read_only
from emu.tracing import jaxpr as jx

PerCell: TypeAlias = np.ndarray
"""An entry per cell."""

Shapes: TypeAlias = set[tuple[int, ...]]

RingPlace: TypeAlias = tuple[Path, list[Path], list[int]]
"""A ring: its path, those of the loops around it, and the places of its buffers."""


Numbers: TypeAlias = dict[str, int]
"""A number for each name met so far."""

UNLIKE = -2
"""In place of the number of a name that differs between cores."""


class LoopEntry:
    """A loop about to be read.

    Attributes:
      walk: reads its body.
      state: the clock as the loop begins.
      marks: stand for clocks that are past.
      eqn, values, active: the `scan`, its operands, and the cores that take part.
      scan: the `scan` as `emu.tracing.jaxpr` reads it.
      rings: the rings declared inside it so far.
      buffers: every buffer it can touch, each once; its place here is how it is known.
      place: the place of each buffer by its id.
      aside: places of those that nothing in the loop waits for.
      clocks: every time it can read, by row.
      labels: the name under which a wait for a clock is booked, by row, where that is not fixed.
      levels: what else decides the future of engines, by row.
      axes: of the mesh, along which the loop decides by a core's index.
      knowns: known values of operands by their places, where the loop decides by them.
    """

    def __init__(
        self,
        walk: Walk,
        state: ClockState,
        marks: Marks,
        eqn: jx.Equation,
        values: list[Value],
        active: Active,
    ):
        self.walk = walk
        self.state = state
        self.marks = marks
        self.eqn = eqn
        self.values = values
        self.active = active
        self.scan = jx.scan(eqn)
        self.rings = state.rings.inside.get(state.path, [])
        self.buffers: list[Buffer] = []
        self.place: dict[int, int] = {}
        self.aside: set[int] = set()
        self._place_buffers()
        self.clocks = state.clocks()
        self.labels = state.labels()
        self._add_own_rows()
        self.levels = state.levels()
        self.decides = decides(self.scan.body)
        self.axes: frozenset[str] = frozenset()
        self.knowns: dict[int, np.ndarray] = {}
        self._name_numbers: np.ndarray | None = None
        # Else an integer that differs between cores would make each a cell of its own, though the
        # loop decides nothing by it.
        if self.decides:
            matters = relevant.of_loop(self.scan)
            self.axes = matters.axes
            for place, value in enumerate(values):
                if place in matters.inputs and value.known is not None:
                    self.knowns[place] = value.known

    def _place_buffers(self) -> None:
        """Gives each buffer its place: first those of operands, then those of rings."""
        turned = [buffer for ring in self.rings for buffer in ring.buffers]
        held = [value.buffer for value in self.values]
        # In a fixed order: places are part of the form, by which a loop is found again.
        for buffer in (*held, *turned):
            if buffer is not None and id(buffer) not in self.place:
                self.place[id(buffer)] = len(self.buffers)
                self.buffers.append(buffer)
        consts, carry, stacked = self.scan.parts(self.values)
        for buffer in read_only(self.scan, consts, carry, stacked, turned):
            # Different readers outside, done at different times, would part the cores into classes
            # over clocks that make nothing in the loop wait.
            self.aside.add(self.place[id(buffer)])

    def _add_own_rows(self) -> None:
        """Adds the clocks of buffers and values to those of engines and ports."""
        for place, buffer in enumerate(self.buffers):
            row = "idle", place
            self.clocks[row] = buffer.idle
            self.labels[row] = buffer.user
        for place, value in enumerate(self.values):
            row = "ready", place
            self.clocks[row] = value.ready
            self.labels[row] = value.source

    # --- cells ---

    @cached_property
    def frame(self) -> tuple[int, ...]:
        """Mesh dimensions, of full size where cores may differ, else 1."""
        setup = self.state.setup
        shapes = {known.shape[: setup.rank] for known in self.knowns.values()}
        for axis in self.axes:
            index = setup.core_index(axis)
            shapes.add(index.shape)
        # Times that differ by column, `(1, 16)`, and an integer that differs by row, `(4, 1)`: then
        # the frame is `(4, 16)` and each core a cell of its own.
        return np.broadcast_shapes(self._frame_of_clocks, *shapes)

    @cached_property
    def _frame_of_clocks(self) -> tuple[int, ...]:
        """Mesh dimensions, of full size where clocks tell cores apart, else 1."""
        setup = self.state.setup
        which: list[np.ndarray] = []
        for name in self.labels.values():
            if isinstance(name, PerCoreNames):
                which.append(name.which)
        shapes = _shapes(self.clocks.values())
        shapes |= _shapes(self.levels.values())
        shapes |= _shapes(self.stale)
        shapes |= _shapes([self.active])
        shapes |= _shapes(which)
        if setup.bands:
            # Prices differ between bands.
            others = (1,) * (setup.rank - 1)
            shapes.add((len(setup.bands), *others))
        all_alike = (1,) * setup.rank
        return np.broadcast_shapes(all_alike, *shapes)

    def folded(self, patterns: PerCell) -> PerCell:
        """Takes cores together that differ in what they know, and decide alike.

        Each core of a chip has heads of its own, and asks a table for theirs: eight different
        integers. Where all eight decide the same by them and their clocks agree, a chip is one
        cell, and stays one after the loop.

        Args:
          patterns: of each cell's decisions.

        Returns:
          Those of the cells that are left.
        """
        by_cell = patterns.reshape(self.frame)
        for dimension, size in enumerate(self._frame_of_clocks):
            first = by_cell.take([0], axis=dimension)
            if size == 1 and (by_cell == first).all():
                by_cell = first
        if by_cell.shape != self.frame:
            self.frame = by_cell.shape
            for name in ("cells", "cores", "here", "times", "_core_of_each_cell"):
                # Made anew when they are next asked for.
                self.__dict__.pop(name, None)
        return by_cell.reshape(-1)

    @cached_property
    def cells(self) -> int:
        """How many cells there are."""
        return math.prod(self.frame)

    @cached_property
    def cores(self) -> int:
        """How many cores a cell stands for."""
        return math.prod(self.state.setup.grid) // self.cells

    @cached_property
    def here(self) -> np.ndarray:
        """The cells that take part."""
        if self.active is None:
            return np.arange(self.cells)
        takes_part = self.per_cell(self.active)
        return np.flatnonzero(takes_part)

    def per_cell(self, entry: Ticks | Flags) -> PerCell:
        """One entry per cell."""
        if isinstance(entry, np.ndarray) and entry.shape == self.frame:
            return entry.reshape(-1)
        return np.broadcast_to(entry, self.frame).reshape(-1)

    def core_of(self, cell: int) -> tuple[int, ...]:
        """A core of a cell."""
        return self._core_of_each_cell[cell]

    @cached_property
    def _core_of_each_cell(self) -> list[tuple[int, ...]]:
        # Along a dimension of 1 the first core stands for all: nothing that the loop reads differs.
        each_dimension = [range(size) for size in self.frame]
        return list(itertools.product(*each_dimension))

    def band_of(self, cell: int) -> int:
        """The band that a cell is read under: its place in the mesh's first dimension."""
        return self.core_of(cell)[0]

    def known_at(self, known: np.ndarray, cell: int) -> np.ndarray:
        """A known integer on one core, mesh dimensions of size 1."""
        index: list[slice] = []
        for coordinate, size in zip(self.core_of(cell), known.shape):
            first = coordinate if size > 1 else 0
            index.append(slice(first, first + 1))
        return known[tuple(index)]

    # --- clocks ---

    @cached_property
    def stale(self) -> list[Flags]:
        """Which operands were overwritten."""
        return [value.stale for value in self.values]

    @cached_property
    def position(self) -> dict[Row, int]:
        """Where each clock is in `times`."""
        return {row: i for i, row in enumerate(self.clocks)}

    @cached_property
    def times(self) -> np.ndarray:
        """Every clock in every cell, `[clocks, cells]`."""
        shape = len(self.clocks), self.cells
        out = np.empty(shape, np.int64)
        for number, time in enumerate(self.clocks.values()):
            out[number] = time if type(time) is int else self.per_cell(time)
        return out

    def times_at(self, mark: int) -> PerCell:
        """The clock that a mark stands for, in every cell."""
        row = self.marks.row(mark)
        return self.times[self.position[row]]

    def label_at(self, mark: int) -> CauseName:
        """The name that goes with the clock that a mark stands for."""
        row = self.marks.row(mark)
        return self.labels[row]

    def source_at(self, mark: int) -> CauseName:
        """What a value that is ready by that clock makes wait for."""
        label = self.label_at(mark)
        kind, _ = self.marks.row(mark)
        # A tile that was declared and not written yet is ready when its buffer is idle.
        return prefixed("buffer:", label) if kind == "idle" else label

    @cached_property
    def own_rows(self) -> list[Row]:
        """The clocks of buffers and values that an instruction of the loop can wait for."""
        places = range(len(self.buffers))
        rows: list[Row] = [
            ("idle", place) for place in places if place not in self.aside
        ]
        for place, value in enumerate(self.values):
            if value.buffer is not None:
                rows.append(("ready", place))
        return rows

    def name_numbers(self, numbers: Numbers) -> np.ndarray:
        """The number of each clock's name, in the order of `clocks`; -1 of those without one.

        Worked out once for all cores, however they decide. `UNLIKE` of names that differ.

        Args:
          numbers: of the names met so far; new ones are added.
        """
        if self._name_numbers is None:
            found: list[int] = []
            for row in self.clocks:
                name = self.labels.get(row)
                if isinstance(name, str):
                    found.append(numbers.setdefault(name, len(numbers)))
                else:
                    found.append(-1 if name is None else UNLIKE)
            self._name_numbers = np.array(found, np.int64)
        return self._name_numbers

    # --- form ---

    @cached_property
    def ring_places(self) -> list[RingPlace]:
        """Every ring, its paths as seen from here."""
        above = len(self.state.loops)
        found: list[RingPlace] = []
        for ring in self.rings:
            # A function that is called in two places holds one loop, met at two paths: as seen from
            # the loop its rings are the same.
            path, inner = ring.seen_inside(above)
            places = [self.place[id(buffer)] for buffer in ring.buffers]
            found.append((path, inner, places))
        return found

    @cached_property
    def rings_by_path(self) -> dict[Path, Ring]:
        """The rings declared inside so far, by their paths as seen from here."""
        above = len(self.state.loops)
        return {ring.seen_inside(above)[0]: ring for ring in self.rings}

    @property
    def spaces(self) -> tuple[tuple[str, bool], ...]:
        """What prices depend on besides decisions."""
        kinds = [(value.space, value.known is None) for value in self.values]
        return tuple(kinds)

    @cached_property
    def form(self) -> tuple[object, ...]:
        """What a core's future depends on besides times and decisions; one for all cores."""
        places = [self.place.get(id(value.buffer)) for value in self.values]
        rings = [(path, tuple(held)) for path, _, held in self.ring_places]
        # An outermost loop keeps when each slice of its stacks is ready, so its outcome has more in
        # it.
        is_inner = bool(self.state.loops)
        return tuple(places), self.spaces, self.banks, tuple(rings), is_inner

    @cached_property
    def banks(self) -> tuple[PortKey | None, ...]:
        """The port that each buffer shares with others."""
        ports = self.state.ports
        keys = {id(port): key for key, port in ports.items()}
        banks = [keys.get(id(buffer.port)) for buffer in self.buffers]
        return tuple(banks)


def _shapes(entries: Iterable[Ticks | Flags | None]) -> Shapes:
    return {entry.shape for entry in entries if isinstance(entry, np.ndarray)}


__all__ = ["UNLIKE", "LoopEntry", "Numbers", "PerCell", "RingPlace"]
