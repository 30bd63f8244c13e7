"""The largest reasons why a kernel is not at its bound, in a kernel author's words."""

import dataclasses
from collections.abc import Iterable, Mapping

from emu.clock.reading import Event
from emu.report.attribution import BOUND, BUFFER, WAIT, Part, Split
from emu.report.critical_path import instructions

NAMES = {
    "tensor": "Tensor Engine",
    "vector": "Vector Engine",
    "scalar": "Scalar Engine",
    "gpsimd": "GpSimd Engine",
    "dma": "DMA engines",
    "load_queue": "load queue",
    "load_queue2": "second load queue",
    "store_queue": "store queue",
    "store_queue2": "second store queue",
    "weight_load": "weight load",
    "load": "a load",
    "store": "a store",
}

# What an engine waits for, or loses time to, in words, and what helps.
WAITED_FOR = {
    "load": (
        "loads",
        "deepen the ring of loaded tiles, `sbuf(..., buffers=)`, or load longer descriptors",
    ),
    "store": ("stores", "store longer descriptors, or spread the stores over the run"),
    "shared": ("another queue's transfers", "move fewer bytes, in longer descriptors"),
    "bank": (
        "a PSUM bank in use",
        "put tiles that two engines use at the same time into different banks, `psum(..., bank=)`",
    ),
    "port": (
        "a port in use by another engine",
        "give the work of one of the two to an engine that does not share the port",
    ),
    "lead": (
        "its stationary tile",
        "load or write the stationary tile earlier: its way into the array is exposed",
    ),
    "link": (
        "data from another core",
        "send earlier or in smaller pieces, so that work hides the way",
    ),
    "peers": ("the other cores", "give every core the same work before the exchange"),
}
LOST = {
    "useful work at peak": ("useful work at peak", ""),
    "excess work": (
        "transposing, or computing what is masked",
        "skip masked tiles; choose layouts that need no transpose, or let the DMA transpose",
    ),
    "work below peak": (
        "working below peak",
        "use full tiles: 128 rows, 128 stationary columns, as many moving columns as a bank holds",
    ),
    "throttle": (
        "running at half clock",
        "keep the Tensor Engine fed: more of its columns in use, fewer gaps",
    ),
    "weight_load": (
        "loading weights that no matmul hides",
        "stream more moving columns through each stationary tile",
    ),
    "fill": (
        "not started yet",
        "make the first loads smaller, so that work starts sooner",
    ),
    "drain": (
        "done while others are not",
        "store results as they are complete, and keep the last tile small",
    ),
}
DMA_LOST = {
    "excess work": (
        "moving data again that was on chip",
        "keep what is used again in SBUF: larger blocks",
    ),
    "work below peak": (
        "working below peak",
        "use longer descriptors: more contiguous bytes a partition in each DMA",
    ),
}
BUFFER_REMEDY = "make the ring of the destination one buffer deeper, `buffers=`"
ENGINE_REMEDY = (
    "deepen the rings between the two engines so that they overlap, or move work away"
)
OWN_REMEDY = "put independent instructions between the two"
OTHER_REMEDY = "overlap it with work that does not depend on it, or shorten it"


@dataclasses.dataclass(frozen=True)
class Reason:
    """Why a kernel is not at its bound: a part of the split, where it arises, what helps."""

    part: Part
    share: float
    where: str
    sentence: str


def explain(
    found: Split, tick_hz: int, events: Iterable[Event] = (), count: int = 3
) -> list[Reason]:
    """The largest parts of a split that are not the bound, each with the remedy.

    Args:
      found: the split.
      tick_hz: ticks a second.
      events: of the same core, to say at which line most of a wait is; may be empty.
      count: how many.
    """
    lines = waits_by_line(events, found.engine)
    rest = [part for part in found.parts if part.kind != BOUND]
    rest.sort(key=lambda part: -part.ticks)
    reasons: list[Reason] = []
    for part in rest[:count]:
        reasons.append(_reason(found, part, tick_hz, lines.get(part.what, {})))
    return reasons


def _reason(found: Split, part: Part, tick_hz: int, lines: Mapping[str, int]) -> Reason:
    where = max(lines, key=lambda line: lines[line], default="")
    share = found.share(part)
    microseconds = part.ticks / tick_hz * 1e6
    most = f", most of it at {where}" if where else ""
    did, remedy = in_words(found.engine, part)
    what = f"{NAMES.get(found.engine, found.engine)}: {did}"
    lost = f"{share:.1%} ({microseconds:,.1f} us)"
    return Reason(part, share, where, f"{what}, {lost}{most}; {remedy}.")


def in_words(engine: str, part: Part) -> tuple[str, str]:
    """What an engine did, such as `waiting for loads`, and what helps."""
    what = part.what
    if engine == "dma" and what in DMA_LOST:
        return DMA_LOST[what]
    if what in LOST:
        return LOST[what]
    if not what.startswith(WAIT):
        return f"losing time to {what.replace('_', ' ')}", OTHER_REMEDY
    cause = what.removeprefix(WAIT)
    if cause.startswith(BUFFER):
        user = cause.removeprefix(BUFFER)
        name = NAMES.get(user, user)
        return f"waiting for a buffer that {name} still uses", BUFFER_REMEDY
    if cause == engine:
        return "waiting for a result of its own", OWN_REMEDY
    if cause in WAITED_FOR:
        words, remedy = WAITED_FOR[cause]
        return f"waiting for {words}", remedy
    return f"waiting for {NAMES.get(cause, cause)}", ENGINE_REMEDY


def waits_by_line(events: Iterable[Event], engine: str) -> dict[str, dict[str, int]]:
    """`wait:cause` to source line to the ticks that instructions there waited for it."""
    waits: dict[str, dict[str, int]] = {}
    free = 0
    for event in instructions(events):
        if event.engine != engine:
            continue
        waited = event.start - free
        # What comes before the engine's first work is its fill.
        if free and waited > 0:
            lines = waits.setdefault(WAIT + event.cause, {})
            lines[event.where] = lines.get(event.where, 0) + waited
        free = event.end
    return waits
