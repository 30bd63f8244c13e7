"""The wafer stepped: runs a fabric program for its values and its cycles.

Two paths reach the same cycles. *Trains* (`trains/README.md`): where every PE runs one sequence of
synchronous operations on static routes and nobody ever waits for a shared link or a full queue,
each stream is a vector of times. *Cycles* (`cycles/cycle.py`): every router and PE, one cycle after
another, for everything else. The trains check that they may be believed, and say why where they may
not.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from emu import given
from emu.datasheet import Device
from emu.errors import LimitExceeded
from emu.wse.datasheets.sheet import WaferSheet
from emu.wse.fabric.cycles import run as cycle_run
from emu.wse.fabric.cycles import verdict
from emu.wse.fabric.cycles.profile import COUNTERS
from emu.wse.fabric.encoding.encode import Encoded, encode
from emu.wse.fabric.errors import Unread
from emu.wse.fabric.events import Dispatches
from emu.wse.fabric.phases import Tally, by_trains
from emu.wse.fabric.program import FabricProgram, Place
from emu.wse.fabric.result import Run
from emu.wse.fabric.trains import flow
from emu.wse.fabric.trains.order import fixed_order, with_ends
from emu.wse.fabric.trains.routing import check_operations, static_routes

PATHS = ("auto", "trains", "cycles")
ASKED = "stepping was asked for"
LIMIT_CYCLES = 10_000_000
MOST_CYCLES = 1 << 30
"""What a run may be limited to: cycles are counted in 32 bits."""
MOST_PES_FOR_A_VERDICT = 4096
"""Of a wrong program that trains cannot tell all about: more take minutes to step."""

Data = Mapping[str, Any]
"""Buffer name to its content: `[height, width, elements]`, or what broadcasts to it."""


class NotTrains(LimitExceeded):
    """A program whose cycles only stepping can tell, asked for as trains."""


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What is to be counted and logged of a run, beyond its values and cycles.

    Attributes:
      watch: places of which to log what each thread does in every cycle.
      links: wavelets on every link.
      profile: what every PE does in each cycle.
      phases: what each instruction takes over all PEs.
    """

    watch: Place
    links: bool
    profile: bool
    phases: bool

    @property
    def needs_cycles(self) -> bool:
        """Whether only stepping cycle by cycle can tell it."""
        return self.profile or self.watch is not None


def run(
    program: FabricProgram,
    device: Device,
    data: Data | None = None,
    *,
    path: str = "auto",
    watch: Place = None,
    links: bool = False,
    profile: bool = False,
    phases: bool = False,
    progress: Callable[[int], None] | None = None,
    limit_cycles: int = LIMIT_CYCLES,
) -> Run:
    """Runs a fabric program from cycle 0 until all is done.

    Args:
      program: routes, buffers and tasks.
      device: the wafer, such as `WSE3.at()`.
      data: buffer name to its content, `[height, width, elements]` or what broadcasts to it; None
        runs the clock alone, without values.
      path: `"auto"`, or one of the two by name.
      watch: places of which the cycle path logs what each thread does in every cycle.
      links: count the wavelets on every link.
      profile: count what every PE does in each cycle; only stepping tells, so it takes that path.
      phases: count what each instruction takes over all PEs.
      progress: called with the cycle reached from time to time.
      limit_cycles: stepping goes no further.

    Raises:
      FabricError: the program is wrong, deadlocks or leaves wavelets unread. By trains, words that
        are never read are `Unread` also where their sender waits for room before all is done.
      NotTrains: `path="trains"` for a program that has to be stepped.
    """
    _check(program, device, data)
    given.one_of("stepper: path", path, PATHS)
    given.whole("stepper: limit_cycles", limit_cycles, 1, MOST_CYCLES)
    if watch is not None:
        watch = program.place(watch)
    encoded = encode(program, device)
    wanted = Wanted(watch=watch, links=links, profile=profile, phases=phases)
    why = ASKED
    if wanted.needs_cycles:
        if path == "trains":
            raise LimitExceeded(
                "stepper: a profile or log needs path='cycles', is 'trains'"
            )
        if path == "auto":
            path = "cycles"
            why = "a profile or log was asked for"
    if path != "cycles":
        try:
            found = _by_trains(encoded, data, wanted)
        except Unread:
            pes = encoded.entry[0].size
            if path == "trains" or pes > MOST_PES_FOR_A_VERDICT:
                raise
            found = (
                "words are left, and only stepping tells whether their sender is stuck"
            )
        if isinstance(found, Run):
            return found
        why = found
        if path == "trains":
            raise NotTrains(f"stepper: not by trains: {why}; use path='auto'")
    return _by_cycles(encoded, data, why, wanted, progress, limit_cycles)


def _check(program: FabricProgram, device: Device, data: Data | None) -> None:
    """What `run` is given must be of the kinds that it takes."""
    if not isinstance(program, FabricProgram):
        given.refuse(
            f"stepper: program is {given.told(program)}, must be a FabricProgram"
        )
    sheet = getattr(device, "sheet", None)
    if not isinstance(device, Device) or not isinstance(sheet, WaferSheet):
        given.refuse(
            f"stepper: device is {getattr(device, 'name', device)!r}, must be a wafer's, such as "
            "WSE3.at()"
        )
    if data is not None and not isinstance(data, Mapping):
        given.refuse(
            f"stepper: data is {type(data).__name__}, must be a dictionary from buffer names to "
            "arrays"
        )


def _by_trains(encoded: Encoded, data: Data | None, wanted: Wanted) -> Run | str:
    """The run by trains, or why it cannot be had so."""
    if not encoded.straight:
        return "it has switches, merges, microthreads or tasks that start one another"
    pes = np.arange(encoded.entry[0].size)
    traced = pes if wanted.phases else None
    flowed = flow.run(encoded, data, timed=True, traced=traced)
    times = flowed.times
    if times is None:
        return flowed.why
    return Run(
        cycles=int(times.ends.max()),
        path="trains",
        why="",
        values=flowed.values,
        stamps=times.stamps,
        ends=times.ends,
        links=times.links if wanted.links else None,
        profile={},
        phases=by_trains(encoded, times.operations) if wanted.phases else (),
        encoded=encoded,
        stepped=None,
    )


def _by_cycles(
    encoded: Encoded,
    data: Data | None,
    why: str,
    wanted: Wanted,
    progress: Callable[[int], None] | None,
    limit_cycles: int,
) -> Run:
    shape = encoded.program.shape
    # Values would find this out as they are worked out; the clock alone must not answer either.
    check_operations(encoded, static_routes(encoded))
    traced = np.zeros(shape, bool)
    if wanted.watch is not None:
        traced[wanted.watch] = True
    # The order of tasks and of merged streams may be a matter of time.
    fixed = None if data is None or encoded.straight else fixed_order(encoded)
    ordered = data is not None and not encoded.straight and fixed is None
    tally = Tally(encoded) if wanted.phases else None
    stepped = cycle_run.run(
        encoded,
        watch=np.arange(traced.size) if ordered else None,
        traced=np.flatnonzero(traced),
        profiled=wanted.links or wanted.profile,
        listen=tally.hear if tally else None,
        progress=progress,
        limit_cycles=limit_cycles,
    )
    verdict.check(encoded, stepped)
    state = stepped.state
    stamps = state.stamps.reshape(-1, *shape)
    links = None
    profile: dict[str, np.ndarray] = {}
    if stepped.counters is not None:
        if wanted.links:
            links = stepped.counters.links.reshape(-1, *shape)
        if wanted.profile:
            of_pes = stepped.counters.pes.reshape(-1, *shape)
            profile = dict(zip(COUNTERS, of_pes, strict=True))
    return Run(
        cycles=stepped.cycles,
        path="cycles",
        why=why,
        values={} if data is None else _values(encoded, data, stepped, fixed),
        stamps=dict(zip(encoded.stamps, stamps, strict=True)),
        ends=state.end.reshape(shape),
        links=links,
        profile=profile,
        phases=tally.done() if tally else (),
        encoded=encoded,
        stepped=stepped,
    )


def _values(
    encoded: Encoded,
    data: Data,
    stepped: cycle_run.Cycles,
    fixed: Dispatches | None,
) -> dict[str, np.ndarray]:
    """What a stepped program computed, from who was first where, if that matters."""
    if encoded.straight:
        return flow.run(encoded, data, timed=False).values
    if fixed is not None:
        return flow.run(encoded, data, timed=False, order=fixed).values
    order = with_ends(encoded, stepped.order, stepped.issues, stepped.watch)
    ordered = flow.run(encoded, data, timed=False, order=order, merges=stepped.merges)
    return ordered.values


__all__ = ["ASKED", "NotTrains", "PATHS", "run"]
