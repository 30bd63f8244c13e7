"""A function without the arithmetic that does nothing, such as products with 1.

Such are left where a user's function is read for a value of 1: of `v * scale[k]` that makes
`1 * scale[k]`, which is `scale[k]`.
"""

import numpy as np

from emu.lower import Constant, Elementwise, Operand, Operation
from kernels.attention.rewriting import Rewriting

# By operation, the operand that changes nothing on its right, and whether on its left as well.
_NEUTRAL = {
    "mul": (1, True),
    "div": (1, False),
    "add": (0, True),
    "sub": (0, False),
}
_SAME = {"convert_element_type", "copy", "copy_p"}


def simplified(function: Elementwise) -> Elementwise:
    """The function without products with 1 or 0, sums with 0, and conversions that change nothing.

    Numbers are taken to be finite: 0 times any of them is 0.
    """
    return _Walk(function).simplified()


class _Walk:
    """From the first operation to the last, each in terms of what was simplified before."""

    def __init__(self, function: Elementwise):
        self._function = function
        self._new = Rewriting(function)
        self._known: dict[int, Operand] = {}

    def simplified(self) -> Elementwise:
        for operation in self._function.operations:
            self._known[operation.result] = self._made(operation)
        return self._new.function(self._operand(self._function.result))

    def _operand(self, operand: Operand) -> Operand:
        if isinstance(operand, Constant):
            return operand
        return self._known.get(operand.index, operand)

    def _made(self, operation: Operation) -> Operand:
        operands = [self._operand(x) for x in operation.operands]
        if operation.name in _SAME:
            (operand,) = operands
            if self._dtype(operand) == operation.dtype:
                return operand
        if operation.name == "mul" and not operation.shape:
            for operand in operands:
                if _number(operand) == 0:
                    return Constant(np.zeros((), operation.dtype))
        if operation.name in _NEUTRAL and not operation.shape:
            neutral, either_side = _NEUTRAL[operation.name]
            left, right = operands
            if _number(right) == neutral:
                return left
            if either_side and _number(left) == neutral:
                return right
        return self._new.again(operation, operands)

    def _dtype(self, operand: Operand) -> np.dtype:
        if isinstance(operand, Constant):
            return np.dtype(operand.value.dtype)
        return self._new.function(operand).dtype_of(operand)


def _number(operand: Operand) -> float | None:
    return operand.number if isinstance(operand, Constant) else None


__all__ = ["simplified"]
