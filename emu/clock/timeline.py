"""One forward pass over a kernel's jaxpr that reads the clock of every core at once.

Each variable maps to when it is ready, each buffer to when it is idle. Engines issue in program
order (`emu.clock.issue`), so no event queue is needed. Branches are timed per core
(`emu.clock.branches`) and loops are stepped until they repeat, then jumped (`emu.loops.jump`).
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from emu.checks import liveness
from emu.clock import recording
from emu.clock.branches import branch
from emu.clock.issue import issue
from emu.clock.price import Prices
from emu.clock.reading import Event, Reading
from emu.clock.tally import Cores, Tally
from emu.clock.throttle import State
from emu.clock.ticks import Ticks
from emu.clock.tiles import Buffer, Port, Ring, Value
from emu.datasheet import Device
from emu.errors import DataDependentBranch, NoCostRule
from emu.instruction import lookup
from emu.loops import classes
from emu.tracing import integers
from emu.tracing import jaxpr as jx

Path = tuple[Any, ...]


class Timeline:
    """Issue state of every engine on every core, and the sum of what was issued.

    Attributes:
      free: engine to the tick at which it can issue next, what others took from it included.
      last: engine to the tick at which it was last free itself.
      paced: engine to the tick from which it may start another, of those with such an interval.
      touches: engine to how often its clocks may have moved.
      spent: `(engine, what)` to ticks so far (see `Reading`).
      throttle: the charge of every engine that throttles.
      end: when the last instruction so far is done; inside a loop, the last of that loop.
      tally: counts, FLOPs and bytes.
      path: where in the program the walk is, by equation and branch numbers, innermost last.
      sites: the ring of each tile by the path that declares it.
      within: the rings declared inside each enclosing loop, by the loop's path.
      ports: memory space and bank to its port.
      prices: costs that no count changes, and what they tell of all instructions.
      core: the core that this timeline is of, if it is of one alone (see `emu.loops.one_core`).
      whole: whether loops are read on all cores at once.
      classes: what is kept of loops read once per class of cores.
      exchanged: mesh axes along which cores exchanged data in the loop being walked.
      stepped: instructions walked.
      unjumped: loops that had to be stepped to their end.
    """

    def __init__(
        self,
        device: Device,
        mesh: Mapping[str, int],
        *,
        jump: bool = True,
        contended: bool = True,
        as_written: bool = False,
        trace_core: tuple[int, ...] | None = None,
    ):
        self.device, self.mesh = device, dict(mesh)
        self.grid = tuple(self.mesh.values())
        self.rank = len(self.grid)
        self.jump = jump
        self.contended = contended
        self.trace_core = trace_core
        self.as_written = as_written
        self.free: dict[str, Ticks] = dict.fromkeys(device.ticks_per_cycle, 0)
        self.last: dict[str, Ticks] = dict(self.free)
        self.paced: dict[str, Ticks] = {}
        self.touches = dict.fromkeys(device.ticks_per_cycle, 0)
        self.spent: dict[tuple[str, str], Ticks] = {}
        self.laws = device.throttle_laws
        self.causes = device.causes
        self.throttle = {engine: State() for engine in self.laws}
        self.tally, self.end = Tally(), 0
        self.all_cores = Cores(self.grid, None)
        self.events: list[Event] = []
        self.tracked: dict[int, tuple[Buffer, str, int]] = {}
        self.sites: dict[Path, Ring] = {}
        self.within: dict[Path, list[Ring]] = {}
        self.ports: dict[tuple[str, int], Port] = {}
        self.literals: dict[jx.Body, dict[int, Value]] = {}
        self.prices = Prices()
        self.core: tuple[int, ...] | None = None
        self.whole = math.prod(self.grid) == 1
        self.classes = classes.Kept()
        self.path: Path = ()
        self.loops: list[Path] = []
        self.exchanged: set[str] = set()
        self.stepped = 0
        self.unjumped: list[str] = []
        self._version = 0

    # --- values ---

    def fresh(self, aval: Any, space: str, ready: Ticks = 0, source: str = "") -> Value:
        """A value in a buffer of its own."""
        buffer = self.buffer(ready, source)
        return Value(
            aval.shape, aval.dtype, space, ready, buffer, buffer.version, source=source
        )

    def buffer(self, idle: Ticks = 0, user: str = "") -> Buffer:
        return Buffer(idle, self.next_version(), user=user)

    def port(self, space: str, bank: int) -> Port:
        return self.ports.setdefault((space, bank), Port())

    def declare(self, ring: Ring) -> None:
        """Remembers the ring of the tile declared where the walk is."""
        self.sites[self.path] = ring
        for loop in self.loops:
            self.within[loop].append(ring)

    def constant(self, aval: Any, known_value: np.ndarray | None) -> Value:
        """A known integer, `[*mesh, *shape]`, or an immediate of unknown value."""
        return Value(aval.shape, aval.dtype, "register", 0, None, None, known_value)

    def fixed(self, body: jx.Body) -> dict[int, Value]:
        """Values of a body's literals, made once, and of its constants, by the atom's id."""
        if (kept := self.literals.get(body)) is None:
            kept = {id(atom): self.literal(atom) for atom in body.literals}
            self.literals[body] = kept
        if not body.consts:
            return kept
        rank = (None,) * self.rank
        consts = zip(body.constvars, body.consts, strict=True)
        return kept | {
            id(v): self.argument(v.aval, np.asarray(c)[rank]) for v, c in consts
        }

    def literal(self, atom: Any) -> Value:
        value = jx.literal_value(atom)
        integer = value.dtype.kind in "iub"
        return self.constant(atom.aval, value[(None,) * self.rank] if integer else None)

    def argument(self, aval: Any, value: np.ndarray | None) -> Value:
        """A kernel argument in the device's home memory, or a known integer `[*mesh, *shape]`."""
        if value is not None and value.dtype.kind in "iub":
            return self.constant(aval, value)
        return self.fresh(aval, self.device.home)

    def next_version(self) -> int:
        self._version += 1
        return self._version

    def core_index(self, axis: str) -> np.ndarray:
        """Every core's index along a mesh axis, broadcastable to the mesh."""
        at = list(self.mesh).index(axis)
        if self.core is not None:
            return np.full((1,) * self.rank, self.core[at], np.int32)
        index = np.arange(self.grid[at], dtype=np.int32)
        return index.reshape([-1 if i == at else 1 for i in range(self.rank)])

    # --- the walk ---

    def walk(
        self, body: jx.Body, ins: list[Value], active: np.ndarray | None
    ) -> list[Value]:
        """Reads a jaxpr on the active cores (None: all) and returns its outputs."""
        inputs, outputs = body.ids
        env = self.fixed(body).copy()
        env.update(zip(inputs, ins, strict=True))
        outer = self.path
        for i, (eqn, operands, results) in enumerate(body.steps):
            self.path = outer, i
            outs = self.equation(eqn, [env[v] for v in operands], active)
            env.update(zip(results, outs, strict=True))
        self.path = outer
        return [env[v] for v in outputs]

    def equation(
        self, eqn: Any, xs: list[Value], active: np.ndarray | None
    ) -> list[Value]:
        name = eqn.primitive.name
        if inst := lookup(eqn.primitive):
            return issue(self, inst, eqn, xs, active)
        if name == "scan":
            return classes.scan(self, eqn, xs, active)
        if name == "cond":
            return branch(self, eqn, xs, active)
        if (body := jx.call(eqn)) is not None:
            return self.walk(body, xs, active)
        if name == "axis_index":
            return [
                self.constant(
                    eqn.outvars[0].aval, self.core_index(eqn.params["axis_name"])
                )
            ]
        if name in jx.IDENTITIES:
            return xs
        return [self.plain(eqn, xs)]

    def plain(self, eqn: Any, xs: list[Value]) -> Value:
        """An equation without an instruction: known integers, or a view."""
        name, aval = eqn.primitive.name, eqn.outvars[0].aval
        if name == "iota":
            return self.constant(aval, integers.iota(eqn.params, self.rank))
        if xs and all(x.known is not None for x in xs):
            known = [x.known for x in xs if x.known is not None]
            value = integers.evaluate(name, eqn.params, known, self.rank)
            if value is not None:
                return self.constant(aval, value)
        elif name in jx.VIEWS:
            if any(x.known is None for x in xs[1:]):
                raise DataDependentBranch(
                    f"{name}: the address depends on data; use a gather instruction",
                    jx.location(eqn),
                )
            return xs[0].viewed(aval)
        elif xs and all(x.shape == () and x.dtype.kind in "iub" for x in xs):
            raise DataDependentBranch(
                f"{name}: this integer depends on data, so the clock cannot follow it; give it the "
                "integers it depends on as emu.Known",
                jx.location(eqn),
            )
        raise NoCostRule(
            f"{self.device.name} has no instruction for '{name}'", jx.location(eqn)
        )


def read(
    traced: jx.Body,
    arguments: list[np.ndarray | None],
    mesh: Mapping[str, int],
    device: Device,
    **options: Any,
) -> Reading:
    """Times a kernel, written for one core, on every core of `mesh`.

    Args:
      traced: its jaxpr, from `emu.tracing.jaxpr.trace`.
      arguments: the integer arrays of known arguments, None for data.
      mesh: axis name to size.
      device: machine and band.
      **options: of `Timeline`: `jump=False` steps every loop, `contended=False` gives the critical
        path alone (engines and buffers without limit), `as_written=True` treats every ring of tiles
        as one buffer, `trace_core` records that core's events.

    Raises:
      EmulationError: an instruction, branch or operand the machine cannot run as written.
    """
    line = Timeline(device, mesh, **options)
    liveness.check_all_read(traced)
    ins = [
        line.argument(v.aval, k) for v, k in zip(traced.invars, arguments, strict=True)
    ]
    outs = line.walk(traced, ins, None)
    recording.finish(line)
    return Reading(
        device,
        line.grid,
        line.end,
        line.last,
        line.spent,
        line.tally,
        outs,
        line.events,
        line.stepped,
        sum(line.tally.by("count").values()),
        line.unjumped,
    )


__all__ = ["Timeline", "read"]
