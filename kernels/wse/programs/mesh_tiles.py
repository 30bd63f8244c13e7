"""Where MeshGEMM's tiles lie: matrices to what each PE holds, and back."""

import numpy as np

from emu.wse.collectives.programs import ring_places


def place_x(x: np.ndarray, p: int) -> np.ndarray:
    """`X[p*mt, p*kt]` as `[p, p, kt*mt]`: PE (y, x) holds block (y, x), column by column."""
    return _tiles(x, p).transpose(0, 1, 3, 2).reshape(p, p, -1)


def place_w(w: np.ndarray, p: int) -> np.ndarray:
    """`W[p*kt, p*nt]` as `[p, p, kt*nt]`, each column turned so that the aligned X meets it."""
    ring = ring_places(p)
    place = {at: i for i, at in enumerate(ring)}
    tiles = _tiles(w, p)
    rows = [
        [tiles[ring[(place[x] + place[y]) % p], x] for x in range(p)] for y in range(p)
    ]
    return np.array(rows).reshape(p, p, -1)


def read_c(c: np.ndarray, mt: int) -> np.ndarray:
    """The result as a matrix, from `[p, p, nt*mt]`."""
    p = len(c)
    return c.reshape(p, p, -1, mt).transpose(0, 3, 1, 2).reshape(p * mt, -1)


def _tiles(x: np.ndarray, p: int) -> np.ndarray:
    """`[p, p, rows, columns]`."""
    rows, columns = x.shape
    return x.reshape(p, rows // p, p, columns // p).swapaxes(1, 2)


__all__ = ["place_w", "place_x", "read_c"]
