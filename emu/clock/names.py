"""A name that may differ between cores: whom a buffer, a bank or an operand makes wait for.

It is a `str` as long as all cores agree, as a time is an int (`emu.clock.ticks`), and
`PerCoreNames` after that. Where core 0 was last used by the Vector Engine and core 1 by the Scalar
Engine, that is `PerCoreNames([1, 0], ("scalar", "vector"))`.
"""

import dataclasses
from collections.abc import Iterator
from typing import TypeAlias

import numpy as np

from emu.clock.ticks import Active, Flags


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class PerCoreNames:
    """One of several names per core.

    Attributes:
      which: index into `names` per core, broadcastable to the mesh.
      names: distinct, sorted.
    """

    which: np.ndarray
    names: tuple[str, ...]

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, PerCoreNames)
            and self.names == other.names
            and self.which.shape == other.which.shape
            and bool((self.which == other.which).all())
        )


CauseName: TypeAlias = str | PerCoreNames


def choose(active: Active, new: CauseName, old: CauseName) -> CauseName:
    """`new` on the active cores, `old` elsewhere."""
    if active is None or new is old:
        return new
    if type(new) is str and new == old:
        return new
    either = {*_names(new), *_names(old)}
    # Sorted, so that the same names on the same cores compare equal in whatever order they came.
    names = tuple(sorted(either))
    which = np.where(active, _index(new, names), _index(old, names))
    which = which.astype(np.int8)
    # As soon as all cores agree again it is a plain name again.
    first = which.flat[0]
    if (which == first).all():
        return names[int(first)]
    return PerCoreNames(which, names)


def prefixed(prefix: str, name: CauseName) -> CauseName:
    """The name, or each of the names, with something in front."""
    if isinstance(name, str):
        return prefix + name
    longer = tuple([prefix + each for each in name.names])
    # With one prefix before each of them the names are still sorted.
    return PerCoreNames(name.which, longer)


def parts(name: CauseName) -> Iterator[tuple[Flags, str]]:
    """Each name with the cores that have it (True: all)."""
    if isinstance(name, str):
        yield True, name
        return
    for index, each in enumerate(name.names):
        yield name.which == index, each


def differs(name: CauseName, other: str) -> Flags:
    """On which cores the name is not `other`: a bool if all cores agree."""
    if isinstance(name, str):
        return name != other
    # Names may list one that no core has any more, but never lack one that some core has.
    if other not in name.names:
        return True
    index = name.names.index(other)
    return name.which != index


def on_core(name: CauseName, grid: tuple[int, ...], core: tuple[int, ...]) -> str:
    """One core's name."""
    if isinstance(name, str):
        return name
    every = np.broadcast_to(name.which, grid)
    index = int(every[core])
    return name.names[index]


def _names(name: CauseName) -> tuple[str, ...]:
    return name.names if isinstance(name, PerCoreNames) else (name,)


def _index(name: CauseName, names: tuple[str, ...]) -> np.ndarray | np.int8:
    """The name as an index, or indices per core, into `names`."""
    if isinstance(name, str):
        return np.int8(names.index(name))
    # From `("scalar", "vector")` to `("gpsimd", "scalar", "vector")` 0 and 1 become 1 and 2.
    indices = [names.index(each) for each in name.names]
    return np.array(indices, np.int8)[name.which]


__all__ = [
    "CauseName",
    "PerCoreNames",
    "choose",
    "differs",
    "on_core",
    "parts",
    "prefixed",
]
