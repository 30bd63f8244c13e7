"""A basic block walked on one core: `emu.clock.issue` on plain numbers, by a plan.

The rules are those of `emu.clock.issue` and `emu.clock.waiting`, where they are explained; here
nothing differs between cores, so a time is an int, a name a `str`, and no core is left out. Tests
hold the two equal on random programs (`tests/emu/test_basic_blocks.py`).

Within a block there are no values, as most of them are read once and forgotten: what a walk needs
of them is in lists by slot, `ready[2]` being when the value in slot 2 may be read. Values are made
of what the block gives.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol, cast

from emu.clock import throttle
from emu.clock.basic_blocks import Block, Declared, Issued, Plan, Plans, Slot
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


@dataclasses.dataclass(eq=False, slots=True)
class Slots:
    """The values of a block, field by field: of those in a buffer, see `Value`.

    Of others nothing is asked but that they are ready at 0.
    """

    ready: list[int]
    buffer: list[OneBuffer]
    version: list[int]
    source: list[str]


class OneState(Protocol):
    engines: Mapping[str, OneEngine]
    spent: dict[Key, int]
    end: int
    asked: dict[int, int]

    def port(self, key: tuple[str, None], /) -> OnePort: ...
    def next_version(self) -> int: ...
    def note(self, time: int, /) -> None: ...
    def ask(self, ready: int, start: int, /) -> None: ...
    def made_buffer(self, ready: int, source: str, /) -> OneBuffer: ...


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
    models = plan.slots.copy()
    models[: len(inputs)] = inputs
    for integer in plan.integers:
        operands = [models[slot] for slot in integer.operands]
        models[integer.result] = without_instruction(state, integer.eqn, operands)
    slots = _slots(inputs, len(models))
    rings = iter(_rings(state, plan))
    own_state = cast(OneState, state)
    for step in plan.steps:
        if isinstance(step, Declared):
            _declare(own_state, step, next(rings), slots)
        else:
            _issue(own_state, step, slots, models)
    _book(state, plan)
    for given in plan.gives:
        slot = given.slot
        is_made = slot >= len(inputs) and models[slot].buffer is not None
        value = _value(slots, slot, models[slot]) if is_made else models[slot]
        values[given.atom] = value if given.view is None else value.viewed(given.view)
    return True


def _slots(inputs: list[Value], count: int) -> Slots:
    """The slots of a block before its first step."""
    rest = count - len(inputs)
    fields = (
        [value.ready for value in inputs] + [0] * rest,
        [value.buffer for value in inputs] + [None] * rest,
        [value.version for value in inputs] + [None] * rest,
        [value.source for value in inputs] + [""] * rest,
    )
    return Slots(*cast(tuple[Any, Any, Any, Any], fields))


def _value(slots: Slots, slot: Slot, model: Value) -> Value:
    """What is in a slot as a value that looks like `model`."""
    # Positional, as all that is made so often.
    return Value(
        model.shape,
        model.dtype,
        model.space,
        slots.ready[slot],
        cast(Buffer, slots.buffer[slot]),
        slots.version[slot],
        None,
        None,
        slots.source[slot],
    )


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


def _declare(state: OneState, declared: Declared, ring: Ring, slots: Slots) -> None:
    buffer: OneBuffer = cast(Any, ring.turn())
    version = buffer.version = state.next_version()
    buffer.writer = declared.eqn
    slot = declared.result
    slots.ready[slot] = buffer.idle
    slots.buffer[slot] = buffer
    slots.version[slot] = version
    slots.source[slot] = f"buffer:{buffer.user}"


# --- instructions ---


def _issue(state: OneState, step: Issued, slots: Slots, models: list[Value]) -> None:
    """Starts an instruction and puts its results into their slots."""
    versions = slots.version
    buffers = slots.buffer
    for slot in step.held:
        if versions[slot] is not buffers[slot].version:
            _check_fresh(step, slots, models)
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
    if freed > done:
        done = freed
    latest = done
    if step.interval:
        paced = engine.paced = begin + step.interval
        if paced > latest:
            latest = paced
    engine.free = engine.last = freed
    for name, ticks in step.taken:
        other = state.engines[name]
        other.free = other.free + ticks
    if done > state.end:
        state.end = done
    state.note(latest + step.handover)
    _hold(state, engine, step, slots, freed, done)
    _results(state, engine, step, slots, done + step.handover)


def _check_fresh(step: Issued, slots: Slots, models: list[Value]) -> None:
    """Raises `StaleTile` where an operand's buffer holds a later write."""
    operands: list[Value] = []
    for slot in step.operands:
        model = models[slot]
        is_held = slot in step.held
        operands.append(_value(slots, slot, model) if is_held else model)
    check_fresh(step.inst, step.eqn, operands, None)


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
    ready = slots.ready
    buffers = slots.buffer
    for slot in step.awaited:
        if ready[slot] > begin:
            begin = ready[slot]
            cause = slots.source[slot]
    for slot in step.destinations:
        buffer = buffers[slot]
        if buffer.idle > begin:
            begin = buffer.idle
            cause = f"buffer:{buffer.user}"
    name = engine.name
    for slot in step.held:
        port = buffers[slot].port
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
        if ready[slot] + ticks > begin:
            begin = ready[slot] + ticks
            cause = "lead"
    return begin, cause


def _ask(state: OneState, step: Issued, slots: Slots, begin: int) -> None:
    """Keeps when operands of the loop are asked for, `emu.clock.waiting.ask` on plain numbers."""
    asked = state.asked
    for slot in step.awaited:
        ready = slots.ready[slot]
        if ready in asked and begin < asked[ready]:
            asked[ready] = begin
    for slot, ticks in step.lead:
        state.ask(slots.ready[slot], begin - ticks)


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
    buffers = slots.buffer
    for slot in step.awaited:
        buffer = buffers[slot]
        buffer.uses += 1
        # Of two that are done at once the later in program order names the wait.
        if done >= buffer.idle:
            buffer.idle = done
            buffer.user = engine.cause
    for slot in step.held:
        port = buffers[slot].port
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
        slot = result.slot
        slots.source[slot] = engine.cause
        if result.destination is None:
            buffer = state.made_buffer(ready, engine.cause)
            slots.ready[slot] = ready
            slots.buffer[slot] = buffer
            slots.version[slot] = buffer.version
            continue
        buffer = slots.buffer[result.destination]
        own = ready
        if step.partial:
            written = slots.ready[result.destination]
            state.ask(written, ready)
            # Parts are ready with the last.
            if written > ready:
                own = written
        version = buffer.version = state.next_version()
        buffer.writer = step.eqn
        slots.ready[slot] = own
        slots.buffer[slot] = buffer
        slots.version[slot] = version


__all__ = ["walk"]
