"""What context attention refuses before anything is laid out: sizes, words, dtypes and operands."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from emu import given
from emu.annotations import DType
from kernels.refusal import refuse

NAMES = ("float32", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2")

# Far more than any system and model have; tables of all pairs of ranks would fill a host's memory.
MOST_RANKS = 1024
MOST_FEATURES = 2**16
MOST_LANES = 1024


def _said(name: str) -> str:
    return name.replace("_", " ")


def whole(name: str, size: Any, *, least: int = 1, most: int | None = None) -> None:
    """Raises `LimitExceeded` for a size that is no whole number in range; None is a default."""
    if size is not None and not given.is_whole(size, least, most):
        told, wanted = given.told(size), given.whole_number(least, most)
        refuse(f"{_said(name)} is {told}, must be {wanted}")


def number(name: str, value: Any) -> None:
    """Raises `LimitExceeded` for what is no number of at least 0."""
    is_number = isinstance(value, int | float | np.number) and not isinstance(
        value, bool
    )
    if not is_number or math.isnan(value) or value < 0:
        refuse(f"{_said(name)} is {given.told(value)}, must be a number of 0 or more")


def flag(name: str, value: Any) -> None:
    """Raises `LimitExceeded` for what is neither True nor False."""
    if not isinstance(value, bool | np.bool_):
        refuse(f"{_said(name)} is {given.told(value)}, must be True or False")


def one_of(name: str, value: Any, allowed: Iterable[str]) -> None:
    """Raises `LimitExceeded` for another word than these."""
    known = tuple(allowed)
    if not isinstance(value, str) or value not in known:
        refuse(f"{name} is {given.told(value)}, must be one of {', '.join(known)}")


def parts_of(head_dim: int, parts: Sequence[int] | None, most: int) -> None:
    """Raises `LimitExceeded` for parts of a key's features that are not all of them.

    160 features may be `(128, 32)` or `(80, 80)`, but not `(128,)`, nor `(160,)`.
    """
    if parts is None:
        return
    if not isinstance(parts, tuple | list):
        refuse(f"parts is {given.told(parts)}, must be whole numbers in brackets")
    for place, part in enumerate(parts):
        whole(f"part_{place}", part)
    if sum(parts) != head_dim or max(parts) > most:
        refuse(
            f"parts are {tuple(parts)}, must add up to head_dim {head_dim}, each at most {most}"
        )


def dtype(what: str, asked: DType, microscaled: str | None = None) -> None:
    """Raises `LimitExceeded` for a dtype in which no engine attends."""
    if isinstance(asked, str) and asked == microscaled:
        return
    allowed = [jnp.dtype(name) for name in NAMES]
    try:
        # NumPy takes None for float64.
        is_allowed = asked is not None and jnp.dtype(asked) in allowed
    except TypeError:
        is_allowed = False
    if not is_allowed:
        name = getattr(asked, "__name__", asked)  # of a type such as `jnp.int32`
        # The likeliest reason to ask for it is a reference, and there is one.
        wide = "; `exact` computes in float64" if str(name) == "float64" else ""
        or_mx = "" if microscaled is None else f" or {microscaled}"
        refuse(f"{what} is {name}, must be one of {', '.join(NAMES)}{or_mx}{wide}")


def operand(name: str, value: Any, shape: tuple[int, ...]) -> None:
    """Raises `LimitExceeded` for queries, keys or values of another shape, or of no floats."""
    if not hasattr(value, "shape") or not hasattr(value, "dtype"):
        refuse(f"{name} is {given.told(value)}, must be an array {list(shape)}")
    if not jnp.issubdtype(value.dtype, jnp.floating):
        refuse(f"{name} is {value.dtype}, must be floats")
    if tuple(value.shape) != shape:
        refuse(f"{name} is {list(value.shape)}, must be {list(shape)}")


__all__ = [
    "MOST_FEATURES",
    "MOST_LANES",
    "MOST_RANKS",
    "dtype",
    "flag",
    "number",
    "one_of",
    "operand",
    "parts_of",
    "whole",
]
