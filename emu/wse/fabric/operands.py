"""What a fabric program's operations work on: slices of SRAM, streams and immediates.

Memory operands are slices of a `Buffer`; fabric operands are `receive(color)` and `send(color)`;
a plain number is an immediate. A wavelet carries 32 bits: one float32 or two 16-bit elements.
"""

import dataclasses

import jax.numpy as jnp

from emu.errors import LimitExceeded
from emu.wse.wavelets import WORD_BYTES, words


@dataclasses.dataclass(frozen=True)
class Memory:
    """`elements` of a buffer in SRAM, from `start`, `step` apart.

    Attributes:
      buffer: name of the buffer.
      dtype: of its elements.
      address: byte address of the first element in the PE's SRAM.
    """

    buffer: str
    dtype: str
    address: int
    start: int
    elements: int
    step: int = 1


@dataclasses.dataclass(frozen=True)
class Buffer:
    """A named array in the SRAM of some PEs, at the same address in each.

    Slices of it are `Memory` operands: `x[:]`, `x[4:8]`, `x[::2]`, `x[3]`.
    """

    name: str
    elements: int
    dtype: str
    address: int

    def __getitem__(self, at: "slice | int") -> Memory:
        if isinstance(at, int):
            at = slice(at, at + 1 if at != -1 else None)
        start, stop, step = at.indices(self.elements)
        count = len(range(start, stop, step))
        if count == 0 or step < 1:
            raise LimitExceeded(
                f"buffer '{self.name}' of {self.elements}: slice {at} is empty or runs backwards"
            )
        itemsize = jnp.dtype(self.dtype).itemsize
        return Memory(
            buffer=self.name,
            dtype=self.dtype,
            address=self.address + start * itemsize,
            start=start,
            elements=count,
            step=step,
        )

    @property
    def nbytes(self) -> int:
        return self.elements * jnp.dtype(self.dtype).itemsize


@dataclasses.dataclass(frozen=True)
class Fabric:
    """A stream of elements that arrives (`receive`) or leaves (`send`) on a color.

    `elements` and `dtype` may be left to the operation's other operands. `wide` is the 64-bit mode
    of a microthread's copies: several wavelets an issue, a receive as many of them as have come,
    at a slower pace.
    """

    color: str
    outward: bool
    elements: int | None = None
    dtype: str | None = None
    wide: bool = False


def receive(
    color: str,
    elements: int | None = None,
    dtype: str | None = None,
    wide: bool = False,
) -> Fabric:
    """The next elements that arrive on `color`."""
    return Fabric(color, False, elements, dtype, wide)


def send(
    color: str,
    elements: int | None = None,
    dtype: str | None = None,
    wide: bool = False,
) -> Fabric:
    """A destination: the elements leave on `color`."""
    return Fabric(color, True, elements, dtype, wide)


Operand = Memory | Fabric | float


def wavelets(elements: int, dtype: str) -> int:
    """32-bit wavelets that carry `elements`."""
    return int(words(elements, dtype))


__all__ = [
    "Buffer",
    "Fabric",
    "Memory",
    "Operand",
    "WORD_BYTES",
    "receive",
    "send",
    "wavelets",
]
