"""What users give, checked where they give it: numbers, names, one of a few words, arrays.

Each check returns what it was given, or raises with the line of the user's file that gave it.
"""

import functools
import operator
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from emu.errors import LimitExceeded
from emu.tracing.jaxpr import caller

LONGEST = 100
"""Characters of a value in an error."""

REAL = (np.floating, np.integer, np.bool_)
INT32 = (-(2**31), 2**31 - 1)
"""The least and the largest whole number that a register holds."""


def refuse(what: str) -> NoReturn:
    """Raises `LimitExceeded` with the user's line."""
    raise LimitExceeded(what, caller())


def told(value: Any) -> str:
    """A value in an error: one line, cut if it is long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def is_whole(value: Any, least: int, most: int | None = None) -> bool:
    """Whether it is a whole number from `least` to `most`; NumPy's are, and 2.0 is not."""
    # Python takes True for 1, but who gives it for a length has mistaken the argument.
    if isinstance(value, bool | np.bool_):
        return False
    try:
        number = operator.index(value)
    except TypeError:
        return False
    return number >= least and (most is None or number <= most)


def whole(what: str, value: Any, least: int, most: int | None = None) -> int:
    """A whole number from `least` to `most`; `what` names it in the error."""
    if not is_whole(value, least, most):
        refuse(f"{what} is {told(value)}, must be {whole_number(least, most)}")
    return operator.index(value)


def whole_number(least: int, most: int | None = None) -> str:
    """What an error says that a whole number must be."""
    allowed = f"of {least} or more" if most is None else f"from {least} to {most}"
    return f"a whole number {allowed}"


def counted(number: int, noun: str) -> str:
    """`1 source`, `2 sources`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def number(what: str, value: Any) -> int | float:
    """A real number, NumPy's too, as Python's own."""
    if isinstance(value, np.generic) and not isinstance(value, np.bool_):
        if jnp.issubdtype(value.dtype, jnp.floating):
            return float(value)
        if jnp.issubdtype(value.dtype, jnp.integer):
            return int(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        refuse(f"{what} is {told(value)}, must be a number")
    return value


def flag(what: str, value: Any) -> bool:
    """True or False."""
    if not isinstance(value, bool | np.bool_):
        refuse(f"{what} is {told(value)}, must be True or False")
    return bool(value)


def array(what: str, value: Any) -> jax.Array:
    """An array of real numbers, or a number."""
    if isinstance(value, int | float | np.generic | np.ndarray):
        try:
            value = jnp.asarray(value)
        except (TypeError, OverflowError):
            refuse(f"{what} is {told(value)}, must be an array of real numbers")
    if not isinstance(value, jax.Array):
        refuse(f"{what} is {told(value)}, must be an array")
    if not _is_real(value.dtype):
        refuse(f"{what} is {described(value)}, must be of real numbers")
    return value


@functools.cache
def _is_real(dtype: np.dtype) -> bool:
    """Whether numbers of a dtype are real: JAX looks that up in a tree of kinds."""
    return any(jnp.issubdtype(dtype, kind) for kind in REAL)


def register(what: str, value: Any) -> jax.Array:
    """One whole number, known when the kernel is traced or followed by the clock."""
    if isinstance(value, int | float | np.generic) and not isinstance(value, bool):
        value = whole(what, value, *INT32)
    found = array(what, value)
    if found.shape or jnp.issubdtype(found.dtype, jnp.floating):
        refuse(f"{what} is {described(found)}, must be a whole number")
    return found


def registers(what: str, value: Any) -> jax.Array:
    """Whole numbers of any shape, known when the kernel is traced or followed by the clock."""
    found = array(what, value)
    if jnp.issubdtype(found.dtype, jnp.floating):
        refuse(f"{what} is {described(found)}, must be whole numbers")
    return found


def described(value: Any) -> str:
    """An array's dtype and shape."""
    return f"{value.dtype}{list(value.shape)}"


def name(what: str, value: Any) -> str:
    """A name: a string that is not empty."""
    if not isinstance(value, str) or not value:
        refuse(f"{what} is {told(value)}, must be a name in quotes")
    return value


def one_of(what: str, value: Any, allowed: Iterable[str]) -> str:
    """One of some words."""
    known = tuple(allowed)
    if not isinstance(value, str) or value not in known:
        refuse(f"{what} is {told(value)}, must be one of {', '.join(known)}")
    return value


Entry = TypeVar("Entry")


class Named(dict[str, Entry]):
    """A table by name; an unknown one is refused with those that there are."""

    def __init__(self, what: str, entries: Mapping[str, Entry]):
        super().__init__(entries)
        self.what = what

    def __missing__(self, key: Any) -> NoReturn:
        refuse(f"no {self.what} {told(key)}, has {', '.join(self)}")


__all__ = [
    "Named",
    "INT32",
    "array",
    "counted",
    "described",
    "flag",
    "is_whole",
    "name",
    "number",
    "one_of",
    "refuse",
    "register",
    "registers",
    "told",
    "whole",
    "whole_number",
]
