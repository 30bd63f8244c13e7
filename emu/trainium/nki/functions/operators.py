"""Names of operators and activation functions: what kernels write, and what ours are called.

A kernel names an operator by `nl.add`, by NumPy's `np.add` or by a string; all have a name, and
most names are ours. `ALIASES` holds those that differ.
"""

from collections.abc import Mapping

from emu.trainium.engines.operators import BINARY, BITWISE, REDUCE, UNARY
from emu.trainium.nki.functions.checks import refuse

ALIASES: Mapping[str, str] = {
    "maximum": "max",
    "minimum": "min",
    "amax": "max",
    "amin": "min",
    "sum": "add",
    "prod": "multiply",
    "mul": "multiply",
    "sub": "subtract",
    "true_divide": "divide",
    "absolute": "abs",
    "arith_shift_left": "left_shift",
    "logical_shift_left": "left_shift",
    "logical_shift_right": "right_shift",
}
_REDUCTIONS: Mapping[str, str] = {**ALIASES, "abs_max": "absmax", "abs_min": "absmin"}


def named(op: object) -> str | None:
    """The name that a kernel's operator has: of a function, a NumPy function or a string."""
    if isinstance(op, str):
        return op
    name = getattr(op, "operator", None) or getattr(op, "__name__", None)
    return name if isinstance(name, str) else None


def _found(
    op: object, function: str, argument: str, table: tuple[Mapping[str, object], ...]
) -> str:
    name = named(op)
    if name is None:
        refuse(function, f"{argument} is {op!r}, must be an operator such as nl.add")
    aliases = _REDUCTIONS if table[0] is REDUCE else ALIASES
    ours = aliases.get(name, name)
    if not any(ours in entries for entries in table):
        known = ", ".join(sorted({key for entries in table for key in entries}))
        refuse(function, f"{argument} is {name}, must be one of {known}")
    return ours


def binary(op: object, function: str, argument: str = "op") -> str:
    """Our name of an operator of two operands, such as `nl.add`, `np.add` or `"add"`."""
    return _found(op, function, argument, (BINARY, BITWISE))


def unary(op: object, function: str, argument: str = "op") -> str:
    """Our name of an activation function."""
    return _found(op, function, argument, (UNARY,))


def reduction(op: object, function: str, argument: str = "op") -> str:
    """Our name of an operator that reduces."""
    return _found(op, function, argument, (REDUCE,))
