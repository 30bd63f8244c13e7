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
from emu.clock.resources import Engine
from emu.clock.state import ClockState, Trace
from emu.clock.ticks import Active, Ticks, later, on_core, select


def earliest_start(state: ClockState, issue: Issue) -> tuple[Ticks, Cause]:
    """When engine, operands and destinations allow it, and the cause of the wait.

    A partial write waits for its destination's readers, not for other partial writes.
    """
    if not state.setup.contended:
        return _chain(issue), None
    inst, values, engine = issue.inst, issue.values, issue.engine
    free, last, paced = engine.free, engine.last, engine.paced
    found: list[Candidate] = [(last, "engine")]
    if free is not last:
        found.append((free, "shared"))
    if type(paced) is not int or paced:
        found.append((paced, "interval"))
    for value in values[inst.destinations :] if inst.partial else values:
        # Arguments and known integers are ready at 0.
        if type(value.ready) is not int or value.ready:
            found.append((value.ready, value.source))
    for value in values[: inst.destinations]:
        buffer = value.buffer
        assert buffer is not None
        found.append((buffer.idle, names.prefixed("buffer:", buffer.user)))
    for value in values:
        if value.buffer is None or (port := value.buffer.port) is None:
            continue
        others = names.differs(port.engine, engine.name)
        if isinstance(others, np.ndarray):
            found.append((select(others, port.until, 0), "bank"))
        elif others:
            found.append((port.until, "bank"))
    for other in issue.price.cost.excludes:
        found.append((state.engines[other].last, "port"))
    for place, ticks in issue.price.lead.items():
        found.append((values[place].ready + ticks, "lead"))
    return _latest(found)


def _chain(issue: Issue) -> Ticks:
    """When what the result is computed from allows it: engines and buffers without limit."""
    inst = issue.inst
    reads_all = inst.reads_destination and not inst.partial
    first = 0 if reads_all else inst.destinations
    begin: Ticks = 0
    for place in range(first, len(issue.values)):
        lead = issue.price.lead.get(place, 0)
        begin = later(begin, issue.values[place].ready + lead)
    return begin


def _latest(found: list[Candidate]) -> tuple[Ticks, Cause]:
    """The latest of some times; the cause is that of the first that is latest, or all of them."""
    begin, cause = found[0]
    if type(begin) is int:
        for time, name in found:
            if type(time) is not int:
                break
            if time > begin:
                begin, cause = time, name
        else:
            return begin, cause
    for time, _ in found:
        begin = later(begin, time)
    return begin, found


def account(
    state: ClockState, engine: Engine, begin: Ticks, cause: Cause, active: Active
) -> None:
    """Books the engine's wait until `begin` under its cause; the first wait is the fill."""
    last = engine.last
    if type(begin) is int and type(last) is int and isinstance(cause, str):
        if begin > last:
            what = "wait:" + cause if last else "fill"
            _book(state, engine, what, begin - last, active)
        return
    gap = np.asarray(begin - last)
    left = gap > 0 if active is None else (gap > 0) & active
    first = left & (np.asarray(last) == 0)
    if first.any():
        _book(state, engine, "fill", np.where(first, gap, 0), None)
        left = left & ~first
    assert cause is not None
    for time, name in cause if isinstance(cause, list) else [(begin, cause)]:
        if not left.any():
            break
        # Where cores differ, each books under the first candidate that is as late as its start.
        here = left & (begin == time)
        for cores, each in names.parts(name):
            if (here & cores).any():
                ticks = np.where(here & cores, gap, 0)
                _book(state, engine, "wait:" + each, ticks, None)
        left = left & ~here


def spend(state: ClockState, issue: Issue, more: dict[str, Ticks]) -> None:
    """Books the engine's time from its start: lost, `more` that the price did not foresee, work."""
    engine, active = issue.engine, issue.active
    work = issue.price.busy
    for what, ticks in issue.price.lost.items():
        _book(state, engine, what, ticks, active)
        work = work - ticks
    _book(state, engine, "work", work, active)
    for what, ticks in more.items():
        _book(state, engine, what, ticks, active)


def _book(
    state: ClockState, engine: Engine, what: str, ticks: Ticks, active: Active
) -> None:
    key = (engine.name, what)
    state.spent[key] = state.spent.get(key, 0) + select(active, ticks, 0)


def cause_on(trace: Trace, begin: Ticks, cause: Cause) -> str:
    """The cause of a wait on the traced core."""
    grid, core = trace.grid, trace.core
    if isinstance(cause, list):
        start = on_core(begin, grid, core)
        cause = next(name for time, name in cause if on_core(time, grid, core) == start)
    return names.on_core(cause or "", grid, core)


__all__ = ["account", "cause_on", "earliest_start", "spend"]
