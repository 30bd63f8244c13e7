"""What an operation takes on a machine, from its instruction's own cost rule.

There is no second model: passes ask the rules that the clock asks, with operands of the shapes of
the operation's accesses. Ticks are the clock's.
"""

import dataclasses
import functools

import numpy as np

from emu.datasheet import Device
from emu.errors import EmulationError
from emu.instruction import Operand
from emu.trainium.nki.tree import Access, Affine, Choice, Operation

DMA = "dma"


@dataclasses.dataclass(frozen=True)
class Spent:
    """Ticks of one execution.

    Attributes:
      engine: that runs it; all DMA queues are `dma`, as they share their engines.
      busy: until the engine can start its next.
      latency: until a dependent on another engine can start.
      ports: memories whose port it shares with another engine meanwhile.
    """

    engine: str
    busy: int
    latency: int
    ports: tuple[str, ...] = ()


class Costs:
    """What operations take on a machine; kept by what the rules see."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._kept: dict[object, Spent | None] = {}

    def of(self, operation: Operation) -> Spent:
        """Of an operation as chosen; one that the machine does not run takes nothing."""
        return self.asked(operation, operation.choice) or Spent("vector", 0, 0)

    def asked(self, operation: Operation, choice: Choice) -> Spent | None:
        """Of an operation run in some way; None if this machine cannot run it so."""
        operands = _operands(operation, choice)
        settings = tuple(sorted(choice.parameters.items(), key=lambda item: item[0]))
        key = (choice.instruction.name, repr(operands), repr(settings))
        if key not in self._kept:
            self._kept[key] = self._spent(choice, operands)
        return self._kept[key]

    def _spent(self, choice: Choice, operands: tuple[Operand, ...]) -> Spent | None:
        try:
            cost = choice.instruction.cost(self.device, *operands, **choice.parameters)
        except EmulationError:
            return None
        if cost.engine is None:
            return Spent("vector", 0, 0)
        each = self._ticks_per_cycle.get(cost.engine, 1)
        busy = round(float(np.max(cost.busy_cycles)) * each)
        latency = round(
            float(np.max(cost.latency_cycles) + np.max(cost.handover_cycles)) * each
        )
        engine = DMA if cost.taken and choice.engine == DMA else cost.engine
        return Spent(engine, busy, max(busy, latency), cost.ports)

    @functools.cached_property
    def _ticks_per_cycle(self) -> dict[str, int]:
        return self.device.ticks_per_cycle


def _operands(operation: Operation, choice: Choice) -> tuple[Operand, ...]:
    """Destinations and sources as the rule sees them."""
    reads = operation.reads
    if choice.operands is not None:
        reads = tuple(reads[place] for place in choice.operands)
    operands = [_operand(each) for each in reads]
    if choice.instruction.in_place:
        operands[:0] = [_operand(each) for each in operation.writes]
    return tuple(operands)


def _operand(each: Access | Affine) -> Operand:
    if isinstance(each, Affine):
        return Operand((), np.dtype(np.int32), "register")
    return Operand(each.shape, each.dtype, each.space)


__all__ = ["DMA", "Costs", "Spent"]
