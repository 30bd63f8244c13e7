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
from emu.clock.resources import Path, PortKey, Row
from emu.clock.state import ClockState, Walk
from emu.clock.ticks import Active, Flags, Ticks
from emu.clock.tiles import Value
from emu.loops.foresight import decides
from emu.loops.marks import Marks
from emu.loops.writes import read_only
from emu.tracing import jaxpr as jx

RingPlace: TypeAlias = tuple[Path, list[Path], list[int]]
"""A ring: its path, those of the loops around it, and the places of its buffers."""


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
      knowns: known values of operands, where the loop decides by them.
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
        self.scan = scan = jx.scan(eqn)
        self.rings = state.rings.inside.get(state.path, [])
        turned = [buffer for ring in self.rings for buffer in ring.buffers]
        held = [value.buffer for value in values if value.buffer is not None]
        self.buffers = list({id(b): b for b in (*held, *turned)}.values())
        self.place = {id(buffer): i for i, buffer in enumerate(self.buffers)}
        aside = read_only(scan, *scan.parts(values), turned)
        self.aside = {self.place[id(buffer)] for buffer in aside}
        self.clocks = state.clocks() | self._buffer_and_value_clocks()
        self.labels = state.labels() | self._buffer_and_value_labels()
        self.levels = state.levels()
        self.decides = decides(scan.body)
        known = [value.known for value in values if value.known is not None]
        self.knowns: list[np.ndarray] = known if self.decides else []

    def _buffer_and_value_clocks(self) -> dict[Row, Ticks]:
        rows: dict[Row, Ticks] = {}
        for place, buffer in enumerate(self.buffers):
            rows["idle", place] = buffer.idle
        for place, value in enumerate(self.values):
            rows["ready", place] = value.ready
        return rows

    def _buffer_and_value_labels(self) -> dict[Row, CauseName]:
        rows: dict[Row, CauseName] = {}
        for place, buffer in enumerate(self.buffers):
            rows["idle", place] = buffer.user
        for place, value in enumerate(self.values):
            rows["ready", place] = value.source
        return rows

    # --- cells ---

    @cached_property
    def frame(self) -> tuple[int, ...]:
        """Mesh dimensions, of full size where cores may differ, else 1."""
        setup = self.state.setup
        labels = self.labels.values()
        which = [name.which for name in labels if isinstance(name, PerCoreNames)]
        shapes = _shapes(self.clocks.values()) | _shapes(self.levels.values())
        shapes |= _shapes(self.stale) | _shapes([self.active]) | _shapes(which)
        shapes |= {known.shape[: setup.rank] for known in self.knowns}
        if setup.bands:
            # Prices differ between bands.
            shapes.add((len(setup.bands), *(1,) * (setup.rank - 1)))
        if self.decides:
            for axis in jx.axes(self.scan.body):
                shapes.add(setup.core_index(axis).shape)
        return np.broadcast_shapes((1,) * setup.rank, *shapes)

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
        return np.flatnonzero(self.per_cell(self.active))

    def per_cell(self, entry: Ticks | Flags) -> np.ndarray:
        """One entry per cell."""
        if isinstance(entry, np.ndarray) and entry.shape == self.frame:
            return entry.reshape(-1)
        return np.broadcast_to(entry, self.frame).reshape(-1)

    def core_of(self, cell: int) -> tuple[int, ...]:
        """A core of a cell."""
        return self._core_of_each_cell[cell]

    @cached_property
    def _core_of_each_cell(self) -> list[tuple[int, ...]]:
        return list(itertools.product(*map(range, self.frame)))

    def band_of(self, cell: int) -> int:
        """The band that a cell is read under: its place in the mesh's first dimension."""
        return self.core_of(cell)[0]

    def known_at(self, known: np.ndarray, cell: int) -> np.ndarray:
        """A known integer on one core, mesh dimensions of size 1."""
        index: list[slice] = []
        for coordinate, size in zip(self.core_of(cell), known.shape):
            whole = slice(None)
            index.append(slice(coordinate, coordinate + 1) if size > 1 else whole)
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
        out = np.empty((len(self.clocks), self.cells), np.int64)
        for row, time in zip(out, self.clocks.values(), strict=True):
            row[:] = time if type(time) is int else self.per_cell(time)
        return out

    def times_at(self, mark: int) -> np.ndarray:
        """The clock that a mark stands for, in every cell."""
        return self.times[self.position[self.marks.row(mark)]]

    def label_at(self, mark: int) -> CauseName:
        """The name that goes with the clock that a mark stands for."""
        return self.labels[self.marks.row(mark)]

    def source_at(self, mark: int) -> CauseName:
        """What a value that is ready by that clock makes wait for."""
        label = self.label_at(mark)
        kind, _ = self.marks.row(mark)
        return prefixed("buffer:", label) if kind == "idle" else label

    # --- form ---

    @cached_property
    def ring_places(self) -> list[RingPlace]:
        """Every ring, its paths as seen from here."""
        state = self.state
        above = len(state.loops)
        return [
            (
                seen_from(state.path, ring.path),
                [seen_from(state.path, loop) for loop in ring.loops[above:]],
                [self.place[id(buffer)] for buffer in ring.buffers],
            )
            for ring in self.rings
        ]

    @property
    def spaces(self) -> tuple[tuple[str, bool], ...]:
        """What prices depend on besides decisions."""
        return tuple((value.space, value.known is None) for value in self.values)

    @cached_property
    def form(self) -> tuple[object, ...]:
        """What a core's future depends on besides times and decisions; one for all cores."""
        places = tuple(self.place.get(id(value.buffer)) for value in self.values)
        rings = tuple((path, tuple(held)) for path, _, held in self.ring_places)
        return places, self.spaces, self.banks, rings, bool(self.state.loops)

    @cached_property
    def banks(self) -> tuple[PortKey | None, ...]:
        """The port that each buffer shares with others."""
        keys = {id(port): key for key, port in self.state.ports.items()}
        return tuple(keys.get(id(buffer.port)) for buffer in self.buffers)


def _shapes(entries: Iterable[Ticks | Flags | None]) -> set[tuple[int, ...]]:
    return {entry.shape for entry in entries if isinstance(entry, np.ndarray)}


def seen_from(start: Path, path: Path) -> Path:
    """A path as seen from one that it begins with."""
    if path == start:
        return ()
    assert path
    outer, number = path
    return seen_from(start, outer), number


def seen_whole(start: Path, path: Path) -> Path:
    """The inverse of `seen_from`."""
    if not path:
        return start
    outer, number = path
    return seen_whole(start, outer), number


__all__ = ["LoopEntry", "RingPlace", "seen_from", "seen_whole"]
