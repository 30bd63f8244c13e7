"""Operations whose engine the kernel left open, spread over the engines that can run them.

The longest first, each to the engine that is then busy the shortest; what an operation takes is
its instruction's own cost on the machine. Operations of one engine stay where they are.

GpSimd is left to kernels that ask for it: no published profile shows the compiler choosing it where
Vector could run an operation, with which it shares a port on Trainium1.

Example: four copies of 500 ns and two sums of 400 ns that only Vector runs: Vector has 800 ns to
start with, so the copies go Scalar, Scalar, Vector, Scalar: 1,300 and 1,500 ns, not 2,800 and 0.
"""

from collections.abc import Sequence

from emu.trainium.nki.passes.costs import Costs
from emu.trainium.nki.passes.effect import Effect
from emu.trainium.nki.passes.rewrite import copied, operations, turns, with_body
from emu.trainium.nki.tree import Operation, Recorded

NAME = "engines"


def apply(recorded: Recorded, costs: Costs) -> tuple[Recorded, Effect]:
    """Chooses an engine for each operation that has several."""
    body = copied(recorded.body)
    found = operations(body)
    before = busy([(each, turns(path)) for each, path in found], costs)
    balance([(each, turns(path)) for each, path in found], costs)
    after = busy([(each, turns(path)) for each, path in found], costs)
    hz = costs.device.tick_hz
    parts = [
        f"{engine} busy {before.get(engine, 0) / hz * 1e6:,.0f} -> "
        f"{after.get(engine, 0) / hz * 1e6:,.0f} us"
        for engine in sorted({*before, *after})
        if before.get(engine) != after.get(engine)
    ]
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
    ways: list[tuple[int, int, Operation, list[tuple[int, str, int]]]] = []
    for order, (operation, times) in enumerate(weighed):
        if len(operation.choices) == 1:
            continue
        able: list[tuple[int, str, int]] = []
        for place, choice in enumerate(operation.choices):
            if choice.engine == "gpsimd" and operation.choice.engine != "gpsimd":
                continue
            spent = costs.asked(operation, choice)
            if spent is not None:
                able.append((place, spent.engine, times * spent.busy))
        if able:
            shortest = min(ticks for _, _, ticks in able)
            ways.append((-shortest, order, operation, able))
    for _, _, operation, able in sorted(ways, key=lambda way: way[:2]):
        place, engine, ticks = min(
            able, key=lambda way: (load.get(way[1], 0) + way[2], way[2])
        )
        load[engine] = load.get(engine, 0) + ticks
        operation.chosen = place


__all__ = ["NAME", "apply", "balance", "busy"]
