"""Small numbers of all colors of a PE at once: a set for each bit of them (`sets.py`).

Of colors 0 to 3 a PE holds 2, 0, 1 and 3 words: the lowest bits are those of colors 2 and 3, the
next ones those of 0 and 3.

    bit 0   0b1100
    bit 1   0b1001

Adding one to some colors is a carry that runs through the sets: two operations a bit, however many
colors there are.
"""

from collections.abc import Iterable, Sequence

import jax.numpy as jnp
import numpy as np

from emu.annotations import DType
from emu.wse.fabric.cycles import sets
from emu.wse.fabric.cycles.rows import PerPE, Rows, zeros

Counts = Rows
"""A set for each bit, the lowest first."""


def bits_of(most: int) -> int:
    """Of numbers up to `most`."""
    return most.bit_length()


def nothing(most: int, pes: int, dtype: DType) -> Counts:
    """Zero of every color."""
    return zeros(bits_of(most), pes, dtype)


def some(counts: Counts) -> PerPE:
    """The colors whose number is not zero."""
    return counts.any()


def differ(one: Counts, other: Counts) -> PerPE:
    """The colors whose numbers are not equal."""
    return Rows(a ^ b for a, b in zip(one, other, strict=True)).any()


def are(counts: Counts, number: int) -> PerPE:
    """The colors of which there are so many."""
    every = ~jnp.zeros_like(counts[0])
    for bit, members in enumerate(counts):
        every &= members if number >> bit & 1 else ~members
    return every


def plus(counts: Counts, added: Iterable[PerPE]) -> Counts:
    """The sums with numbers of as many bits or fewer; one set adds one to its members."""
    rows: list[PerPE] = []
    bits = list(added)
    carry: PerPE | None = None
    for bit, members in enumerate(counts):
        terms = [term for term in (carry, *bits[bit : bit + 1]) if term is not None]
        carry = None
        for term in terms:
            over = members & term
            # Of three bits two sums can carry, but never both.
            carry = over if carry is None else carry | over
            members = members ^ term
        rows.append(members)
    return Rows(rows)


def minus(counts: Counts, taken: Iterable[PerPE]) -> Counts:
    """The differences; no number may be less than what is taken from it."""
    rows: list[PerPE] = []
    bits = list(taken)
    borrow: PerPE | None = None
    for bit, members in enumerate(counts):
        terms = [term for term in (borrow, *bits[bit : bit + 1]) if term is not None]
        borrow = None
        for term in terms:
            under = ~members & term
            borrow = under if borrow is None else borrow | under
            members = members ^ term
        rows.append(members)
    return Rows(rows)


def at(counts: Counts, color: PerPE) -> PerPE:
    """`int8[PEs]`: each PE's number of its one color, 0 where it has none (`sets.only`)."""
    found = jnp.zeros(color.shape, jnp.int8)
    for bit, members in enumerate(counts):
        found |= sets.some(members & color).astype(jnp.int8) << bit
    return found


def times(number: PerPE, color: PerPE, most: int) -> list[PerPE]:
    """Each PE's number, up to `most`, of its one color, to be added or taken: a set a bit."""
    return [sets.where((number >> bit & 1) == 1, color) for bit in range(bits_of(most))]


def packed(numbers: np.ndarray, most: int) -> Counts:
    """`[colors, PEs]`, on the device."""
    return Rows.of(
        np.array([sets.packed(numbers >> bit & 1) for bit in range(bits_of(most))])
    )


def unpacked(counts: Sequence[np.ndarray], colors: int) -> np.ndarray:
    """As `int64[colors, PEs]`."""
    total: np.ndarray | int = 0
    for bit, members in enumerate(counts):
        total = total + (sets.unpacked(members, colors).astype(np.int64) << bit)
    assert isinstance(total, np.ndarray)
    return total


__all__ = [
    "Counts",
    "are",
    "at",
    "bits_of",
    "differ",
    "minus",
    "nothing",
    "packed",
    "plus",
    "some",
    "times",
    "unpacked",
]
