"""One instruction on the clock: its checks, its start and its results.

Engines issue in program order, so `start = max(engine free, operands ready, destination idle)`.
"""

import numpy as np

from emu.clock import bands, names, recording, throttle
from emu.clock.issued import Issue, Timing
from emu.clock.resources import Path, Ring
from emu.clock.state import ClockState
from emu.clock.tally import Cores, counts
from emu.clock.throttle import Charge
from emu.clock.ticks import Active, Ticks, later, select
from emu.clock.tiles import Value
from emu.clock.waiting import account, earliest_start, spend
from emu.errors import PartialCollective, StaleTile
from emu.instruction import Crossing, Instruction, lookup
from emu.tracing import jaxpr as jx


def issue(
    state: ClockState,
    inst: Instruction,
    eqn: jx.Equation,
    values: list[Value],
    active: Active,
) -> list[Value]:
    """Starts one instruction on the active cores and returns its results."""
    state.stepped += 1
    price = state.prices.price(inst, eqn, values)
    _check_fresh(inst, eqn, values, active)
    if not inst.in_place and not values:
        return [_allocate(state, inst, eqn, active)]
    name = price.cost.engine
    if name is None:
        return []
    issued = Issue(inst, eqn, price, values, active, state.engines[name])
    timing = _times(state, issued)
    _book(state, issued, timing)
    _occupy(state, issued, timing)
    _count(state, issued)
    _hold(issued, timing)
    if state.trace is not None:
        recording.instruction(state.trace, issued, timing)
    return _results(state, issued, timing)


def _times(state: ClockState, issued: Issue) -> Timing:
    """When it starts and ends; charges an engine that throttles."""
    price = issued.price
    begin, cause = earliest_start(state, issued)
    throttled = _throttled(state, issued, begin)
    if issued.inst.arrival is not None:
        done, freed = _cross(state, issued, begin)
    else:
        freed = begin + price.busy + throttled
        done = later(begin + price.latency + throttled, freed)
    return Timing(begin, freed, done, throttled, cause)


def _throttled(state: ClockState, issued: Issue, begin: Ticks) -> Ticks:
    """By how much longer a throttled engine is busy; keeps its charge."""
    engine, price = issued.engine, issued.price
    law = engine.law
    if law is None or not state.setup.contended:
        return 0
    before = Charge(engine.charge, engine.slow)
    idle = begin - engine.last
    at_start, extra = throttle.extra_ticks(law, before, idle, price.busy)
    busy = price.busy + extra
    engine.charge, engine.slow = throttle.after(
        law, at_start, busy, price.cost.duty, issued.active, before
    )
    return extra


def _book(state: ClockState, issued: Issue, timing: Timing) -> None:
    """Books the engine's wait and its time from the start."""
    engine, active = issued.engine, issued.active
    if state.setup.contended:
        account(state, engine, timing.begin, timing.cause, active)
    more: dict[str, Ticks] = {}
    if issued.inst.arrival is not None:
        more = {"wait:peers": timing.freed - timing.begin - issued.price.busy}
    elif engine.law is not None:
        more = {"throttle": timing.throttled}
    spend(state, issued, more)


def _occupy(state: ClockState, issued: Issue, timing: Timing) -> None:
    """Keeps the engine busy, and takes from those that it shares a resource with."""
    engine, price, active = issued.engine, issued.price, issued.active
    freed = timing.freed
    if type(price.interval) is not int or price.interval:
        until = timing.begin + price.interval
        engine.paced = select(active, until, engine.paced)
        engine.paces += 1
    engine.free = engine.last = select(active, freed, engine.last)
    engine.uses += 1
    if state.setup.contended:
        # An engine that only has time taken from it decides nothing: that is no use of it.
        for name, ticks in price.taken.items():
            other = state.engines[name]
            other.free = other.free + select(active, ticks, 0)
    state.end = later(state.end, select(active, later(timing.done, freed), 0))


def _count(state: ClockState, issued: Issue) -> None:
    price, setup, active = issued.price, state.setup, issued.active
    if price.counts is None:
        results = [atom.aval for atom in issued.eqn.outvars]
        price.counts = counts(issued.inst, price.cost, price.operands, results)
    cores = setup.all_cores if active is None else Cores(setup.grid, active)
    state.tally.add(price.counts, cores)


def _hold(issued: Issue, timing: Timing) -> None:
    """Keeps buffers and ports in use until the instruction is done with them."""
    inst, engine, active = issued.inst, issued.engine, issued.active
    done = select(active, timing.done, 0)
    freed = select(active, timing.freed, 0)
    # What a collective sends is idle once it has left; only its destination waits for the arrival.
    read = done if inst.arrival is None else freed
    for place, value in enumerate(issued.values):
        buffer = value.buffer
        if buffer is None:
            continue
        is_destination = place < inst.destinations
        if not (inst.partial and is_destination):
            buffer.use(done if is_destination else read, engine.cause)
        if (port := buffer.port) is not None:
            port.until = later(port.until, freed)
            port.engine = names.choose(active, engine.name, port.engine)
            port.uses += 1


# --- checks ---


def _check_fresh(
    inst: Instruction, eqn: jx.Equation, values: list[Value], active: Active
) -> None:
    for place, value in enumerate(values):
        if not value.stale_on(active):
            continue
        assert value.buffer is not None
        by = value.buffer.writer
        writer = lookup(by.primitive) if by is not None else None
        what = "a later write"
        if writer is not None and by is not None:
            what = f"{writer.name} at {jx.location(by)}"
        raise StaleTile(
            f"{inst.name}: operand {place} was overwritten by {what}",
            jx.location(eqn),
        )


# --- results ---


def _allocate(
    state: ClockState, inst: Instruction, eqn: jx.Equation, active: Active
) -> Value:
    """The tile's next buffer: a declaration in a loop is a ring as deep as it asks for."""
    aval = eqn.outvars[0].aval
    space = inst.writes[0]
    ring = state.rings.by_path.get(state.path)
    if ring is None:
        ring = _declare(state, space, eqn, state.path)
    buffer = ring.turn()
    if state.trace is not None:
        recording.declared(state.trace, buffer, active)
    buffer.version = select(active, state.next_version(), buffer.version)
    buffer.writer = eqn
    ready = buffer.idle if state.setup.contended else 0
    source = names.prefixed("buffer:", buffer.user)
    version = buffer.version
    return Value(aval.shape, aval.dtype, space, ready, buffer, version, source=source)


def _declare(state: ClockState, space: str, eqn: jx.Equation, path: Path) -> Ring:
    depth = 1 if state.setup.as_written else eqn.params.get("buffers", 1)
    ring = Ring([state.buffer() for _ in range(depth)], path, [*state.loops])
    bank = eqn.params.get("bank")
    if bank is not None:
        for buffer in ring.buffers:
            buffer.port = state.port((space, bank))
    state.rings.declare(ring)
    return ring


def _results(state: ClockState, issued: Issue, timing: Timing) -> list[Value]:
    """Results in their destinations' buffers, or in buffers of their own."""
    inst, active = issued.inst, issued.active
    ready = timing.done + issued.price.handover
    source = issued.engine.cause
    if not inst.in_place:
        ready = select(active, ready, 0)
        return [
            state.in_new_buffer(atom.aval, space, ready, source)
            for atom, space in zip(issued.eqn.outvars, inst.writes, strict=True)
        ]
    return [
        _written(state, issued, destination, timing.begin, ready)
        for destination in issued.destinations
    ]


def _written(
    state: ClockState, issued: Issue, destination: Value, begin: Ticks, ready: Ticks
) -> Value:
    """The result in its destination's buffer, as a new version; parts are ready with the last."""
    inst, active = issued.inst, issued.active
    if inst.partial:
        ready = later(ready, destination.ready)
    buffer = destination.buffer
    assert buffer is not None
    device = state.setup.device
    if state.trace is not None and destination.space != device.home:
        whole = not inst.reads_destination
        recording.written(
            state.trace, device, destination, begin, whole=whole, active=active
        )
    buffer.version = select(active, state.next_version(), buffer.version)
    buffer.writer = issued.eqn
    return Value(
        destination.shape,
        destination.dtype,
        destination.space,
        select(active, ready, destination.ready),
        buffer,
        buffer.version,
        source=names.choose(active, issued.engine.cause, destination.source),
    )


def _cross(
    state: ClockState, issued: Issue, begin: Ticks
) -> tuple[np.ndarray, np.ndarray]:
    """When a collective's results arrive, and when each core's engine is free again."""
    inst, eqn, price, active = issued.inst, issued.eqn, issued.price, issued.active
    setup = state.setup
    if active is not None and not active.all():
        raise PartialCollective(
            f"{inst.name}: only some cores take this branch, every core must take part",
            jx.location(eqn),
        )
    state.exchanged.add(eqn.params["axis"])
    idle: Ticks = 0
    if setup.contended:
        for destination in issued.destinations:
            assert destination.buffer is not None
            idle = later(idle, destination.buffer.idle)
    crossing = Crossing(
        start_ticks=np.broadcast_to(begin, setup.grid),
        destination_idle_ticks=np.broadcast_to(idle, setup.grid),
        busy_ticks=np.broadcast_to(price.busy, setup.grid),
        latency_ticks=np.broadcast_to(price.latency, setup.grid),
    )
    if setup.bands:
        return bands.arrive(
            inst, eqn, setup.bands, setup.mesh, crossing, price.operands
        )
    assert inst.arrival is not None
    return inst.arrival(
        setup.device, setup.mesh, crossing, *price.operands, **eqn.params
    )


__all__ = ["issue"]
