"""What a PE's task does, instruction by instruction: data only, priced and run elsewhere.

Operands are those of `operands.py`, listed here too: who writes a program needs this module alone.
"""

import dataclasses
from collections.abc import Callable
from typing import TypedDict, Unpack

import numpy as np

from emu import given
from emu.wse.fabric.operands import (
    Buffer,
    Fabric,
    Memory,
    Operand,
    receive,
    send,
    wavelets,
)

ARITHMETIC = ("copy", "add", "sub", "mul", "max", "fmac")
# What a wavelet is to routers: data, or control for its sender's own router or for all on its way.
DATA = 0
OWN = 1
ALL = 2
THREADS = 8
"""Of a PE, the main one included."""
POSITIONS = 4
"""Of a router's switch, for each color."""


@dataclasses.dataclass(frozen=True)
class Vector:
    """One vector operation: `dst = a op b`, elementwise, rounded to `dst`'s dtype.

    Attributes:
      op: one of `ARITHMETIC`; `fmac` is `dst += a * b`.
      dst: memory or `send`.
      a, b: memory, `receive`, a number, or one element of memory that serves all; b is None for
        `copy`.
      thread: None is synchronous; 1 or more runs on that microthread while the task goes on.
      activate, unblock: tasks that its completion activates or unblocks.
    """

    op: str
    dst: Operand
    a: Operand
    b: Operand | None = None
    thread: int | None = None
    activate: str | None = None
    unblock: str | None = None

    def __post_init__(self) -> None:
        given.one_of("vector: op", self.op, ARITHMETIC)
        self._check_operands()
        self._check_thread()
        into_memory = isinstance(self.dst, Memory)
        if not (into_memory or self.outward is not None):
            given.refuse(
                f"vector {self.op}: dst is {self.dst}, must be memory or send()"
            )
        if (self.b is None) != (self.op == "copy"):
            given.refuse(
                f"vector {self.op}: takes {1 if self.op == 'copy' else 2} sources"
            )
        fabric_sources = [each for each in self.sources if isinstance(each, Fabric)]
        if any(source.outward for source in fabric_sources):
            given.refuse(f"vector {self.op}: a source is send(), must be receive()")
        if self.op == "fmac" and not into_memory:
            given.refuse("vector fmac: dst is a stream, must be memory: it is added to")
        if len(fabric_sources) > 1:
            given.refuse(
                f"vector {self.op}: two fabric sources, a PE takes at most one"
            )
        moves_memory = self.op == "copy" and len(self._streams) == 1
        if self.wide and not (moves_memory and self.thread is not None):
            given.refuse(
                f"vector {self.op}: wide streams are for copies between memory and fabric on a "
                "microthread; leave out wide, or give a thread"
            )
        _ = self.elements  # checked here, where the user's line is on the stack

    def _check_operands(self) -> None:
        """Memory, streams, or numbers that float32 has."""
        for place, operand in (("dst", self.dst), ("a", self.a), ("b", self.b)):
            left_out = operand is None and place == "b"
            if left_out or isinstance(operand, Memory | Fabric):
                continue
            is_number = isinstance(operand, int | float | np.integer | np.floating)
            if place == "dst" or isinstance(operand, bool) or not is_number:
                allowed = "memory or send()"
                if place != "dst":
                    allowed = "memory, receive() or a real number"
                given.refuse(
                    f"vector {self.op}: {place} is {given.told(operand)}, must be {allowed}"
                )

    def _check_thread(self) -> None:
        if self.thread is not None:
            given.whole(f"vector {self.op}: thread", self.thread, 0, THREADS - 1)
        for does in ("activate", "unblock"):
            if getattr(self, does) is not None:
                given.name(f"vector {self.op}: {does}", getattr(self, does))

    @property
    def sources(self) -> tuple[Operand, ...]:
        return (self.a,) if self.b is None else (self.a, self.b)

    @property
    def elements(self) -> int:
        """Elements of the destination.

        One element of memory as a source serves all: `x[:8] = x[:8] * y[0]` has 8.
        """
        counts: dict[int, Operand] = {}
        for operand in (self.dst, *self.sources):
            if isinstance(operand, Memory):
                if operand is self.dst or operand.elements > 1:
                    counts[operand.elements] = operand
            elif isinstance(operand, Fabric) and operand.elements is not None:
                counts[operand.elements] = operand
        from_memory = any(isinstance(source, Memory) for source in self.sources)
        if not counts and from_memory:  # a stream fed from one element of memory
            counts = {1: self.dst}
        if len(counts) != 1:
            told = ", ".join(map(str, counts)) or "none"
            given.refuse(
                f"vector {self.op}: operands have {told} elements, must have one count"
            )
        return next(iter(counts))

    def dtype_of(self, operand: Operand) -> str:
        """Dtype of an operand; a stream without its own has that of the first other operand."""
        if isinstance(operand, Memory | Fabric) and operand.dtype:
            return operand.dtype
        for other in (self.dst, *self.sources):
            if isinstance(other, Memory | Fabric) and other.dtype:
                return other.dtype
        return "float32"

    def wavelets_of(self, operand: Operand | None) -> int:
        """Wavelets of a fabric operand; 0 of any other."""
        if not isinstance(operand, Fabric):
            return 0
        return wavelets(self.elements, self.dtype_of(operand))

    @property
    def _streams(self) -> list[Fabric]:
        operands = (self.dst, *self.sources)
        return [each for each in operands if isinstance(each, Fabric)]

    @property
    def wide(self) -> bool:
        """Whether it moves 64 bits an issue."""
        return any(stream.wide for stream in self._streams)

    @property
    def inward(self) -> Fabric | None:
        """The fabric source."""
        for source in self.sources:
            if isinstance(source, Fabric):
                return source
        return None

    @property
    def outward(self) -> Fabric | None:
        """The fabric destination."""
        if isinstance(self.dst, Fabric) and self.dst.outward:
            return self.dst
        return None


@dataclasses.dataclass(frozen=True)
class Map:
    """A hardware loop over the scalars of `x`: one multiply-add each, in their order.

    If `weights` holds `[len(x), len(dst)]` elements, `dst += x[k] * weights[k]`, as in a matrix
    times a vector. If `dst` holds `[len(x), len(weights)]`, `dst[k] += x[k] * weights`, an outer
    product. All three are in memory and each sum is rounded to `dst`'s dtype.
    """

    dst: Memory
    weights: Memory
    x: Memory

    def __post_init__(self) -> None:
        for place in ("dst", "weights", "x"):
            if not isinstance(getattr(self, place), Memory):
                given.refuse(
                    f"map: {place} is {given.told(getattr(self, place))}, must be memory, such as "
                    "y[:]"
                )
        scalars = self.x.elements
        long = self.dst.elements
        if not self.outer and self.weights.elements != scalars * long:
            given.refuse(
                f"map: weights have {self.weights.elements} elements, must have "
                f"{scalars} x {long} = {scalars * long}, or {long} / {scalars} in an outer product"
            )

    @property
    def outer(self) -> bool:
        """Whether each scalar has a row of `dst` to itself."""
        return self.dst.elements == self.x.elements * self.weights.elements

    @property
    def length(self) -> int:
        """Elements of one multiply-add."""
        return self.weights.elements if self.outer else self.dst.elements


@dataclasses.dataclass(frozen=True)
class Code:
    """Scalar code on the main thread.

    Attributes:
      cycles: how long it takes, 1 or more.
      what: its name in reports.
      dst, function, sources: `dst = function(*sources)` on arrays `[PEs, elements]`, or nothing.
      by_pe: the function is given the PEs too, as flat indices, in front of the sources.
      first: what is done before it within its cycles; their own cycles do not count.
    """

    cycles: int
    what: str = "code"
    dst: Memory | None = None
    function: Callable[..., np.ndarray] | None = None
    sources: tuple[Memory, ...] = ()
    by_pe: bool = False
    first: tuple["Code", ...] = ()

    def __post_init__(self) -> None:
        given.name("code: what", self.what)
        given.whole(f"code '{self.what}': cycles", self.cycles, 1)
        if (self.dst is None) != (self.function is None):
            given.refuse(
                f"code '{self.what}' has {'no ' * (self.dst is None)}dst and "
                f"{'no ' * (self.function is None)}function, must have both or neither"
            )
        if self.function is not None and not callable(self.function):
            given.refuse(
                f"code '{self.what}': function is {given.told(self.function)}, must be one"
            )
        written = () if self.dst is None else (self.dst,)
        for operand in (*written, *self.sources):
            if not isinstance(operand, Memory):
                given.refuse(
                    f"code '{self.what}': {given.told(operand)} is no memory, such as x[:]"
                )


@dataclasses.dataclass(frozen=True)
class Load:
    """Loads data-structure registers."""

    descriptors: int

    def __post_init__(self) -> None:
        given.whole("load: descriptors", self.descriptors, 1)


@dataclasses.dataclass(frozen=True)
class Stamp:
    """Reads the PE's cycle counter and keeps it under `name`."""

    name: str

    def __post_init__(self) -> None:
        given.name("stamp: its name", self.name)


@dataclasses.dataclass(frozen=True)
class Activate:
    """Makes a task active: it runs when the main thread is free and the task is not blocked."""

    task: str

    def __post_init__(self) -> None:
        given.name("activate: its task", self.task)


@dataclasses.dataclass(frozen=True)
class Block:
    """Keeps a task from running, active or not, until it is unblocked."""

    task: str

    def __post_init__(self) -> None:
        given.name("block: its task", self.task)


@dataclasses.dataclass(frozen=True)
class Unblock:
    """Lets a blocked task run again."""

    task: str

    def __post_init__(self) -> None:
        given.name("unblock: its task", self.task)


@dataclasses.dataclass(frozen=True)
class Control:
    """Sends one control wavelet on `color`, behind the data already sent.

    It advances the switch of this PE's router (`routers=OWN`) or of every router on its way that
    heeds control wavelets (`ALL`). It never enters a PE.
    """

    color: str
    routers: int = OWN

    def __post_init__(self) -> None:
        given.name("control: its color", self.color)
        if self.routers not in (OWN, ALL) or isinstance(self.routers, bool):
            given.refuse(
                f"control on '{self.color}': routers is {given.told(self.routers)}, must be "
                f"ops.OWN ({OWN}) or ops.ALL ({ALL})"
            )


@dataclasses.dataclass(frozen=True)
class Switch:
    """Sets this PE's router to one of the positions of its route on `color`."""

    color: str
    position: int

    def __post_init__(self) -> None:
        given.name("switch: its color", self.color)
        given.whole(f"switch '{self.color}': position", self.position, 0, POSITIONS - 1)


@dataclasses.dataclass(frozen=True)
class Pause:
    """Ends this run of the task; the next one goes on with the operation after it.

    A task that counts its runs and branches on the count is written so: run by run.
    """


Op = (
    Vector
    | Map
    | Code
    | Load
    | Stamp
    | Activate
    | Block
    | Unblock
    | Control
    | Switch
    | Pause
)


class How(TypedDict, total=False):
    """Of a vector operation: its `thread`, and what its completion does, as `Vector` has them."""

    thread: int | None
    activate: str | None
    unblock: str | None


def copy(dst: Operand, a: Operand, **how: Unpack[How]) -> Vector:
    """`dst = a`: a move, a fill, a send or a receive."""
    return Vector("copy", dst, a, **how)


def add(dst: Operand, a: Operand, b: Operand, **how: Unpack[How]) -> Vector:
    """`dst = a + b`."""
    return Vector("add", dst, a, b, **how)


def mul(dst: Operand, a: Operand, b: Operand, **how: Unpack[How]) -> Vector:
    """`dst = a * b`."""
    return Vector("mul", dst, a, b, **how)


def maximum(dst: Operand, a: Operand, b: Operand, **how: Unpack[How]) -> Vector:
    """`dst = max(a, b)`."""
    return Vector("max", dst, a, b, **how)


def fmac(dst: Operand, a: Operand, b: Operand, **how: Unpack[How]) -> Vector:
    """`dst += a * b`."""
    return Vector("fmac", dst, a, b, **how)


__all__ = [
    "ALL",
    "Activate",
    "Block",
    "Buffer",
    "Code",
    "Control",
    "Fabric",
    "Load",
    "Map",
    "Memory",
    "OWN",
    "Op",
    "Operand",
    "Pause",
    "Stamp",
    "Switch",
    "Unblock",
    "Vector",
    "add",
    "copy",
    "fmac",
    "maximum",
    "mul",
    "receive",
    "send",
    "wavelets",
]
