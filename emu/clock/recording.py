"""What the traced core did: its instructions, its tiles' lifetimes, when it was throttled."""

from typing import Any

import numpy as np

from emu.clock.price import Price
from emu.clock.reading import IN_USE, THROTTLE, Event
from emu.clock.ticks import Ticks, on_core
from emu.clock.tiles import Buffer, Value
from emu.clock.waiting import cause_on
from emu.instruction import Instruction
from emu.tracing import jaxpr as jx


def instruction(
    line: Any,
    inst: Instruction,
    eqn: Any,
    priced: Price,
    times: Any,
    extra: Ticks,
    active: Any,
) -> None:
    """Records one instruction; `times` are its begin, freed, done and the cause of its wait."""
    if not _here(line, active):
        return
    begin, freed, done, cause = times

    def at(x: Ticks) -> int:
        return on_core(x, line.grid, line.trace_core)

    engine = priced.cost.engine
    assert engine is not None
    line.events.append(
        Event(
            engine,
            inst.name,
            at(begin),
            at(freed),
            jx.location(eqn),
            cause_on(line, begin, cause),
            max(at(done), at(freed)),
            max(at(done), at(freed)) + at(priced.handover),
        )
    )
    if at(extra):
        line.events.append(
            Event(THROTTLE, engine, at(begin), at(freed), jx.location(eqn))
        )


def declared(line: Any, buffer: Buffer, active: Any) -> None:
    """A tile declared anew ends the lifetime of what its buffer held."""
    if _here(line, active):
        lifetime(line, buffer)
        buffer.since = None


def written(line: Any, dst: Value, begin: Ticks, *, whole: bool, active: Any) -> None:
    """A whole write into a tile ends the lifetime of what it held, and begins the next."""
    buffer = dst.buffer
    assert buffer is not None
    if not _here(line, active) or (buffer.since is not None and not whole):
        return
    lifetime(line, buffer)
    buffer.since = on_core(begin, line.grid, line.trace_core)
    nbytes = line.device.footprint_bytes(dst.space, dst, buffer.port is None)
    line.tracked[id(buffer)] = buffer, dst.space + IN_USE, nbytes


def lifetime(line: Any, buffer: Buffer) -> None:
    """Records the lifetime that ends with the buffer's last use so far."""
    if buffer.since is not None:
        _, engine, nbytes = line.tracked[id(buffer)]
        idle = on_core(buffer.idle, line.grid, line.trace_core)
        line.events.append(
            Event(engine, str(nbytes), buffer.since, max(idle, buffer.since), "")
        )


def finish(line: Any) -> None:
    """Ends the lifetimes of all tiles."""
    for buffer, _, _ in line.tracked.values():
        lifetime(line, buffer)


def _here(line: Any, active: np.ndarray | None) -> bool:
    return active is None or bool(np.broadcast_to(active, line.grid)[line.trace_core])


__all__ = ["declared", "finish", "instruction", "lifetime", "written"]
