"""What context attention refuses before anything is laid out: sizes and dtypes that cannot be."""

from collections.abc import Sequence

import jax.numpy as jnp

from emu import given
from emu.annotations import DType

NAMES = ("float32", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2")


def positive(**sizes: int | None) -> None:
    """Raises `ValueError` for a size that is no integer of at least 1; None is a default."""
    for name, size in sizes.items():
        if size is not None and not given.is_whole(size, 1):
            said = name.replace("_", " ")
            told, wanted = given.told(size), given.whole_number(1)
            raise ValueError(f"{said} is {told}, must be {wanted}")


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


def dtype(asked: DType, microscaled: str) -> None:
    """Raises `ValueError` for a dtype in which no engine attends."""
    if isinstance(asked, str) and asked == microscaled:
        return
    allowed = [jnp.dtype(name) for name in NAMES]
    try:
        is_allowed = jnp.dtype(asked) in allowed
    except TypeError:
        is_allowed = False
    if not is_allowed:
        name = getattr(asked, "__name__", asked)  # of a type such as `jnp.int32`
        # The likeliest reason to ask for it is a reference, and there is one.
        wide = "; `exact` computes in float64" if str(name) == "float64" else ""
        raise ValueError(
            f"dtype is {name}, must be one of {', '.join(NAMES)} or {microscaled}{wide}"
        )


__all__ = ["dtype", "parts_of", "positive"]
