"""The largest reasons why a kernel is not at its bound, in a kernel author's words."""

import collections
import dataclasses
from collections.abc import Iterable, Mapping

from emu.clock.reading import Event
from emu.report.attribution import BOUND, BUFFER, ENDS, WAIT, Part, Split
from emu.report.critical_path import instructions
from emu.report.trials import ELSEWHERE, Faster, Trials

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

# What an engine waits for, or loses time to, in words, and what helps that no reading can try: it
# changes what the kernel does. What a reading can try is in `_tried`.
WAITED_FOR = {
    "load": ("loads", "load longer descriptors, or earlier"),
    "store": ("stores", "store longer descriptors, or spread the stores over the run"),
    "shared": ("another queue's transfers", "move fewer bytes, in longer descriptors"),
    "interval": (
        "the least time between two copies of a queue",
        "copy more bytes at a time, or through several queues in turn",
    ),
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
ENGINE_REMEDY = "give it less to do, or let the two overlap"
OWN_REMEDY = "put independent instructions between the two"
OTHER_REMEDY = "overlap it with work that does not depend on it, or shorten it"
# Of which the DMA engines are made, as far as instructions can choose.
QUEUES = [name for name, (parameter, _) in ELSEWHERE.items() if parameter == "queue"]
# What an engine's active time is called among AWS's bounds.
ACTIVE = {"tensor": "compute_bound", "dma": "memory_bound"}


@dataclasses.dataclass(frozen=True)
class Reason:
    """Why a kernel is not at its bound.

    Attributes:
      part: of the split.
      share: of the time.
      where: the line at which most of it arises, or nothing.
      faster: the change, of those tried, with which the kernel is fastest; None if none helps.
      sentence: all of this in words.
    """

    part: Part
    share: float
    where: str
    faster: Faster | None
    sentence: str


def explain(
    found: Split,
    tick_hz: int,
    events: Iterable[Event] = (),
    count: int = 3,
    trials: Trials | None = None,
) -> list[Reason]:
    """The largest parts of a split that are not the bound, each with what helps.

    A change that a reading can try (deeper rings, another queue or engine, other banks) is named
    only where it makes the kernel faster, and with its time. Of other advice the sentence says that
    it is not tried, which bound it would lower, and how much of that bound is at stake.

    Args:
      found: the split.
      tick_hz: ticks a second.
      events: of the same core, to say at which line most of a wait is; may be empty.
      count: how many.
      trials: of the same kernel; None tries nothing.
    """
    events = list(events)
    lines = waits_by_line(events, found.engine)
    rest = [part for part in found.parts if part.kind != BOUND]
    rest.sort(key=lambda part: -part.ticks)
    reasons: list[Reason] = []
    for part in rest[:count]:
        where = _longest(lines.get(part.what, {}))
        advice = _advice(found, part, tick_hz, trials)
        reasons.append(_reason(found, part, tick_hz, where, advice))
    return reasons


@dataclasses.dataclass(frozen=True)
class Advice:
    """What helps against a part, in words, and the fastest of the changes that were tried."""

    told: str
    faster: Faster | None = None


def _reason(
    found: Split, part: Part, tick_hz: int, where: str, advice: Advice
) -> Reason:
    share = found.share(part)
    most = f", most of it at {where}" if where else ""
    did, _ = in_words(found.engine, part)
    what = f"{NAMES.get(found.engine, found.engine)}: {did}"
    lost = f"{share:.1%} ({_us(part.ticks, tick_hz)})"
    sentence = f"{what}, {lost}{most}; {advice.told}."
    return Reason(part, share, where, advice.faster, sentence)


def _advice(found: Split, part: Part, tick_hz: int, trials: Trials | None) -> Advice:
    names, faster = ([], []) if trials is None else _tried(found.engine, part, trials)
    if faster and trials is not None:
        best = min(faster, key=lambda change: change.ticks)
        gain = 1 - best.ticks / trials.ticks
        time = _us(best.ticks, tick_hz)
        return Advice(f"{best.told}: {time}, {gain:.1%} less (read again)", best)
    _, remedy = in_words(found.engine, part)
    why = ""
    if trials is not None and _waits_for_interval(part, trials):
        words, remedy = WAITED_FOR["interval"]
        why = f"the queue itself waits for {words}: "
    in_vain = f"; tried, and no faster: {', '.join(names)}" if names else ""
    return Advice(f"{why}{remedy} ({_bound_of(found, part, tick_hz)}){in_vain}")


def _bound_of(found: Split, part: Part, tick_hz: int) -> str:
    """Which bound is lower without a part, and how much of it the part is: no promise."""
    idle = 0
    for each in found.parts:
        if each.kind == ENDS or each.what.startswith(WAIT):
            idle += each.ticks
    bound, ticks = "total_time", found.end_ticks
    if part.kind != ENDS and not part.what.startswith(WAIT):
        # Lost while the engine was active: that is what its bound is made of.
        name = NAMES.get(found.engine, found.engine)
        bound = ACTIVE.get(found.engine, f"the active time of the {name}")
        ticks -= idle
    size = _us(part.ticks, tick_hz)
    return f"not tried; would lower {bound}, {_us(ticks, tick_hz)}, of which this is {size}"


def _us(ticks: int, tick_hz: int) -> str:
    return f"{ticks / tick_hz * 1e6:,.1f} us"


# --- what a reading can try ---


def _tried(engine: str, part: Part, trials: Trials) -> tuple[list[str], list[Faster]]:
    """The kinds of change that were tried against a part, and those that make it faster."""
    if not part.what.startswith(WAIT):
        return [], []
    cause = part.what.removeprefix(WAIT)
    if cause == "bank":
        return ["other banks"], trials.own_banks()
    if cause in ("port", "interval"):
        # Of a group such as the DMA engines, all that are in it.
        own = [engine] if engine in ELSEWHERE else QUEUES
        return ["another engine or queue"], trials.moved(own)
    if cause in WAITED_FOR and cause not in ("load", "store"):
        return [], []
    if cause == engine:
        return ["deeper rings"], trials.deeper_rings()
    user = cause.removeprefix(BUFFER)
    names = ["deeper rings"]
    found = [*trials.deeper_rings()]
    movable = [
        each for each in ELSEWHERE if trials.device.causes.get(each, each) == user
    ]
    if movable:
        names.append("another engine or queue")
        found += trials.moved(movable)
    return names, found


def _waits_for_interval(part: Part, trials: Trials) -> bool:
    """Whether what is waited for is a queue that most of its own waits is held by its interval."""
    user = part.what.removeprefix(WAIT).removeprefix(BUFFER)
    ticks: collections.Counter[str] = collections.Counter()
    for queue, (parameter, _) in ELSEWHERE.items():
        if parameter != "queue" or trials.device.causes.get(queue, queue) != user:
            continue
        for cause, lines in waits_by_line(trials.events, queue).items():
            ticks[cause] += sum(lines.values())
    return _longest(ticks) == WAIT + "interval"


def _longest(ticks: Mapping[str, int]) -> str:
    return max(ticks, key=lambda name: ticks[name], default="")


# --- words ---


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
        return f"waiting for a buffer that {name} still uses", ENGINE_REMEDY
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
