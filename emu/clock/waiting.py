"""When an instruction starts, what it waited for, and where its engine's time went.

Every tick of an engine is accounted for: busy with work, busy without work (`Cost.lost`,
throttled), or waiting for the cause that came last. They add up to when it was last free.

An engine last free at 100 whose operand is ready at 130 and whose destination is idle at 120
starts at 130, and 30 ticks are booked under the operand's source. Had the destination been idle at
130 too, they would still be the operand's: of causes that end together the first one listed counts.
"""

import numpy as np

from emu.clock import names
from emu.clock.issued import Candidate, Cause, Issue
from emu.clock.resources import Engine, Port
from emu.clock.state import ClockState, Trace
from emu.clock.ticks import (
    Active,
    Flags,
    PerCore,
    Ticks,
    anywhere,
    equal,
    later,
    on_core,
    plain,
    select,
    settled,
)


def earliest_start(state: ClockState, issue: Issue) -> tuple[Ticks, Cause]:
    """When engine, operands and destinations allow it, and the cause of the wait.

    A partial write waits for its destination's readers, not for other partial writes.
    """
    if not state.setup.contended:
        return _chain(issue), None
    inst = issue.inst
    values = issue.values
    engine = issue.engine
    last = engine.last
    # The engine comes first, so what was ready just in time, or earlier, is no cause of a wait.
    found: list[Candidate] = [(last, "engine")]
    if engine.free is not last:
        found.append((engine.free, "shared"))
    paced = engine.paced
    if type(paced) is not int or paced:
        found.append((paced, "interval"))
    awaited = values[inst.destinations :] if inst.partial else values
    for value in awaited:
        ready = value.ready
        # Arguments and known integers are ready at 0.
        if type(ready) is not int or ready:
            found.append((ready, value.source))
    for value in values[: inst.destinations]:
        buffer = value.buffer
        assert buffer is not None
        cause = names.prefixed("buffer:", buffer.user)
        found.append((buffer.idle, cause))
    for value in values:
        buffer = value.buffer
        if buffer is not None and buffer.port is not None:
            _wait_for_port(buffer.port, engine, "bank", found)
    for space in issue.price.cost.ports:
        _wait_for_port(state.port((space, None)), engine, "port", found)
    for place, ticks in issue.price.lead.items():
        found.append((values[place].ready + ticks, "lead"))
    return _latest(found)


def _wait_for_port(
    port: Port, engine: Engine, cause: str, found: list[Candidate]
) -> None:
    """A port makes an engine wait on the cores where another engine was its last user."""
    others = names.differs(port.engine, engine.name)
    if isinstance(others, np.ndarray):
        # Its own user needs no turn: there 0 is a time that decides nothing.
        until = select(others, port.until, 0)
        found.append((until, cause))
    elif others:
        found.append((port.until, cause))


def ask(state: ClockState, issue: Issue, begin: Ticks) -> None:
    """Keeps when operands of the loop that one core walks are asked for (`emu.loops.early`)."""
    inst = issue.inst
    start = plain(begin)
    awaited = issue.values[inst.destinations :] if inst.partial else issue.values
    for value in awaited:
        state.ask(plain(value.ready), start)
    for place, ticks in issue.price.lead.items():
        state.ask(plain(issue.values[place].ready), start - plain(ticks))


def _chain(issue: Issue) -> Ticks:
    """When what the result is computed from allows it: engines and buffers without limit."""
    inst = issue.inst
    reads_all = inst.reads_destination and not inst.partial
    # A destination that is only overwritten hands nothing on, so no chain of results leads through
    # it; nor through the old content around a part.
    first = 0 if reads_all else inst.destinations
    begin: Ticks = 0
    for place in range(first, len(issue.values)):
        ready = issue.values[place].ready
        lead = issue.price.lead.get(place, 0)
        begin = later(begin, ready + lead)
    return begin


def _latest(found: list[Candidate]) -> tuple[Ticks, Cause]:
    """The latest of some times; the cause is that of the first that is latest, or all of them."""
    first, cause = found[0]
    begin = first if type(first) is int else 0
    for time, name in found:
        if type(time) is not int:
            return _latest_of_each(found), found
        # Not `>=`: of causes that end together the first one names the wait.
        if time > begin:
            begin = time
            cause = name
    return begin, cause


def _latest_of_each(found: list[Candidate]) -> Ticks:
    """The latest times where cores differ: which cause is the first differs too."""
    begin, _ = found[0]
    for time, _ in found:
        begin = later(begin, time)
    return begin


def account(
    state: ClockState, engine: Engine, begin: Ticks, cause: Cause, active: Active
) -> None:
    """Books the engine's wait until `begin` under its cause; the first wait is the fill."""
    last = engine.last
    if type(begin) is int and type(last) is int and isinstance(cause, str):
        if begin > last:
            # An engine that was never used was last free at 0.
            what = "wait:" + cause if last else "fill"
            _book(state, engine, what, begin - last, active)
        return
    assert cause is not None
    candidates = cause if isinstance(cause, list) else [(begin, cause)]
    _account_by_core(state, engine, begin, candidates, active)


def _account_by_core(
    state: ClockState,
    engine: Engine,
    begin: Ticks,
    candidates: list[Candidate],
    active: Active,
) -> None:
    """`account` where cores differ: each books under the first candidate as late as its start.

    Two cores, last free at 100, start at 130 and 150. The operand was ready at 130 on both, the
    destination idle at 120 and 150: 30 ticks are the operand's on the first core, 50 the
    destination's on the second, so `wait:` has `[30, 0]` and `[0, 50]`.
    """
    last = engine.last
    gap = settled(begin - last)
    left: Flags = gap > 0
    if not anywhere(left):
        return
    if active is not None:
        left = left & active
    first = left & equal(last, 0)
    if anywhere(first):
        _book(state, engine, "fill", _where(first, gap), None)
        left = left & np.logical_not(first)
    for time, name in candidates:
        if not anywhere(left):
            break
        here = left & equal(begin, time)
        for cores, each in names.parts(name):
            booked = here & cores
            if anywhere(booked):
                _book(state, engine, "wait:" + each, _where(booked, gap), None)
        left = left & np.logical_not(here)


def _where(cores: Flags, ticks: PerCore) -> PerCore:
    """Ticks on some cores, and none on the others, which `_book` then need not tell apart."""
    all_alike = np.ndim(cores) == 0
    return ticks if all_alike else np.where(cores, ticks, 0)


def spend(state: ClockState, issue: Issue, more: dict[str, Ticks]) -> None:
    """Books the engine's time from its start: lost, `more` that the price did not foresee, work."""
    engine = issue.engine
    active = issue.active
    work = issue.price.busy
    for what, ticks in issue.price.lost.items():
        _book(state, engine, what, ticks, active)
        # Of 100 busy ticks with 30 lost, 70 are work: what is booked adds up to `busy`.
        work = work - ticks
    _book(state, engine, "work", work, active)
    for what, ticks in more.items():
        _book(state, engine, what, ticks, active)


def _book(
    state: ClockState, engine: Engine, what: str, ticks: Ticks, active: Active
) -> None:
    key = engine.name, what
    spent = state.spent.get(key, 0)
    state.spent[key] = spent + select(active, ticks, 0)


def cause_on(trace: Trace, begin: Ticks, cause: Cause) -> str:
    """The cause of a wait on the traced core."""
    grid = trace.grid
    core = trace.core
    if not isinstance(cause, list):
        return names.on_core(cause or "", grid, core)
    start = on_core(begin, grid, core)
    for time, name in cause:
        # The first as late as the start, as in `_account_by_core`, so trace and sums agree.
        if on_core(time, grid, core) == start:
            return names.on_core(name, grid, core)
    raise AssertionError("no candidate is as late as the start")


__all__ = ["account", "ask", "cause_on", "earliest_start", "spend"]
