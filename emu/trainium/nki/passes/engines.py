"""Operations whose engine the kernel left open, spread over the engines that can run them.

The longest first, each to the engine that is then busy the shortest; what an operation takes is
its instruction's own cost on the machine. Operations of one engine stay where they are.

GpSimd is left to kernels that ask for it: no published profile shows the compiler choosing it where
Vector could run an operation, with which it shares a port on Trainium1.

Example: four copies of 500 ns and two sums of 400 ns that only Vector runs: Vector has 800 ns to
start with, so the copies go Scalar, Scalar, Vector, Scalar: 1,300 and 1,500 ns, not 2,800 and 0.
"""

import dataclasses
from collections.abc import Iterator, Sequence

from emu.trainium.nki.passes.costs import Costs
from emu.trainium.nki.passes.effect import Effect
from emu.trainium.nki.passes.rewrite import copied, operations, turns, with_body
from emu.trainium.nki.tree import Operation, Recorded

NAME = "engines"


@dataclasses.dataclass(frozen=True)
class Way:
    """One of an operation's choices: its place among them, its engine, and all turns' ticks."""

    place: int
    engine: str
    ticks: int


@dataclasses.dataclass(frozen=True)
class Open:
    """An operation with the ways to run it."""

    operation: Operation
    ways: list[Way]

    @property
    def shortest_ticks(self) -> int:
        """Of the fastest way."""
        return min(way.ticks for way in self.ways)


def apply(recorded: Recorded, costs: Costs) -> tuple[Recorded, Effect]:
    """Chooses an engine for each operation that has several."""
    body = copied(recorded.body)
    weighed = [(each, turns(path)) for each, path in operations(body)]
    before = busy(weighed, costs)
    balance(weighed, costs)
    after = busy(weighed, costs)
    us_per_tick = 1e6 / costs.device.tick_hz
    parts: list[str] = []
    for engine in sorted({*before, *after}):
        old, new = before.get(engine, 0), after.get(engine, 0)
        if old != new:
            told = f"{old * us_per_tick:,.0f} -> {new * us_per_tick:,.0f} us"
            parts.append(f"{engine} busy {told}")
    said = ", ".join(parts) or "all as the kernel has them"
    return with_body(recorded, body), Effect(NAME, said)


def busy(weighed: Sequence[tuple[Operation, int]], costs: Costs) -> dict[str, int]:
    """Ticks that each engine works, each operation run so many times."""
    ticks: dict[str, int] = {}
    for operation, times in weighed:
        spent = costs.of(operation)
        ticks[spent.engine] = ticks.get(spent.engine, 0) + times * spent.busy
    return ticks


def balance(weighed: Sequence[tuple[Operation, int]], costs: Costs) -> None:
    """Chooses for each operation in place, the longest first."""
    fixed = [(each, times) for each, times in weighed if len(each.choices) == 1]
    load = busy(fixed, costs)
    open_ones: list[Open] = []
    for operation, times in weighed:
        if len(operation.choices) > 1:
            ways = list(_ways(operation, times, costs))
            if ways:
                open_ones.append(Open(operation, ways))
    # A stable sort: those that take as long stay in program order.
    for each in sorted(open_ones, key=lambda each: -each.shortest_ticks):
        best = min(
            each.ways, key=lambda way: (load.get(way.engine, 0) + way.ticks, way.ticks)
        )
        load[best.engine] = load.get(best.engine, 0) + best.ticks
        each.operation.chosen = best.place


def _ways(operation: Operation, times: int, costs: Costs) -> Iterator[Way]:
    """Those of an operation's choices that the machine can run."""
    for place, choice in enumerate(operation.choices):
        if choice.engine == "gpsimd" and operation.choice.engine != "gpsimd":
            continue
        spent = costs.asked(operation, choice)
        if spent is not None:
            yield Way(place, spent.engine, times * spent.busy)


__all__ = ["NAME", "apply", "balance", "busy"]
