"""Operations that a PE does as others: divisions, powers, conversions and choices."""

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from emu.lower import CannotLower, Constant, Operation
from emu.wse.lower.nodes import FLOAT, Leaf, Value, truth
from emu.wse.pe.elementwise import MASK

if TYPE_CHECKING:
    from emu.wse.lower.building import Builder


def _div(
    build: "Builder", operation: Operation, held: np.dtype, a: Value, b: Value
) -> Value:
    dividend, divisor = operation.operands
    if operation.dtype.kind != "f":
        return _by_a_power(build, operation, held, "shift_right_arithmetic", a, b)
    if isinstance(b, Leaf) and not b.shape[1]:
        # One rounding more than a division, which takes a PE fifty times as long.
        return build.node("mul", a, build.leaf(divisor, inverted=True), held=held)
    if a.shape[1] and not b.shape[1]:
        # For the same reason: a division a row, not one a slot.
        inverse = build.node("div", build.number(1.0, FLOAT), b, held=held)
        return build.node("mul", a, inverse, held=held)
    return build.node("div", a, b, held=held)


def _rem(
    build: "Builder", operation: Operation, held: np.dtype, a: Value, b: Value
) -> Value:
    if operation.dtype.kind == "f":
        return build.node("rem", a, b, held=held)
    return _by_a_power(build, operation, held, "and", a, b)


def _by_a_power(
    build: "Builder", operation: Operation, held: np.dtype, op: str, a: Value, b: Value
) -> Value:
    """Division of a number that is not negative by 2**n is a shift, what remains are bits."""
    dividend = build.bounds.of(operation.operands[0])
    divisor = operation.operands[1]
    number = divisor.number if isinstance(divisor, Constant) else None
    dtype = operation.dtype
    is_power = number is not None and number > 0 and int(number).bit_count() == 1
    if not (is_power and dividend is not None and dividend[0] >= 0):
        return build.node(operation.name, a, b, held=held, arithmetic=dtype)
    assert number is not None
    by = int(number) - 1 if op == "and" else int(number).bit_length() - 1
    by_number = build.number(by, dtype)
    return build.node(op, a, by_number, held=held, arithmetic=dtype)


def _convert_element_type(
    build: "Builder", operation: Operation, held: np.dtype, x: Value
) -> Value:
    source = build.function.dtype_of(operation.operands[0])
    target = operation.dtype
    if target.kind == "b" and source.kind != "b":
        zero = build.number(0, source)
        return build.node("ne", x, zero, held=MASK, arithmetic=source)
    if source.kind == "b":
        if target.kind == "b":
            return x
        one, zero = build.number(1.0, FLOAT), build.number(0.0, FLOAT)
        return build.node("select", x, one, zero)
    is_same = x.held == held and (source.kind != "f" or target.kind == "f")
    if is_same:
        return x
    return build.node("convert", x, held=held, arithmetic=target)


def _integer_pow(
    build: "Builder", operation: Operation, held: np.dtype, x: Value
) -> Value:
    return _power(build, operation, held, x, operation.equation.params["y"])


def _square(build: "Builder", operation: Operation, held: np.dtype, x: Value) -> Value:
    return _power(build, operation, held, x, 2)


def _power(
    build: "Builder", operation: Operation, held: np.dtype, x: Value, exponent: int
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
                else build.node("mul", product, x, held=held, arithmetic=dtype)
            )
        rest >>= 1
        if rest:
            x = build.node("mul", x, x, held=held, arithmetic=dtype)
    one = build.number(1, dtype)
    if product is None:
        return one
    if exponent < 0:
        return build.node("div", one, product, held=held, arithmetic=dtype)
    return product


def _clamp(
    build: "Builder",
    operation: Operation,
    held: np.dtype,
    low: Value,
    x: Value,
    high: Value,
) -> Value:
    dtype = operation.dtype
    above = build.node("max", x, low, held=held, arithmetic=dtype)
    return build.node("min", above, high, held=held, arithmetic=dtype)


def _round(build: "Builder", operation: Operation, held: np.dtype, x: Value) -> Value:
    if "EVEN" not in str(operation.equation.params["rounding_method"]):
        raise CannotLower(
            f"{build.function.name}: rounds halves away from zero, a PE to the nearest even "
            "number; use jnp.round",
            operation.line,
        )
    return build.node("round", x, held=held)


def _select_n(
    build: "Builder", operation: Operation, held: np.dtype, which: Value, *cases: Value
) -> Value:
    if len(cases) != 2 or which.held != MASK:
        raise CannotLower(
            f"{build.function.name}: chooses among {len(cases)} values by a number; use "
            "jnp.where",
            operation.line,
        )
    on_false, on_true = cases
    known = truth(which)
    if known is not None:
        return on_true if known else on_false
    if held == MASK:
        # The bits of masks: y ^ ((x ^ y) & which).
        logic = functools.partial(build.node, held=MASK, arithmetic=bool)
        differ = logic("xor", on_true, on_false)
        return logic("xor", on_false, logic("and", differ, which))
    arithmetic = operation.dtype
    if held == FLOAT:
        arithmetic = FLOAT
    return build.node(
        "select", which, on_true, on_false, held=held, arithmetic=arithmetic
    )


RULES: Mapping[str, Callable[..., Value]] = {
    "div": _div,
    "rem": _rem,
    "convert_element_type": _convert_element_type,
    "integer_pow": _integer_pow,
    "square": _square,
    "clamp": _clamp,
    "round": _round,
    "select_n": _select_n,
}
"""By primitive: a node of the builder, the operation, how its result is held, and its operands."""

__all__ = ["RULES"]
