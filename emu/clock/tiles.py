"""What the clock knows of a variable: its buffer, when it may be read, or its known value."""

import dataclasses
import math

import numpy as np

from emu.clock.names import CauseName, choose
from emu.clock.resources import Buffer
from emu.clock.ticks import (
    Active,
    Flags,
    Shifted,
    Ticks,
    anywhere,
    same,
    select,
    settled,
)
from emu.tracing import jaxpr as jx


# Never changed once made; frozen would cost 2 us each.
@dataclasses.dataclass(eq=False, slots=True)
class Value:
    """One jaxpr variable: an array slice in a memory space, or a known integer.

    Attributes:
      ready: when it may be read, per core.
      buffer: its storage; None for known integers.
      version: the buffer's version that holds it, per core.
      known: integer value, `[*mesh, *shape]` with mesh dimensions of full size or 1, or None.
      steps: of an outermost loop's stacked output, when each leading slice was ready.
      source: what made it, as a cause of waiting.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    space: str
    ready: Ticks
    buffer: Buffer | None = None
    version: Ticks | None = None
    known: np.ndarray | None = None
    steps: list[Ticks] | None = None
    source: CauseName = ""

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def viewed(self, aval: jx.Aval) -> "Value":
        """The same storage seen with another shape."""
        return Value(
            aval.shape,
            aval.dtype,
            self.space,
            self.ready,
            self.buffer,
            self.version,
            source=self.source,
        )

    @property
    def stale(self) -> Flags:
        """On which cores its buffer holds a later write."""
        # A write puts one object in both, so until the next one arrays need no comparison.
        if self.buffer is None or self.version is self.buffer.version:
            return False
        return self.version != self.buffer.version

    def stale_on(self, active: Active) -> bool:
        """Whether any active core holds a later write in this value's buffer."""
        differs = self.stale
        if active is None or differs is False:
            return anywhere(differs)
        # Overwritten on cores that do not read it, a tile is as good as before on those that do.
        return bool(np.any(differs & active))

    def settled(self) -> "Value":
        """The same with its time as a number or an array."""
        if not isinstance(self.ready, Shifted):
            return self
        return dataclasses.replace(self, ready=settled(self.ready))

    def at_slice(self, index: int, aval: jx.Aval, rank: int) -> "Value":
        """Leading slice `index` of a stacked value; `rank` is the mesh's."""
        part = self.viewed(aval)
        if self.known is not None:
            # A table of `[*mesh, 100, 8]` has the slices `[*mesh, 8]`: the mesh comes first.
            whole_mesh = (slice(None),) * rank
            part.known = self.known[(*whole_mesh, index)]
        return part


def choose_value(mask: np.ndarray, new: Value, old: Value) -> Value:
    """`new` on the cores in `mask`, `old` elsewhere; both are in one buffer."""
    assert new.buffer is old.buffer
    known = None
    # Known on one side of a branch only is data from here on: no core's decision may depend on it.
    if new.known is not None and old.known is not None:
        alike = (1,) * len(new.shape)
        on_shape = mask.reshape(*mask.shape, *alike)
        known = np.where(on_shape, new.known, old.known)
    ready = new.ready
    if not same(new.ready, old.ready):
        ready = select(mask, new.ready, old.ready)
    version = new.version
    if new.version is not None and old.version is not None:
        version = select(mask, new.version, old.version)
    source = choose(mask, new.source, old.source)
    return dataclasses.replace(
        new, ready=ready, version=version, known=known, source=source
    )


__all__ = ["Value", "choose_value"]
