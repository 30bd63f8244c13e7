"""What of a variant lies in a PE's SRAM, or arrives there with the query, and on which PEs.

A value of `slope[h] * k` differs by query head and key: a tile `[queries, slots held]` in each PE,
another one on every row and on every group of columns. A gate's differs by head and feature: a tile
`[queries, value_dims]`, another one on every column and the same on all rows.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable

import jax
import numpy as np

from emu.lower import Elementwise
from emu.wse.lower import ARRIVING, Leaf, Lowered
from kernels.wse.decode.attention_map import AttentionMap
from kernels.wse.decode.dealing import deal


@dataclasses.dataclass(frozen=True, eq=False)
class Kept:
    """A value that is not worked out for each tile.

    Attributes:
      leaf: of a lowered function.
      function: that function.
    """

    leaf: Leaf
    function: Elementwise

    def depends_on(self, name: str) -> bool:
        """Whether it depends on an argument, if its function has one of this name."""
        has = any(x.name == name for x in self.function.inputs)
        return has and self.leaf.depends_on(self.function, name)

    @property
    def when(self) -> int:
        """When it is known: `KEPT` before any token, `ARRIVING` with the token."""
        return ARRIVING if self.depends_on("q") else self.leaf.when

    @property
    def by_column(self) -> bool:
        """Whether it differs between columns."""
        return any(self.depends_on(name) for name in ("b", "h", "d"))

    @property
    def of_features(self) -> bool:
        """Whether the tile has a column for each feature of a value."""
        return self.leaf.shape[1] and self.depends_on("d")

    @property
    def of_slots(self) -> bool:
        """Whether the tile has a column for each slot of the cache."""
        return self.leaf.shape[1] and not self.of_features


@dataclasses.dataclass(frozen=True, eq=False)
class Tables:
    """Of all functions of a variant.

    Attributes:
      functions: as they run on a PE.
      map: how heads, batch entries and positions are dealt.
      query: position of the query.
      dealt: whether each column of a group has only its share of the slots gone through.
    """

    functions: tuple[Lowered, ...]
    map: AttentionMap
    query: int
    dealt: bool = False

    @functools.cached_property
    def kept(self) -> dict[str, Kept]:
        """What lies in a PE or arrives, by key."""
        kept: dict[str, Kept] = {}
        for lowered in self.functions:
            for key, leaf in lowered.leaves.items():
                # What several have, such as `k`, is one and the same.
                kept.setdefault(key, Kept(leaf, lowered.function))
        return kept

    def specs(self) -> dict[str, tuple[str, ...]]:
        """Axes of the mesh along which each differs."""
        return {key: self._spec(x) for key, x in self.kept.items()}

    def structs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of all PEs' tiles, led by those axes of the mesh."""
        return {key: self._struct(x) for key, x in self.kept.items()}

    def tiles(self, *when: int) -> dict[str, np.ndarray]:
        """Values on their PEs, as `structs`: of all, or of those known `when`, such as `KEPT`."""
        return {
            key: self._tiles(x)
            for key, x in self.kept.items()
            if not when or x.when in when
        }

    @property
    def nbytes(self) -> int:
        """Bytes in one PE."""
        total = 0
        for x in self.kept.values():
            own = self._struct(x).shape[len(self._spec(x)) :]
            total += math.prod(own) * x.leaf.held.itemsize
        return total

    def of_slots(self) -> Iterable[str]:
        """Keys of tiles that have a column for each slot of the cache."""
        return [key for key, x in self.kept.items() if x.of_slots]

    def _spec(self, kept: Kept) -> tuple[str, ...]:
        if kept.leaf.flat:
            return ()
        row = ("row",) if kept.of_slots else ()
        by_column = kept.by_column or (kept.of_slots and self.dealt)
        return (*row, "col") if by_column else row

    def _columns(self, kept: Kept) -> int:
        if kept.of_features:
            return self.map.value_dims
        if not kept.of_slots:
            return 1
        return self.map.slot_share if self.dealt else self.map.held_slots

    def _struct(self, kept: Kept) -> jax.ShapeDtypeStruct:
        leaf = kept.leaf
        if leaf.flat:
            size = np.size(leaf.operand.value)  # type: ignore[union-attr]
            return jax.ShapeDtypeStruct((size,), leaf.held)
        lead = tuple(self.map.mesh[axis] for axis in self._spec(kept))
        rows = leaf.entries * (self.map.queries if leaf.shape[0] else 1)
        return jax.ShapeDtypeStruct((*lead, rows, self._columns(kept)), leaf.held)

    def _tiles(self, kept: Kept) -> np.ndarray:
        """A leaf's values on their PEs."""
        layout = self.map
        leaf = kept.leaf
        if leaf.flat:
            return leaf.values(kept.function, {})
        along = {
            "b": np.arange(layout.batch),
            "h": np.arange(layout.heads),
            "q": np.array([self.query]),
            "k": np.arange(layout.context),
            "d": np.arange(layout.value_dim),
        }
        used = {x: values for x, values in along.items() if kept.depends_on(x)}
        found = leaf.values(kept.function, used)
        sizes = [
            len(along[name]) if name in used else 1 for name in ("b", "h", "k", "d")
        ]
        found = found.reshape(*sizes, leaf.entries)
        entries = [self._placed(kept, found[..., n]) for n in range(leaf.entries)]
        if len(entries) == 1:
            return entries[0]
        # Those of a row one below the other.
        stacked = np.stack(entries, axis=-2)
        *lead, rows, count, columns = stacked.shape
        return stacked.reshape(*lead, rows * count, columns)

    def _placed(self, kept: Kept, found: np.ndarray) -> np.ndarray:
        """`[batch or 1, heads or 1, keys or 1, features or 1]` on their PEs."""
        layout = self.map
        leaf = kept.leaf
        batch, heads, *rest = found.shape
        if heads > 1:
            of_group = (layout.head_groups, layout.queries)
            found = found.reshape(batch, *of_group, *rest)
            if not leaf.shape[0]:
                found = found[:, :, :1]
        else:
            found = found[:, :, None]
        # batch, groups, queries, keys, features
        if kept.of_slots:
            # Position p in slot p // rows of row p % rows.
            found = deal(found[..., 0], 3, layout.held_slots, layout.rows)
        else:
            found = found[..., 0, :, None]
        # batch, groups, queries, slots or features, rows
        if kept.of_features:
            found = deal(found, 3, layout.parts, layout.value_dims)
            found = np.moveaxis(found, 3, 2)
        elif kept.of_slots and self.dealt:
            found = found[:, :, :, : layout.slots]
            found = deal(found, 3, layout.parts, layout.slot_share)
            found = np.moveaxis(found, 3, 2)
        else:
            found = found[:, :, None]
        # batch, groups, parts, queries, slots or features, rows
        if "col" in self._spec(kept):
            lead = (layout.batch, layout.head_groups, layout.parts)
            found = np.broadcast_to(found, (*lead, *found.shape[3:]))
            found = found.reshape(layout.cols, *found.shape[3:])
        else:
            found = found[0, 0, 0]
        found = np.moveaxis(found, -1, 0)
        return np.ascontiguousarray(found if kept.of_slots else found[0])


__all__ = ["Kept", "Tables"]
