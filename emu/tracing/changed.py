"""A kernel's jaxpr with other parameters of its instructions: the same program with deeper rings.

What comes out is read as any jaxpr is, so what a change is worth is a reading and no estimate.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from emu.instruction import lookup
from emu.tracing import jaxpr as jx

Change: TypeAlias = Callable[[jx.Equation], Mapping[str, Any]]
"""Of an instruction, the parameters that are to be others; none leaves it as it is."""


def single_buffers(eqn: jx.Equation) -> Mapping[str, Any]:
    """The change that makes every ring of tiles a single buffer."""
    return {"buffers": 1} if "buffers" in eqn.params else {}


def changed(body: jx.Body, change: Change) -> jx.Body:
    """The body with every instruction changed, those inside loops, branches and calls too."""
    return _Changed(change).body(body)


class _Changed:
    """A change on its way through a program.

    Attributes:
      change: of an instruction.
      done: what each body became. One that is called twice must stay one body, as the clock keeps
        by body what it found out about it.
    """

    def __init__(self, change: Change):
        self.change = change
        self.done: dict[jx.Body, jx.Body] = {}

    def body(self, body: jx.Body) -> jx.Body:
        if body not in self.done:
            eqns = [self._equation(eqn) for eqn in body.eqns]
            self.done[body] = dataclasses.replace(body, eqns=eqns)
        return self.done[body]

    def _equation(self, eqn: jx.Equation) -> jx.Equation:
        if lookup(eqn.primitive) is None:
            return jx.with_inner(eqn, self.body)
        others = self.change(eqn)
        return jx.with_params(eqn, others) if others else eqn
