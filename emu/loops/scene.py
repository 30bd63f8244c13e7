"""All that a loop can read or change, on every core: its clocks, by name and in one array.

A *cell* stands for cores whose times and known integers agree throughout: the scene's frame has a
mesh dimension of full size only where something in it tells cores apart.
"""

import math
from functools import cached_property
from typing import Any

import numpy as np

from emu.clock.names import Label, Names, prefixed
from emu.clock.tiles import Value
from emu.loops.foresight import decides
from emu.loops.writes import read_only
from emu.tracing import jaxpr as jx

Row = tuple[str, Any]  # what kind of clock, and whose
Path = tuple[Any, ...]


class Scene:
    """A loop about to be read.

    Attributes:
      line, eqn, xs, active: the timeline, the `scan`, its operands, and the cores that take part.
      s: the `scan` as `emu.tracing.jaxpr` reads it.
      rings: the rings declared inside it so far.
      buffers: every buffer it can touch, each once; its place here is how it is known.
      aside: places of those that nothing in the loop waits for.
      clocks: every time it can read, and `labels` what each makes wait for.
    """

    def __init__(self, line: Any, eqn: Any, xs: list[Value], active: np.ndarray | None):
        self.line = line
        self.eqn = eqn
        self.xs = xs
        self.active = active
        self.s = s = jx.scan(eqn)
        self.rings = line.within.get(line.path, [])
        turned = [b for ring in self.rings for b in ring.buffers]
        held = [v.buffer for v in xs if v.buffer is not None]
        self.buffers = list({id(b): b for b in (*held, *turned)}.values())
        self.place = {id(b): i for i, b in enumerate(self.buffers)}
        fixed = [*xs[: s.consts], *xs[s.consts + s.carry :]]
        carry = xs[s.consts :][: s.carry]
        aside = read_only(s, xs[: s.consts], carry, xs[s.consts + s.carry :], turned)
        self.aside = {self.place[id(b)] for b in aside}
        assert len(fixed) + len(carry) == len(xs)
        self.clocks = self._clocks()
        self.labels: dict[Row, Label] = {
            ("ready", i): x.source for i, x in enumerate(xs)
        }
        self.labels |= {("idle", i): b.user for i, b in enumerate(self.buffers)}
        self.labels |= {("port", key): port.engine for key, port in line.ports.items()}
        self.knowns = (
            [x.known for x in xs if x.known is not None] if decides(s.body) else []
        )

    def _clocks(self) -> dict[Row, Any]:
        """In an order that later visits of the loop only append to."""
        line = self.line
        out: dict[Row, Any] = {("last", e): t for e, t in line.last.items()}
        out |= {("free", e): t for e, t in line.free.items()}
        out |= {("paced", e): line.paced.get(e, 0) for e in line.last}
        out |= {("idle", i): b.idle for i, b in enumerate(self.buffers)}
        out |= {("ready", i): x.ready for i, x in enumerate(self.xs)}
        return out | {("port", key): port.until for key, port in line.ports.items()}

    @cached_property
    def frame(self) -> tuple[int, ...]:
        """Mesh dimensions, of full size where cores may differ, else 1."""
        rank, line = self.line.rank, self.line
        arrays = [*self.clocks.values(), *self.stale, self.active]
        arrays += [
            x for state in line.throttle.values() for x in (state.charge, state.slow)
        ]
        arrays += [x.which for x in self.labels.values() if isinstance(x, Names)]
        shapes = {x.shape for x in arrays if isinstance(x, np.ndarray)}
        shapes |= {k.shape[:rank] for k in self.knowns}
        shapes |= {
            line.core_index(axis).shape for axis in jx.axes(self.s.body) if self.decides
        }
        return np.broadcast_shapes((1,) * rank, *shapes)

    @property
    def decides(self) -> bool:
        return decides(self.s.body)

    @cached_property
    def cells(self) -> int:
        return math.prod(self.frame)

    @cached_property
    def cores(self) -> int:
        """How many cores a cell stands for."""
        return math.prod(self.line.grid) // self.cells

    @cached_property
    def here(self) -> np.ndarray:
        """The cells that take part."""
        return (
            np.arange(self.cells)
            if self.active is None
            else np.flatnonzero(self.flat(self.active))
        )

    @cached_property
    def stale(self) -> list[Any]:
        """Which operands were overwritten: a bool, or an array over the mesh."""
        return [x.stale for x in self.xs]

    def flat(self, x: Any) -> np.ndarray:
        """One entry per cell."""
        return np.broadcast_to(x, self.frame).reshape(-1)

    @cached_property
    def rows(self) -> dict[Row, int]:
        return {row: i for i, row in enumerate(self.clocks)}

    @cached_property
    def times(self) -> np.ndarray:
        """`[rows, cells]`."""
        out = np.empty((len(self.clocks), self.cells), np.int64)
        for row, t in zip(out, self.clocks.values(), strict=True):
            row[:] = t if type(t) is int else self.flat(t)
        return out

    def at(self, cell: int) -> tuple[int, ...]:
        """A core of a cell."""
        return tuple(int(i) for i in np.unravel_index(cell, self.frame))

    def known_at(self, known: np.ndarray, cell: int) -> np.ndarray:
        """A known integer on one core, mesh dimensions of size 1."""
        own = zip(self.at(cell), known.shape)
        return known[tuple(slice(c, c + 1) if n > 1 else slice(None) for c, n in own)]

    def source(self, row: Row) -> Label:
        """What a value that is ready by that clock makes wait for."""
        label = self.labels[row]
        return prefixed("buffer:", label) if row[0] == "idle" else label

    @cached_property
    def places(self) -> list[tuple[Path, list[Path], list[int]]]:
        """Of each ring: its path, those of the loops around it, as seen from here, and buffers."""
        above, line = len(self.line.loops), self.line
        return [
            (
                cut(ring.path, line.path),
                [cut(loop, line.path) for loop in ring.loops[above:]],
                [self.place[id(b)] for b in ring.buffers],
            )
            for ring in self.rings
        ]

    @property
    def spaces(self) -> Any:
        """What prices depend on besides decisions."""
        return tuple((x.space, x.known is None) for x in self.xs)

    @cached_property
    def form(self) -> Any:
        """What a core's future depends on besides times and decisions; one for all cores."""
        values = [
            (self.place.get(id(x.buffer)), x.space, x.known is None) for x in self.xs
        ]
        ports = {id(port): key for key, port in self.line.ports.items()}
        banks = tuple(ports.get(id(b.port)) for b in self.buffers)
        rings = tuple((path, tuple(held)) for path, _, held in self.places)
        return tuple(values), banks, rings, bool(self.line.loops)


def cut(path: Path, start: Path) -> Path:
    """A path as seen from one that it begins with."""
    return () if path == start else (cut(path[0], start), path[1])


def graft(start: Path, path: Path) -> Path:
    """The inverse of `cut`."""
    return start if path == () else (graft(start, path[0]), path[1])


__all__ = ["Path", "Row", "Scene", "cut", "graft"]
