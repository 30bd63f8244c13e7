"""What users give, checked where they give it: whole numbers, names, one of a few words.

Each check returns what it was given, or raises with the line of the user's file that gave it.
"""

import operator
from collections.abc import Iterable
from typing import Any, NoReturn

import numpy as np

from emu.errors import LimitExceeded
from emu.instruction import caller

LONGEST = 100
"""Characters of a value in an error."""


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


__all__ = ["is_whole", "name", "one_of", "refuse", "told", "whole", "whole_number"]
