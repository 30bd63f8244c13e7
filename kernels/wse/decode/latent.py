"""Projections of a query and of a mean of latents on the region that holds the latents.

Weights are dealt over rows: a row has part of one head's features, or several heads. Of 4 heads of
8 features on 17 rows, four rows have two features each of every head, and one row none:

    row       0    1    2    3    4    ...   15   16
    head      0    0    0    0    1          3    -
    features  0-1  2-3  4-5  6-7  0-1        6-7  -
"""

import dataclasses

import jax
import numpy as np
from jax import lax

from emu.wse import copy, copy_into, sram_tile
from emu.wse.spaces import Sram
from kernels.wse.decode.blocks import gemv
from kernels.wse.decode.sums import all_reduce, zeros


@dataclasses.dataclass(frozen=True)
class Share:
    """How heads' features are dealt over rows.

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
    def used_rows(self) -> int:
        """Rows that have any."""
        if self.heads_a_row > 1:
            return -(-self.heads // self.heads_a_row)
        return self.heads * self.rows_a_head

    @property
    def head_of(self) -> np.ndarray:
        """int32 `[rows, heads_a_row]`; of a row that has none it is 0, and its weights are."""
        if self.heads_a_row > 1:
            places = np.arange(self.rows * self.heads_a_row)
            found = np.where(places < self.heads, places, 0)
        else:
            rows = np.arange(self.rows)
            found = np.where(rows < self.used_rows, rows // self.rows_a_head, 0)
        return found.reshape(self.rows, -1).astype(np.int32)

    def dealt(self, x: np.ndarray) -> np.ndarray:
        """`[heads, features, ...]` to `[rows, heads_a_row * width, ...]`, zeros where none are."""
        _, _, *rest = x.shape
        missing = self.used_rows * self.heads_a_row // self.rows_a_head - self.heads
        whole = np.pad(x, [(0, missing), *[(0, 0)] * (x.ndim - 1)])
        by_row = whole.reshape(self.used_rows, self.heads_a_row * self.width, *rest)
        behind = self.rows - self.used_rows
        return np.pad(by_row, [(0, behind), *[(0, 0)] * (by_row.ndim - 1)])

    def collected(self, x: np.ndarray) -> np.ndarray:
        """`[rows, heads_a_row, width]` to `[heads, features]`."""
        used = x[: self.used_rows].reshape(-1, self.width)
        return used.reshape(-1, self.features)[: self.heads]


def absorbed(
    q: Sram,
    weights: Sram,
    head_of: jax.Array,
    rotary: Sram,
    share: Share,
    dtype: str,
) -> Sram:
    """A query as it meets latents, `[heads, latent dims + rotary dims]`, on every row.

    Args:
      q: `[heads_a_row * width]`, this row's features.
      weights: `[heads_a_row * width, latent dims]`.
      head_of: known integers `[heads_a_row]`.
      rotary: `[heads, rotary dims]`, of all heads.
      share: of the rows.
      dtype: of the result.

    Pseudocode:
      all_reduce_row(at its head: q @ weights), then the rotary features
    """
    dims = weights.shape[1]
    total = zeros((share.heads, dims))
    for place in range(share.heads_a_row):
        begin, end = place * share.width, (place + 1) * share.width
        own_q = lax.slice_in_dim(q, begin, end)
        own = gemv(lax.slice_in_dim(weights, begin, end, axis=0), own_q)
        total = copy_into(total, own.reshape(1, dims), head_of[place], axis=0)
    # Each row has its own heads only, and zeros for the others.
    total = all_reduce(total, "row")
    if dtype != "float32":
        rounded = sram_tile(shape=total.shape, dtype=dtype)
        total = copy(rounded, total)
    whole = sram_tile(shape=(share.heads, dims + rotary.shape[1]), dtype=dtype)
    whole = copy_into(whole, total, 0, axis=1)
    return copy_into(whole, rotary, dims, axis=1)


def projected(
    mean: Sram, weights: Sram, head_of: jax.Array, share: Share, group: int
) -> Sram:
    """Values of a mean of latents, float32 `[heads_a_row, width]`: every row those of its features.

    Args:
      mean: `[heads, latent dims]`, of the latents that this column has.
      weights: `[heads_a_row * latent dims, width]`.
      head_of: known integers `[heads_a_row]`.
      share: of the rows.
      group: columns that share a latent.

    Pseudocode:
      all_reduce_col(mean of its head @ weights)
    """
    dims = mean.shape[1]
    out = sram_tile(shape=(share.heads_a_row, share.width), dtype="float32")
    for place in range(share.heads_a_row):
        begin, end = place * dims, (place + 1) * dims
        of_head = lax.dynamic_slice_in_dim(mean, head_of[place], 1, axis=0)
        own_mean = of_head.reshape(dims)
        own = gemv(lax.slice_in_dim(weights, begin, end, axis=0), own_mean)
        out = copy_into(out, own.reshape(1, share.width), place, axis=0)
    return all_reduce(out, "col", group=group)


__all__ = ["Share", "absorbed", "projected"]
