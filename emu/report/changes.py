"""Changes to a kernel that advice is tried by: a deeper ring, another queue, another engine.

Each is of instructions at some source lines, and says nothing of whether it helps: that is read.
"""

import dataclasses
import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from emu.instruction import lookup
from emu.tracing import jaxpr as jx


@dataclasses.dataclass(frozen=True)
class DeeperRings:
    """The rings declared at some lines have one buffer more."""

    lines: frozenset[str]

    def __call__(self, eqn: jx.Equation) -> Mapping[str, Any]:
        if "buffers" not in eqn.params or jx.location(eqn) not in self.lines:
            return {}
        return {"buffers": eqn.params["buffers"] + 1}


@dataclasses.dataclass(frozen=True)
class OtherParameter:
    """Instructions of one name at one line have another value of a parameter that they take.

    Attributes:
      name: of the instructions, such as `trn.dma_load`.
      line: where they are.
      parameter, value: such as `queue` and `load_queue2`.
    """

    name: str
    line: str
    parameter: str
    value: str

    def __call__(self, eqn: jx.Equation) -> Mapping[str, Any]:
        if eqn.primitive.name != self.name or jx.location(eqn) != self.line:
            return {}
        return {self.parameter: self.value}


def ring_lines(body: jx.Body) -> list[str]:
    """The lines that declare tiles inside loops, where alone they are rings; in program order."""
    lines: dict[str, None] = {}
    for eqn in _in_loops(body, inside=False):
        if "buffers" in eqn.params:
            lines[jx.location(eqn)] = None
    return list(lines)


def takes(name: str, parameter: str, among: Iterable[jx.Equation]) -> bool:
    """Whether the instructions of a name take a parameter."""
    for eqn in among:
        if eqn.primitive.name == name:
            inst = lookup(eqn.primitive)
            return inst is not None and parameter in inspect.signature(inst).parameters
    return False


def instructions(body: jx.Body) -> Iterator[jx.Equation]:
    """Every instruction of a body, those inside loops, branches and calls too."""
    for eqn in body.eqns:
        if lookup(eqn.primitive) is not None:
            yield eqn
        for inner in jx.inner(eqn):
            yield from instructions(inner)


def _in_loops(body: jx.Body, *, inside: bool) -> Iterator[jx.Equation]:
    for eqn in body.eqns:
        if inside and lookup(eqn.primitive) is not None:
            yield eqn
        for inner in jx.inner(eqn):
            in_loop = inside or eqn.primitive.name == "scan"
            yield from _in_loops(inner, inside=in_loop)


def own_banks(eqn: jx.Equation) -> Mapping[str, Any]:
    """No tile names a bank, so that each has banks of its own."""
    return {} if eqn.params.get("bank") is None else {"bank": None}
