"""One forward pass over a kernel's jaxpr that reads the clock of every core at once.

Each variable maps to when it is ready, each buffer to when it is idle. Engines issue in program
order, so `start = max(engine free, operands ready, destination idle)` fixes every start and no
event queue is needed. Loops are stepped until they repeat, then jumped (`emu.loops`).
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from emu import jaxpr as jx
from emu import known
from emu import liveness
from emu.datasheet import Device
from emu.errors import (
    BranchBufferMismatch,
    DataDependentBranch,
    EmulationError,
    NoCostRule,
    PartialCollective,
    StaleTile,
    WrongSpace,
)
from emu.instruction import Cost, Crossing, Instruction, Operand, lookup
from emu.tally import Cores, Tally
from emu.values import Buffer, Value, select

# Addressing is free: these name part of a buffer, or repeat it, without moving a byte.
VIEWS = {"reshape", "squeeze", "slice", "dynamic_slice", "broadcast_in_dim", "expand_dims"}
# Casts of a mesh axis' type under shard_map, and hints, do nothing on the device.
IDENTITIES = {"pvary", "pcast", "stop_gradient", "optimization_barrier", "copy", "copy_p"}


@dataclasses.dataclass(frozen=True)
class Event:
    """One instruction on one engine of the traced core, in ticks."""

    engine: str
    name: str
    start: int
    end: int
    where: str


class Timeline:
    """Issue state of every engine on every core, and the sum of what was issued.

    Attributes:
      free: engine to the tick at which it can issue next, over the mesh.
      busy: engine to its busy ticks so far, over the mesh.
      tally: counts, FLOPs and bytes.
      exchanged: mesh axes along which cores exchanged data in the loop being walked.
      stepped, jumped: instructions walked, and how many more were covered by jumps.
    """

    def __init__(
        self,
        device: Device,
        mesh: Mapping[str, int],
        *,
        jump: bool = True,
        contended: bool = True,
        trace_core: tuple[int, ...] | None = None,
    ):
        self.device, self.mesh = device, dict(mesh)
        self.grid = tuple(self.mesh.values())
        self.rank = len(self.grid)
        self.jump, self.contended, self.trace_core = jump, contended, trace_core
        self.zero = np.zeros((1,) * self.rank, np.int64)
        self.free = {e: self.zero for e in device.ticks_per_cycle}
        self.busy = {e: self.zero for e in device.ticks_per_cycle}
        self.tally, self.end = Tally(), self.zero
        self.events: list[Event] = []
        self.sites: dict[tuple[int, ...], Buffer] = {}
        self.path: tuple[int, ...] = ()
        self.exchanged: set[str] = set()
        self.stepped = self.jumped = 0
        self.unjumped: list[str] = []
        self._version = 0

    # --- values ---

    def fresh(self, aval: Any, space: str, ready: np.ndarray | None = None) -> Value:
        """A value in a buffer of its own."""
        ready = self.zero if ready is None else ready
        buffer = Buffer(idle=ready, version=self.next_version())
        return Value(tuple(aval.shape), aval.dtype, space, ready, buffer, buffer.version)

    def constant(self, aval: Any, known_value: np.ndarray | None) -> Value:
        """A known integer, `[*mesh, *shape]`, or an immediate of unknown value."""
        return Value(tuple(aval.shape), aval.dtype, "register", self.zero, known=known_value)

    def literal(self, aval: Any, value: np.ndarray) -> Value:
        integer = np.issubdtype(value.dtype, np.integer) or value.dtype == np.bool_
        return self.constant(aval, value[(None,) * self.rank] if integer else None)

    def next_version(self) -> np.ndarray:
        self._version += 1
        return np.full((1,) * self.rank, self._version, np.int64)

    # --- the walk ---

    def walk(self, body: jx.Body, ins: list[Value], active: np.ndarray | None) -> list[Value]:
        """Reads a jaxpr on the active cores (None: all) and returns its outputs."""
        env: dict[Any, Value] = dict(zip(body.invars, ins, strict=True))
        for var, const in zip(body.constvars, body.consts, strict=True):
            env[var] = self.argument(var.aval, np.asarray(const)[(None,) * self.rank])
        outer = self.path

        def get(atom: Any) -> Value:
            if jx.is_literal(atom):
                return self.literal(atom.aval, jx.literal_value(atom))
            return env[atom]

        for i, eqn in enumerate(body.eqns):
            self.path = (*outer, i)
            outs = self.equation(eqn, [get(v) for v in eqn.invars], active)
            env.update(zip(eqn.outvars, outs, strict=True))
        self.path = outer
        return [get(v) for v in body.outvars]

    def argument(self, aval: Any, value: np.ndarray | None) -> Value:
        """A kernel argument in the device's home memory, or a known integer `[*mesh, *shape]`."""
        if value is not None and (value.dtype == np.bool_ or np.issubdtype(value.dtype, np.integer)):
            return self.constant(aval, value)
        return self.fresh(aval, self.device.home)

    def equation(self, eqn: Any, xs: list[Value], active: np.ndarray | None) -> list[Value]:
        name = eqn.primitive.name
        if inst := lookup(eqn.primitive):
            return self.issue(inst, eqn, xs, active)
        if name == "scan":
            from emu.loops import scan  # a loop walks its body with this very timeline

            return scan(self, eqn, xs, active)
        if name == "cond":
            return self.branch(eqn, xs, active)
        if (body := jx.call(eqn)) is not None:
            return self.walk(body, xs, active)
        if name == "axis_index":
            return [self.constant(eqn.outvars[0].aval, self.core_index(eqn.params["axis_name"]))]
        return [self.plain(eqn, xs)]

    def core_index(self, axis: str) -> np.ndarray:
        """Every core's index along a mesh axis, broadcastable to the mesh."""
        at = list(self.mesh).index(axis)
        index = np.arange(self.grid[at], dtype=np.int32)
        return index.reshape([-1 if i == at else 1 for i in range(self.rank)])

    def plain(self, eqn: Any, xs: list[Value]) -> Value:
        """An equation without an instruction: known integers, or a view."""
        name, aval = eqn.primitive.name, eqn.outvars[0].aval
        if name == "iota":
            return self.constant(aval, known.iota(eqn.params, self.rank))
        if xs and all(x.known is not None for x in xs):
            value = known.evaluate(name, eqn.params, [x.known for x in xs], self.rank)  # type: ignore
            if value is not None:
                return self.constant(aval, value)
        elif name in IDENTITIES and xs:
            return xs[0]
        elif name in VIEWS:
            if any(x.known is None for x in xs[1:]):
                raise DataDependentBranch(
                    f"{name}: the address depends on data; use a gather instruction",
                    jx.location(eqn),
                )
            return xs[0].viewed(aval)
        raise NoCostRule(f"{self.device.name} has no instruction for '{name}'", jx.location(eqn))

    # --- one instruction ---

    def issue(
        self, inst: Instruction, eqn: Any, xs: list[Value], active: np.ndarray | None
    ) -> list[Value]:
        """Starts one instruction on the active cores and returns its results."""
        self.stepped += 1
        operands = self.operands(inst, eqn, xs, active)
        cost = self.price(inst, eqn, operands)
        avals = [v.aval for v in eqn.outvars]
        if not inst.in_place and not xs:
            return [self.allocate(inst, avals[0])]
        busy, latency = self.ticks(cost)
        free = self.free[cost.engine]
        dsts = xs[: inst.destinations]
        start = self.latest(inst, free, xs)
        if inst.arrival is None:
            ready, freed = start + np.maximum(busy, latency), start + busy
        else:
            ready, freed = self.cross(inst, eqn, xs, operands, (start, busy, latency), active)
        self.free[cost.engine] = select(active, freed, free)
        self.busy[cost.engine] = self.busy[cost.engine] + select(active, busy, self.zero)
        self.end = np.maximum(self.end, select(active, np.maximum(ready, freed), self.zero))
        self.tally.add(inst, cost, operands, avals, Cores(self.grid, active))
        for x in xs[inst.destinations if inst.partial else 0 :]:
            if x.buffer is not None:
                x.buffer.idle = np.maximum(x.buffer.idle, select(active, ready, self.zero))
        if self.trace_core is not None:
            self.record(inst, eqn, cost.engine, start, freed, active)
        return [
            self.written(inst, eqn, aval, i, dsts, self.after(inst, dsts, i, ready), active) for i, aval in enumerate(avals)
        ]

    def latest(self, inst: Instruction, free: np.ndarray, xs: list[Value]) -> np.ndarray:
        """Earliest start: engine free, operands ready, destinations idle."""
        start = free if self.contended else self.zero
        for x in xs[inst.destinations if inst.partial else 0 :]:
            start = np.maximum(start, x.ready)
        if self.contended:
            for d in xs[: inst.destinations]:
                start = np.maximum(start, d.buffer.idle)  # type: ignore[union-attr]
        return start

    def operands(
        self, inst: Instruction, eqn: Any, xs: list[Value], active: np.ndarray | None
    ) -> list[Operand]:
        """Checks every operand's space and freshness; what the cost rule may see of each."""
        spaces = (*inst.writes[: inst.destinations], *inst.reads)
        out = []
        for i, (x, allowed) in enumerate(zip(xs, spaces, strict=True)):
            if allowed in ("register", "count"):
                if x.known is None:
                    raise DataDependentBranch(
                        f"{inst.name}: operand {i} must be a known integer", jx.location(eqn)
                    )
                shown = x.known if allowed == "count" else None
                out.append(Operand(x.shape, x.dtype, "register", shown))
                continue
            if allowed is not None and x.space not in np.atleast_1d(allowed):
                names = " or ".join(np.atleast_1d(allowed))
                raise WrongSpace(
                    f"{inst.name}: operand {i} is in {x.space}, must be in {names}",
                    jx.location(eqn),
                )
            if x.stale_on(active):
                writer = x.buffer.writer if x.buffer else ""
                raise StaleTile(
                    f"{inst.name}: operand {i} was overwritten by {writer}", jx.location(eqn)
                )
            out.append(Operand(x.shape, x.dtype, x.space))
        return out

    def price(self, inst: Instruction, eqn: Any, operands: list[Operand]) -> Cost:
        try:
            return inst.cost(self.device, *operands, **eqn.params)
        except EmulationError as e:
            raise type(e)(str(e), jx.location(eqn)) from None

    def ticks(self, cost: Cost) -> tuple[np.ndarray, np.ndarray]:
        """Busy and latency in whole ticks, each rounded up once."""
        per = self.device.ticks_per_cycle[cost.engine]
        busy = np.ceil(np.asarray(cost.busy_cycles, np.float64) * per).astype(np.int64)
        latency = np.ceil(np.asarray(cost.latency_cycles, np.float64) * per).astype(np.int64)
        return busy + self.zero, latency + self.zero

    def allocate(self, inst: Instruction, aval: Any) -> Value:
        """A tile declared in a loop is one buffer, free again when its last reader is done."""
        buffer = self.sites.get(self.path)
        if buffer is None:
            value = self.fresh(aval, inst.writes[0])
            assert value.buffer is not None
            self.sites[self.path] = value.buffer
            return value
        buffer.version, buffer.writer = self.next_version(), inst.name
        ready = buffer.idle if self.contended else self.zero
        return Value(tuple(aval.shape), aval.dtype, inst.writes[0], ready, buffer, buffer.version)

    @staticmethod
    def after(inst: Instruction, dsts: list[Value], i: int, ready: np.ndarray) -> np.ndarray:
        """A partly written tile is ready when the last of its parts is."""
        return np.maximum(ready, dsts[i].ready) if inst.partial else ready

    def written(
        self,
        inst: Instruction,
        eqn: Any,
        aval: Any,
        i: int,
        dsts: list[Value],
        ready: np.ndarray,
        active: np.ndarray | None,
    ) -> Value:
        """Result `i`: its destination's buffer with a new version, or a fresh buffer."""
        if not inst.in_place:
            return self.fresh(aval, inst.writes[i], select(active, ready, self.zero))
        dst = dsts[i]
        buffer = dst.buffer
        assert buffer is not None and dst.version is not None
        buffer.version = select(active, self.next_version(), buffer.version)
        buffer.writer = f"{inst.name} at {jx.location(eqn)}"
        return dataclasses.replace(
            dst, ready=select(active, ready, dst.ready), version=buffer.version, steps=None
        )

    def cross(
        self,
        inst: Instruction,
        eqn: Any,
        xs: list[Value],
        operands: list[Operand],
        own: tuple[np.ndarray, np.ndarray, np.ndarray],
        active: np.ndarray | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """When a collective's results arrive, and when each core's engine is free again."""
        if active is not None and not active.all():
            raise PartialCollective(
                f"{inst.name}: only some cores take this branch, every core must take part",
                jx.location(eqn),
            )
        self.exchanged.add(eqn.params["axis"])
        idle = self.zero
        if self.contended:
            for d in xs[: inst.destinations]:
                idle = np.maximum(idle, d.buffer.idle)  # type: ignore[union-attr]
        start, busy, latency = (np.broadcast_to(x, self.grid) for x in own)
        crossing = Crossing(start, np.broadcast_to(idle, self.grid), busy, latency)
        assert inst.arrival is not None
        return inst.arrival(self.device, self.mesh, crossing, *operands, **eqn.params)

    def record(
        self,
        inst: Instruction,
        eqn: Any,
        engine: str,
        start: np.ndarray,
        freed: np.ndarray,
        active: np.ndarray | None,
    ) -> None:
        core = self.trace_core
        at = lambda x: np.broadcast_to(x, self.grid)[core]  # noqa: E731
        if active is None or at(active):
            span = int(at(start)), int(at(freed))
            self.events.append(Event(engine, inst.name, *span, jx.location(eqn)))

    # --- branches ---

    def branch(self, eqn: Any, xs: list[Value], active: np.ndarray | None) -> list[Value]:
        """Times each core through the branch its own known index picks."""
        pick, *xs = xs
        if pick.known is None:
            raise DataDependentBranch(
                "cond: the branch depends on data, so its time is unknown; give the clock the "
                "integers it depends on as emu.Known",
                jx.location(eqn),
            )
        bodies = jx.branches(eqn)
        which = np.clip(pick.known.astype(np.int64), 0, len(bodies) - 1)
        chosen = which if active is None else which[np.broadcast_to(active, which.shape)] if (
            active.shape == which.shape
        ) else np.broadcast_to(which, self.grid)[np.broadcast_to(active, self.grid)]  # fmt: skip
        taken = np.unique(chosen)
        if len(taken) == 1:
            return self.walk_branch(bodies, int(taken[0]), xs, active)
        merged: list[Value] | None = None
        for b in taken:
            mask = which == b if active is None else (which == b) & active
            outs = self.walk_branch(bodies, int(b), xs, mask)
            merged = outs if merged is None else self.merge(eqn, mask, outs, merged)
        assert merged is not None
        return merged

    def walk_branch(
        self, bodies: list[jx.Body], b: int, xs: list[Value], active: np.ndarray | None
    ) -> list[Value]:
        outer = self.path
        self.path = (*outer, b)
        outs = self.walk(bodies[b], xs, active)
        self.path = outer
        return outs

    def merge(
        self, eqn: Any, mask: np.ndarray, new: list[Value], old: list[Value]
    ) -> list[Value]:
        """`new` on the cores in `mask`, `old` elsewhere."""
        out = []
        for i, (n, o) in enumerate(zip(new, old, strict=True)):
            if n.buffer is not o.buffer:
                raise BranchBufferMismatch(
                    f"cond: output {i} is a different buffer in each branch; write both results "
                    "into one destination",
                    jx.location(eqn),
                )
            known_value = None
            if n.known is not None and o.known is not None:
                own = mask.reshape(*mask.shape, *(1,) * len(n.shape))
                known_value = np.where(own, n.known, o.known)
            version = None if n.version is None else np.where(mask, n.version, o.version)
            ready = np.where(mask, n.ready, o.ready)
            out.append(dataclasses.replace(n, ready=ready, version=version, known=known_value))
        return out


@dataclasses.dataclass(frozen=True)
class Reading:
    """What one pass over a program told: the clock and the counts of every core.

    Attributes:
      device: the machine and band it was read on.
      cores: how many cores the mesh has.
      end_ticks: when the last core is done.
      busy_ticks: engine to its mean busy ticks over cores.
      most_busy_ticks: engine to the largest busy ticks of any core.
      tally: FLOPs, bytes and counts summed over cores.
      outputs: flat list of output values.
      events: the traced core's instructions, if asked for.
      stepped: instructions walked one by one.
      issued: instructions times cores, loops expanded.
      unjumped: loops that had to be stepped to their end.
    """

    device: Device
    cores: int
    end_ticks: int
    busy_ticks: dict[str, float]
    most_busy_ticks: dict[str, int]
    tally: Tally
    outputs: list[Value]
    events: list[Event]
    stepped: int
    issued: int
    unjumped: list[str]

    @property
    def seconds(self) -> float:
        return self.end_ticks / self.device.tick_hz

    def cycles(self, engine: str) -> float:
        """Mean busy cycles of an engine over cores."""
        return self.busy_ticks[engine] / self.device.ticks_per_cycle[engine]

    def utilisation(self, engine: str) -> float:
        """Mean over cores of busy over span."""
        return self.busy_ticks[engine] / self.end_ticks if self.end_ticks else 0.0


def read(
    kernel: Callable[..., Any],
    avals: list[Any],
    arguments: list[np.ndarray | None],
    mesh: Mapping[str, int],
    device: Device,
    **options: Any,
) -> Reading:
    """Times `kernel`, written for one core, on every core of `mesh`.

    Args:
      kernel: function of flat arrays.
      avals: abstract value of each argument on one core.
      arguments: the integer arrays of known arguments, None for data.
      mesh: axis name to size.
      device: machine and band.
      **options: of `Timeline`: `jump=False` steps every loop, `contended=False` gives the critical
        path alone (engines and buffers without limit), `trace_core` records that core's events.

    Raises:
      EmulationError: an instruction, branch or operand the machine cannot run as written.
    """
    line = Timeline(device, mesh, **options)
    traced = jx.trace(kernel, avals, mesh)
    liveness.check_all_read(traced)
    ins = [line.argument(v.aval, k) for v, k in zip(traced.invars, arguments, strict=True)]
    outs = line.walk(traced, ins, None)
    cores = math.prod(line.grid)
    mean = {e: float(np.broadcast_to(b, line.grid).mean()) for e, b in line.busy.items()}
    return Reading(
        device, cores, int(line.end.max(initial=0)), mean,
        {e: int(b.max(initial=0)) for e, b in line.busy.items()}, line.tally, outs, line.events,
        line.stepped, sum(line.tally.by("count").values()), line.unjumped,
    )  # fmt: skip
