"""How heads' features are dealt over rows: a row has part of one head's features, or several heads.

Of 4 heads of 8 features on 17 rows, four rows have two features each of every head, and one row
none:

    row       0    1    2    3    4    ...   15   16
    head      0    0    0    0    1          3    -
    features  0-1  2-3  4-5  6-7  0-1        6-7  -
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jax import lax

from emu.annotations import KnownInt


@dataclasses.dataclass(frozen=True)
class Share:
    """Features of heads on rows.

    Attributes:
      heads, features: of the weights.
      rows: PEs that share them.
    """

    heads: int
    features: int
    rows: int

    @property
    def heads_a_row(self) -> int:
        """Heads of which a row has features."""
        return -(-self.heads // self.rows)

    @property
    def rows_a_head(self) -> int:
        """Rows that share one head's features."""
        most = max(1, self.rows // self.heads)
        counts = range(1, min(most, self.features) + 1)
        return max(n for n in counts if self.features % n == 0)

    @property
    def width(self) -> int:
        """Features of a head on one row."""
        return self.features // self.rows_a_head

    @property
    def size(self) -> int:
        """Features on one row, of all its heads."""
        return self.heads_a_row * self.width

    @property
    def used_rows(self) -> int:
        """Rows that have any."""
        if self.heads_a_row > 1:
            return -(-self.heads // self.heads_a_row)
        return self.heads * self.rows_a_head

    def head_at(self, place: int) -> KnownInt:
        """This row's head at one of its places.

        Where it has none there, the head is one that it has not either, and its weights are zero.
        """
        row = lax.axis_index("row")
        if self.heads_a_row > 1:
            head = row * jnp.int32(self.heads_a_row) + jnp.int32(place)
        else:
            head = lax.div(row, jnp.int32(self.rows_a_head))
        return lax.rem(head, jnp.int32(self.heads))

    @property
    def first_feature(self) -> KnownInt:
        """The first of this row's features among those of its head; of several heads it has all."""
        if self.heads_a_row > 1:
            return jnp.int32(0)
        place = lax.rem(lax.axis_index("row"), jnp.int32(self.rows_a_head))
        return place * jnp.int32(self.width)

    def dealt(self, x: np.ndarray) -> np.ndarray:
        """`[heads, features, ...]` to `[rows, size, ...]`, zeros where none are."""
        _, _, *rest = x.shape
        missing = self.used_rows * self.heads_a_row // self.rows_a_head - self.heads
        whole = np.pad(x, [(0, missing), *[(0, 0)] * (x.ndim - 1)])
        by_row = whole.reshape(self.used_rows, self.size, *rest)
        behind = self.rows - self.used_rows
        return np.pad(by_row, [(0, behind), *[(0, 0)] * (by_row.ndim - 1)])

    def collected(self, x: np.ndarray) -> np.ndarray:
        """`[rows, heads_a_row, width]` to `[heads, features]`."""
        used = x[: self.used_rows].reshape(-1, self.width)
        return used.reshape(-1, self.features)[: self.heads]


__all__ = ["Share"]
