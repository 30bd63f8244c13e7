"""A ring all-gather: every chip passes on what it received, one neighbour a step."""

from typing import Any

from jax import lax

from emu.trainium.engines.memory import hbm
from emu.trainium.links.neuronlink import send


def ring_gather(
    x: Any, *, axis: str, chips: tuple[str, ...] | None = None
) -> tuple[Any, Any]:
    """All that the other ranks of a ring hold.

    Two buffers take turns to receive and to send on. What arrives is also a slice of the result,
    in HBM, where it needs no further copy.

    Args:
      x: HBM `[...]` of this rank.
      axis: mesh axis of the ring, of at least two ranks.
      chips: every mesh axis over chips, as for `send`.

    Returns:
      What the rank before holds, HBM `[...]`, and what those before it hold, nearest first, HBM
      `[ranks - 2, ...]`.

    Pseudocode:
      first = from the rank before: x; then ranks - 2 times: from the rank before: what it got last
    """

    def step(carry: tuple[Any, Any], _: Any) -> tuple[tuple[Any, Any], Any]:
        held, landing = carry
        arrived = send(landing, held, 1, 1, axis=axis, chips=chips)
        return (arrived, held), arrived

    first = send(hbm(*x.shape, dtype=x.dtype), x, 1, 1, axis=axis, chips=chips)
    carry = first, hbm(*x.shape, dtype=x.dtype)
    _, others = lax.scan(step, carry, None, length=lax.axis_size(axis) - 2)
    return first, others


__all__ = ["ring_gather"]
