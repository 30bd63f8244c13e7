"""What a tile may be declared as: refused before JAX or the clock meet a size that cannot be."""

from collections.abc import Sequence

from emu import given


def check(name: str, shape: Sequence[int], *, buffers: int = 1) -> None:
    """Raises `LimitExceeded` where a size or the depth of a ring is no positive integer.

    Args:
      name: of the instruction that declares the tile.
      shape: its dimensions.
      buffers: depth of its ring.
    """
    for number, size in enumerate(shape):
        given.whole(f"{name}: dimension {number}", size, 1)
    given.whole(f"{name}: buffers", buffers, 1)


__all__ = ["check"]
