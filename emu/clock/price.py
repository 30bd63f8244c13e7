"""What an instruction costs on the clock: its operands checked, its cost in whole ticks."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

from emu.clock.tally import Counts
from emu.clock.ticks import Ticks
from emu.clock.tiles import Value
from emu.datasheet import Device
from emu.errors import DataDependentBranch, EmulationError, WrongSpace
from emu.instruction import Cost, Instruction, Operand, Spaces
from emu.tracing import jaxpr as jx

K = TypeVar("K")


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
      device: whose prices they are.
      kept: those that no count changes, by equation and memory spaces.
      lead: the longest lead of any operand, in ticks.
      excluded: engine to those that cannot run at the same time.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self.kept: dict[tuple[int | str, ...], Price] = {}
        self.lead = 0
        self.excluded: dict[str, set[str]] = {}

    def price(self, inst: Instruction, eqn: jx.Equation, values: list[Value]) -> Price:
        """The price of an equation, asked for once unless it depends on a count.

        Raises:
          EmulationError: an operand in the wrong memory, too large, or unknown.
        """
        key = (id(eqn), *[value.space for value in values])
        if (cached := self.kept.get(key)) is not None:
            if "register" in inst.reads:
                sources = values[inst.destinations :]
                for value, allowed in zip(sources, inst.reads, strict=True):
                    if allowed == "register":
                        _check_known(inst, eqn, value)
            return cached
        priced = self._asked(inst, eqn, values)
        self._note(priced)
        if "count" not in inst.reads:
            self.kept[key] = priced
        return priced

    def _asked(self, inst: Instruction, eqn: jx.Equation, values: list[Value]) -> Price:
        allowed = (*inst.writes[: inst.destinations], *inst.reads)
        operands = [
            _operand(inst, eqn, place, value, spaces)
            for place, (value, spaces) in enumerate(zip(values, allowed))
        ]
        try:
            cost = inst.cost(self.device, *operands, **eqn.params)
        except EmulationError as error:
            raise type(error)(str(error), jx.location(eqn)) from None
        return _in_ticks(self.device.ticks_per_cycle, operands, cost)

    def _note(self, priced: Price) -> None:
        leads = [int(np.max(ticks)) for ticks in priced.lead.values()]
        self.lead = max(self.lead, *leads, 0)
        engine = priced.cost.engine
        if engine is not None:
            self.excluded.setdefault(engine, set()).update(priced.cost.excludes)


class BandPrices:
    """Prices of one machine under several bands, side by side in the mesh's first dimension.

    Say a load takes 900 ticks under `low` and 1,000 under `nominal` and `high`. On a mesh of 3
    bands and 4 chips its busy time is then `[[900], [1000], [1000]]`, and what costs the same under
    all three is a plain number.

    Attributes:
      each: the prices under each band.
      kept: those that no count changes, by equation and memory spaces.
    """

    def __init__(self, devices: tuple[Device, ...], rank: int) -> None:
        """Args: the machine under each band, and the dimensions of the mesh, bands included."""
        self.rank = rank
        self.each = [Prices(device) for device in devices]
        self.kept: dict[tuple[int | str, ...], Price] = {}

    @property
    def lead(self) -> int:
        """The longest lead of any operand under any band, in ticks."""
        return max(prices.lead for prices in self.each)

    @property
    def excluded(self) -> dict[str, set[str]]:
        """Engine to those that cannot run at the same time, under any band."""
        union: dict[str, set[str]] = {}
        for prices in self.each:
            for engine, others in prices.excluded.items():
                union.setdefault(engine, set()).update(others)
        return union

    def price(self, inst: Instruction, eqn: jx.Equation, values: list[Value]) -> Price:
        """The price of an equation under every band.

        Raises:
          EmulationError: an operand in the wrong memory, too large, or unknown.
        """
        if "count" in inst.reads:
            values = [_without_bands(value) for value in values]
        own = [prices.price(inst, eqn, values) for prices in self.each]
        key = (id(eqn), *[value.space for value in values])
        joined = self.kept.get(key)
        if joined is None:
            joined = _side_by_side(own, self.rank)
            if "count" not in inst.reads:
                self.kept[key] = joined
        return joined


def _side_by_side(each: list[Price], rank: int) -> Price:
    """One price of several: all count the same, and use the same engine."""
    first = each[0]
    assert all(price.cost.engine == first.cost.engine for price in each)
    assert all(price.cost.duty == first.cost.duty for price in each)

    def stacked(ticks: Sequence[Ticks]) -> Ticks:
        """Ticks under each band, along the first dimension unless all agree."""
        if all(type(one) is int and one == ticks[0] for one in ticks):
            return ticks[0]
        arrays = [np.reshape(one, _with_dimensions(one, rank)) for one in ticks]
        return np.concatenate(np.broadcast_arrays(*arrays)).astype(np.int64)

    def stacked_by_key(ticks: Sequence[Mapping[K, Ticks]]) -> dict[K, Ticks]:
        keys = dict.fromkeys(key for one in ticks for key in one)
        return {key: stacked([one.get(key, 0) for one in ticks]) for key in keys}

    return Price(
        first.operands,
        first.cost,
        busy=stacked([price.busy for price in each]),
        latency=stacked([price.latency for price in each]),
        interval=stacked([price.interval for price in each]),
        handover=stacked([price.handover for price in each]),
        lead=stacked_by_key([price.lead for price in each]),
        lost=stacked_by_key([price.lost for price in each]),
        taken=stacked_by_key([price.taken for price in each]),
    )


def _without_bands(value: Value) -> Value:
    """A value whose known integer is that of one band: it is the same under all."""
    if value.known is None:
        return value
    return dataclasses.replace(value, known=value.known[0])


def _with_dimensions(ticks: Ticks, rank: int) -> tuple[int, ...]:
    """The shape of ticks once leading dimensions of size 1 make up the mesh's."""
    shape = np.shape(ticks)
    return (1,) * (rank - len(shape)) + shape


def _in_ticks(
    ticks_per_cycle: dict[str, int], operands: list[Operand], cost: Cost
) -> Price:
    own = 1 if cost.engine is None else ticks_per_cycle[cost.engine]
    return Price(
        operands,
        cost,
        busy=_ticks(cost.busy_cycles, own),
        latency=_ticks(cost.latency_cycles, own),
        interval=_ticks(cost.interval_cycles, own),
        handover=_ticks(cost.handover_cycles, own),
        lead={place: _ticks(n, own) for place, n in cost.lead_cycles.items()},
        lost={what: _ticks(n, own) for what, n in cost.lost.items()},
        # Cycles of the engine that they are taken from.
        taken={e: _ticks(n, ticks_per_cycle[e]) for e, n in cost.taken.items()},
    )


def _operand(
    inst: Instruction, eqn: jx.Equation, place: int, value: Value, allowed: Spaces
) -> Operand:
    """What the cost rule may see of an operand, once its memory space is checked."""
    if allowed in ("register", "count"):
        _check_known(inst, eqn, value)
        shown = value.known if allowed == "count" else None
        return Operand(value.shape, value.dtype, "register", shown)
    spaces = (allowed,) if isinstance(allowed, str) else allowed
    if spaces is not None and value.space not in spaces:
        raise WrongSpace(
            f"{inst.name}: operand {place} is in {value.space}, "
            f"must be in {' or '.join(spaces)}",
            jx.location(eqn),
        )
    return Operand(value.shape, value.dtype, value.space)


def _check_known(inst: Instruction, eqn: jx.Equation, value: Value) -> None:
    if value.known is None:
        raise DataDependentBranch(
            f"{inst.name}: an operand that must be a known integer depends on data",
            jx.location(eqn),
        )


def _ticks(cycles: float | np.ndarray, ticks_per_cycle: int) -> Ticks:
    """Cycles in whole ticks, rounded up once; a millionth of a tick is rounding error."""
    if isinstance(cycles, np.ndarray) and cycles.size == 1:
        cycles = cycles.item()
    if isinstance(cycles, np.ndarray):
        exact = cycles.astype(np.float64) * ticks_per_cycle
        return np.ceil(np.round(exact, 6)).astype(np.int64)
    return math.ceil(round(cycles * ticks_per_cycle, 6))


__all__ = ["BandPrices", "Price", "Prices"]
