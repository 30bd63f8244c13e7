"""A variant of attention in a layer's program: what it changes, and the slots gone through.

The cache is the layer's own. Where a variant leaves out keys at either end, a row goes through a
view of it, of as many slots as the fullest row ever has: of `window(4)` on 4 rows one of its slots,
on 3 rows two, wherever the token stands. Of sinks and a window the view begins where the gap
between them ends, and the slots ahead of the gap are copied before it.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from emu.annotations import KnownInt
from emu.program import Known
from emu.wse.lower import Tiles
from emu.wse.spaces import Sram
from kernels.wse.decode.attention import Cache, attend_span, live_slots
from kernels.wse.decode.attention_map import AttentionMap, Span, spans
from kernels.wse.decode.gap import around_gap
from kernels.wse.decode.hooks import Hooks

Given: TypeAlias = tuple[Any, ...]
"""What a layer's program is given for a variant: its tiles and, of a view, first and live slots."""


@dataclasses.dataclass(frozen=True, eq=False)
class LayerAttention:
    """A variant of attention on a layer's region.

    Attributes:
      map: how heads and positions are dealt, as the layer deals them, and the slots gone through.
      hooks: the variant, without its tiles.
      specs: of its tiles, along which axes of the mesh they differ.
      structs: their shapes, led by those axes.
      kept: gives the values of those tiles that are the same for all tokens, by name.
      arriving: gives the others, which come with a token, of its position.
      low, high: int32 `[context]`, the keys `[low, high)` of a token at each position; None: all up
        to it, and no view. With slots ahead of a gap in the map, those behind it.
      of_slots: names of the tiles that have a column for each slot.
    """

    map: AttentionMap
    hooks: Hooks
    specs: dict[str, tuple[str, ...]]
    structs: dict[str, jax.ShapeDtypeStruct]
    kept: Callable[[], dict[str, np.ndarray]]
    arriving: Callable[[int], dict[str, np.ndarray]]
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    of_slots: tuple[str, ...] = ()

    def attend(
        self, q: Sram, cache: Cache, pos: KnownInt, tiles: Tiles, *view: KnownInt
    ) -> Sram:
        """Attention of `q` `[queries, dims]` at a known position, `[queries * value_dims]`."""
        span = Span(None, live_slots(self.map.rows, pos))
        if view:
            first, live = view
            span = Span(first, live)
            if self.map.ahead:
                cache, tiles = around_gap(self.map, cache, tiles, self.of_slots, first)
                span = Span(None, live)
        hooks = dataclasses.replace(self.hooks, tiles=tiles)
        mean, _ = attend_span(self.map, q, cache, span, hooks)
        return mean.reshape(self.map.queries * self.map.value_dims)

    @property
    def given_specs(self) -> Given:
        """How what the program is given is split over the mesh."""
        view = () if self.low is None else (("row",), ("row",))
        return (self.specs, *view)

    def given_structs(self, pos: int) -> Given:
        """Shapes of it, and the known integers of a position."""
        return (self.structs, *map(Known, self.view(pos)))

    def given(self, pos: int) -> Given:
        """What the program is given for a token at a position."""
        tiles = {**self._kept, **self.arriving(pos)}
        return (tiles, *self.view(pos))

    @functools.cached_property
    def _kept(self) -> dict[str, jax.Array]:
        return {name: jnp.asarray(tile) for name, tile in self.kept().items()}

    def view(self, pos: int) -> tuple[np.ndarray, ...]:
        """First and live slots of every row at a position, int32 `[rows]` each, if there is one."""
        if self.low is None or self.high is None:
            return ()
        here = slice(pos, pos + 1)
        rows, ahead = self.map.rows, self.map.ahead
        first, live = spans(self.low[here], self.high[here], rows)
        # Slots ahead are gone through as far as there are tokens.
        filled = (pos + rows - np.arange(rows)) // rows
        before = np.minimum(filled, ahead).astype(np.int32)
        return first[:, 0], live[:, 0] + before

    @property
    def table_bytes(self) -> int:
        """Bytes of the variant's tiles in one PE."""
        total = 0
        for name, struct in self.structs.items():
            own = struct.shape[len(self.specs[name]) :]
            total += int(np.prod(own)) * struct.dtype.itemsize
        return total


__all__ = ["Given", "LayerAttention"]
