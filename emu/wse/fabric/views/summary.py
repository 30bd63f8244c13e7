"""What a stepped run's PEs and links did, in totals: every cycle of every PE, and wavelet-hops."""

import dataclasses
from typing import Any

import numpy as np

from emu.wse.fabric.cycles.profile import OVERLAPPING, STATES, by_color
from emu.wse.fabric.directions import DIRECTIONS, RAMP
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
    """Every cycle of every PE, by `cycle_profile.STATES`; sums to cycles times PEs."""
    of = {state: int(run.profile[state].sum()) for state in STATES}
    # The stepper looks on a little, to see that nothing follows.
    if run.stepped is not None:
        of["idle"] -= (run.stepped.steps - run.cycles) * run.ends.size
    return of


def stalls(run: Run) -> dict[str, int]:
    """PE-cycles of what happens within those states, by `cycle_profile.OVERLAPPING`."""
    return {name: int(run.profile[name].sum()) for name in OVERLAPPING}


def links(run: Run) -> tuple[Link, ...]:
    """One for each direction that carried anything."""
    found = []
    assert run.links is not None
    for direction, of in zip(DIRECTIONS, run.links, strict=True):
        if of.any():
            y, x = np.unravel_index(of.argmax(), of.shape)
            found.append(
                Link(
                    direction,
                    int(of.sum()),
                    int((of > 0).sum()),
                    int(of.max()),
                    int(x),
                    int(y),
                )
            )
    return tuple(found)


def wavelet_hops(run: Run) -> int:
    """Links between routers that wavelets crossed, summed."""
    assert run.links is not None
    return int(run.links[:RAMP].sum())


def hops_by_color(run: Run) -> dict[str, dict[str, int]]:
    """The same by color and direction, without ramps; of a run that was stepped."""
    out: dict[str, dict[str, int]] = {}
    if run.stepped is not None and run.stepped.counters is not None:
        names = list(run.encoded.program.colors)
        found = by_color(run.stepped.shape, run.stepped.counters)
        for (color, side), n in found.items():
            if n and side != RAMP:
                out.setdefault(names[color], {})[DIRECTIONS[side]] = n
    return out


def longest_route(run: Run) -> tuple[int, str] | None:
    """Hops of the longest route of a color that switches nothing, and the color, if there is one.

    Where routers switch or merge, which way a wavelet goes is a matter of time.
    """
    found = [
        (int(r.hops[r.receivers].max()), r.name)
        for r in static_routes(run.encoded).values()
        if len(r.receivers)
    ]
    return max(found, default=None)


def stamps(run: Run) -> dict[str, dict[str, int]]:
    """The first and the last cycle, over all PEs, in which each stamp was read."""
    read = {name: t[t >= 0] for name, t in run.stamps.items()}
    return {
        name: {"first": int(t.min()), "last": int(t.max())}
        for name, t in read.items()
        if len(t)
    }


def merged(phases: tuple[Phase, ...]) -> tuple[Phase, ...]:
    """Phases of one task that read alike as one: PEs in other places may have code of their own."""
    alike: dict[tuple[str, str, int], list[Phase]] = {}
    for p in phases:
        alike.setdefault((p.task, p.what, p.thread), []).append(p)
    out = []
    for many in alike.values():
        add = lambda name: sum(getattr(p, name) for p in many)  # noqa: E731
        out.append(
            dataclasses.replace(
                many[0],
                times=add("times"),
                last_cycle=max(p.last_cycle for p in many),
                datapath_cycles=add("datapath_cycles"),
                spent_cycles=add("spent_cycles"),
            )
        )
    return tuple(out)


def as_json(run: Run) -> dict[str, Any]:
    """All of it, and the phases, as plain data."""
    out: dict[str, Any] = {
        "cycles": run.cycles,
        "path": run.path,
        "why": run.why,
        "pes": {"width": run.ends.shape[1], "height": run.ends.shape[0]},
        "phases": [dataclasses.asdict(p) for p in run.phases],
        "stamps": stamps(run),
    }
    if run.profile:
        out |= {"pe_cycles": pe_cycles(run), "stalls": stalls(run)}
    if run.links is not None:
        out |= {
            "links": [dataclasses.asdict(x) for x in links(run)],
            "wavelet_hops": wavelet_hops(run),
            "hops_by_color": hops_by_color(run),
        }
    longest = longest_route(run)
    if longest is not None:
        out["longest_static_route"] = {"hops": longest[0], "color": longest[1]}
    return out


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
