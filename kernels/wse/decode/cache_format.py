"""What a layer's cache is held in that is in codes: formats, names, shapes and dtypes.

In FP8 and int8 a token's key and value of a head have a float32 scale each, in MXFP8 a power of two
for each 32 features. A PE has some of a head's features, in pairs that turn together: of 16 of 128
on 8 columns those from `8 j` on and from `64 + 8 j` on. So it has two runs of 8, each within one
block, and for each slot a power of both.
"""

import dataclasses
import math

from emu.annotations import DType, Shape
from emu.wse.pe.packed import SCALES as POWERS_DTYPE
from kernels.formats.formats import FLOAT32, POWER_OF_TWO, Format

SCALES = {"k": "k_scale", "v": "v_scale"}
"""What the scales of keys and of values are called."""

POWERS = {"k": "k_powers", "v": "v_powers"}
"""What their powers of two are called."""

CACHED = ("fp8", "int8", "mxfp8")
"""Formats that a layer's cache may be in."""


def is_cached(held: Format) -> bool:
    """Whether a cache may be in that format: a byte a number, and a scale for a token's head, or
    powers of two for blocks of its features."""
    if held.scale == POWER_OF_TWO:
        return held.name in CACHED
    return held.name in CACHED and held.block == (None, 1) and held.scale == FLOAT32


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Which of a head's blocks the features of a column are in; see the module's example.

    Attributes:
      size: features of a block, which share a power of two.
      starts: of each range of a column's features, in the order of its tile, the first feature on a
        group's first column.
      widths: features of each range, by which it begins further on on each next column.
    """

    size: int
    starts: tuple[int, ...]
    widths: tuple[int, ...]

    @property
    def run(self) -> int:
        """Features of a tile that are in one block on every column."""
        return math.gcd(self.size, *self.starts, *self.widths)

    @property
    def runs(self) -> tuple[tuple[int, int], ...]:
        """Of each run its first feature on a group's first column, and the step to the next's."""
        found = []
        for start, width in zip(self.starts, self.widths, strict=True):
            firsts = range(start, start + width, self.run)
            found += [(first, width) for first in firsts]
        return tuple(found)


def scale_shapes(slots: int, of_latents: bool) -> dict[str, Shape]:
    """Shapes of the scales in one PE: of keys and of values, or of latents and turned keys."""
    if of_latents:
        # Both lie in one key, the latent first.
        return {SCALES["k"]: (2, slots)}
    return {name: (1, slots) for name in SCALES.values()}


def power_shapes(slots: int, blocks: Blocks) -> dict[str, Shape]:
    """Shapes of the powers of two in one PE."""
    return {name: (len(blocks.runs), slots) for name in POWERS.values()}


def cache_dtypes(held: Format) -> dict[str, DType]:
    """Dtypes of codes and of scales or powers."""
    codes: dict[str, DType] = dict.fromkeys(SCALES, held.element)
    scales: dict[str, DType] = dict.fromkeys(SCALES.values(), "float32")
    powers: dict[str, DType] = dict.fromkeys(POWERS.values(), POWERS_DTYPE)
    return {**codes, **scales, **powers}


__all__ = [
    "CACHED",
    "POWERS",
    "SCALES",
    "Blocks",
    "cache_dtypes",
    "is_cached",
    "power_shapes",
    "scale_shapes",
]
