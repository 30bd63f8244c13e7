"""A name that may differ between cores: whom a buffer, a bank or an operand makes wait for.

It is a `str` as long as all cores agree, as a time is an int (`emu.clock.ticks`), and `Names` after
that.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Names:
    """One of several names per core.

    Attributes:
      which: index into `names` per core, broadcastable to the mesh.
      names: distinct, sorted.
    """

    which: np.ndarray
    names: tuple[str, ...]

    def __eq__(self, other: Any) -> bool:
        return (
            isinstance(other, Names)
            and self.names == other.names
            and self.which.shape == other.which.shape
            and bool((self.which == other.which).all())
        )


Label = str | Names


def choose(mask: Any, new: Label, old: Label) -> Label:
    """`new` on the cores in `mask` (None: all), `old` elsewhere."""
    if mask is None or new is old or (type(new) is str and new == old):
        return new
    names = tuple(sorted({*_names(new), *_names(old)}))
    which = np.where(mask, _among(new, names), _among(old, names)).astype(np.int8)
    first = which.flat[0]
    return names[int(first)] if (which == first).all() else Names(which, names)


def prefixed(prefix: str, label: Label) -> Label:
    """The label with something in front of each name."""
    if type(label) is str:
        return prefix + label
    assert isinstance(label, Names)
    return Names(label.which, tuple(prefix + name for name in label.names))


def parts(label: Label) -> Iterator[tuple[Any, str]]:
    """Each name with the cores that have it (True: all)."""
    if isinstance(label, Names):
        yield from ((label.which == i, name) for i, name in enumerate(label.names))
    else:
        yield True, label


def differs(label: Label, name: str) -> Any:
    """On which cores the label is another name: a bool if all cores agree."""
    if isinstance(label, Names):
        return label.which != label.names.index(name) if name in label.names else True
    return label != name


def on_core(label: Label, grid: tuple[int, ...], core: tuple[int, ...]) -> str:
    """One core's name."""
    if isinstance(label, Names):
        return label.names[int(np.broadcast_to(label.which, grid)[core])]
    return label


def _names(label: Label) -> tuple[str, ...]:
    return label.names if isinstance(label, Names) else (label,)


def _among(label: Label, names: tuple[str, ...]) -> Any:
    """The label as an index, or indices, into `names`."""
    at = np.array([names.index(name) for name in _names(label)], np.int8)
    return at[label.which] if isinstance(label, Names) else at[0]


__all__ = ["Label", "Names", "choose", "differs", "on_core", "parts", "prefixed"]
