"""The traced PEs of a stepped run as Trace Event JSON: a process per PE, a track per thread."""

from typing import Any

from emu.report import perfetto
from emu.wse.fabric.cycles.cycle import HEARD
from emu.wse.fabric.cycles.run import Cycles
from emu.wse.fabric.cycles.states import THREAD_STATES
from emu.wse.fabric.cycles.verdict import place
from emu.wse.fabric.encoding.encode import Encoded
from emu.wse.fabric.encoding.instructions import STAMP
from emu.wse.fabric.views.spans import Span, spans
from emu.wse.fabric.wording import in_words, tasks_of

SHOWN_HZ = 1_000_000_000  # of a trace's cycles, so that each is a whole nanosecond


def trace(encoded: Encoded, stepped: Cycles) -> dict[str, Any]:
    """Slices of what each thread did or waited for, and an instant for each task start and stamp.

    A cycle is shown as one nanosecond: at the device's clock it is less, and a viewer that counts
    whole nanoseconds would lose some. Arguments have cycles, and nanoseconds by that clock.

    Args:
      encoded: the program.
      stepped: its run, with traced PEs.
    """
    tasks = tasks_of(encoded)
    number = {int(pe): k for k, pe in enumerate(stepped.traced, 1)}
    found = spans(encoded, stepped)
    body = [_slice(encoded, tasks, s, number[s.pe]) for s in found]
    body += _instants(encoded, tasks, stepped, number)
    body.sort(key=lambda e: (e["ts"], e["pid"], e["tid"]))
    head = []
    for pe, pid in number.items():
        threads = sorted({0} | {s.thread for s in found if s.pe == pe})
        tracks = {
            "main thread" if not u else f"microthread {u}": u + 1 for u in threads
        }
        head += perfetto.names(f"PE {place(encoded, pe)}", tracks, pid)
    told = f"{encoded.device.name}; 1 ns shown is 1 cycle"
    return perfetto.document(told, encoded.device.tick_hz, [*head, *body])


def _slice(encoded: Encoded, tasks: list[str], s: Span, pid: int) -> dict[str, Any]:
    ns = 1e9 / encoded.device.tick_hz
    args: dict[str, Any] = {
        "state": THREAD_STATES[s.state],
        "start_cycles": s.start,
        "end_cycles": s.end,
        "start_ns": round(s.start * ns, 3),
        "end_ns": round(s.end * ns, 3),
    }
    if s.instruction >= 0:
        made = encoded.instructions[s.instruction]
        args |= {
            "operation": in_words(made.op),
            "task": tasks[s.instruction],
            "where": made.where,
        }
    name = s.name(encoded)
    return perfetto.complete(name, s.thread + 1, SHOWN_HZ, s.start, s.end, args, pid)


def _instants(
    encoded: Encoded, tasks: list[str], stepped: Cycles, number: dict[int, int]
) -> list[dict[str, Any]]:
    out = []
    for t, pe, code in stepped.order.tolist():
        if pe in number:
            out += [
                perfetto.instant(told, 1, SHOWN_HZ, t, {"cycle": t}, number[pe])
                for told in _told(encoded, tasks, pe, code)
            ]
    return out


def _told(encoded: Encoded, tasks: list[str], pe: int, code: int) -> list[str]:
    """What an entry of the log marks: a wavelet taken, a task's first operation, a stamp."""
    if code <= HEARD:
        return [f"wavelet for task '{list(encoded.program.tasks)[HEARD - code]}'"]
    starts = (encoded.entry.reshape(len(encoded.entry), -1)[:, pe] == code).any()
    made = encoded.instructions[code]
    marks = [f"task '{tasks[code]}'"] if starts else []
    return [*marks, in_words(made.op)] if made.kind == STAMP else marks


__all__ = ["trace"]
