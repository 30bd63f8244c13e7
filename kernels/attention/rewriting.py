"""New operations beside those of a function that was read: Boolean ones, and old ones on others.

What is asked for twice is made once, so that `k <= q`, which the mask needs and perhaps the score
as well, stays one value.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from emu.lower import Axes, Constant, Elementwise, Operand, Operation, Slot
from emu.tracing import jaxpr as jaxprs

NEVER = Constant(np.zeros((), bool))
ALWAYS = Constant(np.ones((), bool))


class Rewriting:
    """A function in the making.

    Args:
      of: the function that is rewritten, whose arguments the new one has.
    """

    def __init__(self, of: Elementwise):
        self._of = of
        self._operations: list[Operation] = []
        self._copies: dict[int, Operand] = {}
        self._known: dict[tuple[Any, ...], Slot] = {}

    def function(self, result: Operand) -> Elementwise:
        """The new function that gives `result`; what it does not need is left out."""
        wanted = {result}
        kept = []
        # Backwards, every reader of a result is met before the operation that gives it.
        for operation in reversed(self._operations):
            if Slot(operation.result) in wanted:
                kept.append(operation)
                wanted.update(operation.operands)
        of = self._of
        return Elementwise(of.name, of.inputs, tuple(reversed(kept)), result)

    def copy(self, operand: Operand) -> Operand:
        """An operand of the old function, as it was there."""
        if isinstance(operand, Constant) or operand.index < len(self._of.inputs):
            return operand
        if operand.index not in self._copies:
            operation = self._of.by_slot[operand.index]
            operands = [self.copy(x) for x in operation.operands]
            self._copies[operand.index] = self.again(operation, operands)
        return self._copies[operand.index]

    def again(
        self,
        operation: Operation,
        operands: Sequence[Operand],
        dtype: Any = None,
        **parameters: Any,
    ) -> Operand:
        """The operation on other operands; on constants alone, what it gives.

        Args:
          operation: of the old function.
          operands: of the new one.
          dtype: of the result, where it is another.
          parameters: of the equation that differ.
        """
        equation = operation.equation
        if parameters:
            equation = jaxprs.with_params(equation, parameters)
        if all(isinstance(x, Constant) for x in operands):
            return _folded(equation, operands)
        changed = tuple(sorted((key, repr(x)) for key, x in parameters.items()))
        key = (id(operation.equation), changed, *map(_identity, operands))
        if key not in self._known:
            known = dataclasses.replace(operation, equation=equation)
            self._known[key] = self._append(known, operands, dtype or operation.dtype)
        return self._known[key]

    def made(
        self,
        primitive: jaxprs.Primitive,
        operands: Sequence[Operand],
        beside: Operation,
        dtype: Any = bool,
    ) -> Operand:
        """A new operation without parameters, of the shape and with the line of another."""
        source = beside.equation.source_info
        equation = jaxprs.OwnEquation(primitive, (), (), {}, source)
        if all(isinstance(x, Constant) for x in operands):
            return _folded(equation, operands)
        key = (primitive.name, *map(_identity, operands))
        if key not in self._known:
            known = dataclasses.replace(beside, name=primitive.name, equation=equation)
            self._known[key] = self._append(known, operands, dtype)
        return self._known[key]

    def both(self, one: Operand, other: Operand, beside: Operation) -> Operand:
        """Whether both hold."""
        if one is NEVER or other is NEVER:
            return NEVER
        if one is ALWAYS or one == other:
            return other
        if other is ALWAYS:
            return one
        return self.made(jax.lax.and_p, [one, other], beside)

    def either(self, one: Operand, other: Operand, beside: Operation) -> Operand:
        """Whether one holds, or both."""
        if one is ALWAYS or other is ALWAYS:
            return ALWAYS
        if one is NEVER or one == other:
            return other
        if other is NEVER:
            return one
        return self.made(jax.lax.or_p, [one, other], beside)

    def negated(self, condition: Operand, beside: Operation) -> Operand:
        """Whether it does not hold."""
        if condition is NEVER:
            return ALWAYS
        if condition is ALWAYS:
            return NEVER
        # `not (not x)` is x: what is left of `where(k <= q, s, -inf)` is `k <= q` itself.
        for operation in self._operations:
            is_it = condition == Slot(operation.result)
            if is_it and operation.name == "not":
                return operation.operands[0]
        return self.made(jax.lax.not_p, [condition], beside)

    def chosen(
        self, which: Operand, no: Operand, yes: Operand, beside: Operation
    ) -> Operand:
        """`yes` where `which` holds, else `no`; three Booleans."""
        if no is NEVER:
            return self.both(which, yes, beside)
        if yes is ALWAYS:
            return self.either(which, no, beside)
        otherwise = self.both(self.negated(which, beside), no, beside)
        return self.either(self.both(which, yes, beside), otherwise, beside)

    def _append(
        self, operation: Operation, operands: Sequence[Operand], dtype: Any
    ) -> Slot:
        slot = Slot(len(self._of.inputs) + len(self._operations))
        axes: Axes = frozenset()
        for operand in operands:
            axes |= self._axes_of(operand)
        made = dataclasses.replace(
            operation,
            operands=tuple(operands),
            dtype=np.dtype(dtype),
            axes=axes,
            result=slot.index,
        )
        self._operations.append(made)
        return slot

    def _axes_of(self, operand: Operand) -> Axes:
        if isinstance(operand, Constant):
            return frozenset()
        arguments = len(self._of.inputs)
        if operand.index < arguments:
            return self._of.inputs[operand.index].axes
        return self._operations[operand.index - arguments].axes


def _folded(equation: jaxprs.Equation, operands: Sequence[Operand]) -> Constant:
    """What an operation gives for constants."""
    values = [x.value for x in operands if isinstance(x, Constant)]
    bind = equation.primitive.bind
    if any(isinstance(x, Tracer) for x in values):
        results = bind(*values, **equation.params)
    else:
        with jax.ensure_compile_time_eval():
            results = bind(*map(jnp.asarray, values), **equation.params)
    if equation.primitive.multiple_results:
        (results,) = results
    return Constant(results)


def _identity(operand: Operand) -> Any:
    """What two operands have in common that are the same value."""
    if isinstance(operand, Slot):
        return operand
    # Numbers are known by what they are, arrays by which they are.
    number = operand.number
    return (
        id(operand.value)
        if number is None
        else (str(operand.value.dtype), repr(number))
    )
