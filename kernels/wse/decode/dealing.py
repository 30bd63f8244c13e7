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


__all__ = ["Array", "Tiles", "arranged", "deal", "rows_to_cols"]
