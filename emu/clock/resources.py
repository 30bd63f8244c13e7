"""What the machine has that is busy until some time: engines, ports and buffers.

`CLOCKS` lists every such time of engines and ports. Whatever saves, compares, moves or puts back
the clock's state goes through that table (`ClockState.clocks`), so a new time is a field here and a
line in the table. Buffers and values have one time each, which a loop knows by place.
"""

import dataclasses
from collections.abc import Callable, Hashable
from typing import TypeAlias

import numpy as np

from emu.clock.names import CauseName, choose
from emu.clock.throttle import Law
from emu.clock.ticks import Flags, PerCore, Ticks, later, no_earlier
from emu.datasheet import Packing
from emu.tracing import jaxpr as jx

Path: TypeAlias = "tuple[()] | tuple[Path, int]"
"""Where in a program: the enclosing path, then the number of an equation or of a branch."""

PortKey: TypeAlias = tuple[str, int | None]
"""Memory space and bank; None is the port of the whole memory, where engines share one."""

Row: TypeAlias = tuple[str, Hashable]
"""A clock by name: what kind of clock, and whose. `("last", "vector")`, `("port", ("psum", 3))`."""


def seen_from(start: Path, path: Path) -> Path:
    """A path as seen from one that it begins with.

    Paths are nested, innermost last: from `((), 4)`, the fifth equation of a program,
    `((((), 4), 0), 2)` is seen as `(((), 0), 2)`.
    """
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


@dataclasses.dataclass(eq=False, slots=True)
class Engine:
    """An engine on every core; it issues in program order.

    Attributes:
      name: as the device calls it.
      cause: what waiting for its results is called.
      law: how it throttles, or None.
      free: tick at which it can issue next, what others took from it included.
      last: tick at which it was last free itself.
      paced: tick from which it may start another after one that keeps an interval; 0 if none did.
      charge: of an engine that throttles, in `emu.clock.throttle.UNITS` times ticks.
      slow: whether that charge makes it run slow.
      uses: how many instructions it was given.
      paces: how many of them keep an interval.
    """

    name: str
    cause: str
    law: Law | None = None
    free: Ticks = 0
    last: Ticks = 0
    paced: Ticks = 0
    charge: PerCore = 0
    # Nothing done yet is an empty charge, which is slow.
    slow: Flags = True
    uses: int = 0
    paces: int = 0

    def share_clock(self) -> None:
        """Makes `free` and `last` one object where they are equal: nothing is taken from it.

        `is` then tells so without comparing them.
        """
        # Cores may differ in one and agree in the other, where only some lost time to others.
        both = type(self.free) is int and type(self.last) is int
        if both and self.free == self.last:
            self.free = self.last


@dataclasses.dataclass(eq=False, slots=True)
class Port:
    """A memory or a part of it that one engine uses at a time, such as a PSUM bank.

    Attributes:
      until: tick at which its last user so far is done.
      engine: that user.
      uses: how often it was used.
    """

    until: Ticks = 0
    engine: CauseName = ""
    uses: int = 0


Resource: TypeAlias = Engine | Port


@dataclasses.dataclass(frozen=True, slots=True)
class Clock:
    """One kind of time.

    Attributes:
      kind: first word of its rows.
      table: attribute of `ClockState`, the dictionary of the resources that have it.
      time: their field with the time in ticks.
      mark: their field that changes whenever an instruction sets that time, even to what it was.
      label: their field with the name that a wait until that time is booked under, or None.
    """

    kind: str
    table: str
    time: str
    mark: str = "uses"
    label: str | None = None


CLOCKS = {
    clock.kind: clock
    for clock in (
        Clock("free", "engines", "free"),
        Clock("last", "engines", "last"),
        # Few instructions keep an interval. By `uses` this clock would count as moved, by nothing,
        # in every loop that uses the engine.
        Clock("paced", "engines", "paced", mark="paces"),
        Clock("port", "ports", "until", label="engine"),
    )
}

# The tables of `ClockState`. All engines are there from the start; what else a loop may be the
# first to use is made with no arguments.
RESOURCES: dict[str, Callable[..., Resource]] = {"engines": Engine, "ports": Port}

# What else decides an engine's future but does not move with time: fields of `Engine` and their
# types. Two states are the same only if these are equal.
LEVELS: dict[str, type[int]] = {"charge": int, "slow": bool}


@dataclasses.dataclass(eq=False, slots=True)
class Buffer:
    """Storage of a tile; a later write to it makes every earlier tile stale.

    Attributes:
      idle: tick at which its last reader or writer so far is done, per core.
      version: number of the write it holds, per core.
      writer: equation of that write, for error messages.
      user: what that last reader or writer is called as a cause of waiting.
      port: shared with other tiles, or None.
      packing: how it lies in its memory.
      since: on the traced core, tick at which what it holds began to be written; None before.
      uses: how often it was used.
    """

    idle: Ticks
    version: Ticks
    writer: jx.Equation | None = None
    user: CauseName = ""
    port: Port | None = None
    packing: Packing = Packing.WHOLE
    since: int | None = None
    uses: int = 0

    def use(self, until: Ticks, user: CauseName) -> None:
        """Keeps the buffer in use until a time."""
        self.uses += 1
        idle = self.idle
        if type(until) is int and type(idle) is int:
            # Of two that are done at once the later in program order names the wait.
            if until >= idle:
                self.idle, self.user = until, user
            return
        if user is not self.user:
            over = np.asarray(no_earlier(until, idle))
            self.user = choose(over, user, self.user)
        self.idle = later(idle, until)


@dataclasses.dataclass(eq=False, slots=True)
class Ring:
    """The buffers of a tile declared in a loop, the next to be used first.

    Attributes:
      buffers: in the order of their next use.
      path: of the equation that declares it.
      loops: paths of the loops around it, outermost first.
      inside: see `seen_inside`.
    """

    buffers: list[Buffer]
    path: Path = ()
    loops: list[Path] = dataclasses.field(default_factory=list[Path])
    inside: dict[int, tuple[Path, list[Path]]] = dataclasses.field(
        default_factory=dict[int, tuple[Path, list[Path]]]
    )

    def seen_inside(self, above: int) -> tuple[Path, list[Path]]:
        """Its path, and those of the loops further in, as seen from a loop around it.

        Args:
          above: how many loops are around that loop.
        """
        # Every iteration of a loop asks for all of its rings.
        seen = self.inside.get(above)
        if seen is None:
            start = self.loops[above]
            further = [seen_from(start, loop) for loop in self.loops[above:]]
            seen = self.inside[above] = seen_from(start, self.path), further
        return seen

    def turn(self) -> Buffer:
        """The next buffer, which goes to the end of the line."""
        # Of three buffers A B C the next is A, and the line is then B C A.
        self.buffers.append(self.buffers.pop(0))
        return self.buffers[-1]


class Rings:
    """The rings declared so far.

    Attributes:
      by_path: the ring of each tile by the path of the equation that declares it.
      inside: the rings declared inside each loop around them, by the loop's path.
      of_plans: those that each plan of a basic block declares, by the plan's id and the path of the
        block (`emu.clock.plain`).
    """

    def __init__(self) -> None:
        self.by_path: dict[Path, Ring] = {}
        self.of_plans: dict[tuple[int, Path], list[Ring]] = {}
        self.inside: dict[Path, list[Ring]] = {}

    def declare(self, ring: Ring) -> None:
        self.by_path[ring.path] = ring
        # Every loop around it, not the innermost alone: a jump of any of them turns the ring.
        for loop in ring.loops:
            self.inside.setdefault(loop, []).append(ring)


__all__ = [
    "Buffer",
    "CLOCKS",
    "Clock",
    "Engine",
    "LEVELS",
    "Path",
    "Port",
    "PortKey",
    "Resource",
    "Ring",
    "Rings",
    "Row",
    "seen_from",
    "seen_whole",
]
