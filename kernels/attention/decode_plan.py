"""A variant's decode on a given region of the wafer: the program, its arguments, values and clock.

One query for each head, at the last position of the cache. The variant's arithmetic is run as a
PE's instructions (`emu.wse.lower`); keys that its mask leaves out at either end are skipped, those
in between get a weight of 0.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from emu import Device, Known, Program, Sheet
from emu.clock.reading import Reading as Clock
from emu.errors import OutOfMemory
from emu.wse import WSE3
from emu.wse.lower import Tiles
from emu.wse.pe.packed import CODES
from emu.wse.spaces import Sram
from kernels.attention.on_pe import OnPe, VariantOnPe, slots_ahead
from kernels.attention.tables import Tables
from kernels.wse.decode.attention import Cache, attend_span
from kernels.wse.decode.attention_map import AttentionMap, Span
from kernels.wse.decode.dealing import deal
from kernels.wse.decode.estimate import all_reduce_cycles, attention_cycles
from kernels.wse.decode.gap import around_gap
from kernels.wse.decode.hooks import Hooks
from kernels.wse.decode.mapping import PE
from kernels.wse.decode.mixed import mixed
from kernels.wse.decode.outcome import log_sum_exp

Array = jax.Array | np.ndarray


def map_of(variant: VariantOnPe, rows: int, parts: int, device: Device) -> AttentionMap:
    """The mapping on `rows` rows and `parts` columns a key/value head, as `plan_on` may choose it.

    Whether a gap is skipped is an estimate here.
    """
    whole = _map_of(variant, rows, parts, 1, 0)
    ahead = _ahead(variant, rows)
    if not ahead:
        return whole
    skipping = _map_of(variant, rows, parts, 1, ahead)
    is_less = attention_cycles(skipping, device) < attention_cycles(whole, device)
    return skipping if is_less else whole


def _ahead(variant: VariantOnPe, rows: int) -> int:
    """Slots before a gap that may be skipped."""
    # What lies before and behind it is copied side by side, and bytes are no words to copy.
    in_bytes = variant.sizes.cache_dtype in CODES
    stays = in_bytes or variant.sizes.values_are_keys
    return 0 if stays else slots_ahead(variant.keys, rows)


def _map_of(
    variant: VariantOnPe, rows: int, parts: int, copies: int, ahead: int
) -> AttentionMap:
    sizes = variant.sizes
    first, live = variant.ranges(rows, ahead)
    scale = sizes.head_dim**-0.5 if sizes.scale is None else float(sizes.scale)
    return AttentionMap(
        batch=sizes.batch,
        heads=sizes.heads,
        kv_heads=sizes.kv_heads,
        head_dim=sizes.head_dim,
        value_dim=sizes.value_dim or sizes.head_dim,
        context=sizes.context,
        rows=rows,
        parts=parts,
        most_live=max(1, ahead + int(live.max())),
        last_first=int(first.max()),
        scale=scale,
        dtype=sizes.dtype,
        ahead=ahead,
        cache_dtype=sizes.cache_dtype or sizes.dtype,
        copies=copies,
        maps=sizes.maps,
        values_are_keys=sizes.values_are_keys,
        block=sizes.block,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class DecodePlan:
    """A variant's decode on a region.

    Attributes:
      variant: what is attended to, and how.
      map: what each PE holds.
      on_pe: its functions, as run on a PE.
      shared: whether each column of a group runs them on its share of the slots.
    """

    variant: VariantOnPe
    map: AttentionMap
    on_pe: OnPe
    shared: bool

    @functools.cached_property
    def program(self) -> Program:
        """Of `q, cache, tiles, first, live`; gives the output on every PE and the log-sum-exp.

        What replaces the softmax may have none, and gives the output alone. Where several maps are
        mixed, their factors come last.
        """
        mixes = self.variant.sizes.mixes

        def kernel(
            q: Sram, cache: Cache, tiles: Tiles, first: Any, live: Any, *factors: Sram
        ) -> tuple[Sram, ...]:
            mean, *sums = self.attended(q, cache, tiles, first, live)
            for of_head in factors:
                mean = mixed(mean, of_head, mixes)
            return mean, *sums

        specs = self.specs
        if mixes:
            specs = (*specs, ("col",))
        return Program(kernel, self.map.mesh, specs)

    @property
    def specs(self) -> tuple[Any, ...]:
        """Along which axes of the mesh `q, cache, tiles, first, live` are dealt out."""
        range_of = ("row",) if self._alike else PE
        return ("col",), PE, self.tables.specs(), range_of, range_of

    def attended(
        self, q: Sram, cache: Cache, tiles: Tiles, first: Any, live: Any
    ) -> tuple[Sram, ...]:
        """The output on every row and the log-sum-exp, if there is one, within a kernel."""
        on_pe = self.on_pe
        span = Span(first, live)
        if self.map.ahead:
            of_slots = self.tables.of_slots()
            cache, tiles = around_gap(self.map, cache, tiles, of_slots, first)
            span = Span(None, live + jnp.int32(self.map.ahead))
        hooks = Hooks(
            score=on_pe.score,
            mask=on_pe.mask,
            fold=on_pe.fold,
            tiles=tiles,
            nothing=self.variant.keys.nothing,
            shared=self.shared,
            dealt=self._deals_tables,
        )
        mean, folded = attend_span(self.map, q, cache, span, hooks)
        has_sum = on_pe.fold is None or on_pe.fold.has_log_sum_exp
        return (mean, log_sum_exp(folded)) if has_sum else (mean,)

    @functools.cached_property
    def tables(self) -> Tables:
        """What lies in a PE for the variant's functions."""
        query = self.variant.sizes.query
        return Tables(self.on_pe.all, self.map, query, self._deals_tables)

    @property
    def _deals_tables(self) -> bool:
        """Whether a column needs no more than a share of the slots, which stays the same one."""
        from_the_first = self.map.last_first == 0 and not self.map.ahead
        return self.shared and from_the_first

    @property
    def _alike(self) -> bool:
        """Whether all key/value heads have one range."""
        return bool(self.map.ahead) or len(self.variant.keys.low) == 1

    def ranges(self) -> tuple[Known, Known]:
        """First slot and live slots of every row, or of every PE."""
        first, live = self.variant.ranges(self.map.rows, self.map.ahead)
        if self._alike:
            return Known(first[:, 0]), Known(live[:, 0])
        columns = self.map.copies * self.map.parts
        of_column = [np.repeat(each, columns, axis=1) for each in (first, live)]
        return Known(of_column[0]), Known(of_column[1])

    # --- values ---

    def run(
        self,
        q: Array,
        k: Array,
        v: Array,
        factors: Array | None = None,
        powers: tuple[Array, Array] | None = None,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Attention of the newest query.

        Args:
          q: `[batch, heads, 1, head_dim]`.
          k: `[batch, kv_heads, context, head_dim]`; of several maps `[batch, maps, ...]`.
          v: `[batch, kv_heads, context, value_dim]`.
          factors: of several maps, `[maps, heads / maps]`.
          powers: of keys and of values, where their blocks have some: float8_e8m0fnu
            `[batch, kv_heads, context, blocks]`.

        Returns:
          `[batch, heads / maps, 1, value_dim]` and the log-sum-exp, float32 `[batch, heads, 1]`;
          None where what replaces the softmax has none.
        """
        layout = self.map
        dtype, held = jnp.dtype(layout.dtype), jnp.dtype(layout.held_dtype)
        of_group = (layout.batch, layout.head_groups, layout.queries, layout.parts)
        queries = np.asarray(q).reshape(*of_group, layout.dims)
        queries = np.moveaxis(queries, 3, 2)
        queries = queries.reshape(layout.cols, layout.queries, layout.dims)
        of_maps = [np.asarray(k)]
        if factors is not None:
            of_maps = list(np.moveaxis(of_maps[0], 1, 0))
        keys = np.concatenate([self.dealt(x, layout.dims) for x in of_maps], axis=-1)
        cache = {
            "k": np.swapaxes(keys, 2, 3).astype(held),
            "v": self.dealt(v, layout.value_dims).astype(held),
        }
        if powers is not None:
            of_keys, of_values = powers
            cache["k_powers"] = self._dealt_powers(of_keys, layout.dims)
            cache["v_powers"] = self._dealt_powers(of_values, layout.value_dims)
        arguments = (queries.astype(dtype), cache, self.tables.tiles(), *self.ranges())
        if factors is not None:
            arguments = (*arguments, self._on_columns(factors))
        mean, *lse = self.program.run(*arguments)
        # Every row has them; those of a group's columns are parts of one head.
        mean = np.asarray(mean[0]).reshape(
            layout.batch,
            layout.head_groups,
            layout.parts,
            layout.queries // layout.maps,
            layout.value_dims,
        )
        mean = np.moveaxis(mean, 2, 3)
        out = mean.reshape(layout.batch, -1, 1, layout.value_dim)
        if not lse:
            return out, None
        (lse,) = lse
        lse = np.asarray(lse[0])[:: layout.parts]
        return out, lse.reshape(layout.batch, layout.heads, 1)

    def _on_columns(self, factors: Array) -> np.ndarray:
        """`[maps, heads]` as float32 `[cols, queries]`, map by map of each key/value head."""
        layout = self.map
        by_head = np.asarray(factors, np.float32).reshape(
            layout.maps, layout.kv_heads, -1
        )
        of_group = np.swapaxes(by_head, 0, 1).reshape(layout.kv_heads, layout.queries)
        return np.tile(np.repeat(of_group, layout.parts, axis=0), (layout.batch, 1))

    def dealt(self, x: Array, dims: int) -> np.ndarray:
        """`[batch, kv_heads, context, n]` as `[rows, cols, held_slots, dims]`."""
        layout = self.map
        by_row = deal(x, 2, layout.held_slots, layout.rows)
        by_part = deal(by_row, 4, layout.parts, dims)
        # batch, kv_heads, held_slots, rows, parts, dims
        by_pe = np.transpose(by_part, (3, 0, 1, 4, 2, 5))
        # Copies of a key/value head stand side by side.
        by_pe = np.repeat(by_pe, layout.copies, axis=2)
        return by_pe.reshape(layout.rows, layout.cols, layout.held_slots, dims)

    def _dealt_powers(self, x: Array, dims: int) -> np.ndarray:
        """`[batch, kv_heads, context, blocks]` as `[rows, cols, blocks of a PE, held_slots]`."""
        layout = self.map
        # A block that is longer than a PE's features has its power in several columns.
        columns = max(1, layout.block // dims)
        bits = np.repeat(np.asarray(x).view(np.uint8), columns, axis=-1)
        dealt = self.dealt(bits, layout.blocks(dims))
        return np.ascontiguousarray(np.swapaxes(dealt, 2, 3)).view(np.asarray(x).dtype)

    # --- clock and bytes ---

    @functools.cached_property
    def arguments(self) -> tuple[Any, ...]:
        """Shapes in place of data for `program.read` and `program.memory`."""
        layout = self.map
        dtype = jnp.dtype(layout.dtype)
        grid = (layout.rows, layout.cols)
        q = jax.ShapeDtypeStruct((layout.cols, layout.queries, layout.dims), dtype)
        dtypes = layout.cache_dtypes()
        cache = {
            name: jax.ShapeDtypeStruct(grid + shape, jnp.dtype(dtypes[name]))
            for name, shape in layout.cache_shapes().items()
        }
        arguments = q, cache, self.tables.structs(), *self.ranges()
        if not self.variant.sizes.mixes:
            return arguments
        of_column = layout.cols, layout.queries
        return *arguments, jax.ShapeDtypeStruct(of_column, jnp.float32)

    @functools.cached_property
    def timed(self) -> "DecodePlan":
        """What the clock reads in its place: one group of columns, where all do the same.

        Groups do not speak to each other, so its time is that of all, and their operations and
        bytes are `map.groups` times as many.
        """
        if not self._alike:
            return self
        of_group = dataclasses.replace(
            self.map, batch=1, heads=self.map.queries, kv_heads=1, copies=1
        )
        return dataclasses.replace(self, map=of_group)

    @property
    def times(self) -> int:
        """How many such groups there are for each one that the clock reads."""
        return self.map.groups // self.timed.map.groups

    def read(self, device: Device | None = None, **options: Any) -> Clock:
        """The clock of one token, from the query on its columns to the output on every row.

        What is of the query's position, its batch entry and its heads alone, such as a gate or the
        slopes that a score takes, comes with the query and is there when the clock starts.

        Its operations and bytes are those of `timed`.
        """
        device = WSE3.at() if device is None else device
        timed = self.timed
        return timed.program.read(device, *timed.arguments, **options)

    def read_bands(self, sheet: Sheet = WSE3) -> dict[str, Clock]:
        """`read` under low, nominal and high."""
        return self.timed.program.read_bands(sheet, *self.timed.arguments)

    def least_bytes(self, device: Device) -> int:
        """Bytes of a PE at the least: cache, tables and code, a score and a weight a slot."""
        return self.map.least_bytes + self.tables.nbytes + device.code_bytes

    def sram_bytes(self, device: Device) -> int:
        """Bytes of a PE, code included.

        Raises:
          OutOfMemory: more than it has.
        """
        timed = self.timed
        peak = timed.program.memory(device, *timed.arguments)["sram"]
        if peak + device.code_bytes > device.sram_bytes:
            raise OutOfMemory(
                f"{device.name}: a PE needs {peak:,} bytes and {device.code_bytes:,} of code, has "
                f"{device.sram_bytes:,}"
            )
        return peak + device.code_bytes


def own_cycles(
    layout: AttentionMap,
    device: Device,
    of_slots: Callable[[int], float],
    always_shared: bool = False,
) -> tuple[float, bool]:
    """Cycles that a variant's arithmetic adds at the least, and whether columns share the slots.

    Without any arithmetic they may share the search for the largest score.

    Args:
      layout: the mapping.
      device: the wafer.
      of_slots: cycles of the arithmetic on a tile of so many slots.
      always_shared: whether they have to, as those of another fold than softmax's.
    """
    alone = of_slots(layout.slots)
    if layout.parts == 1:
        return alone, False
    # The largest score is folded over a share as well, but then it is summed over the group.
    others = layout.queries * (layout.most_live - layout.slot_share)
    shared = of_slots(layout.slot_share) - device.fold_cycles * others
    shared += all_reduce_cycles(device, layout.parts, layout.queries)
    if always_shared:
        return shared, True
    return min(alone, shared), shared < alone


def plan_on(
    variant: VariantOnPe, rows: int, parts: int, device: Device, copies: int = 1
) -> DecodePlan:
    """The plan on a given region; a gap is skipped where the clock says that it is faster."""
    whole = _plan_of(variant, _map_of(variant, rows, parts, copies, 0), device)
    ahead = _ahead(variant, rows)
    if not ahead:
        return whole
    skipping = _plan_of(variant, _map_of(variant, rows, parts, copies, ahead), device)

    def ticks(plan: DecodePlan) -> int:
        return plan.read(device, check_memory=False).end_ticks

    return min(whole, skipping, key=ticks)


def _plan_of(variant: VariantOnPe, layout: AttentionMap, device: Device) -> DecodePlan:
    @functools.cache
    def lowered(slots: int) -> OnPe:
        return variant.lowered(layout.queries, slots, layout.value_dims, device)

    def cycles(slots: int) -> float:
        return lowered(slots).cycles

    _, shared = own_cycles(layout, device, cycles, variant.changes_softmax)
    on_pe = lowered(layout.slot_share if shared else layout.slots)
    return DecodePlan(variant, layout, on_pe, shared)


__all__ = ["DecodePlan", "map_of", "own_cycles", "plan_on"]
