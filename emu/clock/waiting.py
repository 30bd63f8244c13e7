"""When an instruction starts, what it waited for, and where its engine's time went.

Every tick of an engine is accounted for: busy with work, busy without work (`Cost.lost`,
throttled), or waiting for the cause that came last. They add up to when it was last free.
"""

from typing import Any

import numpy as np

from emu.clock import names
from emu.clock.names import Label, Names
from emu.clock.price import Price
from emu.clock.ticks import Ticks, later, on_core, select
from emu.clock.tiles import Value
from emu.instruction import Instruction

Candidate = tuple[Ticks, Label]  # a time before which it cannot start, and the cause


def start(
    line: Any, inst: Instruction, priced: Price, xs: list[Value]
) -> tuple[Ticks, Any]:
    """When engine, operands and destinations allow it, and the cause of the wait.

    A partial write waits for its destination's readers, not for other partial writes.
    """
    dsts = xs[: inst.destinations]
    if not line.contended:
        return _chain(inst, priced, xs, dsts), None
    engine = priced.cost.engine
    assert engine is not None
    free, last = line.free[engine], line.last[engine]
    found: list[Candidate] = [(last, "engine")]
    if free is not last:
        found.append((free, "shared"))
    if engine in line.paced:
        found.append((line.paced[engine], "interval"))
    for x in xs[len(dsts) :] if inst.partial else xs:
        # Arguments and known integers are ready at 0.
        if type(x.ready) is not int or x.ready:
            found.append((x.ready, x.source))
    for d in dsts:
        b = d.buffer
        found.append((b.idle, names.prefixed("buffer:", b.user)))  # type: ignore[union-attr]
    for x in xs:
        if x.buffer is not None and (port := x.buffer.port):
            others = names.differs(port.engine, engine)
            if others is not False:
                until = port.until if others is True else select(others, port.until, 0)
                found.append((until, "bank"))
    found += [(line.last[e], "port") for e in priced.cost.excludes]
    for i, ticks in priced.lead.items():
        found.append((xs[i].ready + ticks, "lead"))
    return _latest(found)


def _chain(
    inst: Instruction, priced: Price, xs: list[Value], dsts: list[Value]
) -> Ticks:
    """When what the result is computed from allows it: engines and buffers without limit."""
    waits = range(
        0 if inst.reads_destination and not inst.partial else len(dsts), len(xs)
    )
    begin: Ticks = 0
    for i in waits:
        begin = later(begin, xs[i].ready + priced.lead.get(i, 0))
    return begin


def _latest(found: list[Candidate]) -> tuple[Ticks, Any]:
    """The latest of some times; the cause is that of the first that is latest, or all of them."""
    begin, cause = found[0]
    if type(begin) is int:
        for t, c in found:
            if type(t) is not int:
                break
            if t > begin:
                begin, cause = t, c
        else:
            return begin, cause
    for t, _ in found:
        begin = later(begin, t)
    return begin, found


def account(line: Any, engine: str, begin: Ticks, cause: Any, active: Any) -> None:
    """Books the engine's wait until `begin` under its cause; the first wait is the fill."""
    last = line.last[engine]
    if type(begin) is int and type(last) is int and not isinstance(cause, Names):
        if begin > last:
            _book(
                line, engine, "wait:" + cause if last else "fill", begin - last, active
            )
        return
    gap = np.asarray(begin - last)
    left = gap > 0 if active is None else (gap > 0) & active
    first = left & (np.asarray(last) == 0)
    if first.any():
        _book(line, engine, "fill", np.where(first, gap, 0), None)
        left = left & ~first
    for t, c in cause if isinstance(cause, list) else [(begin, cause)]:
        if not left.any():
            break
        here = left & (begin == t)
        for cores, name in names.parts(c):
            if (here & cores).any():
                _book(
                    line, engine, "wait:" + name, np.where(here & cores, gap, 0), None
                )
        left = left & ~here


def spend(
    line: Any, engine: str, priced: Price, more: dict[str, Ticks], active: Any
) -> None:
    """Books the engine's time from its start: lost, `more` that the price did not foresee, work."""
    work = priced.busy
    for what, ticks in priced.lost.items():
        _book(line, engine, what, ticks, active)
        work = work - ticks
    _book(line, engine, "work", work, active)
    for what, ticks in more.items():
        _book(line, engine, what, ticks, active)


def _book(line: Any, engine: str, what: str, ticks: Ticks, active: Any) -> None:
    key = (engine, what)
    line.spent[key] = line.spent.get(key, 0) + select(active, ticks, 0)


def cause_on(line: Any, begin: Ticks, cause: Any) -> str:
    """The cause of a wait on the traced core."""
    if isinstance(cause, list):
        at = on_core(begin, line.grid, line.trace_core)
        cause = next(
            c for t, c in cause if on_core(t, line.grid, line.trace_core) == at
        )
    return names.on_core(cause or "", line.grid, line.trace_core)


__all__ = ["account", "cause_on", "spend", "start"]
