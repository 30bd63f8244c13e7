"""One instruction on the clock: its checks, its start and its results.

Engines issue in program order, so `start = max(engine free, operands ready, destination idle)`.
"""

from typing import Any

import numpy as np

from emu.clock import bands, names, recording, skew, throttle
from emu.clock.issued import Issue, Timing
from emu.clock.resources import Path, Port, Ring
from emu.clock.state import ClockState
from emu.clock.tally import Cores, counts
from emu.clock.throttle import Charge
from emu.clock.ticks import (
    Active,
    PerCore,
    Ticks,
    folded,
    later,
    plain,
    select,
    settled,
)
from emu.clock.tiles import Value
from emu.clock.waiting import account, ask, earliest_start, spend
from emu.datasheet import Packing
from emu.errors import PartialCollective, StaleTile
from emu.instruction import Crossing, Instruction, lookup
from emu.tracing import jaxpr as jx


def issue(
    state: ClockState,
    inst: Instruction[..., Any],
    eqn: jx.Equation,
    values: list[Value],
    active: Active,
) -> list[Value]:
    """Starts one instruction on the active cores and returns its results."""
    state.stepped += 1
    price = state.prices.price(inst, eqn, values)
    check_fresh(inst, eqn, values, active)
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
    _hold(state, issued, timing)
    if state.trace is not None:
        recording.instruction(state.trace, issued, timing)
    return _results(state, issued, timing)


def _times(state: ClockState, issued: Issue) -> Timing:
    """When it starts and ends; charges an engine that throttles."""
    price = issued.price
    begin, cause = earliest_start(state, issued)
    if state.asked:
        ask(state, issued, begin)
    throttled = _throttled(state, issued, begin)
    if issued.inst.arrival is not None:
        done, freed = _cross(state, issued, begin)
    else:
        freed = begin + price.busy + throttled
        # Were the latency shorter than the busy time, the result would be there once that is over.
        done = later(begin + price.latency + throttled, freed)
    return Timing(begin, freed, done, throttled, cause)


def _throttled(state: ClockState, issued: Issue, begin: Ticks) -> PerCore:
    """By how much longer a throttled engine is busy; keeps its charge."""
    engine = issued.engine
    price = issued.price
    law = engine.law
    if law is None or not state.setup.contended:
        return 0
    before = Charge(engine.charge, engine.slow)
    # Not from `free`: time that others take from an engine is none in which it works.
    idle = settled(begin - engine.last)
    at_start, extra = throttle.extra_ticks(law, before, idle, price.busy)
    busy = price.busy + extra
    duty = price.cost.duty
    after = throttle.after(law, at_start, busy, duty, issued.active, before)
    engine.charge, engine.slow = after
    return extra


def _book(state: ClockState, issued: Issue, timing: Timing) -> None:
    """Books the engine's wait and its time from the start."""
    engine = issued.engine
    if state.setup.contended:
        account(state, engine, timing.begin, timing.cause, issued.active)
    more: dict[str, Ticks] = {}
    if issued.inst.arrival is not None:
        held = timing.freed - timing.begin
        # Held for 900 ticks with 250 of work to do, it waited 650 for peers, in the middle of it.
        more = {"wait:peers": held - issued.price.busy}
    elif engine.law is not None:
        more = {"throttle": timing.throttled}
    spend(state, issued, more)


def _occupy(state: ClockState, issued: Issue, timing: Timing) -> None:
    """Keeps the engine busy, and takes from those that it shares a resource with."""
    engine = issued.engine
    price = issued.price
    active = issued.active
    freed = timing.freed
    interval = price.interval
    if type(interval) is not int or interval:
        until = timing.begin + interval
        engine.paced = select(active, until, engine.paced)
        engine.paces += 1
    # One object in both: nothing has been taken from it since (`Engine.share_clock`).
    engine.free = engine.last = select(active, freed, engine.last)
    engine.uses += 1
    if state.setup.contended:
        # An engine that only has time taken from it decides nothing: that is no use of it.
        for name, ticks in price.taken.items():
            other = state.engines[name]
            other.free = other.free + select(active, ticks, 0)
    end = later(timing.done, freed)
    state.end = later(state.end, select(active, end, 0))
    if state.setup.core is not None:
        # The latest that anything can wait for because of it.
        latest = later(end, timing.begin + interval) + price.handover
        state.note(latest if type(latest) is int else int(np.max(latest)))


def _count(state: ClockState, issued: Issue) -> None:
    price = issued.price
    setup = state.setup
    active = issued.active
    # Kept with the price: an equation walked a thousand times counts the same each time.
    if price.counts is None:
        results = [atom.aval for atom in issued.eqn.outvars]
        price.counts = counts(issued.inst, price.cost, price.operands, results)
    cores = setup.all_cores if active is None else Cores(setup.grid, active)
    state.tally.add(price.counts, cores)


def _hold(state: ClockState, issued: Issue, timing: Timing) -> None:
    """Keeps buffers and ports in use until the instruction is done with them."""
    inst = issued.inst
    engine = issued.engine
    active = issued.active
    # 0 is no later than any time, so cores that take no part keep theirs.
    done = select(active, timing.done, 0)
    freed = select(active, timing.freed, 0)
    # What a collective sends is idle once it has left; only its destination waits for the arrival.
    read = done if inst.arrival is None else freed
    destinations = inst.destinations
    for place, value in enumerate(issued.values):
        buffer = value.buffer
        if buffer is None:
            continue
        if place >= destinations:
            buffer.use(read, engine.cause)
        # A part is written while others are, so it does not move `idle`. No whole write overtakes
        # it: that one waits for the tile to be ready, and a tile in parts is with the last.
        elif not inst.partial:
            buffer.use(done, engine.cause)
        if buffer.port is not None:
            _use_port(buffer.port, issued, freed)
    for space in issued.price.cost.ports:
        _use_port(state.port((space, None)), issued, freed)


def _use_port(port: Port, issued: Issue, freed: Ticks) -> None:
    port.until = later(port.until, freed)
    port.engine = names.choose(issued.active, issued.engine.name, port.engine)
    port.uses += 1


# --- checks ---


def check_fresh(
    inst: Instruction[..., Any], eqn: jx.Equation, values: list[Value], active: Active
) -> None:
    """Raises `StaleTile` where an operand's buffer holds a later write."""
    for place, value in enumerate(values):
        buffer = value.buffer
        # Of a value that its buffer holds the version is one object in both.
        if buffer is None or value.version is buffer.version:
            continue
        if not value.stale_on(active):
            continue
        what = _named(buffer.writer)
        raise StaleTile(
            f"{inst.name}: operand {place} was overwritten by {what}",
            jx.location(eqn),
        )


def _named(write: jx.Equation | None) -> str:
    """What a write is called in a message; a loop may have written, or classes of cores."""
    inst = None if write is None else lookup(write.primitive)
    if inst is None or write is None:
        return "a later write"
    return f"{inst.name} at {jx.location(write)}"


# --- results ---


def _allocate(
    state: ClockState, inst: Instruction[..., Any], eqn: jx.Equation, active: Active
) -> Value:
    """The tile's next buffer: a declaration in a loop is a ring as deep as it asks for."""
    ring = state.rings.by_path.get(state.path)
    space = inst.writes[0]
    if ring is None:
        ring = declare(state, space, eqn, state.path)
    buffer = ring.turn()
    if state.trace is not None:
        recording.declared(state.trace, buffer, active)
    # At the declaration, not at the first write: whoever still holds the tile of a turn before has
    # lost it from here on.
    buffer.version = select(active, state.next_version(), buffer.version)
    buffer.writer = eqn
    aval = eqn.outvars[0].aval
    return Value(
        aval.shape,
        aval.dtype,
        space,
        buffer.idle if state.setup.contended else 0,
        buffer,
        buffer.version,
        source=names.prefixed("buffer:", buffer.user),
    )


def declare(state: ClockState, space: str, eqn: jx.Equation, path: Path) -> Ring:
    """The ring of a tile that is declared at a path for the first time."""
    depth = eqn.params.get("buffers", 1)
    buffers = [state.buffer() for _ in range(depth)]
    for buffer in buffers:
        buffer.packing = Packing.of(eqn.params)
    bank = eqn.params.get("bank")
    if bank is not None:
        # Tiles of one bank share it, whatever ring they are in.
        port = state.port((space, bank))
        for buffer in buffers:
            buffer.port = port
    ring = Ring(buffers, path, [*state.loops])
    state.rings.declare(ring)
    return ring


def _results(state: ClockState, issued: Issue, timing: Timing) -> list[Value]:
    """Results in their destinations' buffers, or in buffers of their own."""
    ready = timing.done + issued.price.handover
    results: list[Value] = []
    if issued.inst.in_place:
        for destination in issued.destinations:
            result = _written(state, issued, destination, timing.begin, ready)
            results.append(result)
        return results
    ready = select(issued.active, ready, 0)
    source = issued.engine.cause
    for atom, space in zip(issued.eqn.outvars, issued.inst.writes, strict=True):
        result = state.made(atom.aval, space, ready, source)
        results.append(result)
    return results


def _written(
    state: ClockState, issued: Issue, destination: Value, begin: Ticks, ready: Ticks
) -> Value:
    """The result in its destination's buffer, as a new version; parts are ready with the last."""
    inst = issued.inst
    active = issued.active
    if inst.partial:
        if state.asked:
            state.ask(plain(destination.ready), plain(ready))
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


def _cross(state: ClockState, issued: Issue, begin: Ticks) -> tuple[Ticks, Ticks]:
    """When a collective's results arrive, and when each core's engine is free again."""
    inst = issued.inst
    eqn = issued.eqn
    price = issued.price
    active = issued.active
    setup = state.setup
    if active is not None and not active.all():
        raise PartialCollective(
            f"{inst.name}: only some cores take this branch, every core must take part",
            jx.location(eqn),
        )
    state.exchanged.add(eqn.params["axis"])
    idle: Ticks = 0
    if setup.contended:
        # Each core's start has waited for its own destination. A sender elsewhere has not, and only
        # the arrival rule knows who sends to whom.
        for destination in issued.destinations:
            assert destination.buffer is not None
            idle = later(idle, destination.buffer.idle)
    crossing = Crossing(
        start_ticks=np.broadcast_to(settled(begin), setup.grid),
        destination_idle_ticks=np.broadcast_to(settled(idle), setup.grid),
        busy_ticks=np.broadcast_to(price.busy, setup.grid),
        latency_ticks=np.broadcast_to(price.latency, setup.grid),
    )
    if setup.bands:
        done, freed = bands.arrive(
            inst, eqn, setup.bands, setup.mesh, crossing, price.operands
        )
    else:
        assert inst.arrival is not None
        done, freed = inst.arrival(
            setup.device, setup.mesh, crossing, *price.operands, **eqn.params
        )
    # An arrival is told for every core of the mesh; those that go side by side, such as the cores
    # of a chip, stay one.
    along = list(setup.mesh).index(eqn.params["axis"])
    is_one = done is freed
    done = folded(done, along)
    freed = done if is_one else folded(freed, along)
    if not state.is_in_line:
        return done, freed
    done = skew.following(done, begin)
    return done, done if is_one else skew.following(freed, begin)


__all__ = ["check_fresh", "declare", "issue"]
