"""One instruction being issued: what is known before it starts, and when it does what."""

import dataclasses
from typing import Any, TypeAlias

from emu.clock.names import CauseName
from emu.clock.price import Price
from emu.clock.resources import Engine
from emu.clock.ticks import Active, Ticks
from emu.clock.tiles import Value
from emu.instruction import Instruction
from emu.tracing import jaxpr as jx

Candidate: TypeAlias = tuple[Ticks, CauseName]
"""A time before which an instruction cannot start, and the cause."""

Cause: TypeAlias = CauseName | list[Candidate] | None
"""Why an instruction started no earlier: one cause, or all candidates where cores differ."""


# Never changed once made; frozen would cost 1 us each.
@dataclasses.dataclass(eq=False, slots=True)
class Issue:
    """An instruction about to be issued.

    Attributes:
      inst, eqn: the instruction and its equation.
      price: what it costs.
      values: its operands, destinations first.
      active: the cores that issue it.
      engine: that executes it.
    """

    inst: Instruction[..., Any]
    eqn: jx.Equation
    price: Price
    values: list[Value]
    active: Active
    engine: Engine

    @property
    def destinations(self) -> list[Value]:
        return self.values[: self.inst.destinations]


@dataclasses.dataclass(eq=False, slots=True)
class Timing:
    """When an instruction does what, in ticks.

    Attributes:
      begin: it starts.
      freed: its engine is free again.
      done: its result is written.
      throttled: by how much longer it took because its engine runs slow.
      cause: what the start waited for.
    """

    begin: Ticks
    freed: Ticks
    done: Ticks
    throttled: Ticks
    cause: Cause


__all__ = ["Candidate", "Cause", "Issue", "Timing"]
