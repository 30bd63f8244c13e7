"""What a fabric program's operations work on: slices of SRAM, streams and immediates.

Memory operands are slices of a `Buffer`; fabric operands are `receive(color)` and `send(color)`;
a plain number is an immediate. A wavelet carries 32 bits: one float32 or two 16-bit elements.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp

from emu import given
from emu.wse.wavelets import WORD_BYTES, words

DTYPES = ("float32", "float16", "bfloat16", "int16")
"""Of what a PE's datapath computes with."""


def dtype_of_pe(what: str, value: Any) -> str:
    """The name of a dtype that a PE computes with; `what` names what has it in the error."""
    try:
        found = str(jnp.dtype(value))
    except TypeError:
        found = ""
    if found not in DTYPES:
        given.refuse(
            f"{what}: dtype is {given.told(value)}, must be one of {', '.join(DTYPES)}"
        )
    return found


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
        if not isinstance(at, slice):
            what = f"buffer '{self.name}': index"
            index = given.whole(what, at, -self.elements, self.elements - 1)
            at = slice(index, index + 1 if index != -1 else None)
        try:
            start, stop, step = at.indices(self.elements)
        except (TypeError, ValueError) as error:
            given.refuse(f"buffer '{self.name}': slice {at} is none: {error}")
        count = len(range(start, stop, step))
        if count == 0 or step < 1:
            given.refuse(
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

    def __post_init__(self) -> None:
        what = "send" if self.outward else "receive"
        given.name(f"{what}: its color", self.color)
        if self.elements is not None:
            given.whole(f"{what}('{self.color}'): elements", self.elements, 1)
        if self.dtype is not None:
            dtype_of_pe(f"{what}('{self.color}')", self.dtype)


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
