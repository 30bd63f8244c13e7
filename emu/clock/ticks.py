"""Times over a mesh: a Python int where every core agrees, else an `int64` array of its rank.

Arrays are broadcastable to the mesh, each dimension of full size or 1. Cores agree until a
collective or a branch tells them apart, and an int costs a tenth of the smallest array.
"""

from typing import Any

import numpy as np

Ticks = int | np.ndarray


def later(a: Any, b: Any) -> Any:
    """The later of two times, core by core."""
    if a is b:
        return a
    if type(a) is int and type(b) is int:
        return a if a >= b else b
    return np.maximum(a, b)


def select(active: np.ndarray | None, new: Any, old: Any) -> Any:
    """`new` on the active cores, `old` elsewhere; None means all are active."""
    if (
        active is None
        or new is old
        or (type(new) is int and type(old) is int and new == old)
    ):
        return new
    return np.where(active, new, old)


def same(a: Any, b: Any) -> bool:
    """Whether two times are equal on every core."""
    if type(a) is int and type(b) is int:
        return a == b
    return a is b or bool(np.all(a == b))


def anywhere(condition: Any) -> bool:
    """Whether a comparison of times holds on some core."""
    return condition if type(condition) is bool else bool(np.any(condition))


def on_core(x: Any, grid: tuple[int, ...], core: tuple[int, ...]) -> int:
    """One core's time."""
    return x if type(x) is int else int(np.broadcast_to(x, grid)[core])


def flat(times: list[Any]) -> np.ndarray:
    """Times one after another in one array."""
    if all(type(x) is int for x in times):
        return np.array(times, np.int64)
    return np.concatenate(
        [np.atleast_1d(np.asarray(x, np.int64)).ravel() for x in times]
    )


__all__ = ["Ticks", "anywhere", "flat", "later", "on_core", "same", "select"]
