"""The traced PEs of a stepped run as Trace Event JSON: a process per PE, a track per thread."""

from typing import Any

from emu.report import perfetto
from emu.wse.fabric.cycles.run import Cycles
from emu.wse.fabric.cycles.states import THREAD_STATES
from emu.wse.fabric.encoding.encode import Encoded
from emu.wse.fabric.encoding.instructions import NONE, STAMP
from emu.wse.fabric.events import HEARD
from emu.wse.fabric.views.spans import Span, spans
from emu.wse.fabric.wording import in_words, tasks_of

SHOWN_HZ = 1_000_000_000  # of a trace's cycles, so that each is a whole nanosecond
Event = dict[str, Any]


def trace(encoded: Encoded, stepped: Cycles) -> dict[str, Any]:
    """Slices of what each thread did or waited for, and an instant for each task start and stamp.

    A cycle is shown as one nanosecond: at the device's clock it is less, and a viewer that counts
    whole nanoseconds would lose some. Arguments have cycles, and nanoseconds by that clock.

    Args:
      encoded: the program.
      stepped: its run, with traced PEs.
    """
    tasks = tasks_of(encoded)
    traced = stepped.traced.tolist()
    processes = {pe: number for number, pe in enumerate(traced, 1)}
    found = spans(encoded, stepped)
    events = [_slice(encoded, tasks, span, processes[span.pe]) for span in found]
    events += _instants(encoded, tasks, stepped, processes)
    events.sort(key=_when_and_where)
    head: list[Event] = []
    for pe, process in processes.items():
        threads = {span.thread for span in found if span.pe == pe}
        at = encoded.program.coordinates(pe)
        head += perfetto.names(f"PE {at}", _tracks(threads), process)
    device = encoded.device
    told = f"{device.name}; 1 ns shown is 1 cycle"
    return perfetto.document(told, device.tick_hz, head + events)


def _when_and_where(event: Event) -> tuple[float, int, int]:
    return event["ts"], event["pid"], event["tid"]


def _tracks(threads: set[int]) -> dict[str, int]:
    """Name and number of a PE's tracks: one for the main thread, and for each of its others."""
    tracks = {"main thread": 1}
    for thread in sorted(threads - {0}):
        tracks[f"microthread {thread}"] = thread + 1
    return tracks


def _slice(encoded: Encoded, tasks: list[str], span: Span, process: int) -> Event:
    ns_per_cycle = 1e9 / encoded.device.tick_hz
    args: dict[str, Any] = {
        "state": THREAD_STATES[span.state],
        "start_cycles": span.start,
        "end_cycles": span.end,
        "start_ns": round(span.start * ns_per_cycle, 3),
        "end_ns": round(span.end * ns_per_cycle, 3),
    }
    if span.instruction != NONE:
        instruction = encoded.instructions[span.instruction]
        args["operation"] = in_words(instruction.op)
        args["task"] = tasks[span.instruction]
        args["where"] = instruction.where
    return perfetto.complete(
        span.name(encoded),
        span.thread + 1,
        SHOWN_HZ,
        span.start,
        span.end,
        args,
        process,
    )


def _instants(
    encoded: Encoded,
    tasks: list[str],
    stepped: Cycles,
    processes: dict[int, int],
) -> list[Event]:
    events: list[Event] = []
    for cycle, pe, code in stepped.order.rows():
        if pe not in processes:  # watched, but not traced
            continue
        process = processes[pe]
        args = {"cycle": cycle}
        for told in _told(encoded, tasks, pe, code):
            event = perfetto.instant(told, 1, SHOWN_HZ, cycle, args, process)
            events.append(event)
    return events


def _told(encoded: Encoded, tasks: list[str], pe: int, code: int) -> list[str]:
    """What an entry of the log marks: a wavelet taken, a task's first operation, a stamp."""
    if code <= HEARD:
        name = list(encoded.program.tasks)[HEARD - code]
        return [f"wavelet for task '{name}'"]
    marks: list[str] = []
    entries = encoded.entry.reshape(len(encoded.entry), -1)
    if (entries[:, pe] == code).any():
        marks.append(f"task '{tasks[code]}'")
    instruction = encoded.instructions[code]
    if instruction.kind == STAMP:
        marks.append(in_words(instruction.op))
    return marks


__all__ = ["trace"]
