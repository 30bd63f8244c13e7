"""From a function's operations to nodes: kept and arriving values are leaves, all else is run."""

import functools
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np

from emu.lower import CannotLower, Constant, Elementwise, Operand, Operation, Slot
from emu.wse.lower.bounds import ALIASES, COMPARISONS, BoundsOf
from emu.wse.lower.dependence import Dependence
from emu.wse.lower.lookups import looked_up
from emu.wse.lower.nodes import (
    ARRIVING,
    DATA,
    EXACT,
    FLOAT,
    KEPT,
    Argument,
    Data,
    Leaf,
    Node,
    Several,
    Table,
    Value,
    truth,
)
from emu.wse.lower.operations import RULES
from emu.wse.pe.elementwise import MASK

_SAME_NAME = (
    *("add", "sub", "mul", "max", "min", "neg", "abs", "sign", "floor", "ceil", "div"),
    *("rem", "exp", "exp2", "expm1", "log", "log1p", "tanh", "logistic", "sqrt"),
    *("rsqrt", "sin", "cos", "erf", "pow", "lt", "le", "gt", "ge", "eq", "ne"),
    *("and", "or", "xor", "not", "is_finite"),
    *("shift_left", "shift_right_logical", "shift_right_arithmetic"),
)
REMEDY = (
    "a PE has + - * / // % comparisons & | ~ jnp.where, jnp.minimum, jnp.maximum, jnp.abs, "
    "exp, log, tanh, sqrt and other functions of one number, and look-ups in tables"
)


class Builder:
    """Makes nodes of a function's operations.

    Args:
      function: of named arguments.
      arguments: how each lies on a PE.
      prefix: of the keys of what it keeps.
      rows: of a tile.

    Attributes:
      function, prefix: as given.
      bounds: of the function's whole numbers.
      leaves: what is kept and what arrives, by key, of all nodes made so far.
    """

    def __init__(
        self,
        function: Elementwise,
        arguments: Mapping[str, Argument],
        prefix: str,
        rows: int,
    ):
        own = [arguments[x.name] for x in function.inputs]
        self.function = function
        self.bounds = BoundsOf(function, own)
        self.leaves: dict[str, Leaf] = {}
        self.prefix = prefix
        self._arguments = own
        self._depends = Dependence(function, own, rows)
        self._known: dict[int, Any] = {}

    def held(self, operand: Operand) -> np.dtype:
        """How SRAM holds a value."""
        dtype = self.function.dtype_of(operand)
        if dtype.kind == "b":
            return MASK
        if dtype.kind == "f":
            if dtype != FLOAT:
                self.refuse(operand, f"computes in {dtype}, scores are float32")
            return FLOAT
        if dtype.kind not in "iu" or dtype.itemsize > 4:
            self.refuse(operand, f"computes in {dtype}; use float32, int32 and bool")
        bounds = self.bounds.of(operand)
        if bounds is not None and -EXACT <= bounds[0] and bounds[1] <= EXACT:
            return FLOAT
        return dtype

    def refuse(self, operand: Operand, what: str) -> NoReturn:
        """Raises `CannotLower` with the line that made an operand."""
        line = "unknown line"
        if isinstance(operand, Slot) and operand.index in self.function.by_slot:
            line = self.function.by_slot[operand.index].line
        raise CannotLower(f"{self.function.name}: {what}", line)

    def value(self, operand: Operand) -> Any:
        """The node of an operand, made once."""
        if isinstance(operand, Constant):
            if np.size(operand.value) != 1:
                return Table(operand)
            return self.leaf(operand)
        if operand.index not in self._known:
            self._known[operand.index] = self._made(operand)
        return self._known[operand.index]

    def _made(self, operand: Slot) -> Any:
        index = operand.index
        when = self._depends.when(operand)
        if index < len(self._arguments) and when == DATA:
            return Data(self.function.inputs[index].name, self._depends.shape(operand))
        _, slots = self._depends.shape(operand)
        is_leaf = when == KEPT or (when == ARRIVING and not slots)
        operation = self.function.by_slot.get(index)
        if operation is None:
            if not is_leaf:
                what = (
                    f"argument {self.function.inputs[index].name} arrives for each slot"
                )
                raise CannotLower(f"{self.function.name}: {what}")
            return self.leaf(operand)
        if is_leaf and np.prod(operation.shape) == 1:
            return self.leaf(operand)
        return self._run(operation, operand)

    def leaf(self, operand: Operand, inverted: bool = False) -> Leaf:
        """A value that is kept or arrives, or its reciprocal; made once."""
        if isinstance(operand, Constant):
            number = np.asarray(operand.value).reshape(())
            key = f"constant {number.item()!r} {number.dtype}"
        elif operand.index < len(self._arguments):
            key = self.function.inputs[operand.index].name
        else:
            key = f"{self.prefix}{operand.index}"
        if inverted:
            key = f"1 / {key}"
        if key not in self.leaves:
            self.leaves[key] = Leaf(
                key,
                operand,
                self._depends.when(operand),
                self._depends.shape(operand),
                self.held(operand),
                inverted,
            )
        return self.leaves[key]

    def number(self, value: float | bool, like: np.dtype) -> Leaf:
        """A constant of this dtype."""
        return self.leaf(Constant(np.asarray(value, like)))

    def node(
        self,
        op: str,
        *operands: Value,
        held: np.dtype = FLOAT,
        arithmetic: Any = FLOAT,
    ) -> Node:
        """An operation, whose result differs along what any operand differs along."""
        rows = any(x.shape[0] for x in operands)
        slots = any(x.shape[1] for x in operands)
        return Node(op, operands, (rows, slots), held, np.dtype(arithmetic))

    def _run(self, operation: Operation, operand: Slot) -> Any:
        name = operation.name
        if name in ("dynamic_slice", "gather"):
            return looked_up(self, operation, operand)
        values = [self.value(x) for x in operation.operands]
        if name == "concatenate" and all(not isinstance(x, Table) for x in values):
            return Several(tuple(values))
        if name in ALIASES and len(values) == 1:
            if name == "reduce_precision" and operation.equation.params != {
                "exponent_bits": 8,
                "mantissa_bits": 23,
            }:
                self.refuse(operand, f"no instruction for {name}; {REMEDY}")
            return values[0]
        is_scalar = np.prod(operation.shape) == 1
        if not is_scalar or any(isinstance(x, Table | Several) for x in values):
            self.refuse(
                operand,
                f"{name} makes {operation.shape} of many values for each score; use elementwise "
                "arithmetic, or look one value up in a table",
            )
        held = self.held(operand)
        rule = RULES.get(name)
        if rule is not None:
            return rule(self, operation, held, *values)
        if name == "add_any":
            name = "add"
        if name not in _SAME_NAME:
            self.refuse(operand, f"no instruction for {name}; {REMEDY}")
        arithmetic = self.function.dtype_of(operation.operands[0])
        if arithmetic.kind == "f" and arithmetic != FLOAT:
            self.refuse(operand, f"computes in {arithmetic}, scores are float32")
        return self._plain(operation, name, held, arithmetic, *values)

    def _plain(
        self,
        operation: Operation,
        name: str,
        held: np.dtype,
        arithmetic: np.dtype,
        *values: Value,
    ) -> Value:
        """An operation as it is, but where the bounds of its operands tell the answer."""
        if operation.dtype.kind == "b":
            least, greatest = self.bounds.truths(operation)
            if least == greatest:
                return self.number(bool(least), np.dtype(bool))
        if name in COMPARISONS:
            if arithmetic.kind == "b" and name in ("eq", "ne"):
                return self._of_masks(name == "eq", *values)
        if name in ("and", "or") and arithmetic.kind == "b":
            for value, other in (values, values[::-1]):
                known = truth(value)
                if known is not None:
                    return other if known == (name == "and") else value
        return self.node(name, *values, held=held, arithmetic=arithmetic)

    def _of_masks(self, equal: bool, a: Value, b: Value) -> Value:
        """Whether two masks are equal, or differ."""
        logic = functools.partial(self.node, held=MASK, arithmetic=bool)
        for value, other in ((a, b), (b, a)):
            known = truth(value)
            if known is not None:
                return other if known == equal else logic("not", other)
        differ = logic("xor", a, b)
        return logic("not", differ) if equal else differ


__all__ = ["Builder"]
