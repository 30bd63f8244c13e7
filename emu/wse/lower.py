"""A scalar function on a tile `[rows, slots]` of a PE: what is kept, what arrives, what is run.

`s - slope[h] * (q - k)` with a row of the tile for each head and a slot for each cached token: `s`
is the tile; `slope[h]` and `k` depend on no token to come, so they lie in SRAM ready made, a number
a row and a number a slot; `q` is one number, which arrives with the token. Left are a subtraction
of `[1, slots]`, a product of `[rows, slots]` and a subtraction, each a vector operation.

Where an operation is carried out:

- Known before any token: kept as a *table* `[1 or rows, 1 or slots]`. It costs bytes and no cycles.
- Of the token alone: a *number* for each row or one for all, worked out where the token comes from,
  as the angles of a rotary embedding are. Like the query itself it is there when the clock starts.
- Everything else is run for every token: vector operations where a PE has them, else scalar code,
  all in one loop; what is cheaper by the clock where it can be either (`_Placement`).

Whole numbers less than 2**24 are held as float32, which is exact and has vector operations.
"""

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn, TypeAlias

import jax.numpy as jnp
import numpy as np

from emu.annotations import KnownInt
from emu.datasheet import Device
from emu.lower import CannotLower, Constant, Elementwise, Operand, Operation, Slot
from emu.wse.pe import elementwise
from emu.wse.pe.elementwise import MASK, VECTOR_CYCLES
from emu.wse.pe.isa import sram_tile
from emu.wse.spaces import Sram

FLOAT = np.dtype("float32")
EXACT = 2**24
"""Whole numbers up to here are float32."""

KEPT, ARRIVING, DATA = range(3)
"""When an argument is known: before any token, with the token, as the tile is there."""

Bounds: TypeAlias = tuple[int, int]
"""Least and greatest value of a whole number."""

Shape: TypeAlias = tuple[bool, bool]
"""Whether a value differs between rows, and between slots."""

Tiles: TypeAlias = dict[str, Sram]
"""By name, of one PE: `[1 or rows, 1 or slots]`, or `[n]` for a look-up."""


@dataclasses.dataclass(frozen=True)
class Argument:
    """How an argument of the function lies on a PE.

    Attributes:
      when: `KEPT`, `ARRIVING` or `DATA`.
      rows, slots: whether it differs between the rows, and the slots, of a tile.
      bounds: least and greatest value, of an integer.
      aligned: whether the rows of a tile begin at a whole multiple of their number, as four query
        heads of one key/value head do: `h // 4` is then one number for all of them.
    """

    when: int
    rows: bool = False
    slots: bool = False
    bounds: Bounds | None = None
    aligned: bool = False


# --- the function as nodes ---


@dataclasses.dataclass(frozen=True, eq=False)
class Leaf:
    """A value that is not worked out for the tile: kept, or arriving with the token.

    Attributes:
      key: its name among tables or numbers.
      operand: of the function.
      when: `KEPT` or `ARRIVING`.
      shape: along what it differs.
      held: dtype in SRAM.
      inverted: whether its reciprocal is held.
      flat: whether it is a whole array to look up in, `[n]`.
    """

    key: str
    operand: Operand
    when: int
    shape: Shape
    held: np.dtype
    inverted: bool = False
    flat: bool = False

    def values(self, function: Elementwise, along: Mapping[str, Any]) -> np.ndarray:
        """What is held, for every value of the arguments in `along`, an axis each."""
        if isinstance(self.operand, Constant) and self.flat:
            found = np.asarray(self.operand.value).reshape(-1)
        else:
            found = np.asarray(function.over(self.operand, along))
            found = found.reshape([len(values) for values in along.values()])
        if self.held == MASK:
            return -found.astype(bool).astype(MASK)
        held = found.astype(self.held)
        with np.errstate(divide="ignore"):
            return np.reciprocal(held) if self.inverted else held


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
    """A tile that the function is of."""

    name: str
    shape: Shape
    held: np.dtype = FLOAT


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
    """An operation that is run.

    Attributes:
      op: a key of `elementwise.SCALAR_CYCLES`, and perhaps of `VECTOR_CYCLES`.
      operands: what it reads.
      shape: along what the result differs.
      held: dtype of the result in SRAM.
      arithmetic: dtype in which scalar code does it.
    """

    op: str
    operands: tuple["Value", ...]
    shape: Shape
    held: np.dtype
    arithmetic: np.dtype

    @property
    def is_vector(self) -> bool:
        """Whether a PE has vector operations for it."""
        held = [x.held for x in (self, *self.operands)]
        if self.op not in VECTOR_CYCLES or any(x not in (FLOAT, MASK) for x in held):
            return False
        of_masks = self.op in ("and", "or", "xor", "not")
        if of_masks:
            return all(x == MASK for x in held)
        if self.op == "select":
            return held[0] == FLOAT
        return all(x.held == FLOAT for x in self.operands)


Value: TypeAlias = Leaf | Data | Node


@dataclasses.dataclass(frozen=True)
class _Several:
    """Indices that a look-up takes together."""

    values: tuple[Value, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class _Array:
    """An array that the function holds, which only look-ups may take."""

    constant: Constant


_SAME_NAME = (
    *("add", "sub", "mul", "max", "min", "neg", "abs", "sign", "floor", "ceil", "div"),
    *("rem", "exp", "exp2", "expm1", "log", "log1p", "tanh", "logistic", "sqrt"),
    *("rsqrt", "sin", "cos", "erf", "pow", "lt", "le", "gt", "ge", "eq", "ne"),
    *("and", "or", "xor", "not", "is_finite"),
    *("shift_left", "shift_right_logical", "shift_right_arithmetic"),
)
_COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")
_ALIASES = (
    *("stop_gradient", "copy", "squeeze", "reshape", "broadcast_in_dim"),
    "reduce_precision",
)
_REMEDY = (
    "a PE has + - * / // % comparisons & | ~ jnp.where, jnp.minimum, jnp.maximum, jnp.abs, "
    "exp, log, tanh, sqrt and other functions of one number, and look-ups in tables"
)


class _Builder:
    """Makes nodes of a function's operations."""

    def __init__(
        self,
        function: Elementwise,
        arguments: Mapping[str, Argument],
        prefix: str,
        rows: int,
    ):
        self._function = function
        self._arguments = [arguments[x.name] for x in function.inputs]
        self._prefix = prefix
        self._rows = rows
        self._differs: dict[int, bool] = {}
        self._known: dict[int, Any] = {}
        self._bounds: dict[int, Bounds | None] = {}
        self.leaves: dict[str, Leaf] = {}

    # What a value depends on, and how large it is

    def _when(self, operand: Operand) -> int:
        return max((x.when for x in self._depends(operand)), default=KEPT)

    def _depends(self, operand: Operand) -> list[Argument]:
        found = []
        for x, argument in zip(self._function.inputs, self._arguments, strict=True):
            if self._function.depends_on(operand, x.name):
                found.append(argument)
        return found

    def _shape(self, operand: Operand) -> Shape:
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

    def bounds(self, operand: Operand) -> Bounds | None:
        """Least and greatest value of an integer, as far as they are told."""
        if isinstance(operand, Constant):
            value = np.asarray(operand.value)
            if value.dtype.kind not in "iub" or not value.size:
                return None
            return int(value.min()), int(value.max())
        return self._bounds_of_slot(operand.index)

    def _bounds_of_slot(self, index: int) -> Bounds | None:
        if index not in self._bounds:
            self._bounds[index] = self._worked_out_bounds(index)
        return self._bounds[index]

    def _worked_out_bounds(self, index: int) -> Bounds | None:
        if index < len(self._arguments):
            return self._arguments[index].bounds
        operation = self._function.by_slot[index]
        if operation.dtype.kind not in "iub":
            return None
        name = operation.name
        if name in ("dynamic_slice", "gather"):
            return self.bounds(operation.operands[0])
        if operation.dtype.kind == "b":
            return self._truths(operation)
        of = [self.bounds(x) for x in operation.operands]
        if name == "select_n":
            which, *of = of
            if which is not None and which[0] == which[1]:
                # Such as the correction by 1 of a `//` that rounds a positive number.
                of = [of[which[0]]]
        known = [x for x in of if x is not None]
        if len(known) != len(of):
            return None
        found = _bounds(name, known)
        if found is None:
            return None
        # What may leave the dtype wraps around, and may be anything.
        info = np.iinfo(operation.dtype)
        return found if info.min <= found[0] and found[1] <= info.max else None

    def _truths(self, operation: Operation) -> Bounds:
        """What a Boolean may be, False as 0 and True as 1."""
        name = operation.name
        of = [self.bounds(x) for x in operation.operands]
        answer: bool | None = None
        if name in _COMPARISONS:
            answer = _decided(name, of)
        elif name == "and" and self._is_rounded_already(operation):
            answer = False
        elif name in ("and", "or"):
            # One that is False decides an `and`, one that is True an `or`.
            decides = int(name == "or")
            if any(x == (decides, decides) for x in of):
                answer = bool(decides)
            elif all(x == (1 - decides, 1 - decides) for x in of):
                answer = not decides
        elif name == "not" and of[0] is not None and of[0][0] == of[0][1]:
            answer = not of[0][0]
        return (0, 1) if answer is None else (int(answer), int(answer))

    def _held(self, operand: Operand) -> np.dtype:
        """How SRAM holds a value."""
        dtype = self._function.dtype_of(operand)
        if dtype.kind == "b":
            return MASK
        if dtype.kind == "f":
            if dtype != FLOAT:
                self._refuse(operand, f"computes in {dtype}, scores are float32")
            return FLOAT
        if dtype.kind not in "iu" or dtype.itemsize > 4:
            self._refuse(operand, f"computes in {dtype}; use float32, int32 and bool")
        bounds = self.bounds(operand)
        if bounds is not None and -EXACT <= bounds[0] and bounds[1] <= EXACT:
            return FLOAT
        return dtype

    def _refuse(self, operand: Operand, what: str) -> NoReturn:
        line = "unknown line"
        if isinstance(operand, Slot) and operand.index in self._function.by_slot:
            line = self._function.by_slot[operand.index].line
        raise CannotLower(f"{self._function.name}: {what}", line)

    # Nodes

    def value(self, operand: Operand) -> Any:
        """The node of an operand, made once."""
        if isinstance(operand, Constant):
            if np.size(operand.value) != 1:
                return _Array(operand)
            return self._leaf(operand)
        if operand.index not in self._known:
            self._known[operand.index] = self._made(operand)
        return self._known[operand.index]

    def _made(self, operand: Slot) -> Any:
        index = operand.index
        when = self._when(operand)
        if index < len(self._arguments) and when == DATA:
            return Data(self._function.inputs[index].name, self._shape(operand))
        _, slots = self._shape(operand)
        is_leaf = when == KEPT or (when == ARRIVING and not slots)
        operation = self._function.by_slot.get(index)
        if operation is None:
            if not is_leaf:
                what = f"argument {self._function.inputs[index].name} arrives for each slot"
                raise CannotLower(f"{self._function.name}: {what}")
            return self._leaf(operand)
        if is_leaf and np.prod(operation.shape) == 1:
            return self._leaf(operand)
        return self._run(operation, operand)

    def _leaf(self, operand: Operand, inverted: bool = False) -> Leaf:
        if isinstance(operand, Constant):
            number = np.asarray(operand.value).reshape(())
            key = f"constant {number.item()!r} {number.dtype}"
        elif operand.index < len(self._arguments):
            key = self._function.inputs[operand.index].name
        else:
            key = f"{self._prefix}{operand.index}"
        if inverted:
            key = f"1 / {key}"
        if key not in self.leaves:
            self.leaves[key] = Leaf(
                key,
                operand,
                self._when(operand),
                self._shape(operand),
                self._held(operand),
                inverted,
            )
        return self.leaves[key]

    def _number(self, value: float | bool, like: np.dtype) -> Leaf:
        return self._leaf(Constant(np.asarray(value, like)))

    def _node(
        self,
        op: str,
        *operands: Value,
        held: np.dtype = FLOAT,
        arithmetic: Any = FLOAT,
    ) -> Node:
        rows = any(x.shape[0] for x in operands)
        slots = any(x.shape[1] for x in operands)
        return Node(op, operands, (rows, slots), held, np.dtype(arithmetic))

    def _run(self, operation: Operation, operand: Slot) -> Any:
        name = operation.name
        if name in ("dynamic_slice", "gather"):
            return self._looked_up(operation, operand)
        values = [self.value(x) for x in operation.operands]
        if name == "concatenate" and all(not isinstance(x, _Array) for x in values):
            return _Several(tuple(values))
        if name in _ALIASES and len(values) == 1:
            if name == "reduce_precision" and operation.equation.params != {
                "exponent_bits": 8,
                "mantissa_bits": 23,
            }:
                self._refuse(operand, f"no instruction for {name}; {_REMEDY}")
            return values[0]
        is_scalar = np.prod(operation.shape) == 1
        if not is_scalar or any(isinstance(x, _Array | _Several) for x in values):
            self._refuse(
                operand,
                f"{name} makes {operation.shape} of many values for each score; use elementwise "
                "arithmetic, or look one value up in a table",
            )
        held = self._held(operand)
        rule = getattr(self, f"_{name}", None)
        if rule is not None:
            return rule(operation, held, *values)
        if name == "add_any":
            name = "add"
        if name not in _SAME_NAME:
            self._refuse(operand, f"no instruction for {name}; {_REMEDY}")
        arithmetic = self._function.dtype_of(operation.operands[0])
        if arithmetic.kind == "f" and arithmetic != FLOAT:
            self._refuse(operand, f"computes in {arithmetic}, scores are float32")
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
            least, greatest = self._truths(operation)
            if least == greatest:
                return self._number(bool(least), np.dtype(bool))
        if name in _COMPARISONS:
            if arithmetic.kind == "b" and name in ("eq", "ne"):
                return self._of_masks(name == "eq", *values)
        if name in ("and", "or") and arithmetic.kind == "b":
            for value, other in (values, values[::-1]):
                known = _truth(value)
                if known is not None:
                    return other if known == (name == "and") else value
        return self._node(name, *values, held=held, arithmetic=arithmetic)

    def _of_masks(self, equal: bool, a: Value, b: Value) -> Value:
        """Whether two masks are equal, or differ."""
        logic = functools.partial(self._node, held=MASK, arithmetic=bool)
        for value, other in ((a, b), (b, a)):
            known = _truth(value)
            if known is not None:
                return other if known == equal else logic("not", other)
        differ = logic("xor", a, b)
        return logic("not", differ) if equal else differ

    def _is_rounded_already(self, operation: Operation) -> bool:
        """Whether it is what JAX's `//` asks to round down: of what is not negative, never true.

        That is `(sign(x) != 1) & (rem(x, n) != 0)`, and the rest of 0 is 0.
        """
        asked = [self._differs_from(x) for x in operation.operands]
        found = {each[0].name: each for each in asked if each is not None}
        if set(found) != {"sign", "rem"}:
            return False
        sign, one = found["sign"]
        rest, zero = found["rem"]
        bounds = self.bounds(sign.operands[0])
        same = sign.operands[0] == rest.operands[0]
        not_negative = bounds is not None and bounds[0] >= 0
        return same and not_negative and (one, zero) == (1, 0)

    def _differs_from(self, operand: Operand) -> tuple[Operation, float] | None:
        """`(operation, number)` where an operand is `operation != number`."""
        by_slot = self._function.by_slot
        if not isinstance(operand, Slot) or operand.index not in by_slot:
            return None
        compare = by_slot[operand.index]
        if compare.name != "ne":
            return None
        of, number = compare.operands
        if not isinstance(of, Slot) or of.index not in by_slot:
            return None
        if not isinstance(number, Constant) or number.number is None:
            return None
        return by_slot[of.index], number.number

    # Operations that a PE does as others

    def _div(self, operation: Operation, held: np.dtype, a: Value, b: Value) -> Value:
        dividend, divisor = operation.operands
        if operation.dtype.kind != "f":
            return self._by_a_power(operation, held, "shift_right_arithmetic", a, b)
        if isinstance(b, Leaf) and not b.shape[1]:
            # One rounding more than a division, which takes a PE fifty times as long.
            return self._node("mul", a, self._leaf(divisor, inverted=True), held=held)
        if a.shape[1] and not b.shape[1]:
            # For the same reason: a division a row, not one a slot.
            inverse = self._node("div", self._number(1.0, FLOAT), b, held=held)
            return self._node("mul", a, inverse, held=held)
        return self._node("div", a, b, held=held)

    def _rem(self, operation: Operation, held: np.dtype, a: Value, b: Value) -> Value:
        if operation.dtype.kind == "f":
            return self._node("rem", a, b, held=held)
        return self._by_a_power(operation, held, "and", a, b)

    def _by_a_power(
        self, operation: Operation, held: np.dtype, op: str, a: Value, b: Value
    ) -> Value:
        """Division of a number that is not negative by 2**n is a shift, what remains are bits."""
        dividend = self.bounds(operation.operands[0])
        divisor = operation.operands[1]
        number = divisor.number if isinstance(divisor, Constant) else None
        dtype = operation.dtype
        is_power = number is not None and number > 0 and int(number).bit_count() == 1
        if not (is_power and dividend is not None and dividend[0] >= 0):
            return self._node(operation.name, a, b, held=held, arithmetic=dtype)
        assert number is not None
        by = int(number) - 1 if op == "and" else int(number).bit_length() - 1
        by_number = self._number(by, dtype)
        return self._node(op, a, by_number, held=held, arithmetic=dtype)

    def _convert_element_type(
        self, operation: Operation, held: np.dtype, x: Value
    ) -> Value:
        source = self._function.dtype_of(operation.operands[0])
        target = operation.dtype
        if target.kind == "b" and source.kind != "b":
            zero = self._number(0, source)
            return self._node("ne", x, zero, held=MASK, arithmetic=source)
        if source.kind == "b":
            if target.kind == "b":
                return x
            one, zero = self._number(1.0, FLOAT), self._number(0.0, FLOAT)
            return self._node("select", x, one, zero)
        is_same = x.held == held and (source.kind != "f" or target.kind == "f")
        if is_same:
            return x
        return self._node("convert", x, held=held, arithmetic=target)

    def _integer_pow(self, operation: Operation, held: np.dtype, x: Value) -> Value:
        return self._power(operation, held, x, operation.equation.params["y"])

    def _square(self, operation: Operation, held: np.dtype, x: Value) -> Value:
        return self._power(operation, held, x, 2)

    def _power(
        self, operation: Operation, held: np.dtype, x: Value, exponent: int
    ) -> Value:
        """By repeated squaring: the 13th power is that of 1, 4 and 8."""
        dtype = operation.dtype
        product: Value | None = None
        rest = abs(exponent)
        while rest:
            if rest & 1:
                product = (
                    x
                    if product is None
                    else self._node("mul", product, x, held=held, arithmetic=dtype)
                )
            rest >>= 1
            if rest:
                x = self._node("mul", x, x, held=held, arithmetic=dtype)
        one = self._number(1, dtype)
        if product is None:
            return one
        if exponent < 0:
            return self._node("div", one, product, held=held, arithmetic=dtype)
        return product

    def _clamp(
        self, operation: Operation, held: np.dtype, low: Value, x: Value, high: Value
    ) -> Value:
        dtype = operation.dtype
        above = self._node("max", x, low, held=held, arithmetic=dtype)
        return self._node("min", above, high, held=held, arithmetic=dtype)

    def _round(self, operation: Operation, held: np.dtype, x: Value) -> Value:
        if "EVEN" not in str(operation.equation.params["rounding_method"]):
            raise CannotLower(
                f"{self._function.name}: rounds halves away from zero, a PE to the nearest even "
                "number; use jnp.round",
                operation.line,
            )
        return self._node("round", x, held=held)

    def _select_n(
        self, operation: Operation, held: np.dtype, which: Value, *cases: Value
    ) -> Value:
        if len(cases) != 2 or which.held != MASK:
            raise CannotLower(
                f"{self._function.name}: chooses among {len(cases)} values by a number; use "
                "jnp.where",
                operation.line,
            )
        on_false, on_true = cases
        known = _truth(which)
        if known is not None:
            return on_true if known else on_false
        if held == MASK:
            # The bits of masks: y ^ ((x ^ y) & which).
            logic = functools.partial(self._node, held=MASK, arithmetic=bool)
            differ = logic("xor", on_true, on_false)
            return logic("xor", on_false, logic("and", differ, which))
        arithmetic = operation.dtype
        if held == FLOAT:
            arithmetic = FLOAT
        return self._node(
            "select", which, on_true, on_false, held=held, arithmetic=arithmetic
        )

    # Look-ups

    def _looked_up(self, operation: Operation, operand: Slot) -> Value:
        table, *rest = operation.operands
        array = self.value(table)
        sizes = operation.equation.params["slice_sizes"]
        if not isinstance(array, _Array | Leaf) or set(sizes) != {1}:
            self._refuse(
                operand,
                f"{operation.name} takes more than one entry of a constant table; look one value "
                "up for each score",
            )
        constant = table if isinstance(table, Constant) else None
        if constant is None:
            self._refuse(operand, "looks up in what is no constant table")
        shape = np.shape(constant.value)
        indices, bounds = self._indices(operation, rest)
        if operation.name == "gather":
            self._check_gather(operation, operand, indices, bounds, shape)
        kept = np.asarray(constant.value)
        held = self._held(operand)
        key = f"{self._prefix}table {operand.index}"
        flat = Leaf(key, constant, KEPT, (False, False), held, flat=True)
        self.leaves[key] = flat
        place: Value | None = None
        for index, size in zip(indices, kept.shape, strict=True):
            if place is None:
                place = index
                continue
            extent = self._number(size, np.dtype("int32"))
            scaled = self._whole("mul", kept.size, place, extent)
            place = self._whole("add", kept.size, scaled, index)
        assert place is not None
        node = self._node("lookup", flat, place, held=held, arithmetic="int32")
        return node

    def _whole(self, op: str, most: int, *operands: Value) -> Node:
        """Arithmetic on places in a table of `most` entries."""
        held = FLOAT if most <= EXACT else np.dtype("int32")
        return self._node(op, *operands, held=held, arithmetic="int32")

    def _indices(
        self, operation: Operation, rest: Sequence[Operand]
    ) -> tuple[tuple[Value, ...], list[Bounds | None]]:
        values = [self.value(x) for x in rest]
        bounds = [self.bounds(x) for x in rest]
        if len(values) == 1 and isinstance(values[0], _Several):
            several = values[0].values
            return several, [None] * len(several)
        return tuple(values), bounds

    def _check_gather(
        self,
        operation: Operation,
        operand: Slot,
        indices: tuple[Value, ...],
        bounds: list[Bounds | None],
        shape: tuple[int, ...],
    ) -> None:
        """Refuses what is more than one entry, by indices in the order of the axes."""
        params = operation.equation.params
        numbers = params["dimension_numbers"]
        rank = len(shape)
        every_axis = tuple(range(rank))
        in_order = (
            numbers.collapsed_slice_dims == every_axis
            and numbers.start_index_map == every_axis
        )
        if not in_order or len(indices) != rank:
            self._refuse(
                operand,
                "gather takes more than one entry; look one value up for each score",
            )
        inside = all(
            x is not None and 0 <= x[0] and x[1] < size
            for x, size in zip(bounds, shape, strict=True)
        )
        if "FILL" in str(params["mode"]) and not inside:
            self._refuse(
                operand,
                "looks up with a fill value for what lies outside the table; use `table[index]`, "
                "which takes the nearest entry",
            )


def _truth(value: Value) -> bool | None:
    """What a mask is that is the same everywhere and always."""
    if not isinstance(value, Leaf) or not isinstance(value.operand, Constant):
        return None
    return bool(value.operand.number) if value.held == MASK else None


def _decided(op: str, bounds: Sequence[Bounds | None]) -> bool | None:
    """The answer of a comparison that is the same for all numbers within bounds."""
    a, b = bounds
    if a is None or b is None:
        return None
    less, not_less = a[1] < b[0], a[0] >= b[1]
    greater, not_greater = a[0] > b[1], a[1] <= b[0]
    always: Mapping[str, tuple[bool, bool]] = {
        "lt": (less, not_less),
        "ge": (not_less, less),
        "gt": (greater, not_greater),
        "le": (not_greater, greater),
        "eq": (a == b and a[0] == a[1], less or greater),
        "ne": (less or greater, a == b and a[0] == a[1]),
    }
    true, false = always[op]
    return True if true else False if false else None


def _bounds(name: str, of: Sequence[Bounds]) -> Bounds | None:
    """Bounds of what an operation makes of whole numbers within bounds."""
    if name in _ALIASES or name in ("convert_element_type", "concatenate", "select_n"):
        return min(x[0] for x in of), max(x[1] for x in of)
    if name == "neg":
        ((low, high),) = of
        return -high, -low
    if name == "abs":
        ((low, high),) = of
        least = 0 if low <= 0 <= high else min(abs(low), abs(high))
        return least, max(abs(low), abs(high))
    if name == "sign":
        ((low, high),) = of
        return int(np.sign(low)), int(np.sign(high))
    if name == "clamp":
        below, x, above = of
        return min(max(below[0], x[0]), above[0]), min(max(below[1], x[1]), above[1])
    if len(of) != 2:
        return None
    (a, b), (c, d) = of
    if name in ("add", "add_any"):
        return a + c, b + d
    if name == "sub":
        return a - d, b - c
    if name == "mul":
        corners = (a * c, a * d, b * c, b * d)
        return min(corners), max(corners)
    if name == "max":
        return max(a, c), max(b, d)
    if name == "min":
        return min(a, c), min(b, d)
    if name == "div" and c >= 1:
        corners = [int(x / y) for x in (a, b) for y in (c, d)]
        return min(corners), max(corners)
    if name == "rem" and c >= 1:
        return (0 if a >= 0 else 1 - d), (0 if b <= 0 else d - 1)
    return None


# --- where each operation is carried out ---


@dataclasses.dataclass(frozen=True)
class Step:
    """One instruction of the lowered function.

    Attributes:
      node: what it does.
      vector: whether as vector operations; else scalar code.
      opens: whether a loop begins with it.
      into: a value that nobody reads any more, in whose tile the result goes; None: a new tile.
    """

    node: Node
    vector: bool
    opens: bool = False
    into: Value | None = None


class _Placement:
    """Vector operations or scalar code, for the operations of one shape.

    Scalar code runs in one loop as long as no vector operation stands between; so three ways are
    compared: each operation as a vector operation if it can be one; those between scalar code in
    its loop too; everything in one loop.
    """

    def __init__(self, nodes: Sequence[Node], elements: int, device: Device):
        self._nodes = nodes
        self._elements = elements
        self._device = device

    def best(self) -> tuple[set[Node], float]:
        """The operations that are scalar code, and the cycles of all."""
        must = {node for node in self._nodes if not node.is_vector}
        ways = [must, set(self._nodes)]
        # In a loop an element takes less than a vector operation only where there are few, and all
        # of them are best in the loop then.
        if self._elements * self._device.scalar_cycles >= self._device.single_cycles:
            ways.append(must | self._between(must))
        costs = [self.cycles(way) for way in ways]
        cheapest = min(range(len(ways)), key=costs.__getitem__)
        return ways[cheapest], costs[cheapest]

    def _between(self, scalar: set[Node]) -> set[Node]:
        """Vector operations that need scalar code and that scalar code needs."""
        after: set[Node] = set()
        for node in self._nodes:
            if any(x in scalar or x in after for x in node.operands):
                after.add(node)
        before: set[Node] = set()
        for node in reversed(self._nodes):
            if node in scalar or node in before:
                before.update(x for x in node.operands if isinstance(x, Node))
        return {node for node in self._nodes if node in after and node in before}

    def cycles(self, scalar: set[Node]) -> float:
        total = 0.0
        for node in self._nodes:
            if node in scalar:
                held = [x.held for x in (node, *node.operands)]
                if node.op == "lookup":
                    held = [node.operands[1].held]
                each = elementwise.scalar_cycles(
                    self._device, node.op, node.arithmetic, *held
                )
                total += each * self._elements
            else:
                total += float(VECTOR_CYCLES[node.op](self._device, self._elements))
        loops = max(self.loops(scalar).values(), default=0) if scalar else 0
        return total + loops * self._elements * self._device.loop_cycles

    def loops(self, scalar: set[Node]) -> dict[Node, int]:
        """The loop in which each operation runs, or behind which; before all of them it is 0."""
        number: dict[Node, int] = {}
        for node in self._nodes:
            found = 1 if node in scalar else 0
            for operand in node.operands:
                if not isinstance(operand, Node) or operand not in number:
                    continue
                # What waits for a vector operation behind a loop is in the next one.
                waits = node in scalar and operand not in scalar
                found = max(found, number[operand] + waits)
            number[node] = found
        return number


def _ordered(result: Value) -> list[Node]:
    """All nodes that a value needs, operands first."""
    found: dict[Node, None] = {}

    def visit(value: Value) -> None:
        if not isinstance(value, Node) or value in found:
            return
        for operand in value.operands:
            visit(operand)
        found[value] = None

    visit(result)
    return list(found)


@dataclasses.dataclass(frozen=True, eq=False)
class Lowered:
    """A function as it is carried out on a PE.

    Attributes:
      function: that was lowered.
      leaves: what is kept and what arrives, by key.
      steps: instructions, in order.
      result: the function's value.
      cycles: of all steps on full tiles, as estimated when they were placed.
    """

    function: Elementwise
    leaves: Mapping[str, Leaf]
    steps: tuple[Step, ...]
    result: Value
    cycles: float

    @property
    def is_identity(self) -> bool:
        """Whether the function gives the tile itself."""
        return isinstance(self.result, Data)

    @property
    def has_scalar_code(self) -> bool:
        return any(not step.vector for step in self.steps)

    @property
    def data(self) -> frozenset[str]:
        """Names of the `DATA` arguments that are read."""
        values = [self.result, *(x for step in self.steps for x in step.node.operands)]
        return frozenset(x.name for x in values if isinstance(x, Data))

    def run(
        self,
        data: Tiles,
        leaves: Tiles,
        live: KnownInt,
        overwrite: bool = True,
    ) -> Sram:
        """The function's value for the first `live` slots of every row.

        Args:
          data: its `DATA` arguments by name, float32 `[rows or 1, slots or 1]`.
          leaves: the tiles of all leaves, by key.
          live: known number of slots in use.
          overwrite: whether results may go into the tiles of `data`.

        Returns:
          `[rows or 1, slots or 1]`: float32 or an int16 mask, or a tile of `data` itself.
        """
        held: dict[Value, Sram] = {}

        def value_of(value: Value) -> Sram:
            if isinstance(value, Leaf):
                return leaves[value.key]
            if isinstance(value, Data):
                return data[value.name]
            return held[value]

        for step in self.steps:
            node = step.node
            operands = [value_of(x) for x in node.operands]
            kept = isinstance(step.into, Data) and not overwrite
            if step.into is not None and not kept:
                dst = value_of(step.into)
            else:
                sizes = [x.shape for x in operands if x.ndim == 2]
                shape = (max(x[0] for x in sizes), max(x[1] for x in sizes))
                dst = sram_tile(shape=shape, dtype=node.held.name)
            count = live if node.shape[1] else jnp.int32(1)
            held[node] = _issued(step, dst, operands, count)
        return value_of(self.result)


def _issued(step: Step, dst: Sram, operands: Sequence[Sram], live: KnownInt) -> Sram:
    """The instruction of a step."""
    node = step.node
    # Which takes how many operands only the step knows.
    call: Any
    of_one = len(operands) == 1
    if step.vector:
        if node.op == "select":
            call = elementwise.select_live
            return call(dst, *operands, live)
        call = elementwise.vector_of_one_live if of_one else elementwise.vector_live
        return call(dst, *operands, live, op=node.op)
    settings: dict[str, Any] = {"opens": step.opens}
    if node.op == "lookup":
        call = elementwise.lookup_live
        return call(dst, *operands, live, **settings)
    settings["arithmetic"] = node.arithmetic.name
    if node.op == "select":
        call = elementwise.scalar_select_live
        return call(dst, *operands, live, **settings)
    settings["op"] = node.op
    call = elementwise.scalar_of_one_live if of_one else elementwise.scalar_of_two_live
    return call(dst, *operands, live, **settings)


def lower(
    function: Elementwise,
    arguments: Mapping[str, Argument],
    *,
    rows: int,
    slots: int,
    device: Device,
    prefix: str = "",
) -> Lowered:
    """Lowers a scalar function onto tiles of a PE.

    Args:
      function: of named arguments.
      arguments: how each lies on a PE.
      rows, slots: of the tile, by which vector operations and scalar code are compared.
      device: on which they are.
      prefix: of the keys of what it keeps, where several functions share a PE.

    Raises:
      CannotLower: an operation that a PE has not, with the user's line.
    """
    builder = _Builder(function, arguments, prefix, rows)
    result = builder.value(function.result)
    if isinstance(result, _Several | _Array):
        raise CannotLower(f"{function.name}: gives more than one value")
    nodes = _ordered(result)
    steps: list[Step] = []
    cycles = 0.0
    # What is the same for all rows first: everything else may need it.
    for shape in dict.fromkeys(sorted(node.shape for node in nodes)):
        own = [node for node in nodes if node.shape == shape]
        elements = (rows if shape[0] else 1) * (slots if shape[1] else 1)
        placement = _Placement(own, elements, device)
        scalar, of_shape = placement.best()
        cycles += of_shape
        steps += _in_order(own, scalar, placement.loops(scalar))
    used = {leaf.key: leaf for leaf in _leaves_of(nodes, result)}
    shared = tuple(_sharing(steps, result))
    return Lowered(function, used, shared, result, cycles)


def _leaves_of(nodes: Iterable[Node], result: Value) -> Iterable[Leaf]:
    for node in nodes:
        for operand in node.operands:
            if isinstance(operand, Leaf):
                yield operand
    if isinstance(result, Leaf):
        yield result


def _in_order(
    nodes: Sequence[Node], scalar: set[Node], loops: Mapping[Node, int]
) -> list[Step]:
    """Loops in turn, each followed by the vector operations that wait for it."""
    order = sorted(nodes, key=lambda node: (loops[node], node not in scalar))
    opened: set[int] = set()
    steps = []
    for node in order:
        is_scalar = node in scalar
        opens = is_scalar and loops[node] not in opened
        if opens:
            opened.add(loops[node])
        steps.append(Step(node, not is_scalar, opens))
    return steps


def _sharing(steps: Sequence[Step], result: Value) -> Iterable[Step]:
    """The steps, each in the tile of an operand that is read for the last time there."""
    last: dict[Value, int] = {}
    for place, step in enumerate(steps):
        for operand in step.node.operands:
            last[operand] = place
    for place, step in enumerate(steps):
        into = None
        for operand in step.node.operands:
            alike = operand.shape == step.node.shape and operand.held == step.node.held
            is_own = not isinstance(operand, Leaf) and operand is not result
            if alike and is_own and last[operand] == place:
                into = operand
                break
        yield dataclasses.replace(step, into=into)


__all__ = [
    "ARRIVING",
    "Argument",
    "DATA",
    "KEPT",
    "Leaf",
    "Lowered",
    "lower",
]
