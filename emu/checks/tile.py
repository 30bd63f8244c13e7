"""What a tile may be declared as: refused before JAX or the clock meet a size that cannot be."""

import operator
from collections.abc import Sequence

from emu.errors import LimitExceeded
from emu.instruction import caller


def check(name: str, shape: Sequence[int], *, buffers: int = 1) -> None:
    """Raises `LimitExceeded` where a size or the depth of a ring is no positive integer.

    Args:
      name: of the instruction that declares the tile.
      shape: its dimensions.
      buffers: depth of its ring.
    """
    for size in shape:
        if not _is_positive(size):
            raise LimitExceeded(
                f"{name}: a tile of {_listed(shape)} has a dimension of {size!r}, must be an "
                "integer of at least 1",
                caller(),
            )
    if not _is_positive(buffers):
        raise LimitExceeded(
            f"{name}: buffers is {buffers!r}, must be an integer of at least 1",
            caller(),
        )


def _is_positive(number: object) -> bool:
    # Python takes True for the integer 1.
    if isinstance(number, bool):
        return False
    # NumPy's integers pass as well; a float does not, be it 2.0.
    try:
        return operator.index(number) >= 1  # type: ignore[arg-type]
    except TypeError:
        return False


def _listed(shape: Sequence[int]) -> str:
    return f"[{', '.join(map(str, shape))}]"


__all__ = ["check"]
