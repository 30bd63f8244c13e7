"""What the clock knows of a tile: which buffer it is, when it may be read and overwritten."""

import dataclasses
import math
from typing import Any

import numpy as np

from emu.clock.names import Label, choose
from emu.clock.ticks import Ticks, anywhere


@dataclasses.dataclass(eq=False, slots=True)
class Port:
    """A part of a memory that one engine uses at a time, such as a PSUM bank.

    Attributes:
      until: when its last user so far is done.
      engine: that user.
      uses: how often it was used.
    """

    until: Ticks = 0
    engine: Label = ""
    uses: int = 0


@dataclasses.dataclass(eq=False, slots=True)
class Buffer:
    """Storage of a tile; a later write to it makes every earlier tile stale.

    Attributes:
      idle: when its last reader or writer so far is done, per core.
      version: number of the write it holds, per core.
      writer: equation of that write, for error messages.
      user: what that last reader or writer is called as a cause of waiting.
      port: shared with other tiles, or None.
      since: on the traced core, when what it holds began to be written; None before.
      uses: how often it was used.
    """

    idle: Ticks
    version: Any
    writer: Any = None
    user: Label = ""
    port: Port | None = None
    since: int | None = None
    uses: int = 0

    def use(self, until: Ticks, user: Label) -> None:
        """Keeps the buffer in use until a time."""
        self.uses += 1
        if type(until) is int and type(self.idle) is int:
            if until >= self.idle:
                self.idle, self.user = until, user
        else:
            if user is not self.user:
                self.user = choose(until >= self.idle, user, self.user)
            self.idle = np.maximum(self.idle, until)


@dataclasses.dataclass(eq=False, slots=True)
class Ring:
    """The buffers of a tile declared in a loop, the next to be used first.

    Attributes:
      buffers: in the order of their next use.
      path: of the equation that declares it.
      loops: paths of the loops around it, outermost first.
    """

    buffers: list[Buffer]
    path: tuple[Any, ...] = ()
    loops: list[tuple[Any, ...]] = dataclasses.field(default_factory=list)

    def turn(self) -> Buffer:
        """The next buffer, which goes to the end of the line."""
        self.buffers.append(self.buffers.pop(0))
        return self.buffers[-1]


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
    version: Any = None
    known: np.ndarray | None = None
    steps: list[Ticks] | None = None
    source: Label = ""

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def viewed(self, aval: Any) -> "Value":
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
    def stale(self) -> Any:
        """Whether its buffer holds a later write: a bool, or an array over the mesh."""
        if self.buffer is None or self.version is self.buffer.version:
            return False
        return self.version != self.buffer.version

    def stale_on(self, active: np.ndarray | None) -> bool:
        """Whether any active core holds a later write in this value's buffer."""
        differs = self.stale
        if active is None or differs is False:
            return anywhere(differs)
        return bool(np.any(differs & active))


def at_slice(value: Value, index: int, aval: Any, rank: int) -> Value:
    """Leading slice `index` of a stacked value; `rank` is the mesh's."""
    known = (
        None if value.known is None else value.known[(slice(None),) * rank + (index,)]
    )
    v = value
    return Value(
        aval.shape,
        aval.dtype,
        v.space,
        v.ready,
        v.buffer,
        v.version,
        known,
        source=v.source,
    )
