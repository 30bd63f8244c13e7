"""A fabric program run for a report: its cycles by the fast path, and stepped for what PEs do."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from emu.datasheet import Device
from emu.wse.fabric import stepper
from emu.wse.fabric.cycles.run import Cycles
from emu.wse.fabric.program import FabricProgram
from emu.wse.fabric.result import Run

MOST_PE_CYCLES = 2_000_000_000  # beyond which only what has to be stepped is
ALL_TRACED = (
    256  # PEs, up to which all are traced and chosen from; of more, about as many are
)
AGAIN_PE_CYCLES = 300_000_000  # up to which a second run traces those chosen from all
CHOSEN = 5
Places = list[tuple[int, int]]
Progress = Callable[[str, int, int | None], None]


@dataclasses.dataclass(frozen=True)
class Report:
    """What is known of one run.

    Attributes:
      run: the run, with links, phases, and profile if it was stepped.
      trains: whether its cycles are known without stepping.
      why: why not, or why it was not stepped.
      log: the stepped run of the PEs to draw; None if it was not stepped.
    """

    run: Run
    trains: bool
    why: str
    log: Cycles | None


def explained(
    program: FabricProgram,
    data: Mapping[str, Any] | None,
    device: Device,
    watch: Places | None,
    progress: Progress,
) -> Report:
    """Runs a program and finds out what its PEs did.

    Args:
      program, data: what to run.
      device: the wafer.
      watch: (x, y) of PEs to trace; None chooses a few.
      progress: told what is being done, the cycle reached, and the last cycle if it is known.

    Raises:
      EmulationError: the program is wrong, or does not end.
    """
    counted: dict[str, Any] = {"links": True, "phases": True}
    fast, why = None, ""
    try:
        fast = stepper.run(program, device, data, path="trains", **counted)
        if fast.cycles * fast.ends.size > MOST_PE_CYCLES and watch is None:
            why = (
                f"{fast.cycles:,} cycles of {fast.ends.size:,} PEs take long to step; "
                "--watch x,y does it all the same"
            )
            return Report(fast, True, why, None)
    except stepper.NotTrains as error:
        why = (
            str(error)
            .removeprefix("stepper: not by trains: ")
            .removesuffix("; use path='auto'")
        )
    end = fast.cycles if fast else None
    everything = program.width * program.height <= ALL_TRACED
    places = _sample(program.shape) if watch is None else _mask(program, watch)
    stepped = stepper.run(
        program,
        device,
        None if fast else data,
        path="cycles",
        watch=places,
        profile=True,
        progress=lambda cycle: progress("stepping", cycle, end),
        **counted,
    )
    log: Cycles | None = stepped.stepped
    assert log is not None
    if fast:  # two mechanisms
        assert fast.cycles == stepped.cycles, (fast.cycles, stepped.cycles)
        stepped = dataclasses.replace(stepped, values=fast.values)
    if watch is None:
        if everything or stepped.cycles * stepped.ends.size > AGAIN_PE_CYCLES:
            log = only(log, log.traced[choose(stepped, log.traced)])
        else:
            chosen = choose(stepped, np.arange(stepped.ends.size))
            again = lambda cycle: progress("tracing a few PEs", cycle, stepped.cycles)  # noqa: E731
            mask = np.isin(np.arange(stepped.ends.size), chosen).reshape(
                stepped.ends.shape
            )
            log = stepper.run(
                program, device, path="cycles", watch=mask, progress=again
            ).stepped
    return Report(stepped, fast is not None, why, log)


def _mask(program: FabricProgram, places: Places) -> np.ndarray:
    mask = np.zeros(program.shape, bool)
    for x, y in places:
        mask[y, x] = True
    return mask


def _sample(shape: tuple[int, int]) -> np.ndarray:
    """All PEs, or about `ALL_TRACED` of them, evenly spread, the outermost ones included."""
    mask = np.zeros(shape, bool)
    share = min(1.0, (ALL_TRACED / mask.size) ** 0.5)
    if min(shape) == 1:
        share = min(1.0, ALL_TRACED / mask.size)
    ys, xs = (
        np.linspace(0, n - 1, max(1, round(n * share))).round().astype(int)
        for n in shape
    )
    mask[np.ix_(ys, xs)] = True
    return mask


def choose(run: Run, among: np.ndarray) -> np.ndarray:
    """Of some flat PEs, the indices of the busiest, the last to be done, and some done before."""
    ends = run.ends.reshape(-1)[among]
    busy = run.profile["datapath"].reshape(-1)[among]
    order = np.argsort(ends, kind="stable")
    order = order[ends[order] > 0]
    if not len(order):
        return np.zeros(1, np.int64)
    some = order[np.linspace(0, len(order) - 1, CHOSEN - 1).round().astype(int)]
    return np.unique([int(busy.argmax()), *some.tolist()])


def only(log: Cycles, pes: np.ndarray) -> Cycles:
    """The log with fewer traced PEs."""
    kept = np.isin(log.traced, pes)
    return dataclasses.replace(
        log, traced=log.traced[kept], states=log.states[:, :, kept]
    )
