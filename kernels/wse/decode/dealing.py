"""Arrays split over PEs: a dimension as two, that which counts PEs and that which one PE holds."""

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


def rows_to_cols(x: Array, rows: int, depth: int, cols: int, width: int) -> Tiles:
    """`[layers, rows * depth, cols * width]` to `[layers, rows, cols, depth, width]`, padded."""
    by_col = deal(x, 2, cols, width)
    by_pe = deal(by_col, 1, rows, depth)  # layers, rows, depth, cols, width
    return np.moveaxis(by_pe, 3, 2)


__all__ = ["Array", "Tiles", "deal", "rows_to_cols"]
