"""When a value is known, and along what it differs in a tile of rows and slots."""

from collections.abc import Sequence

import numpy as np

from emu.lower import Constant, Elementwise, Operand, Slot
from emu.wse.lower.nodes import KEPT, Argument, Shape


class Dependence:
    """Of a function's values on its arguments.

    Args:
      function: of named arguments.
      arguments: how each lies on a PE, in the function's order.
      rows: of a tile.
    """

    def __init__(self, function: Elementwise, arguments: Sequence[Argument], rows: int):
        self._function = function
        self._arguments = arguments
        self._rows = rows
        self._differs: dict[int, bool] = {}

    def when(self, operand: Operand) -> int:
        return max((x.when for x in self._depends(operand)), default=KEPT)

    def _depends(self, operand: Operand) -> list[Argument]:
        found = []
        for x, argument in zip(self._function.inputs, self._arguments, strict=True):
            if self._function.depends_on(operand, x.name):
                found.append(argument)
        return found

    def shape(self, operand: Operand) -> Shape:
        slots = any(x.slots for x in self._depends(operand))
        return self._differs_by_row(operand), slots

    def _differs_by_row(self, operand: Operand) -> bool:
        """Whether a value may differ between the rows of a tile."""
        if isinstance(operand, Constant):
            return False
        if operand.index not in self._differs:
            self._differs[operand.index] = self._worked_out_difference(operand)
        return self._differs[operand.index]

    def _worked_out_difference(self, operand: Slot) -> bool:
        of = self._depends(operand)
        if operand.index < len(self._arguments) or not any(x.rows for x in of):
            return any(x.rows for x in of)
        (first, *others) = of
        if not others and first.aligned and first.bounds is not None:
            # Of one argument, such as `h // 4`: all its values are tried.
            low, high = first.bounds
            (name,) = (
                x.name
                for x in self._function.inputs
                if self._function.depends_on(operand, x.name)
            )
            along = {name: np.arange(low, high + 1)}
            values = np.asarray(self._function.over(operand, along))
            of_tile = values.reshape(-1, self._rows, *values.shape[1:])
            return bool((of_tile != of_tile[:, :1]).any())
        operation = self._function.by_slot[operand.index]
        return any(self._differs_by_row(x) for x in operation.operands)


__all__ = ["Dependence"]
