"""What an instruction costs on the clock: its operands checked, its cost in whole ticks."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np

from emu.clock.tally import Counts
from emu.clock.ticks import PerCore
from emu.clock.tiles import Value
from emu.datasheet import Device
from emu.errors import DataDependentBranch, EmulationError, WrongSpace
from emu.instruction import COUNTS, Cost, Instruction, Operand, Spaces
from emu.tracing import jaxpr as jx

K = TypeVar("K")

PriceKey: TypeAlias = tuple[int | str, ...]
"""An equation by its id, and the memory spaces of its operands."""
AlikeKey: TypeAlias = tuple[
    Instruction[..., Any], tuple[Operand, ...], tuple[tuple[str, Any], ...]
]
"""An instruction, its operands as a cost rule sees them, and its parameters."""


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
    busy: PerCore
    latency: PerCore
    interval: PerCore
    handover: PerCore
    lead: dict[int, PerCore]
    lost: dict[str, PerCore]
    taken: dict[str, PerCore]
    counts: Counts | None = None


class Prices:
    """Prices asked for so far, and what they tell of the instructions read.

    Attributes:
      device: whose prices they are.
      kept: those that no count changes, by equation and memory spaces.
      alike: the same by what a cost rule is shown: of the equations of an unrolled loop, the first.
      lead: the longest lead of any operand, in ticks.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self.kept: dict[PriceKey, Price] = {}
        self.alike: dict[AlikeKey, Price] = {}
        self.lead = 0

    def price(
        self, inst: Instruction[..., Any], eqn: jx.Equation, values: list[Value]
    ) -> Price:
        """The price of an equation, asked for once unless it depends on a count.

        Raises:
          EmulationError: an operand in the wrong memory, too large, or unknown.
        """
        key = _key(eqn, values)
        kept = self.kept.get(key)
        if kept is not None:
            # Memory spaces are in the key, but not whether an operand is known.
            if "register" in inst.reads:
                _check_registers(inst, eqn, values)
            return kept
        price = self._asked(inst, eqn, values)
        self._note(price)
        # A count may be another in the next iteration, and with it the cost of the same equation.
        if not inst.is_counted:
            self.kept[key] = price
        return price

    def _asked(
        self, inst: Instruction[..., Any], eqn: jx.Equation, values: list[Value]
    ) -> Price:
        operands = seen(inst, eqn, values)
        alike = _alike(inst, eqn, operands)
        price = None if alike is None else self.alike.get(alike)
        if price is None:
            price = self._of(inst, eqn, operands)
            if alike is not None:
                self.alike[alike] = price
        return price

    def _of(
        self, inst: Instruction[..., Any], eqn: jx.Equation, operands: list[Operand]
    ) -> Price:
        try:
            cost = inst.cost(self.device, *operands, **eqn.params)
        except EmulationError as error:
            # A cost rule knows shapes and no equation: the kernel's line is added here.
            raise type(error)(str(error), jx.location(eqn)) from None
        return _in_ticks(self.device.ticks_per_cycle, operands, cost)

    def _note(self, price: Price) -> None:
        for ticks in price.lead.values():
            # It bounds how far back a start can look: what was ready earlier than that before its
            # engine is free makes no instruction wait (`emu.loops.starting_state`).
            longest = int(np.max(ticks))
            self.lead = max(self.lead, longest)


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
        self.kept: dict[PriceKey, Price] = {}

    @property
    def lead(self) -> int:
        """The longest lead of any operand under any band, in ticks."""
        return max(prices.lead for prices in self.each)

    def price(
        self, inst: Instruction[..., Any], eqn: jx.Equation, values: list[Value]
    ) -> Price:
        """The price of an equation under every band.

        Raises:
          EmulationError: an operand in the wrong memory, too large, or unknown.
        """
        if inst.is_counted:
            values = [_without_bands(value) for value in values]
        # Also where the joined price is kept: each checks again that registers are known.
        own = [prices.price(inst, eqn, values) for prices in self.each]
        key = _key(eqn, values)
        joined = self.kept.get(key)
        if joined is None:
            joined = _side_by_side(own, self.rank)
            if not inst.is_counted:
                self.kept[key] = joined
        return joined


def _key(eqn: jx.Equation, values: list[Value]) -> PriceKey:
    # A function that is called twice holds one equation, perhaps on tiles of different memories.
    return (id(eqn), *[value.space for value in values])


def _side_by_side(each: list[Price], rank: int) -> Price:
    """One price of several: all count the same, and use the same engine."""
    # An engine's charge grows by its duty whatever the band, so duties must be one number.
    first = each[0]
    for price in each:
        assert price.cost.engine == first.cost.engine
        assert price.cost.duty == first.cost.duty

    def stacked(ticks: list[PerCore]) -> PerCore:
        return _stacked(ticks, rank)

    def stacked_by_key(tables: Sequence[Mapping[K, PerCore]]) -> dict[K, PerCore]:
        keys: dict[K, None] = {}
        for table in tables:
            keys.update(dict.fromkeys(table))
        # What costs nothing under a band may be missing there.
        joined: dict[K, PerCore] = {}
        for key in keys:
            joined[key] = stacked([table.get(key, 0) for table in tables])
        return joined

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


def _stacked(ticks: list[PerCore], rank: int) -> PerCore:
    """Ticks under each band, along the first dimension unless all agree."""
    first = ticks[0]
    if all(type(one) is int and one == first for one in ticks):
        return first
    arrays = [_with_dimensions(one, rank) for one in ticks]
    alike = np.broadcast_arrays(*arrays)
    # The bands' dimension is 1 in each of them, and theirs together is the mesh's first.
    return np.concatenate(alike).astype(np.int64)


def _alike(
    inst: Instruction[..., Any], eqn: jx.Equation, operands: list[Operand]
) -> AlikeKey | None:
    """All that an instruction's cost depends on, but for the machine; None with a count."""
    if any(operand.known is not None for operand in operands):
        return None
    return inst, tuple(operands), tuple(eqn.params.items())


def _with_dimensions(ticks: PerCore, rank: int) -> np.ndarray:
    """Ticks with as many dimensions as the mesh: those that lead are of size 1."""
    shape = np.shape(ticks)
    leading = (1,) * (rank - len(shape))
    return np.reshape(ticks, leading + shape)


def _in_ticks(
    ticks_per_cycle: dict[str, int], operands: list[Operand], cost: Cost
) -> Price:
    own = 1 if cost.engine is None else ticks_per_cycle[cost.engine]
    taken: dict[str, PerCore] = {}
    for engine, cycles in cost.taken.items():
        # Cycles of the engine that they are taken from.
        taken[engine] = _ticks(cycles, ticks_per_cycle[engine])
    return Price(
        operands,
        cost,
        busy=_ticks(cost.busy_cycles, own),
        latency=_ticks(cost.latency_cycles, own),
        interval=_ticks(cost.interval_cycles, own),
        handover=_ticks(cost.handover_cycles, own),
        lead=_each_in_ticks(cost.lead_cycles, own),
        lost=_each_in_ticks(cost.lost, own),
        taken=taken,
    )


def _each_in_ticks(
    table: Mapping[K, float | np.ndarray], ticks_per_cycle: int
) -> dict[K, PerCore]:
    return {key: _ticks(cycles, ticks_per_cycle) for key, cycles in table.items()}


def seen(
    inst: Instruction[..., Any], eqn: jx.Equation, values: list[Value]
) -> list[Operand]:
    """The operands as a cost rule sees them.

    Raises:
      WrongSpace: one is in a memory that the instruction does not reach.
      DataDependentBranch: one must be known and is not.
    """
    allowed = (*inst.writes[: inst.destinations], *inst.reads)
    operands: list[Operand] = []
    for place, value in enumerate(values):
        operands.append(_operand(inst, eqn, place, value, allowed[place]))
    return operands


def _operand(
    inst: Instruction[..., Any],
    eqn: jx.Equation,
    place: int,
    value: Value,
    allowed: Spaces,
) -> Operand:
    """What the cost rule may see of an operand, once its memory space is checked."""
    if allowed == "register" or allowed in COUNTS:
        _check_known(inst, eqn, value)
        # No cost rule is shown a register's value, so no kept price can depend on one.
        shown = value.known if allowed in COUNTS else None
        return Operand(value.shape, value.dtype, "register", shown)
    spaces = (allowed,) if isinstance(allowed, str) else allowed
    if spaces is not None and value.space not in spaces:
        raise WrongSpace(
            f"{inst.name}: operand {place} is in {value.space}, "
            f"must be in {' or '.join(spaces)}",
            jx.location(eqn),
        )
    return Operand(value.shape, value.dtype, value.space)


def _check_registers(
    inst: Instruction[..., Any], eqn: jx.Equation, values: list[Value]
) -> None:
    sources = values[inst.destinations :]
    for value, allowed in zip(sources, inst.reads, strict=True):
        if allowed == "register":
            _check_known(inst, eqn, value)


def _check_known(inst: Instruction[..., Any], eqn: jx.Equation, value: Value) -> None:
    if value.known is None:
        raise DataDependentBranch(
            f"{inst.name}: an operand that must be a known integer depends on data",
            jx.location(eqn),
        )


def _ticks(cycles: float | np.ndarray, ticks_per_cycle: int) -> PerCore:
    """Cycles in whole ticks, rounded up once; a millionth of a tick is rounding error.

    At 100 ticks a cycle 1.1 cycles are 110 ticks, although the product is 110.00000000000001.
    """
    # One for all cores: as a plain number it keeps the clocks that it is added to plain.
    if isinstance(cycles, np.ndarray) and cycles.size == 1:
        cycles = cycles.item()
    if isinstance(cycles, np.ndarray):
        if cycles.dtype.kind in "iu":
            return cycles.astype(np.int64) * ticks_per_cycle
        exact = cycles.astype(np.float64) * ticks_per_cycle
        whole = np.ceil(np.round(exact, 6))
        return whole.astype(np.int64)
    return math.ceil(round(cycles * ticks_per_cycle, 6))


__all__ = ["BandPrices", "Price", "Prices", "seen"]
