"""One core of a mesh as a timeline of its own: plain numbers, so that its loops are read fast.

A clock that is past, too early to decide anything, is given as a *mark* instead of a time: a number
before all times that says which clock it is. Where it comes out again, it stands for that clock.
"""

from typing import Any

import numpy as np

from emu.clock import names
from emu.clock.throttle import State
from emu.clock.tiles import Buffer, Port, Ring, Value
from emu.loops import jump
from emu.loops.scene import Scene

FOREVER = 1 << 60
PAST = -(1 << 59)  # below all times, above all marks
OUTSIDE = ("outside",)  # in place of the path of a loop around the scene


def mark(row: int) -> int:
    """The mark that stands for a clock of the scene."""
    return -FOREVER - row


def marked(time: int) -> int | None:
    """The row that a time stands for, or None if it is a time."""
    return -FOREVER - time if time < PAST else None


def alone(line: Any, core: tuple[int, ...], traced: bool) -> Any:
    """A timeline of one core with nothing issued yet; `traced` records its events."""
    one = type(line)(
        line.device,
        dict.fromkeys(line.mesh, 1),
        jump=line.jump,
        contended=line.contended,
        as_written=line.as_written,
        trace_core=(0,) * line.rank if traced else None,
    )
    one.core, one.classes = line.core or core, line.classes
    one.prices, one.literals = line.prices, line.literals
    return one


class Lone:
    """A core before a loop: its timeline, and copies of what the loop can touch."""

    def __init__(self, scene: Scene, cell: int, past: list[int], traced: bool = False):
        """Args: a scene, the cell whose core to take, and rows of clocks to mark."""
        self.scene = scene
        self.cell = cell
        self.traced = traced
        times: list[int] = scene.times[:, cell].tolist()
        for row in past:
            times[row] = mark(row)
        self.time = dict(zip(scene.clocks, times, strict=True))
        self.line = self._line()
        self.outside = [*self.line.loops]
        self.copies = [self._buffer(i, b) for i, b in enumerate(scene.buffers)]
        self.versions = [b.version for b in self.copies]
        self.xs = [self._value(i, x) for i, x in enumerate(scene.xs)]
        self._rings()

    def _line(self) -> Any:
        outer, t = self.scene.line, self.time
        line = alone(outer, self.scene.at(self.cell), self.traced)
        for engine in line.last:
            line.last[engine] = line.free[engine] = t["last", engine]
            if t["free", engine] != t["last", engine]:
                line.free[engine] = t["free", engine]
        line.paced = {engine: t["paced", engine] for engine in outer.paced}
        line.ports = {
            key: Port(t["port", key], self._label("port", key)) for key in outer.ports
        }
        self.port_of = {id(port): line.ports[key] for key, port in outer.ports.items()}
        for engine, state in outer.throttle.items():
            charge, slow = (
                self.scene.flat(x)[self.cell] for x in (state.charge, state.slow)
            )
            line.throttle[engine] = State(int(charge), bool(slow))
        if outer.loops:
            line.loops, line.within = [OUTSIDE], {OUTSIDE: []}
        return line

    def _label(self, kind: str, key: Any) -> str:
        name = self.scene.labels[kind, key]
        return (
            name
            if type(name) is str
            else names.on_core(name, self.scene.frame, self.scene.at(self.cell))
        )

    def _buffer(self, i: int, b: Buffer) -> Buffer:
        idle = 0 if i in self.scene.aside else self.time["idle", i]
        port = self.port_of.get(id(b.port))
        since = b.since if self.traced else None
        copy = Buffer(
            idle,
            self.line.next_version(),
            b.writer,
            self._label("idle", i),
            port,
            since,
        )
        if since is not None:
            _, *rest = self.scene.line.tracked[id(b)]
            self.line.tracked[id(copy)] = copy, *rest
        return copy

    def _value(self, i: int, x: Value) -> Value:
        known = None if x.known is None else self.scene.known_at(x.known, self.cell)
        if x.buffer is None:
            return Value(x.shape, x.dtype, x.space, 0, None, None, known)
        copy = self.copies[self.scene.place[id(x.buffer)]]
        stale = self.scene.stale[i]
        if isinstance(stale, np.ndarray):
            stale = bool(self.scene.flat(stale)[self.cell])
        version = -1 if stale else copy.version
        source = self._label("ready", i)
        ready = self.time["ready", i]
        return Value(
            x.shape, x.dtype, x.space, ready, copy, version, known, source=source
        )

    def _rings(self) -> None:
        line = self.line
        line.within[()] = []
        for path, around, held in self.scene.places:
            ring = Ring([self.copies[i] for i in held], path, [*line.loops, *around])
            line.sites[path] = ring
            for loop in around:
                line.within.setdefault(loop, []).append(ring)

    def walk(self) -> list[Value]:
        """Reads the loop."""
        self.outs = jump.scan(self.line, self.scene.eqn, self.xs, None)
        return self.outs


__all__ = ["FOREVER", "Lone", "PAST", "mark", "marked"]
