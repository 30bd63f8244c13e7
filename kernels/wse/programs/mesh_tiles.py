"""Where MeshGEMM's tiles lie: matrices to what each PE holds, and back."""

import numpy as np

from emu.wse.collectives.programs import ring_places


def place_x(x: np.ndarray, p: int) -> np.ndarray:
    """`X[p*mt, p*kt]` as `[p, p, kt*mt]`: PE (y, x) holds block (y, x), column by column."""
    tiles = _tiles(x, p)
    by_column = tiles.transpose(0, 1, 3, 2)
    return by_column.reshape(p, p, -1)


def place_w(w: np.ndarray, p: int) -> np.ndarray:
    """`W[p*kt, p*nt]` as `[p, p, kt*nt]`, each column turned so that the aligned X meets it."""
    tiles = _tiles(w, p)
    ring = ring_places(p)
    step_of = {place: step for step, place in enumerate(ring)}  # round the ring
    placed = []
    for row in range(p):
        for column in range(p):
            # Aligned, the PE holds this block of X's columns and needs the same of W's rows. On
            # the ring 0, 2, 3, 1 row 1 is at step 3: its X moved on by one place, so that
            # column 2, at step 1, holds the block of step 0, which is 1 + 3 modulo 4.
            step = step_of[column] + step_of[row]
            block = ring[step % p]
            placed.append(tiles[block, column])
    return np.array(placed).reshape(p, p, -1)


def read_c(c: np.ndarray, mt: int) -> np.ndarray:
    """The result as a matrix, from `[p, p, nt*mt]`."""
    p = len(c)
    tiles = c.reshape(p, p, -1, mt)  # columns, then rows of each
    by_row = tiles.transpose(0, 3, 1, 2)
    return by_row.reshape(p * mt, -1)


def _tiles(matrix: np.ndarray, p: int) -> np.ndarray:
    """`[p, p, rows, columns]`."""
    rows, columns = matrix.shape
    split = matrix.reshape(p, rows // p, p, columns // p)
    return split.swapaxes(1, 2)


__all__ = ["place_w", "place_x", "read_c"]
