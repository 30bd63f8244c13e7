"""Arrays split over PEs: a dimension as two, that which counts PEs and that which one PE holds."""

import math
import re

import jax
import numpy as np

Array = jax.Array | np.ndarray

Tiles = np.ndarray
"""What every PE holds: the dimensions that count PEs, then those of a PE's tile."""


def deal(x: Array, axis: int, parts: int, each: int) -> np.ndarray:
    """Dimension `axis` as two, `[parts, each]`, padded with zeros at its end."""
    array = np.asarray(x)
    axis %= array.ndim
    before = array.shape[:axis]
    behind = array.shape[axis + 1 :]
    missing = parts * each - array.shape[axis]
    if missing:  # `np.pad` copies, and weights are gigabytes
        padding = [(0, 0)] * array.ndim
        padding[axis] = (0, missing)
        array = np.pad(array, padding)
    return array.reshape(*before, parts, each, *behind)


def in_blocks(x: Array, axis: int, block: int | None, each: int) -> np.ndarray:
    """Dimension `axis` with zeros behind each block, so that slices of `each` numbers end there.

    A block of 8 in slices of 3 is followed by one zero: `0 1 2 | 3 4 5 | 6 7 -`. Without blocks it
    stays as it is.
    """
    array = np.asarray(x)
    if block is None:
        return array
    axis %= array.ndim
    count = -(-array.shape[axis] // block)
    by_block = deal(array, axis, count, block)
    missing = [(0, 0)] * by_block.ndim
    missing[axis + 1] = (0, -block % each)
    filled = np.pad(by_block, missing)
    before, behind = array.shape[:axis], array.shape[axis + 1 :]
    whole = filled.reshape(*before, -1, *behind)
    # Of a last block that is not full only the slices that it needs.
    needed = sliced(array.shape[axis], block, each) * each
    return np.take(whole, np.arange(needed), axis=axis)


def sliced(elements: int, block: int, each: int) -> int:
    """Slices of `each` elements that end with every block: 20 in blocks of 8 and slices of 3 are 3,
    3 and 2."""
    whole, rest = divmod(elements, block)
    return whole * -(-block // each) + -(-rest // each)


def arranged(x: np.ndarray, given: str, wanted: str) -> np.ndarray:
    """An array with its dimensions in another order, by name; those in brackets become one.

    Of `[layers, 2, 12, 3]`, `arranged(x, "layer row depth col", "layer row col depth")` is
    `[layers, 2, 3, 12]`, and with `"layer (row col) depth"` `[layers, 6, 12]`.

    Args:
      x: the array.
      given: a name for each of its dimensions.
      wanted: the same names, in the order of the result.
    """
    names, ordered = given.split(), wanted.replace("(", "").replace(")", "").split()
    if len(names) != x.ndim or sorted(names) != sorted(ordered):
        raise ValueError(
            f"dimensions {given!r} of {x.shape} cannot be arranged as {wanted!r}: both must have "
            "one name for each"
        )
    turned = np.transpose(x, [names.index(name) for name in ordered])
    sizes = dict(zip(ordered, turned.shape, strict=True))
    shape = []
    for group in re.findall(r"\([^)]*\)|[^\s()]+", wanted):
        together = group.strip("()").split()
        shape.append(math.prod(sizes[name] for name in together))
    return turned.reshape(shape)


def rows_to_cols(x: Array, rows: int, depth: int, cols: int, width: int) -> Tiles:
    """`[layers, rows * depth, cols * width]` to `[layers, rows, cols, depth, width]`, padded."""
    by_col = deal(x, 2, cols, width)
    by_pe = deal(by_col, 1, rows, depth)  # layers, rows, depth, cols, width
    return np.moveaxis(by_pe, 3, 2)


__all__ = [
    "Array",
    "Tiles",
    "arranged",
    "deal",
    "in_blocks",
    "rows_to_cols",
    "sliced",
]
