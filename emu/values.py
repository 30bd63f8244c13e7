"""What the clock knows of a tile: which buffer it is, when it may be read and overwritten.

All times are `int64` ticks in arrays with the mesh's rank, each dimension of full size or 1: they
stay `[1, 1]` until a collective or a branch tells cores apart.
"""

import dataclasses
import math
from typing import Any

import numpy as np


@dataclasses.dataclass(eq=False)
class Buffer:
    """Storage of a tile; a later write to it makes every earlier tile stale.

    Attributes:
      idle: when its last reader or writer so far is done, per core.
      version: number of the write it holds, per core.
      writer: equation of that write, for error messages.
    """

    idle: np.ndarray
    version: np.ndarray
    writer: Any = None


@dataclasses.dataclass(eq=False, slots=True)  # never changed once made; frozen would cost 2 us each
class Value:
    """One jaxpr variable: an array slice in a memory space, or a known integer.

    Attributes:
      ready: when it may be read, per core.
      buffer: its storage; None for known integers.
      version: the buffer's version that holds it, per core.
      known: integer value, `[*mesh, *shape]` with mesh dimensions of full size or 1, or None.
      steps: of an outermost loop's stacked output, when each leading slice was ready.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    space: str
    ready: np.ndarray
    buffer: Buffer | None = None
    version: np.ndarray | None = None
    known: np.ndarray | None = None
    steps: list[np.ndarray] | None = None

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def viewed(self, aval: Any) -> "Value":
        """The same storage seen with another shape."""
        return Value(aval.shape, aval.dtype, self.space, self.ready, self.buffer, self.version)

    def stale_on(self, active: np.ndarray | None) -> bool:
        """Whether any active core holds a later write in this value's buffer."""
        if self.buffer is None or self.version is self.buffer.version:
            return False
        differs = np.asarray(self.version != self.buffer.version)
        return bool((differs if active is None else differs & active).any())


def select(active: np.ndarray | None, new: Any, old: Any) -> Any:
    """`new` on the active cores, `old` elsewhere; None means all are active."""
    return new if active is None else np.where(active, new, old)


def at_slice(value: Value, index: int, aval: Any, rank: int) -> Value:
    """Leading slice `index` of a stacked value; `rank` is the mesh's."""
    known = None if value.known is None else value.known[(slice(None),) * rank + (index,)]
    v = value
    return Value(aval.shape, aval.dtype, v.space, v.ready, v.buffer, v.version, known)
