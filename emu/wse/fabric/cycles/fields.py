"""What is packed into integers, bit by bit: one table for who writes and who reads.

A PE looks its instruction up in every cycle. Sixteen tables would be sixteen gathers over all PEs;
packed into `WORDS` integers it is four.
"""

import dataclasses
from typing import Any, NamedTuple, TypeVar

import jax

from emu.wse.fabric.cycles.rows import Rows

WORD_BITS = 32
Bits = TypeVar("Bits", int, jax.Array)
Packed = TypeVar("Packed", int, jax.Array, Rows)
"""One integer, or arrays of them."""


@dataclasses.dataclass(frozen=True)
class Field:
    """`bits` bits of an integer from bit `shift` on, which hold a value plus `bias`.

    An index that may be NONE (-1) has a bias of 1, so that what is held is never negative: color 4
    in `Field(shift=21, bits=5, bias=1)` is 5 << 21, and no color at all is 0.

    Attributes:
      word: which of an instruction's integers.
    """

    word: int = 0
    shift: int = 0
    bits: int = WORD_BITS
    bias: int = 0

    def put(self, value: Bits) -> Bits:
        """The value in its place, to be or-ed with others."""
        return (value + self.bias) << self.shift

    def held(self, packed: Packed) -> Packed:
        """What stands in its place, the bias included."""
        if self.bits == WORD_BITS:
            return packed
        mask = (1 << self.bits) - 1
        return packed >> self.shift & mask

    def get(self, packed: Packed) -> Packed:
        """The value."""
        held = self.held(packed)
        return held - self.bias if self.bias else held


class Instruction(NamedTuple):
    """One instruction's fields; of one, of all, or of each PE's next one.

    Attributes:
      setup_cycles: from dispatch to the first issue; of scalar code, to the next dispatch.
      kind, thread, last, inward, outward, activate, unblock, target: as of the encoded
        `Instruction`.
      issues: wavelets, or datapath cycles of a local operation.
      drain_cycles: from the cycle after the last issue to the next dispatch.
      wavelets_per_issue: at most.
      idle_cycles: that its thread sits out after an issue.
      control: `ops.DATA`, or whose routers its wavelet turns.
      position: that a `Switch` sets.
      conflict: whether each element takes two issues because of a bank conflict.
    """

    setup_cycles: Any
    kind: Any
    thread: Any
    last: Any
    issues: Any
    drain_cycles: Any
    wavelets_per_issue: Any
    inward: Any
    idle_cycles: Any
    activate: Any
    unblock: Any
    target: Any
    outward: Any
    control: Any
    position: Any
    conflict: Any


WORDS = 4
"""Integers an instruction."""
INSTRUCTION = Instruction(
    # The widths are the hardware's numbers and the bias: 5 bits tell 31 colors from none, of which
    # a wafer has 24, and 9 bits the targets, most numerous of which are stamps. No packed field
    # reaches bit 31, which would make the integer negative.
    setup_cycles=Field(word=0, shift=0, bits=20),
    kind=Field(word=0, shift=20, bits=4),
    thread=Field(word=0, shift=24, bits=4),
    last=Field(word=0, shift=28, bits=1),
    issues=Field(word=1),
    drain_cycles=Field(word=2, shift=0, bits=20),
    wavelets_per_issue=Field(word=2, shift=20, bits=3),
    inward=Field(word=2, shift=23, bits=5, bias=1),
    idle_cycles=Field(word=2, shift=28, bits=3),
    activate=Field(word=3, shift=0, bits=6, bias=1),
    unblock=Field(word=3, shift=6, bits=6, bias=1),
    target=Field(word=3, shift=12, bits=9, bias=1),
    outward=Field(word=3, shift=21, bits=5, bias=1),
    control=Field(word=3, shift=26, bits=2),
    position=Field(word=3, shift=28, bits=2),
    conflict=Field(word=3, shift=30, bits=1),
)
MAX_CYCLES = 1 << INSTRUCTION.setup_cycles.bits
"""One more than an instruction may take before its first issue, or after its last."""


def pack(instruction: Instruction) -> list[int]:
    """An instruction's integers."""
    words = [0] * WORDS
    for field, value in zip(INSTRUCTION, instruction, strict=True):
        words[field.word] |= field.put(value)
    return words


def unpack(words: list[jax.Array]) -> Instruction:
    """The fields of an instruction's integers, or of arrays of them."""
    values = [field.get(words[field.word]) for field in INSTRUCTION]
    return Instruction(*values)


# Of `Threads.pace`: how much an operation moves an issue, and how long it then sits out.
WAVELETS_PER_ISSUE = Field(shift=0, bits=3)
IDLE_CYCLES = Field(shift=3, bits=4)

# Of `Threads.completion`: what an operation does to tasks when it completes, and whether every
# second issue of it is one that a bank conflict costs.
ACTIVATE = Field(shift=0, bits=8, bias=1)
UNBLOCK = Field(shift=8, bits=8, bias=1)
CONFLICT = Field(shift=16, bits=1)

KIND_BITS = 2
"""Of a wavelet's kind: `ops.DATA`, `OWN` or `ALL`."""

__all__ = [
    "ACTIVATE",
    "CONFLICT",
    "Field",
    "IDLE_CYCLES",
    "INSTRUCTION",
    "Instruction",
    "KIND_BITS",
    "MAX_CYCLES",
    "UNBLOCK",
    "WAVELETS_PER_ISSUE",
    "WORDS",
    "pack",
    "unpack",
]
