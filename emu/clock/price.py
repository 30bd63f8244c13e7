"""What an instruction costs on the clock: its operands checked, its cost in whole ticks."""

import dataclasses
import math
from typing import Any

import numpy as np

from emu.clock.tally import Counts
from emu.clock.ticks import Ticks
from emu.clock.tiles import Value
from emu.errors import DataDependentBranch, EmulationError, WrongSpace
from emu.instruction import Cost, Instruction, Operand
from emu.tracing import jaxpr as jx


@dataclasses.dataclass
class Price:
    """An instruction's operands as its cost rule saw them, its cost, and that cost in ticks.

    Attributes:
      operands, cost: as declared.
      busy, latency, interval, handover: ticks of its engine.
      lead: operand to the ticks it must be ready before the start.
      lost: cause to the part of `busy` without work.
      taken: engine to the ticks taken from it.
      counts: what it adds to the tally on each core, once that was asked for.
    """

    operands: list[Operand]
    cost: Cost
    busy: Ticks
    latency: Ticks
    interval: Ticks
    handover: Ticks
    lead: dict[int, Ticks]
    lost: dict[str, Ticks]
    taken: dict[str, Ticks]
    counts: Counts | None = None


class Prices:
    """Prices asked for so far, and what they tell of the instructions read.

    Attributes:
      kept: those that no count changes, by equation and memory spaces.
      lead: the longest lead of any operand, in ticks.
      excluded: engine to those that cannot run at the same time.
    """

    def __init__(self) -> None:
        self.kept: dict[tuple[Any, ...], Price] = {}
        self.lead = 0
        self.excluded: dict[str, set[str]] = {}

    def note(self, priced: Price) -> None:
        self.lead = max(
            self.lead, *(int(np.max(t)) for t in (*priced.lead.values(), 0))
        )
        if priced.cost.engine is not None:
            self.excluded.setdefault(priced.cost.engine, set()).update(
                priced.cost.excludes
            )


def price(line: Any, inst: Instruction, eqn: Any, xs: list[Value]) -> Price:
    """The price of an equation, asked for once unless it depends on a count.

    Raises:
      EmulationError: an operand in the wrong memory, too large, or unknown.
    """
    key = (id(eqn), *[x.space for x in xs])
    if (cached := line.prices.kept.get(key)) is not None:
        if "register" in inst.reads:
            for x, allowed in zip(xs[inst.destinations :], inst.reads, strict=True):
                if allowed == "register":
                    _known(inst, eqn, x)
        return cached
    spaces = (*inst.writes[: inst.destinations], *inst.reads)
    operands = [
        _operand(inst, eqn, i, x, s) for i, (x, s) in enumerate(zip(xs, spaces))
    ]
    try:
        cost = inst.cost(line.device, *operands, **eqn.params)
    except EmulationError as e:
        raise type(e)(str(e), jx.location(eqn)) from None
    priced = _in_ticks(line.device.ticks_per_cycle, operands, cost)
    line.prices.note(priced)
    if "count" not in inst.reads:
        line.prices.kept[key] = priced
    return priced


def _in_ticks(per_cycle: dict[str, int], operands: list[Operand], cost: Cost) -> Price:
    per = 1 if cost.engine is None else per_cycle[cost.engine]
    return Price(
        operands,
        cost,
        _ticks(cost.busy_cycles, per),
        _ticks(cost.latency_cycles, per),
        _ticks(cost.interval_cycles, per),
        _ticks(cost.handover_cycles, per),
        {i: _ticks(c, per) for i, c in cost.lead_cycles.items()},
        {what: _ticks(c, per) for what, c in cost.lost.items()},
        {engine: _ticks(c, per_cycle[engine]) for engine, c in cost.taken.items()},
    )


def _operand(inst: Instruction, eqn: Any, i: int, x: Value, allowed: Any) -> Operand:
    """What the cost rule may see of operand `i`, once its memory space is checked."""
    if allowed in ("register", "count"):
        _known(inst, eqn, x)
        shown = x.known if allowed == "count" else None
        return Operand(x.shape, x.dtype, "register", shown)
    names = (allowed,) if isinstance(allowed, str) else allowed
    if names is not None and x.space not in names:
        raise WrongSpace(
            f"{inst.name}: operand {i} is in {x.space}, must be in {' or '.join(names)}",
            jx.location(eqn),
        )
    return Operand(x.shape, x.dtype, x.space)


def _known(inst: Instruction, eqn: Any, x: Value) -> None:
    if x.known is None:
        raise DataDependentBranch(
            f"{inst.name}: an operand that must be a known integer depends on data",
            jx.location(eqn),
        )


def _ticks(cycles: Any, per: int) -> Ticks:
    """Cycles in whole ticks, rounded up once; a millionth of a tick is rounding error."""
    if isinstance(cycles, np.ndarray) and cycles.size == 1:
        cycles = cycles.item()
    if isinstance(cycles, np.ndarray):
        return np.ceil(np.round(cycles.astype(np.float64) * per, 6)).astype(np.int64)
    return math.ceil(round(cycles * per, 6))


__all__ = ["Price", "Prices", "price"]
