"""What the traced core did: its instructions, its tiles' lifetimes, when it was throttled."""

import numpy as np

from emu.clock.issued import Issue, Timing
from emu.clock.reading import IN_USE, THROTTLE, Event
from emu.clock.resources import Buffer
from emu.clock.state import Lifetime, Trace
from emu.clock.ticks import Active, Ticks, on_core
from emu.clock.tiles import Value
from emu.clock.waiting import cause_on
from emu.datasheet import Device
from emu.tracing import jaxpr as jx


def instruction(trace: Trace, issue: Issue, timing: Timing) -> None:
    """Records one instruction."""
    if not _takes_part(trace, issue.active):
        return

    def here(time: Ticks) -> int:
        return on_core(time, trace.grid, trace.core)

    engine = issue.engine.name
    line = jx.location(issue.eqn)
    begin = here(timing.begin)
    freed = here(timing.freed)
    # A collective's result may be there before the engine has sent all that peers still wait for.
    done = max(here(timing.done), freed)
    trace.events.append(
        Event(
            engine,
            issue.inst.name,
            begin,
            freed,
            line,
            cause_on(trace, timing.begin, timing.cause),
            done,
            done + here(issue.price.handover),
        )
    )
    if here(timing.throttled):
        trace.events.append(Event(THROTTLE, engine, begin, freed, line))


def declared(trace: Trace, buffer: Buffer, active: Active) -> None:
    """A tile declared anew ends the lifetime of what its buffer held."""
    if _takes_part(trace, active):
        end_lifetime(trace, buffer)
        buffer.since = None


def written(
    trace: Trace,
    device: Device,
    destination: Value,
    begin: Ticks,
    *,
    whole: bool,
    active: Active,
) -> None:
    """A whole write into a tile ends the lifetime of what it held, and begins the next."""
    buffer = destination.buffer
    assert buffer is not None
    # A part of a tile written later is in the lifetime that the first write began.
    goes_on = buffer.since is not None and not whole
    if goes_on or not _takes_part(trace, active):
        return
    end_lifetime(trace, buffer)
    buffer.since = on_core(begin, trace.grid, trace.core)
    space = destination.space
    nbytes = device.footprint_bytes(space, destination, buffer.packing)
    trace.tracked[id(buffer)] = Lifetime(buffer, space + IN_USE, nbytes)


def end_lifetime(trace: Trace, buffer: Buffer) -> None:
    """Records the lifetime that ends with the buffer's last use so far."""
    since = buffer.since
    if since is None:
        return
    held = trace.tracked[id(buffer)]
    # A part written and never read does not move `idle`: the lifetime is then empty, not negative.
    idle = on_core(buffer.idle, trace.grid, trace.core)
    trace.events.append(
        Event(held.engine, str(held.nbytes), since, max(idle, since), "")
    )


def finish(trace: Trace) -> None:
    """Ends the lifetimes of all tiles."""
    for held in trace.tracked.values():
        end_lifetime(trace, held.buffer)


def _takes_part(trace: Trace, active: Active) -> bool:
    if active is None:
        return True
    every = np.broadcast_to(active, trace.grid)
    return bool(every[trace.core])


__all__ = ["declared", "end_lifetime", "finish", "instruction", "written"]
