"""What a stepped run's PEs and links did, in totals: every cycle of every PE, and wavelet-hops."""

import dataclasses
from typing import Any

import numpy as np

from emu.wse.fabric.cycles.profile import OVERLAPPING, STATES, by_color
from emu.wse.fabric.directions import DIRECTIONS, LINKS, RAMP
from emu.wse.fabric.phases import Phase
from emu.wse.fabric.result import Run
from emu.wse.fabric.trains.routing import static_routes


@dataclasses.dataclass(frozen=True)
class Link:
    """The links of all PEs in one direction.

    Attributes:
      direction: north, east, south, west, or ramp, which is from the router into the PE.
      wavelets: that crossed them, summed.
      links: how many carried any.
      most: wavelets on the busiest one.
      x, y: the PE that it leaves.
    """

    direction: str
    wavelets: int
    links: int
    most: int
    x: int
    y: int


def pe_cycles(run: Run) -> dict[str, int]:
    """Every cycle of every PE, by `profile.STATES`; sums to cycles times PEs."""
    sums = {state: int(run.profile[state].sum()) for state in STATES}
    # The stepper looks on a little, to see that nothing follows.
    if run.stepped is not None:
        looked_on = run.stepped.steps - run.cycles
        sums["idle"] -= looked_on * run.ends.size
    return sums


def stalls(run: Run) -> dict[str, int]:
    """PE-cycles of what happens within those states, by `profile.OVERLAPPING`."""
    return {name: int(run.profile[name].sum()) for name in OVERLAPPING}


def links(run: Run) -> tuple[Link, ...]:
    """One for each direction that carried anything."""
    found: list[Link] = []
    assert run.links is not None
    for direction, wavelets in zip(DIRECTIONS, run.links, strict=True):
        if not wavelets.any():
            continue
        y, x = np.unravel_index(wavelets.argmax(), wavelets.shape)
        link = Link(
            direction=direction,
            wavelets=int(wavelets.sum()),
            links=int((wavelets > 0).sum()),
            most=int(wavelets.max()),
            x=int(x),
            y=int(y),
        )
        found.append(link)
    return tuple(found)


def wavelet_hops(run: Run) -> int:
    """Links between routers that wavelets crossed, summed."""
    assert run.links is not None
    return int(run.links[list(LINKS)].sum())


def hops_by_color(run: Run) -> dict[str, dict[str, int]]:
    """The same by color and direction, without ramps; of a run that was stepped."""
    hops: dict[str, dict[str, int]] = {}
    if run.stepped is None or run.stepped.counters is None:
        return hops
    names = list(run.encoded.program.colors)
    found = by_color(run.stepped.shape, run.stepped.counters)
    for (color, direction), wavelets in found.items():
        if wavelets and direction != RAMP:
            of_color = hops.setdefault(names[color], {})
            of_color[DIRECTIONS[direction]] = wavelets
    return hops


def longest_route(run: Run) -> tuple[int, str] | None:
    """Hops of the longest route of a color that switches nothing, and the color, if there is one.

    Where routers switch or merge, which way a wavelet goes is a matter of time.
    """
    found: list[tuple[int, str]] = []
    for routes in static_routes(run.encoded).values():
        if len(routes.receivers):
            hops = routes.hops[routes.receivers]
            found.append((int(hops.max()), routes.name))
    return max(found, default=None)


def stamps(run: Run) -> dict[str, dict[str, int]]:
    """The first and the last cycle, over all PEs, in which each stamp was read."""
    found: dict[str, dict[str, int]] = {}
    for name, cycles in run.stamps.items():
        read = cycles[cycles >= 0]
        if len(read):
            found[name] = {"first": int(read.min()), "last": int(read.max())}
    return found


def merged(phases: tuple[Phase, ...]) -> tuple[Phase, ...]:
    """Phases of one task that read alike as one: PEs in other places may have code of their own."""
    alike: dict[tuple[str, str, int], list[Phase]] = {}
    for phase in phases:
        key = (phase.task, phase.what, phase.thread)
        alike.setdefault(key, []).append(phase)
    return tuple(map(_as_one, alike.values()))


def _as_one(phases: list[Phase]) -> Phase:
    """Phases in the order of their first dispatches, as one."""
    return dataclasses.replace(
        phases[0],
        times=sum(phase.times for phase in phases),
        last_cycle=max(phase.last_cycle for phase in phases),
        datapath_cycles=sum(phase.datapath_cycles for phase in phases),
        spent_cycles=sum(phase.spent_cycles for phase in phases),
    )


def as_json(run: Run) -> dict[str, Any]:
    """All of it, and the phases, as plain data."""
    height, width = run.ends.shape
    found: dict[str, Any] = {
        "cycles": run.cycles,
        "path": run.path,
        "why": run.why,
        "pes": {"width": width, "height": height},
        "phases": [dataclasses.asdict(phase) for phase in run.phases],
        "stamps": stamps(run),
    }
    if run.profile:
        found["pe_cycles"] = pe_cycles(run)
        found["stalls"] = stalls(run)
    if run.links is not None:
        found["links"] = [dataclasses.asdict(link) for link in links(run)]
        found["wavelet_hops"] = wavelet_hops(run)
        found["hops_by_color"] = hops_by_color(run)
    longest = longest_route(run)
    if longest is not None:
        hops, color = longest
        found["longest_static_route"] = {"hops": hops, "color": color}
    return found


__all__ = [
    "Link",
    "as_json",
    "hops_by_color",
    "links",
    "longest_route",
    "merged",
    "pe_cycles",
    "stalls",
    "stamps",
    "wavelet_hops",
]
