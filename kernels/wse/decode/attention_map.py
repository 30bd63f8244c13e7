"""Decode attention alone on a region of PEs: how heads, batches and positions are dealt.

Columns are groups of `parts`, a group for each copy of each key/value head of each batch entry;
rows share the positions, p in row `p % rows`, slot `p // rows`. A group attends to a range of
positions; of 9 positions in 4 rows, the range from 3 to 8 is

    row 0   4 8       slots 1 and 2
    row 1   5         slot 1
    row 2   6         slot 1
    row 3   3 7       slots 0 and 1

so each row has a first slot and a number of live ones, and works on a view of as many slots as the
fullest row has.
"""

import dataclasses
import math
from typing import Protocol

import jax.numpy as jnp
import numpy as np

from emu.annotations import KnownInt, Shape
from emu.wse.pe.packed import SCALES
from kernels.refusal import refuse
from kernels.wse.decode import sizes
from kernels.wse.decode.mapping import FLOAT32_BYTES, LayerMap, share_of, stride_of


class Heads(Protocol):
    """What decode attention asks of a mapping; `LayerMap` and `AttentionMap` tell it."""

    @property
    def rows(self) -> int:
        """PEs over which positions are dealt."""
        ...

    @property
    def parts(self) -> int:
        """Columns of a group."""
        ...

    @property
    def queries(self) -> int:
        """Query heads that share one key/value head."""
        ...

    @property
    def maps(self) -> int:
        """Score maps over the same values; queries and keys lie map by map."""
        ...

    @property
    def values_are_keys(self) -> bool:
        """Whether a value is the first elements of its key, and held as part of it."""
        ...

    @property
    def dims(self) -> int:
        """Elements of a query or key in one PE, of one map."""
        ...

    @property
    def value_dims(self) -> int:
        """Elements of a value in one PE."""
        ...

    @property
    def slots(self) -> int:
        """Slots of one PE that are gone through."""
        ...

    @property
    def slot_share(self) -> int:
        """Slots whose exponentials one column works out for its group."""
        ...

    @property
    def scale(self) -> float:
        """Factor of a score."""
        ...

    @property
    def dtype(self) -> str:
        """Of what is multiplied by the cache, and of the cache unless that holds bytes."""
        ...


def whole_blocks(dims: int, block: int) -> bool:
    """Whether so many features are part of one block, or whole blocks."""
    return block % dims == 0 or dims % block == 0


@dataclasses.dataclass(frozen=True)
class AttentionMap:
    """Attention of one token on `rows` x `batch * kv_heads * copies * parts` PEs.

    Attributes:
      batch, heads, kv_heads: `kv_heads` divides `heads`.
      head_dim, value_dim: of queries and keys, and of values.
      context: tokens in the cache.
      rows: PEs over which positions are dealt.
      parts: columns per key/value head; divides `head_dim` and `value_dim`.
      copies: of each key/value head, among which the query heads that share it are split.
      most_live: slots of the fullest row.
      last_first: the first slot of the row that begins latest.
      ahead: slots from the cache's first on that every row attends to besides, before a gap; they
        are among `most_live`.
      scale: factor of a score.
      dtype: of the queries; sums are float32.
      cache_dtype: of the cache, one of `CODES` of 8 bits; "": as the queries'.
      maps: score maps over the same values. `heads` counts the queries of all of them, `kv_heads`
        the heads of values, each of which has keys of every map.
      values_are_keys: whether a value is the first features of its key, such as a latent, and held
        as part of it. Keys are then a width apart that a PE reads values by at full speed.
      block: features of a key or value that share a power of two, as 8-bit codes may; 0: none do.
    """

    batch: int
    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int
    context: int
    rows: int
    parts: int
    most_live: int
    last_first: int
    scale: float
    dtype: str = "float32"
    ahead: int = 0
    cache_dtype: str = ""
    copies: int = 1
    maps: int = 1
    values_are_keys: bool = False
    block: int = 0

    def __post_init__(self) -> None:
        names = ("batch", "heads", "kv_heads", "head_dim", "value_dim", "context")
        sizes.check_whole(self, *names, "rows", "parts", "copies")
        sizes.check_dtype(self.dtype)
        if self.heads % self.head_groups:
            copied = f", {self.copies} copies each" if self.copies > 1 else ""
            refuse(
                f"{self.heads} heads must be a multiple of {self.kv_heads} key/value heads{copied}"
            )
        if self.head_dim % self.parts or self.value_dim % self.parts:
            refuse(
                f"parts is {self.parts}, must divide {self.head_dim} dimensions of keys and "
                f"{self.value_dim} of values"
            )
        dims = self.dims, self.value_dims
        if self.block and not all(whole_blocks(n, self.block) for n in dims):
            refuse(
                f"{self.parts} parts have {self.dims} dimensions of keys and {self.value_dims} of "
                f"values each, must be parts of one block of {self.block} or whole blocks"
            )

    @classmethod
    def of_layer(
        cls, layer: LayerMap, *, most_live: int, last_first: int = 0
    ) -> "AttentionMap":
        """That of a layer's region, which goes through some of its slots.

        Args:
          layer: the mapping.
          most_live, last_first: as the attributes.
        """
        return cls(
            batch=1,
            heads=layer.heads,
            kv_heads=layer.kv_heads,
            head_dim=layer.head_dim,
            value_dim=layer.head_dim,
            context=layer.context,
            rows=layer.rows,
            parts=layer.parts,
            most_live=most_live,
            last_first=last_first,
            scale=layer.scale,
            dtype=layer.dtype,
        )

    def blocks(self, dims: int) -> int:
        """Blocks of so many features of a PE."""
        return max(1, dims // self.block)

    @property
    def groups(self) -> int:
        """Groups of columns: copies of the key/value heads of all batch entries."""
        return self.batch * self.head_groups

    @property
    def head_groups(self) -> int:
        """Of one batch entry."""
        return self.kv_heads * self.copies

    @property
    def cols(self) -> int:
        return self.groups * self.parts

    @property
    def mesh(self) -> dict[str, int]:
        return {"row": self.rows, "col": self.cols}

    @property
    def queries(self) -> int:
        return self.heads // self.head_groups

    @property
    def dims(self) -> int:
        return self.head_dim // self.parts

    @property
    def value_dims(self) -> int:
        return self.value_dim // self.parts

    @property
    def slot_share(self) -> int:
        return share_of(self.most_live, self.parts)

    @property
    def slots(self) -> int:
        # A whole number of shares, so that each column's lies within the tile.
        return share_of(self.most_live, self.slot_share) * self.slot_share

    @property
    def held_slots(self) -> int:
        """Slots of the cache in one PE: all positions, and a view from any row's first slot."""
        viewed = self.slots - self.ahead
        held = max(share_of(self.context, self.rows), self.last_first + viewed)
        return stride_of(held) if self.values_are_keys else held

    def cache_shapes(self) -> dict[str, Shape]:
        """Shapes of the cache in one PE."""
        shapes: dict[str, Shape] = {"k": (self.maps * self.dims, self.held_slots)}
        if not self.values_are_keys:
            shapes["v"] = (self.held_slots, self.value_dims)
        if self.block:
            shapes["k_powers"] = (self.blocks(self.dims), self.held_slots)
            shapes["v_powers"] = (self.blocks(self.value_dims), self.held_slots)
        return shapes

    def cache_dtypes(self) -> dict[str, str]:
        """Their dtypes."""
        of_codes = {"k": self.held_dtype, "v": self.held_dtype}
        of_powers = {"k_powers": SCALES, "v_powers": SCALES}
        return {**of_codes, **(of_powers if self.block else {})}

    @property
    def held_dtype(self) -> str:
        """Of the cache."""
        return self.cache_dtype or self.dtype

    @property
    def cache_bytes(self) -> int:
        """Of the cache in one PE."""
        dtypes = self.cache_dtypes()
        return sum(
            math.prod(shape) * jnp.dtype(dtypes[name]).itemsize
            for name, shape in self.cache_shapes().items()
        )

    @property
    def least_bytes(self) -> int:
        """Of a PE at the least: the cache, and for each slot and query a score and a weight."""
        scores = self.queries * self.slots
        return self.cache_bytes + scores * (FLOAT32_BYTES + self.itemsize)

    @property
    def itemsize(self) -> int:
        """Bytes of a number that is multiplied by the cache."""
        return jnp.dtype(self.dtype).itemsize


@dataclasses.dataclass(frozen=True)
class Span:
    """The slots of a PE that are attended to, or may be.

    Attributes:
      first: known; None: from the first slot of the cache, all of which are gone through.
      live: known number of slots from there on.
    """

    first: KnownInt | None
    live: KnownInt


def spans(
    low: np.ndarray, high: np.ndarray, rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """First slot and number of slots of ranges of positions, in every row.

    Args:
      low, high: `[n]`, ranges `[low, high)`.
      rows: PEs over which positions are dealt.

    Returns:
      `first` and `live`, int32 `[rows, n]`.
    """
    row = np.arange(rows)[:, None]

    def slots_before(position: np.ndarray) -> np.ndarray:
        return (position[None] - row + rows - 1) // rows

    first = slots_before(np.asarray(low))
    live = np.maximum(slots_before(np.asarray(high)) - first, 0)
    # Where nothing is live it does not matter, and the view then fits.
    first = np.where(live > 0, first, 0)
    return first.astype(np.int32), live.astype(np.int32)


__all__ = ["AttentionMap", "Heads", "Span", "spans", "whole_blocks"]
