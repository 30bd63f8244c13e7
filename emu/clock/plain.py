"""A basic block walked on one core: `emu.clock.issue` on plain numbers, by a plan.

The rules are those of `emu.clock.issue` and `emu.clock.waiting`, where they are explained; here
nothing differs between cores, so a time is an int, a name a `str`, and no core is left out. Tests
hold the two equal on random programs (`tests/emu/test_basic_blocks.py`).
"""

from collections.abc import Mapping
from typing import Protocol, TypeAlias, cast

from emu.clock import throttle
from emu.clock.basic_blocks import Block, Declared, Issued, Plan, Plans
from emu.clock.issue import check_fresh, declare
from emu.clock.resources import Buffer, Ring
from emu.clock.state import ClockState
from emu.clock.tally import Key
from emu.clock.throttle import Law
from emu.clock.tiles import Value
from emu.clock.unpriced import without_instruction
from emu.tracing import jaxpr as jx

# --- the clock's objects as they are on one core ---


class OnePort(Protocol):
    until: int
    engine: str
    uses: int


class OneBuffer(Protocol):
    idle: int
    version: int
    writer: jx.Equation | None
    user: str
    port: OnePort | None
    uses: int


class OneEngine(Protocol):
    name: str
    cause: str
    law: Law
    free: int
    last: int
    paced: int
    charge: int
    slow: bool
    uses: int
    paces: int


class OneValue(Protocol):
    """A value in a buffer; of others nothing is asked but that they are ready at 0."""

    ready: int
    buffer: OneBuffer
    version: int
    source: str


Slots: TypeAlias = list[OneValue]


class OneState(Protocol):
    engines: Mapping[str, OneEngine]
    spent: dict[Key, int]
    end: int
    asked: dict[int, int]

    def port(self, key: tuple[str, None], /) -> OnePort: ...
    def next_version(self) -> int: ...
    def note(self, time: int, /) -> None: ...
    def ask(self, ready: int, start: int, /) -> None: ...


# --- a block ---


def walk(
    state: ClockState, plans: Plans, block: Block, values: dict[int, Value]
) -> bool:
    """Walks a basic block on one core, by the plan for it; False if there is none.

    Args:
      state: of one core (`ClockState.is_plain`).
      plans: those made so far.
      block: a basic block of the body at `state.path`.
      values: by atom; what the block gives is added.
    """
    inputs = [values[atom] for atom in block.reads]
    plan = plans.plan(state, block, inputs)
    if plan is None:
        return False
    slots = plan.slots.copy()
    slots[: len(inputs)] = inputs
    for integer in plan.integers:
        operands = [slots[slot] for slot in integer.operands]
        slots[integer.result] = without_instruction(state, integer.eqn, operands)
    rings = iter(_rings(state, plan))
    own_slots = cast(Slots, slots)
    own_state = cast(OneState, state)
    for step in plan.steps:
        if isinstance(step, Declared):
            slots[step.result] = _declare(state, step, next(rings))
        else:
            _issue(own_state, step, own_slots)
    _book(state, plan)
    for given in plan.gives:
        value = slots[given.slot]
        values[given.atom] = value if given.view is None else value.viewed(given.view)
    return True


def _book(state: ClockState, plan: Plan) -> None:
    """Books what is the same in each walk."""
    state.stepped += plan.stepped
    for name, number in plan.uses.items():
        state.engines[name].uses += number
    for name, number in plan.paces.items():
        state.engines[name].paces += number
    spent = state.spent
    for key, ticks in plan.spent.items():
        spent[key] = spent.get(key, 0) + ticks
    sums = state.tally.sums
    for key, number in plan.sums.items():
        sums[key] += number


# --- declarations ---


def _rings(state: ClockState, plan: Plan) -> list[Ring]:
    """The ring of each declaration."""
    key = id(plan), state.path
    rings = state.rings.of_plans.get(key)
    if rings is None:
        rings = [_ring(state, declared) for declared in plan.declared]
        state.rings.of_plans[key] = rings
    return rings


def _ring(state: ClockState, declared: Declared) -> Ring:
    path = state.path
    for number in declared.path:
        path = path, number
    ring = state.rings.by_path.get(path)
    if ring is None:
        ring = declare(state, declared.space, declared.eqn, path)
    return ring


def _declare(state: ClockState, declared: Declared, ring: Ring) -> Value:
    buffer = ring.turn()
    version = buffer.version = state.next_version()
    buffer.writer = declared.eqn
    aval = declared.eqn.outvars[0].aval
    # Positional, as all that is made so often.
    return Value(
        aval.shape,
        aval.dtype,
        declared.space,
        buffer.idle,
        buffer,
        version,
        None,
        None,
        f"buffer:{buffer.user}",
    )


# --- instructions ---


def _issue(state: OneState, step: Issued, slots: Slots) -> None:
    """Starts an instruction and puts its results into their slots."""
    for slot in step.held:
        value = slots[slot]
        if value.version is not value.buffer.version:
            operands = [slots[place] for place in step.operands]
            check_fresh(step.inst, step.eqn, cast(list[Value], operands), None)
    if step.engine is None:
        return
    engine = state.engines[step.engine]
    begin, cause = _start(state, engine, step, slots)
    if state.asked:
        _ask(state, step, slots, begin)
    freed = begin + step.busy
    done = begin + step.latency
    last = engine.last
    if begin > last:
        # An engine that was never used was last free at 0.
        what = f"wait:{cause}" if last else "fill"
        _spend(state, engine, what, begin - last)
    if step.gain is not None:
        extra = _throttle(engine, begin - last, step.busy, step.gain)
        _spend(state, engine, "throttle", extra)
        freed += extra
        done += extra
    done = max(done, freed)
    paced = begin + step.interval
    if step.interval:
        engine.paced = paced
    engine.free = engine.last = freed
    for name, ticks in step.taken:
        other = state.engines[name]
        other.free = other.free + ticks
    if done > state.end:
        state.end = done
    state.note(max(done, paced) + step.handover)
    _hold(state, engine, step, slots, freed, done)
    _results(state, engine, step, slots, done + step.handover)


def _start(
    state: OneState, engine: OneEngine, step: Issued, slots: Slots
) -> tuple[int, str]:
    """When engine, operands and destinations allow it, and the first cause of the wait."""
    begin = engine.last
    cause = "engine"
    if engine.free > begin:
        begin = engine.free
        cause = "shared"
    if engine.paced > begin:
        begin = engine.paced
        cause = "interval"
    for slot in step.awaited:
        value = slots[slot]
        if value.ready > begin:
            begin = value.ready
            cause = value.source
    for slot in step.destinations:
        buffer = slots[slot].buffer
        if buffer.idle > begin:
            begin = buffer.idle
            cause = f"buffer:{buffer.user}"
    name = engine.name
    for slot in step.held:
        port = slots[slot].buffer.port
        # Its own user needs no turn.
        if port is not None and port.until > begin and port.engine != name:
            begin = port.until
            cause = "bank"
    for space in step.ports:
        port = state.port((space, None))
        if port.until > begin and port.engine != name:
            begin = port.until
            cause = "port"
    for slot, ticks in step.lead:
        ready = slots[slot].ready + ticks
        if ready > begin:
            begin = ready
            cause = "lead"
    return begin, cause


def _ask(state: OneState, step: Issued, slots: Slots, begin: int) -> None:
    """Keeps when operands of the loop are asked for, `emu.clock.waiting.ask` on plain numbers."""
    asked = state.asked
    for slot in step.awaited:
        ready = slots[slot].ready
        if ready in asked and begin < asked[ready]:
            asked[ready] = begin
    for slot, ticks in step.lead:
        state.ask(slots[slot].ready, begin - ticks)


def _throttle(engine: OneEngine, idle: int, busy: int, gain: int) -> int:
    """By how much longer a throttled engine is busy; keeps its charge."""
    engine.charge, engine.slow, extra = throttle.on_one_core(
        engine.law, engine.charge, engine.slow, idle, busy, gain
    )
    return extra


def _spend(state: OneState, engine: OneEngine, what: str, ticks: int) -> None:
    key = engine.name, what
    state.spent[key] = state.spent.get(key, 0) + ticks


def _hold(
    state: OneState,
    engine: OneEngine,
    step: Issued,
    slots: Slots,
    freed: int,
    done: int,
) -> None:
    """Keeps buffers and ports in use until the instruction is done with them."""
    for slot in step.awaited:
        buffer = slots[slot].buffer
        buffer.uses += 1
        # Of two that are done at once the later in program order names the wait.
        if done >= buffer.idle:
            buffer.idle = done
            buffer.user = engine.cause
    for slot in step.held:
        port = slots[slot].buffer.port
        if port is not None:
            _use_port(port, engine, freed)
    for space in step.ports:
        _use_port(state.port((space, None)), engine, freed)


def _use_port(port: OnePort, engine: OneEngine, freed: int) -> None:
    if freed > port.until:
        port.until = freed
    port.engine = engine.name
    port.uses += 1


def _results(
    state: OneState, engine: OneEngine, step: Issued, slots: Slots, ready: int
) -> None:
    for result in step.results:
        if result.destination is None:
            made = cast(ClockState, state).made(
                result.aval, result.space, ready, engine.cause
            )
            slots[result.slot] = cast(OneValue, made)
            continue
        destination = slots[result.destination]
        buffer = destination.buffer
        own = ready
        if step.partial:
            state.ask(destination.ready, ready)
            # Parts are ready with the last.
            if destination.ready > ready:
                own = destination.ready
        version = buffer.version = state.next_version()
        buffer.writer = step.eqn
        written = Value(
            result.aval.shape,
            result.aval.dtype,
            result.space,
            own,
            cast(Buffer, buffer),
            version,
            None,
            None,
            engine.cause,
        )
        slots[result.slot] = cast(OneValue, written)


__all__ = ["walk"]
