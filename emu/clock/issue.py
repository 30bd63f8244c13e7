"""One instruction on the clock: its checks, its start and its results.

Engines issue in program order, so `start = max(engine free, operands ready, destination idle)`.
"""

from typing import Any

import numpy as np

from emu.clock import names, recording, throttle
from emu.clock.price import Price, price
from emu.clock.tally import Cores, counts
from emu.clock.ticks import Ticks, later, select
from emu.clock.tiles import Ring, Value
from emu.clock.waiting import account, spend, start
from emu.errors import PartialCollective, StaleTile
from emu.instruction import Crossing, Instruction, lookup
from emu.tracing import jaxpr as jx


def issue(
    line: Any, inst: Instruction, eqn: Any, xs: list[Value], active: np.ndarray | None
) -> list[Value]:
    """Starts one instruction on the active cores and returns its results."""
    line.stepped += 1
    priced = price(line, inst, eqn, xs)
    _check_fresh(inst, eqn, xs, active)
    avals = [v.aval for v in eqn.outvars]
    if not inst.in_place and not xs:
        return [_allocate(line, inst, eqn, avals[0], active)]
    engine = priced.cost.engine
    if engine is None:
        return []
    dsts = xs[: inst.destinations]
    begin, cause = start(line, inst, priced, xs)
    extra = _throttled(line, engine, priced, begin, active)
    if inst.arrival is None:
        freed = begin + priced.busy + extra
        done = later(begin + priced.latency + extra, freed)
    else:
        done, freed = _cross(line, inst, eqn, dsts, priced, begin, active)
    if line.contended:
        account(line, engine, begin, cause, active)
    more = {"throttle": extra} if engine in line.laws else {}
    if inst.arrival is not None:
        more = {"wait:peers": freed - begin - priced.busy}
    spend(line, engine, priced, more, active)
    if type(priced.interval) is not int or priced.interval:
        until = begin + priced.interval
        line.paced[engine] = select(active, until, line.paced.get(engine, 0))
    _occupy(line, engine, priced, freed, active)
    line.end = later(line.end, select(active, later(done, freed), 0))
    _count(line, inst, priced, avals, active)
    _hold(line, inst, xs, dsts, engine, done, freed, active)
    if line.trace_core is not None:
        recording.instruction(
            line, inst, eqn, priced, (begin, freed, done, cause), extra, active
        )
    ready = done + priced.handover
    source = line.causes.get(engine, engine)
    if not inst.in_place:
        ready = select(active, ready, 0)
        pairs = zip(avals, inst.writes, strict=True)
        return [line.fresh(a, s, ready, source) for a, s in pairs]
    return [
        _written(line, inst, eqn, dst, begin, ready, source, active) for dst in dsts
    ]


def _throttled(
    line: Any, engine: str, priced: Price, begin: Ticks, active: Any
) -> Ticks:
    """By how much longer a throttled engine is busy; keeps its charge."""
    law = line.laws.get(engine)
    if law is None or not line.contended:
        return 0
    before = line.throttle[engine]
    at, extra = throttle.extra_ticks(
        law, before, begin - line.last[engine], priced.busy
    )
    line.throttle[engine] = throttle.after(
        law, at, priced.busy + extra, priced.cost.duty, active, before
    )
    return extra


def _occupy(line: Any, engine: str, priced: Price, freed: Ticks, active: Any) -> None:
    """Keeps the engine busy, and takes from those that it shares a resource with."""
    line.free[engine] = line.last[engine] = select(active, freed, line.last[engine])
    line.touches[engine] += 1
    if line.contended:
        # An engine that only has time taken from it decides nothing: that does not touch it.
        for other, ticks in priced.taken.items():
            line.free[other] = line.free[other] + select(active, ticks, 0)


def _count(
    line: Any, inst: Instruction, priced: Price, avals: list[Any], active: Any
) -> None:
    if priced.counts is None:
        priced.counts = counts(inst, priced.cost, priced.operands, avals)
    line.tally.add(
        priced.counts, line.all_cores if active is None else Cores(line.grid, active)
    )


def _hold(
    line: Any,
    inst: Instruction,
    xs: list[Value],
    dsts: list[Value],
    engine: str,
    done: Ticks,
    freed: Ticks,
    active: Any,
) -> None:
    """Keeps buffers and ports in use until the instruction is done with them."""
    done = select(active, done, 0)
    freed = select(active, freed, 0)
    # What a collective sends is idle once it has left; only its destination waits for the arrival.
    left = done if inst.arrival is None else freed
    user = line.causes.get(engine, engine)
    for i, x in enumerate(xs):
        if x.buffer is None:
            continue
        if not (inst.partial and i < len(dsts)):
            x.buffer.use(done if i < len(dsts) else left, user)
        if x.buffer.port is not None:
            port = x.buffer.port
            port.until = later(port.until, freed)
            port.engine = names.choose(active, engine, port.engine)
            port.uses += 1


# --- checks and state ---


def _check_fresh(
    inst: Instruction, eqn: Any, xs: list[Value], active: np.ndarray | None
) -> None:
    for i, x in enumerate(xs):
        if x.stale_on(active):
            assert x.buffer is not None
            by = x.buffer.writer
            writer = lookup(by.primitive) if by is not None else None
            what = f"{writer.name} at {jx.location(by)}" if writer else "a later write"
            raise StaleTile(
                f"{inst.name}: operand {i} was overwritten by {what}", jx.location(eqn)
            )


def _allocate(line: Any, inst: Instruction, eqn: Any, aval: Any, active: Any) -> Value:
    """The tile's next buffer: a declaration in a loop is a ring as deep as it asks for."""
    space, ring = inst.writes[0], line.sites.get(line.path)
    if ring is None:
        depth = 1 if line.as_written else eqn.params.get("buffers", 1)
        ring = Ring([line.buffer() for _ in range(depth)], line.path, [*line.loops])
        if (bank := eqn.params.get("bank")) is not None:
            for b in ring.buffers:
                b.port = line.port(space, bank)
        line.declare(ring)
    buffer = ring.turn()
    if line.trace_core is not None:
        recording.declared(line, buffer, active)
    buffer.version = select(active, line.next_version(), buffer.version)
    buffer.writer = eqn
    ready = buffer.idle if line.contended else 0
    source = names.prefixed("buffer:", buffer.user)
    return Value(
        aval.shape, aval.dtype, space, ready, buffer, buffer.version, source=source
    )


def _written(
    line: Any,
    inst: Instruction,
    eqn: Any,
    dst: Value,
    begin: Ticks,
    ready: Ticks,
    source: str,
    active: np.ndarray | None,
) -> Value:
    """The result in its destination's buffer, as a new version; parts are ready with the last."""
    if inst.partial:
        ready = later(ready, dst.ready)
    buffer = dst.buffer
    assert buffer is not None
    if line.trace_core is not None and dst.space != line.device.home:
        recording.written(
            line, dst, begin, whole=not inst.reads_destination, active=active
        )
    buffer.version = select(active, line.next_version(), buffer.version)
    buffer.writer = eqn
    return Value(
        dst.shape,
        dst.dtype,
        dst.space,
        select(active, ready, dst.ready),
        buffer,
        buffer.version,
        source=names.choose(active, source, dst.source),
    )


def _cross(
    line: Any,
    inst: Instruction,
    eqn: Any,
    dsts: list[Value],
    priced: Price,
    begin: Ticks,
    active: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """When a collective's results arrive, and when each core's engine is free again."""
    if active is not None and not active.all():
        raise PartialCollective(
            f"{inst.name}: only some cores take this branch, every core must take part",
            jx.location(eqn),
        )
    line.exchanged.add(eqn.params["axis"])
    idle: Ticks = 0
    if line.contended:
        for d in dsts:
            idle = later(idle, d.buffer.idle)  # type: ignore[union-attr]
    every = (
        np.broadcast_to(x, line.grid)
        for x in (begin, idle, priced.busy, priced.latency)
    )
    assert inst.arrival is not None
    return inst.arrival(
        line.device, line.mesh, Crossing(*every), *priced.operands, **eqn.params
    )


__all__ = ["issue"]
