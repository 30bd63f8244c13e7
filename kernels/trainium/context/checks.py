"""What context attention refuses before anything is laid out: sizes and dtypes that cannot be."""

import operator
from collections.abc import Sequence

import jax.numpy as jnp

from emu.annotations import DType

NAMES = ("float32", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2")


def positive(**sizes: int | None) -> None:
    """Raises `ValueError` for a size that is no integer of at least 1; None is a default."""
    for name, size in sizes.items():
        if size is None:
            continue
        try:
            # NumPy's integers count, True does not, though Python takes it for 1.
            is_positive = not isinstance(size, bool) and operator.index(size) >= 1
        except TypeError:
            is_positive = False
        if not is_positive:
            said = name.replace("_", " ")
            raise ValueError(f"{said} is {size!r}, must be an integer of at least 1")


def parts_of(head_dim: int, parts: Sequence[int] | None, most: int) -> None:
    """Raises `ValueError` for parts of a key's features that are not all of them.

    160 features may be `(128, 32)` or `(80, 80)`, but not `(128,)`, nor `(160,)`.
    """
    if parts is None:
        return
    positive(**{f"part_{number}": part for number, part in enumerate(parts)})
    if sum(parts) != head_dim or max(parts) > most:
        raise ValueError(
            f"parts are {tuple(parts)}, must add up to head_dim {head_dim}, each at most {most}"
        )


def dtype(given: DType, microscaled: str) -> None:
    """Raises `ValueError` for a dtype in which no engine attends."""
    if isinstance(given, str) and given == microscaled:
        return
    allowed = [jnp.dtype(name) for name in NAMES]
    try:
        is_allowed = jnp.dtype(given) in allowed
    except TypeError:
        is_allowed = False
    if not is_allowed:
        known = isinstance(given, str) or not hasattr(given, "__name__")
        name = given if known else getattr(given, "__name__")
        # The likeliest reason to ask for it is a reference, and there is one.
        wide = "; `exact` computes in float64" if str(name) == "float64" else ""
        raise ValueError(
            f"dtype is {name}, must be one of {', '.join(NAMES)} or {microscaled}{wide}"
        )


__all__ = ["dtype", "parts_of", "positive"]
