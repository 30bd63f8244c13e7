"""One instruction on the clock: its checks, its cost in ticks, its start and its results.

Engines issue in program order, so `start = max(engine free, operands ready, destination idle)`.
"""

import dataclasses
import math
from typing import Any

import numpy as np

from emu import jaxpr as jx
from emu.errors import (
    DataDependentBranch,
    EmulationError,
    PartialCollective,
    StaleTile,
    WrongSpace,
)
from emu.instruction import Cost, Crossing, Instruction, Operand, lookup
from emu.reading import Event
from emu.tally import Cores, Counts, counts
from emu.values import Value, select

Ticks = int | np.ndarray


@dataclasses.dataclass
class Priced:
    """An instruction's operands as its cost rule saw them, its cost, and that cost in ticks.

    `counts` is what it adds to the tally on each core, once that was asked for.
    """

    operands: list[Operand]
    cost: Cost
    busy: Ticks
    latency: Ticks
    counts: Counts | None = None


def issue(
    line: Any, inst: Instruction, eqn: Any, xs: list[Value], active: np.ndarray | None
) -> list[Value]:
    """Starts one instruction on the active cores and returns its results."""
    line.stepped += 1
    priced = _priced(line, inst, eqn, xs)
    _check_fresh(inst, eqn, xs, active)
    avals = [v.aval for v in eqn.outvars]
    if not inst.in_place and not xs:
        return [_allocate(line, inst, eqn, avals[0], active)]
    engine = priced.cost.engine
    if engine is None:
        return []
    dsts, others = xs[: inst.destinations], xs[inst.destinations :] if inst.partial else xs
    start = _start(line, inst, line.free[engine], xs, dsts)
    if inst.arrival is None:
        ready, freed = start + np.maximum(priced.busy, priced.latency), start + priced.busy
    else:
        ready, freed = _cross(line, inst, eqn, dsts, priced, start, active)
    line.free[engine] = select(active, freed, line.free[engine])
    line.busy[engine] = line.busy[engine] + select(active, priced.busy, line.zero)
    done = select(active, ready, line.zero)
    line.end = np.maximum(line.end, select(active, np.maximum(ready, freed), line.zero))
    if priced.counts is None:
        priced.counts = counts(inst, priced.cost, priced.operands, avals)
    line.tally.add(priced.counts, line.all_cores if active is None else Cores(line.grid, active))
    # What a collective sends is idle once it has left; only its destination waits for the arrival.
    left = done if inst.arrival is None else select(active, freed, line.zero)
    for x in others:
        if x.buffer is not None:
            end = done if any(x is d for d in dsts) else left
            x.buffer.idle = np.maximum(x.buffer.idle, end)
    if line.trace_core is not None:
        _record(line, inst, eqn, engine, start, freed, active)
    if not inst.in_place:
        return [line.fresh(a, s, done) for a, s in zip(avals, inst.writes, strict=True)]
    return [_written(line, inst, eqn, dst, ready, active) for dst in dsts]


# --- cost ---


def _priced(line: Any, inst: Instruction, eqn: Any, xs: list[Value]) -> Priced:
    """The cost of an equation, asked for once unless it depends on a count."""
    key = (id(eqn), *(x.space for x in xs))
    if (cached := line.prices.get(key)) is not None:
        for x, allowed in zip(xs[inst.destinations :], inst.reads, strict=True):
            if allowed == "register":
                _known(inst, eqn, x)
        return cached
    spaces = (*inst.writes[: inst.destinations], *inst.reads)
    operands = [_operand(inst, eqn, i, x, s) for i, (x, s) in enumerate(zip(xs, spaces))]
    try:
        cost = inst.cost(line.device, *operands, **eqn.params)
    except EmulationError as e:
        raise type(e)(str(e), jx.location(eqn)) from None
    per = 1 if cost.engine is None else line.device.ticks_per_cycle[cost.engine]
    priced = Priced(operands, cost, _ticks(cost.busy_cycles, per), _ticks(cost.latency_cycles, per))
    if "count" not in inst.reads:
        line.prices[key] = priced
    return priced


def _operand(inst: Instruction, eqn: Any, i: int, x: Value, allowed: Any) -> Operand:
    """What the cost rule may see of operand `i`, once its memory space is checked."""
    if allowed in ("register", "count"):
        _known(inst, eqn, x)
        shown = x.known if allowed == "count" else None
        return Operand(x.shape, x.dtype, "register", shown)
    names = (allowed,) if isinstance(allowed, str) else allowed
    if names is not None and x.space not in names:
        raise WrongSpace(
            f"{inst.name}: operand {i} is in {x.space}, must be in {' or '.join(names)}",
            jx.location(eqn),
        )
    return Operand(x.shape, x.dtype, x.space)


def _known(inst: Instruction, eqn: Any, x: Value) -> None:
    if x.known is None:
        raise DataDependentBranch(
            f"{inst.name}: an operand that must be a known integer depends on data",
            jx.location(eqn),
        )


def _ticks(cycles: Any, per: int) -> Ticks:
    """Cycles in whole ticks, rounded up once; a millionth of a tick is rounding error."""
    if isinstance(cycles, np.ndarray):
        return np.ceil(np.round(cycles.astype(np.float64) * per, 6)).astype(np.int64)
    return math.ceil(round(cycles * per, 6))


# --- checks and state ---


def _check_fresh(inst: Instruction, eqn: Any, xs: list[Value], active: np.ndarray | None) -> None:
    for i, x in enumerate(xs):
        if x.stale_on(active):
            assert x.buffer is not None
            by = x.buffer.writer
            writer = lookup(by.primitive) if by is not None else None
            what = f"{writer.name} at {jx.location(by)}" if writer else "a later write"
            raise StaleTile(f"{inst.name}: operand {i} was overwritten by {what}", jx.location(eqn))


def _start(
    line: Any, inst: Instruction, free: np.ndarray, xs: list[Value], dsts: list[Value]
) -> np.ndarray:
    """When engine, operands and destinations allow it; a partial write waits for readers only."""
    waits = xs[len(dsts) :] if inst.partial else xs
    if not line.contended:  # only for what the result is computed from
        waits = waits if inst.reads_destination else xs[len(dsts) :]
    start = free if line.contended else line.zero
    for x in waits:
        start = np.maximum(start, x.ready)
    for d in dsts if line.contended else ():
        start = np.maximum(start, d.buffer.idle)  # type: ignore[union-attr]
    return start


def _allocate(
    line: Any, inst: Instruction, eqn: Any, aval: Any, active: np.ndarray | None
) -> Value:
    """A tile declared in a loop is one buffer, free again when its last reader is done."""
    buffer = line.sites.get(line.path)
    if buffer is None:
        value = line.fresh(aval, inst.writes[0])
        line.sites[line.path] = value.buffer
        return value
    buffer.version, buffer.writer = select(active, line.next_version(), buffer.version), eqn
    ready = buffer.idle if line.contended else line.zero
    return Value(tuple(aval.shape), aval.dtype, inst.writes[0], ready, buffer, buffer.version)


def _written(
    line: Any,
    inst: Instruction,
    eqn: Any,
    dst: Value,
    ready: np.ndarray,
    active: np.ndarray | None,
) -> Value:
    """The result in its destination's buffer, as a new version; parts are ready with the last."""
    ready = np.maximum(ready, dst.ready) if inst.partial else ready
    buffer = dst.buffer
    assert buffer is not None
    buffer.version = select(active, line.next_version(), buffer.version)
    buffer.writer = eqn
    ready = select(active, ready, dst.ready)
    return Value(dst.shape, dst.dtype, dst.space, ready, buffer, buffer.version)


def _cross(
    line: Any,
    inst: Instruction,
    eqn: Any,
    dsts: list[Value],
    priced: Priced,
    start: np.ndarray,
    active: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """When a collective's results arrive, and when each core's engine is free again."""
    if active is not None and not active.all():
        raise PartialCollective(
            f"{inst.name}: only some cores take this branch, every core must take part",
            jx.location(eqn),
        )
    line.exchanged.add(eqn.params["axis"])
    idle = line.zero
    if line.contended:
        for d in dsts:
            idle = np.maximum(idle, d.buffer.idle)  # type: ignore[union-attr]
    every = (np.broadcast_to(x, line.grid) for x in (start, idle, priced.busy, priced.latency))
    assert inst.arrival is not None
    return inst.arrival(line.device, line.mesh, Crossing(*every), *priced.operands, **eqn.params)


def _record(
    line: Any,
    inst: Instruction,
    eqn: Any,
    engine: str,
    start: np.ndarray,
    freed: np.ndarray,
    active: np.ndarray | None,
) -> None:
    def at(x: np.ndarray) -> Any:
        return np.broadcast_to(x, line.grid)[line.trace_core]

    if active is None or at(active):
        span = int(at(start)), int(at(freed))
        line.events.append(Event(engine, inst.name, *span, jx.location(eqn)))
