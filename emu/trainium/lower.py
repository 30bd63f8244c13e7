"""A user's arithmetic as NeuronCore instructions, on tiles of values.

What `emu.lower` reads as a line of operations on single values is carried out here on tiles
`[rows, columns]`: arithmetic and comparisons by the Vector Engine, transcendental functions by the
Scalar Engine. A value that is the same along a tile's columns is a column `[rows, 1]`, and one that
is the same everywhere a number; both are operands of the instruction that uses them.

The Vector Engine takes two operators in one pass. So an operator with a number or a column is not
issued when it is met but with the one that follows, where nobody else reads what is between:

    s · 0.125 - slope · (q - k)        written
    t = (q - k) · slope  (column)      waits
    u = s · 0.125        (number)      waits
    u - t                              1 pass for t, then 1 for (s · 0.125) - t
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import TypeAlias

import jax.numpy as jnp
import numpy as np

from emu.annotations import DType
from emu.lower import CannotLower, Constant, Elementwise, Operand, Operation, Slot
from emu.trainium.isa import (
    activation,
    activation_bias,
    immediate_tensor_tensor,
    memset,
    scalar_tensor_tensor,
    tensor_copy,
    tensor_copy_predicated,
    tensor_copy_predicated_value,
    tensor_immediate,
    tensor_immediate_scalar,
    tensor_scalar,
    tensor_scalars,
    tensor_tensor,
)
from emu.trainium.spaces import OnChip, Sbuf

# Operators of the Vector Engine, by JAX's primitive.
VECTOR = {
    "add": "add",
    "add_any": "add",
    "sub": "subtract",
    "mul": "multiply",
    "div": "divide",
    "max": "max",
    "min": "min",
    "pow": "power",
    "eq": "equal",
    "ne": "not_equal",
    "lt": "less",
    "le": "less_equal",
    "gt": "greater",
    "ge": "greater_equal",
    "and": "logical_and",
    "or": "logical_or",
    "xor": "logical_xor",
}
# Functions of the Scalar Engine.
SCALAR = {
    "exp": "exp",
    "tanh": "tanh",
    "logistic": "sigmoid",
    "log": "log",
    "sqrt": "sqrt",
    "rsqrt": "rsqrt",
    "sin": "sin",
    "erf": "erf",
    "sign": "sign",
    "abs": "abs",
    "square": "square",
    "atan": "arctan",
}
# What does nothing to a value in float32.
SAME = {"convert_element_type", "stop_gradient", "copy", "reduce_precision"}
# Whose result is truth, in bytes: what an instruction selects by.
TRUTH = np.dtype(np.uint8)

_REMEDY = (
    "use + - * / ** comparisons & | ~ jnp.where jnp.minimum jnp.maximum jnp.abs jnp.exp jnp.log "
    "jnp.tanh jax.nn.sigmoid jnp.sqrt jnp.sin lax.erf"
)


@dataclasses.dataclass(frozen=True)
class Number:
    """A value that is the same for a whole tile and is written into the instruction."""

    value: float


@dataclasses.dataclass(frozen=True)
class Column:
    """A value that is the same along the columns of a tile: SBUF `[rows, 1]`."""

    tile: Sbuf


Value: TypeAlias = Number | Column | OnChip
"""One number for a tile, one for each of its rows, or one for each place."""


@dataclasses.dataclass(frozen=True)
class Waiting:
    """An operator with a number or a column that is yet to be issued.

    Attributes:
      src: what it is applied to, a tile or a column's.
      op: of the Vector Engine.
      by: the number or the column.
      reverse: whether `by` is on the left.
      engine: that issues it, if nothing that follows takes it along.
      plus: a number that is added to a product, on the way into a function of the Scalar Engine.
    """

    src: OnChip
    op: str
    by: Number | Column
    reverse: bool
    engine: str = "vector"
    plus: float = 0.0


Values: TypeAlias = dict[int, Value | Waiting]
"""What is known of a function's slots."""


@dataclasses.dataclass
class Lowering:
    """Carries out operations on tiles, one after the other.

    Attributes:
      function: whose operations.
      values: what is known of its slots; results are added.
      new: makes a tile in SBUF of a shape and dtype.
      engine: of arithmetic, `vector` or `gpsimd`, which cannot read PSUM and takes no operator
        along with that between two tiles.
      output: dtype in which the function's result is written.
    """

    function: Elementwise
    values: Values
    new: Callable[[tuple[int, ...], DType], Sbuf]
    engine: str = "vector"
    output: DType = jnp.float32
    _is_last: bool = dataclasses.field(default=False, init=False)
    _is_activated: bool = dataclasses.field(default=False, init=False)

    def value(self, operand: Operand) -> Value:
        """An operand with nothing waiting."""
        found = self._found(operand)
        if isinstance(found, Waiting):
            found = self._issued(found)
            if isinstance(operand, Slot):
                self.values[operand.index] = found
        return found

    def scaled(self, slot: Slot, tile: OnChip, factor: float) -> None:
        """Makes a slot `tile · factor`, with the operator that follows where there is one."""
        self.values[slot.index] = Waiting(tile, "multiply", Number(factor), False)

    def tile(self, operand: Operand, shape: tuple[int, ...]) -> OnChip:
        """An operand as a whole tile on chip."""
        found = self.value(operand)
        if isinstance(found, (Number, Column)):
            return self._spread(found, shape, jnp.float32)
        return found

    def result(self, shape: tuple[int, ...]) -> Sbuf:
        """The function's result as a whole tile in SBUF, in the dtype of `output`."""
        found = self._found(self.function.result)
        if isinstance(found, (Number, Column)):
            return self._spread(found, shape, self.output)
        if isinstance(found, Waiting):
            return self._issued(found, self.output)
        operand = self.function.result
        is_made = isinstance(operand, Slot) and operand.index in self.function.by_slot
        if is_made and found.dtype == self.output:
            return found
        return tensor_copy(self.new(shape, self.output), found)

    def carry_out(self, operation: Operation) -> None:
        """Issues an operation, or has it wait for the one that follows.

        Raises:
          CannotLower: no instruction computes it.
        """
        check_placeable(self.function, operation)
        slot = Slot(operation.result)
        alone = self.function.uses(slot) == 1
        # Only what nobody else reads is written as the result is.
        self._is_last = alone and slot == self.function.result
        # The Scalar Engine multiplies and adds on the way into its functions.
        self._is_activated = alone and slot.index in self._into_functions
        self.values[operation.result] = self._result(operation)
        if not alone:
            self.value(slot)

    @functools.cached_property
    def _into_functions(self) -> set[int]:
        """Slots that a function of the Scalar Engine reads."""
        read: set[int] = set()
        for operation in self.function.operations:
            if operation.name in SCALAR:
                read |= {x.index for x in operation.operands if isinstance(x, Slot)}
        return read

    # --- what an operation becomes ---

    def _result(self, operation: Operation) -> Value | Waiting:
        name = operation.name
        first, *rest = operation.operands
        if name in SAME:
            return self._found(first)
        if name == "neg":
            return self._combined(
                "multiply", self._found(first), Number(-1.0), operation.dtype
            )
        if name == "not":
            return self._combined(
                "equal", self._found(first), Number(0.0), operation.dtype
            )
        if name == "integer_pow":
            return self._power(first, operation.equation.params["y"])
        if name in SCALAR:
            return self._activated(SCALAR[name], first)
        if name == "select_n":
            otherwise, chosen = rest
            return self._selected(first, chosen, otherwise)
        if name == "clamp":
            value, most = rest
            raised = self._binary("max", value, first, operation.dtype)
            return self._combined("min", raised, self.value(most), operation.dtype)
        op = VECTOR[name]
        left, right = operation.operands
        return self._binary(op, left, right, operation.dtype)

    def _binary(
        self, op: str, left: Operand, right: Operand, dtype: DType
    ) -> Value | Waiting:
        return self._combined(op, self._found(left), self._found(right), dtype)

    def _combined(
        self,
        op: str,
        left: Value | Waiting,
        right: Value | Waiting,
        dtype: DType,
    ) -> Value | Waiting:
        """`left op right`."""
        if _is_wide(left) and _is_wide(right):
            return self._of_two_tiles(op, left, right, dtype)
        if not _is_wide(left) and not _is_wide(right):
            return self._of_columns(op, left, right, dtype)
        reverse = _is_wide(right)
        wide, narrow = (right, left) if reverse else (left, right)
        by = self._settled(narrow)
        assert isinstance(by, (Number, Column))
        if isinstance(wide, Waiting):
            gathered = _gathered(wide, op, by, reverse)
            if gathered is None and self._is_activated:
                gathered = _shifted(wide, op, by, reverse)
            if gathered is not None:
                return gathered
            return self._two_operators(wide, op, by, reverse, dtype)
        assert not isinstance(wide, (Number, Column))
        if dtype == np.bool_:
            waiting = Waiting(wide, op, by, reverse, self.engine)
            return self._issued(waiting, TRUTH)
        return Waiting(wide, op, by, reverse, self.engine)

    def _of_columns(
        self,
        op: str,
        left: Value | Waiting,
        right: Value | Waiting,
        dtype: DType,
    ) -> Value:
        """Of two values that are the same along columns, at least one of them a column."""
        left, right = self._settled(left), self._settled(right)
        if isinstance(left, Column) and isinstance(right, Column):
            dst = self.new(left.tile.shape, held(dtype))
            return Column(
                tensor_tensor(dst, left.tile, right.tile, op=op, engine=self.engine)
            )
        reverse = isinstance(right, Column)
        column, number = (right, left) if reverse else (left, right)
        assert isinstance(column, Column) and isinstance(number, Number)
        waiting = Waiting(column.tile, op, number, reverse, self.engine)
        issued = self._issued(waiting, held(dtype))
        return Column(issued)

    def _of_two_tiles(
        self,
        op: str,
        left: Value | Waiting,
        right: Value | Waiting,
        dtype: DType,
    ) -> OnChip:
        reverse = not isinstance(left, Waiting) and isinstance(right, Waiting)
        first, second = (right, left) if reverse else (left, right)
        other = self._settled(second)
        assert not isinstance(other, (Number, Column))
        dst = self.new(other.shape, self._held(dtype))
        if self.engine != "vector":
            first = self._settled(first)
        if not isinstance(first, Waiting):
            assert not isinstance(first, (Number, Column))
            left, right = (other, first) if reverse else (first, other)
            return tensor_tensor(dst, left, right, op=op, engine=self.engine)
        if isinstance(first.by, Column):
            return scalar_tensor_tensor(
                dst,
                first.src,
                first.by.tile,
                other,
                op0=first.op,
                op1=op,
                reverse0=first.reverse,
                reverse1=reverse,
            )
        return immediate_tensor_tensor(
            dst,
            first.src,
            other,
            op0=first.op,
            value=first.by.value,
            op1=op,
            reverse0=first.reverse,
            reverse1=reverse,
        )

    def _two_operators(
        self,
        first: Waiting,
        op: str,
        by: Number | Column,
        reverse: bool,
        dtype: DType,
    ) -> OnChip:
        """Two operators with numbers or columns, in one pass."""
        src = first.src
        dst = self.new(src.shape, self._held(dtype))
        if isinstance(by, Number):
            if isinstance(first.by, Number):
                return tensor_immediate(
                    dst,
                    src,
                    op=first.op,
                    value=first.by.value,
                    reverse=first.reverse,
                    op1=op,
                    value1=by.value,
                    reverse1=reverse,
                    engine=self.engine,
                )
            return tensor_scalar(
                dst,
                src,
                first.by.tile,
                op=first.op,
                reverse=first.reverse,
                op1=op,
                value1=by.value,
                reverse1=reverse,
                engine=self.engine,
            )
        if isinstance(first.by, Number):
            return tensor_immediate_scalar(
                dst,
                src,
                by.tile,
                op0=first.op,
                value=first.by.value,
                op1=op,
                reverse0=first.reverse,
                reverse1=reverse,
                engine=self.engine,
            )
        return tensor_scalars(
            dst,
            src,
            first.by.tile,
            by.tile,
            op0=first.op,
            op1=op,
            reverse0=first.reverse,
            reverse1=reverse,
            engine=self.engine,
        )

    def _activated(self, op: str, operand: Operand) -> Value:
        found = self._found(operand)
        scale, plus = 1.0, 0.0
        if isinstance(found, Waiting):
            multiplies = found.op == "multiply" and isinstance(found.by, Number)
            # The Scalar Engine multiplies on the way in, and adds.
            if multiplies:
                assert isinstance(found.by, Number)
                found, scale, plus = found.src, found.by.value, found.plus
            else:
                found = self._issued(found)
        assert not isinstance(found, Number)
        if isinstance(found, Column):
            dst = self.new(found.tile.shape, jnp.float32)
            return Column(activation(dst, found.tile, op=op, scale=scale))
        dst = self.new(found.shape, self._held(jnp.float32))
        if not plus:
            return activation(dst, found, op=op, scale=scale)
        # A column: NeuronCore-v2 takes no number.
        bias = memset(
            self.new((found.shape[0], 1), jnp.float32), value=plus, engine="gpsimd"
        )
        return activation_bias(dst, found, bias, op=op, scale=scale)

    def _power(self, operand: Operand, power: int) -> Value | Waiting:
        if power == 2:
            return self._activated("square", operand)
        return self._combined("power", self._found(operand), Number(power), np.float32)

    def _selected(
        self, predicate: Operand, chosen: Operand, otherwise: Operand
    ) -> OnChip:
        """`chosen` where the predicate holds."""
        where = self.value(predicate)
        # Truth that is the same along columns is spread: an instruction selects place by place.
        found = [self.value(chosen), self.value(otherwise)]
        shape = next(
            (x.shape for x in (where, *found) if not isinstance(x, (Number, Column))),
            None,
        )
        if shape is None:
            columns = [x for x in (where, *found) if isinstance(x, Column)]
            shape = columns[0].tile.shape
        if isinstance(where, (Number, Column)):
            where = self._spread(where, shape, TRUTH)
        yes, no = found
        result = self._copied(no, shape)
        if isinstance(yes, Number):
            return tensor_copy_predicated_value(result, where, value=yes.value)
        if isinstance(yes, Column):
            yes = self._spread(yes, shape, jnp.float32)
        return tensor_copy_predicated(result, yes, where)

    # --- operands ---

    def _held(self, dtype: DType) -> DType:
        """The dtype of a tile that an operation writes."""
        is_truth = jnp.dtype(dtype) == np.bool_
        return self.output if self._is_last and not is_truth else held(dtype)

    def _found(self, operand: Operand) -> Value | Waiting:
        if isinstance(operand, Slot):
            return self.values[operand.index]
        number = operand.number
        assert number is not None  # `check_placeable` has refused arrays
        return Number(float(number))

    def _settled(self, value: Value | Waiting) -> Value:
        return self._issued(value) if isinstance(value, Waiting) else value

    def _issued(self, waiting: Waiting, dtype: DType = jnp.float32) -> OnChip:
        if waiting.plus:
            product = dataclasses.replace(waiting, plus=0.0)
            return self._two_operators(
                product, "add", Number(waiting.plus), False, jnp.float32
            )
        dst = self.new(waiting.src.shape, dtype)
        if isinstance(waiting.by, Column):
            return tensor_scalar(
                dst,
                waiting.src,
                waiting.by.tile,
                op=waiting.op,
                reverse=waiting.reverse,
                engine=waiting.engine,
            )
        return tensor_immediate(
            dst,
            waiting.src,
            op=waiting.op,
            value=waiting.by.value,
            reverse=waiting.reverse,
            engine=waiting.engine,
        )

    def _copied(self, value: Value, shape: tuple[int, ...]) -> Sbuf:
        """A value in a tile of its own, to be written over in part."""
        if isinstance(value, (Number, Column)):
            return self._spread(value, shape, jnp.float32)
        return tensor_copy(self.new(shape, jnp.float32), value)

    def _spread(
        self, value: Number | Column, shape: tuple[int, ...], dtype: DType
    ) -> Sbuf:
        """One value for every place of a tile, or for every place of a row."""
        dst = self.new(shape, dtype)
        if isinstance(value, Number):
            return memset(dst, value=value.value)
        zeros = memset(self.new(shape, dtype), value=0.0)
        return tensor_scalar(dst, zeros, value.tile, op="add")


def _is_wide(value: Value | Waiting) -> bool:
    return not isinstance(value, (Number, Column))


def held(dtype: DType) -> DType:
    """The dtype of a tile that holds values of a dtype: truth in bytes, all else in float32."""
    return TRUTH if dtype == np.bool_ else jnp.dtype(jnp.float32)


def _gathered(
    waiting: Waiting, op: str, by: Number | Column, reverse: bool
) -> Waiting | None:
    """Two products with numbers as one; None where they are none."""
    if waiting.op != "multiply" or isinstance(waiting.by, Column):
        return None
    if isinstance(by, Column):
        return None
    if op == "multiply":
        return dataclasses.replace(waiting, by=Number(waiting.by.value * by.value))
    if op == "divide" and not reverse and by.value != 0 and math.isfinite(by.value):
        return dataclasses.replace(waiting, by=Number(waiting.by.value / by.value))
    return None


def _shifted(
    waiting: Waiting, op: str, by: Number | Column, reverse: bool
) -> Waiting | None:
    """A product and a sum with numbers as one, for a function; None where they are none."""
    product, number = waiting.by, by
    if waiting.op != "multiply" or waiting.plus:
        return None
    if isinstance(product, Column) or isinstance(number, Column):
        return None
    if op == "add":
        return dataclasses.replace(waiting, plus=number.value)
    if op != "subtract":
        return None
    if reverse:
        negative = Number(-product.value)
        return dataclasses.replace(waiting, by=negative, plus=number.value)
    return dataclasses.replace(waiting, plus=-number.value)


def goes_into_function(
    function: Elementwise, operation: Operation, scaled: Slot
) -> bool:
    """Whether the Scalar Engine does an operation on the way into one of its functions.

    Such are a product with a number, and a sum of a product and a number, in `tanh(s * 2 + 1)`.

    Args:
      function: whose.
      operation: of it.
      scaled: a slot that is a product already; see `Lowering.scaled`.
    """
    slot = Slot(operation.result)
    readers = [x for x in function.operations if slot in x.operands]
    slots = [x for x in operation.operands if isinstance(x, Slot)]
    others = [x for x in operation.operands if isinstance(x, Constant)]
    numbers = [x for x in others if x.number is not None]
    if len(slots) != 1 or len(numbers) != 1 or function.uses(slot) != 1 or not readers:
        return False
    (reader,) = readers
    (operand,) = slots
    made = function.by_slot.get(operand.index)
    of_product = operand == scaled or (made is not None and made.name == "mul")
    # A quotient of a product by a number is one product.
    is_product = operation.name == "mul"
    if operation.name == "div" and operation.operands[1] is numbers[0]:
        is_product = of_product and function.uses(operand) == 1
    if is_product:
        follows = reader.name in ("add", "sub")
        further = follows and goes_into_function(function, reader, scaled)
        return reader.name in SCALAR or further
    is_sum = operation.name in ("add", "sub") and reader.name in SCALAR
    return is_sum and of_product and function.uses(operand) == 1


def is_placeable(function: Elementwise, operation: Operation) -> bool:
    """Whether an operation can be carried out on tiles."""
    try:
        check_placeable(function, operation)
    except CannotLower:
        return False
    return True


def check_placeable(function: Elementwise, operation: Operation) -> None:
    """Raises `CannotLower`, with the line, for what no instruction computes on tiles."""
    name = operation.name
    known = name in VECTOR or name in SCALAR or name in SAME
    known = known or name in ("neg", "not", "select_n", "clamp", "integer_pow")
    if not known:
        raise CannotLower(
            f"{function.name}: no instruction of a NeuronCore computes {name}; {_REMEDY}",
            operation.line,
        )
    arrays = [
        x for x in operation.operands if isinstance(x, Constant) and x.number is None
    ]
    if operation.shape or arrays:
        raise CannotLower(
            f"{function.name}: {name} of an array, not of one value; look up what depends on "
            "positions alone, apart from what is done to the score",
            operation.line,
        )
    if name == "select_n" and len(operation.operands) != 3:
        raise CannotLower(
            f"{function.name}: select of {len(operation.operands) - 1} cases; use jnp.where",
            operation.line,
        )
    if name == "convert_element_type":
        _check_conversion(function, operation)
    whole = np.issubdtype(operation.dtype, np.integer)
    if whole and name in ("div", "and", "or", "xor", "not", "pow"):
        raise CannotLower(
            f"{function.name}: {name} of integers, which the Vector Engine computes in float32; "
            "compute it from positions alone, or in floats",
            operation.line,
        )


def _check_conversion(function: Elementwise, operation: Operation) -> None:
    (operand,) = operation.operands
    source = function.dtype_of(operand)
    to_whole = np.issubdtype(operation.dtype, np.integer)
    if to_whole and np.issubdtype(source, np.floating):
        raise CannotLower(
            f"{function.name}: {source} to {operation.dtype}, which drops a fraction: no "
            "instruction rounds towards zero; keep it in float32",
            operation.line,
        )


__all__ = [
    "Column",
    "Lowering",
    "Number",
    "Value",
    "Values",
    "Waiting",
    "check_placeable",
    "goes_into_function",
    "held",
    "is_placeable",
]
