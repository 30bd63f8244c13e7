"""The wafer stepped: runs a fabric program for its values and its cycles.

Two paths reach the same cycles. *Trains*: where every PE runs one sequence of synchronous
operations on static routes and nobody ever waits for a shared link or a full queue, each stream is
a vector of times. *Cycles*: every router and PE, one cycle after another, for everything else. The
trains check that they may be believed, and say why where they may not.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from emu.datasheet import Device
from emu.errors import LimitExceeded
from emu.wse.fabric.cycles import run as cycle_run
from emu.wse.fabric.cycles import verdict
from emu.wse.fabric.cycles.profile import COUNTERS
from emu.wse.fabric.encoding.encode import Encoded, encode
from emu.wse.fabric.phases import Phase, Tally, by_trains
from emu.wse.fabric.program import FabricProgram
from emu.wse.fabric.result import Run
from emu.wse.fabric.trains import flow
from emu.wse.fabric.trains.order import with_ends

PATHS = ("auto", "trains", "cycles")
ASKED = "stepping was asked for"
LIMIT_CYCLES = 10_000_000


class NotTrains(LimitExceeded):
    """A program whose cycles only stepping can tell, asked for as trains."""


def run(
    program: FabricProgram,
    device: Device,
    data: Mapping[str, Any] | None = None,
    *,
    path: str = "auto",
    watch: Any = None,
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
      FabricError: the program is wrong, deadlocks or leaves wavelets unread.
      NotTrains: `path="trains"` for a program that has to be stepped.
    """
    if path not in PATHS:
        raise LimitExceeded(
            f"stepper: path is {path!r}, must be one of {', '.join(PATHS)}"
        )
    encoded = encode(program, device)
    why = ASKED
    if path == "trains" and (profile or watch is not None):
        raise LimitExceeded(
            "stepper: a profile or log needs path='cycles', is 'trains'"
        )
    if path == "auto" and (profile or watch is not None):
        path, why = "cycles", "a profile or log was asked for"
    if path != "cycles":
        why = _not_straight(encoded)
        if not why:
            traced = np.arange(program.width * program.height) if phases else None
            flowed = flow.run(encoded, data, timed=True, traced=traced)
            if flowed.exact:
                return _from_trains(encoded, flowed, links, phases)
            why = flowed.why
        if path == "trains":
            raise NotTrains(f"stepper: not by trains: {why}; use path='auto'")
    return _stepped(
        encoded, data, why, watch, (links, profile, phases), progress, limit_cycles
    )


def _not_straight(encoded: Encoded) -> str:
    if encoded.straight:
        return ""
    return "it has switches, merges, microthreads or tasks that start one another"


def _from_trains(encoded: Encoded, flowed: flow.Flow, links: bool, phases: bool) -> Run:
    assert flowed.ends is not None and flowed.stamps is not None
    found: tuple[Phase, ...] = ()
    if phases:
        assert flowed.dispatches is not None
        found = by_trains(encoded, flowed.dispatches)
    return Run(
        int(flowed.ends.max()),
        "trains",
        "",
        flowed.values,
        flowed.stamps,
        flowed.ends,
        flowed.links if links else None,
        {},
        found,
        encoded,
        None,
    )


def _stepped(
    encoded: Encoded,
    data: Mapping[str, Any] | None,
    why: str,
    watch: Any,
    counted: tuple[bool, bool, bool],
    progress: Callable[[int], None] | None,
    limit_cycles: int,
) -> Run:
    shape = encoded.program.shape
    links, profile, phases = counted
    traced = np.zeros(shape, bool)
    if watch is not None:
        traced[watch] = True
    # The order of tasks and of merged streams is a matter of time.
    ordered = data is not None and not encoded.straight
    tally = Tally(encoded) if phases else None
    stepped = cycle_run.run(
        encoded,
        watch=np.arange(traced.size) if ordered else None,
        traced=np.flatnonzero(traced),
        profile=links or profile,
        listen=tally.hear if tally else None,
        progress=progress,
        limit_cycles=limit_cycles,
    )
    verdict.check(encoded, stepped)
    values: dict[str, np.ndarray] = {}
    if data is not None:
        values = flow.run(encoded, data, timed=False, **_order(encoded, stepped)).values
    state = stepped.state
    stamps = {
        name: state["stamps"][i].reshape(shape) for i, name in enumerate(encoded.stamps)
    }
    counters = stepped.counters or {}
    rows = zip(COUNTERS, counters["pes"], strict=True) if profile else ()
    return Run(
        stepped.cycles,
        "cycles",
        why,
        values,
        stamps,
        state["end"].reshape(shape),
        counters["links"].reshape(5, *shape) if links else None,
        {name: row.reshape(shape) for name, row in rows},
        tally.done() if tally else (),
        encoded,
        stepped,
    )


def _order(encoded: Encoded, stepped: cycle_run.Cycles) -> dict[str, np.ndarray]:
    """What a program's values depend on of its times; nothing if it is straight."""
    if encoded.straight:
        return {}
    order = with_ends(encoded, stepped.order, stepped.issues, stepped.watch)
    return {"order": order, "merges": stepped.merges}


__all__ = ["ASKED", "NotTrains", "PATHS", "run"]
