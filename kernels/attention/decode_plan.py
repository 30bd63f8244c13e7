"""A variant's decode on a given region of the wafer: the program, its arguments, values and clock.

One query for each head, at the last position of the cache. The variant's arithmetic is run as a
PE's instructions (`emu.wse.lower`); keys that its mask leaves out at either end are skipped, those
in between get a weight of 0.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from emu import Device, Known, Program, Sheet
from emu.clock.reading import Reading as Clock
from emu.errors import OutOfMemory
from emu.lower import Elementwise
from emu.wse import WSE3, copy_into, sram_tile
from emu.wse.lower import ARRIVING, DATA, KEPT, Argument, Leaf, Lowered, Tiles, lower
from emu.wse.spaces import Sram
from kernels.attention.newest_query import Attended, attended, read_mask
from kernels.attention.reading import Reading
from kernels.refusal import refuse
from kernels.wse.decode import sizes as checks
from kernels.wse.decode.attention import Cache, attend_span, log_sum_exp
from kernels.wse.decode.attention_map import AttentionMap, Span, spans
from kernels.wse.decode.estimate import all_reduce_cycles, attention_cycles
from kernels.wse.decode.hooks import Hooks
from kernels.wse.decode.layout import deal
from kernels.wse.decode.mapping import PE

Array = jax.Array | np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodeSizes:
    """What is attended to.

    Attributes:
      batch, heads, kv_heads: `kv_heads` divides `heads`.
      head_dim, value_dim: of queries and keys, and of values; default alike.
      context: keys in the cache.
      position: of the query; default that of the newest key, which then is the query's own.
      scale: factor of a score; default `head_dim ** -0.5`.
      dtype: of cache and queries: float32, float16 or bfloat16.
    """

    batch: int = 1
    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int | None = None
    context: int
    position: int | None = None
    scale: float | None = None
    dtype: str = "float32"

    @property
    def query(self) -> int:
        """Position of the query."""
        return self.context - 1 if self.position is None else self.position


@dataclasses.dataclass(frozen=True, eq=False)
class VariantOnPe:
    """A variant's functions and the keys of its newest query, before a region is chosen.

    Attributes:
      sizes: what is attended to.
      score, mask: as read; None: the score itself, and no mask but a range.
      keys: attended to.
    """

    sizes: DecodeSizes
    score: Elementwise | None
    mask: Elementwise | None
    keys: Attended

    def lowered(
        self, slots: int, device: Device
    ) -> tuple[Lowered | None, Lowered | None]:
        """Score and mask on tiles of so many slots."""
        sizes = self.sizes
        queries = sizes.heads // sizes.kv_heads
        query, last = sizes.query, sizes.context - 1
        arguments: Mapping[str, Argument] = {
            "s": Argument(DATA, rows=True, slots=True),
            "b": Argument(KEPT, bounds=(0, sizes.batch - 1)),
            "h": Argument(KEPT, rows=True, bounds=(0, sizes.heads - 1)),
            "q": Argument(ARRIVING, bounds=(query, query)),
            "k": Argument(KEPT, slots=True, bounds=(0, last)),
        }

        def of(function: Elementwise | None, prefix: str) -> Lowered | None:
            if function is None:
                return None
            return lower(
                function,
                arguments,
                rows=queries,
                slots=slots,
                device=device,
                prefix=prefix,
            )

        score = of(self.score, "score ")
        mask = of(self.mask if self.keys.gaps else None, "mask ")
        if score is not None and score.is_identity:
            score = None
        return score, mask

    def ranges(self, rows: int, ahead: int) -> tuple[np.ndarray, np.ndarray]:
        """First slot and live slots in every row; with slots `ahead`, behind the gap."""
        keys = self.keys
        if ahead:
            assert keys.gap is not None
            _, end = keys.gap
            return spans(np.array([end]), keys.high.max(keepdims=True), rows)
        return spans(keys.low, keys.high, rows)


def slots_ahead(keys: Attended, rows: int) -> int:
    """Slots before a gap, 0 if skipping it saves no slot of every row.

    Sinks of 4 keys on 229 rows are in the first slot of 4 rows; as the others' first slot is gone
    through too, the mask leaves it out.
    """
    if keys.gap is None:
        return 0
    start, end = keys.gap
    ahead = -(-start // rows)
    return ahead if end - ahead * rows >= rows else 0


def variant_on_pe(reading: Reading, sizes: DecodeSizes) -> VariantOnPe:
    """Reads a variant's mask at the newest query.

    Raises:
      CannotLower: the mask cannot be traced.
    """
    _check_sizes(sizes)
    mask = None if reading.mask is None else read_mask(reading.mask, reading.name)
    keys = attended(
        mask,
        sizes.batch,
        sizes.heads,
        sizes.kv_heads,
        sizes.context,
        sizes.query,
    )
    return VariantOnPe(sizes, reading.score, mask, keys)


def _check_sizes(sizes: DecodeSizes) -> None:
    names = ("batch", "heads", "kv_heads", "head_dim", "context")
    checks.check_whole(sizes, *names)
    checks.check_dtype(sizes.dtype)
    checks.within("position", sizes.query, 0, checks.MOST)
    if sizes.heads % sizes.kv_heads:
        refuse(
            f"{sizes.heads} heads must be a multiple of {sizes.kv_heads} key/value heads"
        )


def map_of(variant: VariantOnPe, rows: int, parts: int, device: Device) -> AttentionMap:
    """The mapping on `rows` rows and `parts` columns a key/value head, as `plan_on` may choose it.

    Whether a gap is skipped is an estimate here.
    """
    whole = _map_of(variant, rows, parts, 0)
    ahead = slots_ahead(variant.keys, rows)
    if not ahead:
        return whole
    skipping = _map_of(variant, rows, parts, ahead)
    is_less = attention_cycles(skipping, device) < attention_cycles(whole, device)
    return skipping if is_less else whole


def _map_of(variant: VariantOnPe, rows: int, parts: int, ahead: int) -> AttentionMap:
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
    )


@dataclasses.dataclass(frozen=True, eq=False)
class DecodePlan:
    """A variant's decode on a region.

    Attributes:
      variant: what is attended to, and how.
      map: what each PE holds.
      score, mask: as run on a PE; None: the score itself, and no mask but a range.
      shared: whether each column of a group runs them on its share of the slots.
    """

    variant: VariantOnPe
    map: AttentionMap
    score: Lowered | None
    mask: Lowered | None
    shared: bool

    @functools.cached_property
    def program(self) -> Program:
        """Of `q, cache, tiles, first, live`; gives the mean and the log-sum-exp on every PE."""

        def kernel(
            q: Sram, cache: Cache, tiles: Tiles, first: Any, live: Any
        ) -> tuple[Sram, Sram]:
            nothing = self.variant.keys.nothing
            span = Span(first, live)
            if self.map.ahead:
                cache, tiles = self._joined(cache, tiles, first)
                span = Span(None, live + jnp.int32(self.map.ahead))
            hooks = Hooks(self.score, self.mask, tiles, nothing, self.shared)
            mean, sums = attend_span(self.map, q, cache, span, hooks)
            return mean, log_sum_exp(sums)

        tiles = {key: self._spec(*kept) for key, kept in self._kept.items()}
        range_of = ("row",) if self._alike else PE
        specs = (("col",), PE, tiles, range_of, range_of)
        return Program(kernel, self.map.mesh, specs)

    def _joined(self, cache: Cache, tiles: Tiles, first: Any) -> tuple[Cache, Tiles]:
        """Copies of the slots before and behind the gap, side by side."""

        def joined(x: Sram, axis: int) -> Sram:
            ahead = self.map.ahead
            shape = [self.map.slots if n == axis else x.shape[n] for n in range(2)]
            dst = sram_tile(shape=tuple(shape), dtype=x.dtype.name)
            before = lax.slice_in_dim(x, 0, ahead, axis=axis)
            dst = copy_into(dst, before, 0, axis=axis)
            behind = self.map.slots - ahead
            behind = lax.dynamic_slice_in_dim(x, first, behind, axis=axis)
            return copy_into(dst, behind, ahead, axis=axis)

        of_slots = {}
        for key, tile in tiles.items():
            leaf, _ = self._kept[key]
            of_slots[key] = joined(tile, 1) if leaf.shape[1] else tile
        return {"k": joined(cache["k"], 1), "v": joined(cache["v"], 0)}, of_slots

    # --- what lies in a PE ---

    @functools.cached_property
    def _kept(self) -> dict[str, tuple[Leaf, Elementwise]]:
        """What lies in a PE or arrives, and of which function it is."""
        kept: dict[str, tuple[Leaf, Elementwise]] = {}
        for lowered in (self.score, self.mask):
            if lowered is None:
                continue
            for key, leaf in lowered.leaves.items():
                # What both have, such as `k`, is one and the same.
                kept.setdefault(key, (leaf, lowered.function))
        return kept

    def _by_column(self, leaf: Leaf, function: Elementwise) -> bool:
        """Whether a leaf differs between key/value heads or batch entries."""
        return any(function.depends_on(leaf.operand, name) for name in ("b", "h"))

    def _spec(self, leaf: Leaf, function: Elementwise) -> tuple[str, ...]:
        if leaf.flat:
            return ()
        row = ("row",) if leaf.shape[1] else ()
        return (*row, "col") if self._by_column(leaf, function) else row

    def _struct(self, leaf: Leaf, function: Elementwise) -> jax.ShapeDtypeStruct:
        """A leaf's tiles, led by the axes of the mesh along which they differ."""
        if leaf.flat:
            size = np.size(leaf.operand.value)  # type: ignore[union-attr]
            return jax.ShapeDtypeStruct((size,), leaf.held)
        lead = tuple(self.map.mesh[axis] for axis in self._spec(leaf, function))
        rows = self.map.queries if leaf.shape[0] else 1
        slots = self.map.held_slots if leaf.shape[1] else 1
        return jax.ShapeDtypeStruct((*lead, rows, slots), leaf.held)

    def _tiles_of(self, leaf: Leaf, function: Elementwise) -> np.ndarray:
        """A leaf's values on their PEs."""
        layout = self.map
        if leaf.flat:
            return leaf.values(function, {})
        along = {
            "b": np.arange(layout.batch),
            "h": np.arange(layout.heads),
            "q": np.array([self.variant.sizes.query]),
            "k": np.arange(layout.context),
        }
        used = {
            name: values
            for name, values in along.items()
            if function.depends_on(leaf.operand, name)
        }
        found = leaf.values(function, used)
        batch, heads, keys = (
            len(along[name]) if name in used else 1 for name in ("b", "h", "k")
        )
        found = found.reshape(batch, heads, keys)
        if leaf.shape[1]:
            # Position p in slot p // rows of row p % rows.
            found = deal(found, 2, layout.held_slots, layout.rows)
        else:
            found = found[..., None]
        # batch, heads, slots, rows
        if heads > 1:
            found = found.reshape(
                batch, layout.kv_heads, layout.queries, *found.shape[2:]
            )
        else:
            found = found[:, :, None]
        # batch, kv_heads, queries, slots, rows
        if self._by_column(leaf, function):
            lead = (layout.batch, layout.kv_heads, layout.parts)
            found = np.broadcast_to(found[:, :, None], (*lead, *found.shape[2:]))
            found = found.reshape(layout.cols, *found.shape[3:])
            found = np.moveaxis(found, -1, 0)  # rows, cols, queries, slots
        else:
            found = np.moveaxis(found[0, 0], -1, 0)  # rows, queries, slots
        return np.ascontiguousarray(found if leaf.shape[1] else found[0])

    @property
    def _alike(self) -> bool:
        """Whether all key/value heads have one range."""
        return bool(self.map.ahead) or len(self.variant.keys.low) == 1

    def _ranges(self) -> tuple[Known, Known]:
        """First slot and live slots of every row, or of every PE."""
        first, live = self.variant.ranges(self.map.rows, self.map.ahead)
        if self._alike:
            return Known(first[:, 0]), Known(live[:, 0])
        of_column = [np.repeat(each, self.map.parts, axis=1) for each in (first, live)]
        return Known(of_column[0]), Known(of_column[1])

    # --- values ---

    def run(self, q: Array, k: Array, v: Array) -> tuple[np.ndarray, np.ndarray]:
        """Attention of the newest query.

        Args:
          q: `[batch, heads, 1, head_dim]`.
          k: `[batch, kv_heads, context, head_dim]`.
          v: `[batch, kv_heads, context, value_dim]`.

        Returns:
          `[batch, heads, 1, value_dim]` and the log-sum-exp, float32 `[batch, heads, 1]`.
        """
        layout = self.map
        dtype = jnp.dtype(layout.dtype)
        of_group = (layout.batch, layout.kv_heads, layout.queries, layout.parts)
        queries = np.asarray(q).reshape(*of_group, layout.dims)
        queries = np.moveaxis(queries, 3, 2)
        queries = queries.reshape(layout.cols, layout.queries, layout.dims)
        keys = self._dealt(k, layout.dims)
        cache = {
            "k": np.swapaxes(keys, 2, 3).astype(dtype),
            "v": self._dealt(v, layout.value_dims).astype(dtype),
        }
        tiles = {key: self._tiles_of(*kept) for key, kept in self._kept.items()}
        arguments = (queries.astype(dtype), cache, tiles, *self._ranges())
        mean, lse = self.program.run(*arguments)
        # Every row has them; those of a group's columns are parts of one head.
        mean = np.asarray(mean[0]).reshape(
            layout.batch,
            layout.kv_heads,
            layout.parts,
            layout.queries,
            layout.value_dims,
        )
        mean = np.moveaxis(mean, 2, 3)
        out = mean.reshape(layout.batch, layout.heads, 1, layout.value_dim)
        lse = np.asarray(lse[0])[:: layout.parts]
        return out, lse.reshape(layout.batch, layout.heads, 1)

    def _dealt(self, x: Array, dims: int) -> np.ndarray:
        """`[batch, kv_heads, context, n]` as `[rows, cols, held_slots, dims]`."""
        layout = self.map
        by_row = deal(x, 2, layout.held_slots, layout.rows)
        by_part = deal(by_row, 4, layout.parts, dims)
        # batch, kv_heads, held_slots, rows, parts, dims
        by_pe = np.transpose(by_part, (3, 0, 1, 4, 2, 5))
        return by_pe.reshape(layout.rows, layout.cols, layout.held_slots, dims)

    # --- clock and bytes ---

    @functools.cached_property
    def arguments(self) -> tuple[Any, ...]:
        """Shapes in place of data for `program.read` and `program.memory`."""
        layout = self.map
        dtype = jnp.dtype(layout.dtype)
        grid = (layout.rows, layout.cols)
        q = jax.ShapeDtypeStruct((layout.cols, layout.queries, layout.dims), dtype)
        cache = {
            name: jax.ShapeDtypeStruct(grid + shape, dtype)
            for name, shape in layout.cache_shapes().items()
        }
        tiles = {key: self._struct(*kept) for key, kept in self._kept.items()}
        return q, cache, tiles, *self._ranges()

    @functools.cached_property
    def timed(self) -> "DecodePlan":
        """What the clock reads in its place: one group of columns, where all do the same.

        Groups do not speak to each other, so its time is that of all, and their operations and
        bytes are `map.groups` times as many.
        """
        if not self._alike:
            return self
        of_group = dataclasses.replace(
            self.map, batch=1, heads=self.map.queries, kv_heads=1
        )
        return dataclasses.replace(self, map=of_group)

    @property
    def times(self) -> int:
        """How many such groups there are for each one that the clock reads."""
        return self.map.groups // self.timed.map.groups

    def read(self, device: Device | None = None, **options: Any) -> Clock:
        """The clock of one token, from the query on its columns to the mean on every row.

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
        cache = sum(map(math.prod, self.map.cache_shapes().values()))
        scores = self.map.queries * self.map.slots
        return (
            cache * self.map.itemsize
            + self.table_bytes
            + scores * (4 + self.map.itemsize)
            + device.code_bytes
        )

    @property
    def table_bytes(self) -> int:
        """Bytes in one PE of what the variant keeps."""
        total = 0
        for leaf, function in self._kept.values():
            struct = self._struct(leaf, function)
            own = struct.shape[len(self._spec(leaf, function)) :]
            total += math.prod(own) * leaf.held.itemsize
        return total

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
    layout: AttentionMap, device: Device, of_slots: Callable[[int], float]
) -> tuple[float, bool]:
    """Cycles that a variant's arithmetic adds at the least, and whether columns share the slots.

    Without any arithmetic they may share the search for the largest score.

    Args:
      layout: the mapping.
      device: the wafer.
      of_slots: cycles of the arithmetic on a tile of so many slots.
    """
    alone = of_slots(layout.slots)
    if layout.parts == 1:
        return alone, False
    # The largest score is folded over a share as well, but then it is summed over the group.
    others = layout.queries * (layout.most_live - layout.slot_share)
    shared = of_slots(layout.slot_share) - device.fold_cycles * others
    shared += all_reduce_cycles(device, layout.parts, layout.queries)
    return min(alone, shared), shared < alone


def plan_on(variant: VariantOnPe, rows: int, parts: int, device: Device) -> DecodePlan:
    """The plan on a given region; a gap is skipped where the clock says that it is faster."""
    whole = _plan_of(variant, _map_of(variant, rows, parts, 0), device)
    ahead = slots_ahead(variant.keys, rows)
    if not ahead:
        return whole
    skipping = _plan_of(variant, _map_of(variant, rows, parts, ahead), device)

    def ticks(plan: DecodePlan) -> int:
        return plan.read(device, check_memory=False).end_ticks

    return min(whole, skipping, key=ticks)


def _plan_of(variant: VariantOnPe, layout: AttentionMap, device: Device) -> DecodePlan:
    @functools.cache
    def lowered(slots: int) -> tuple[Lowered | None, Lowered | None]:
        return variant.lowered(slots, device)

    def cycles(slots: int) -> float:
        return sum(x.cycles for x in lowered(slots) if x is not None)

    _, shared = own_cycles(layout, device, cycles)
    score, mask = lowered(layout.slot_share if shared else layout.slots)
    return DecodePlan(variant, layout, score, mask, shared)


__all__ = [
    "DecodePlan",
    "DecodeSizes",
    "VariantOnPe",
    "map_of",
    "own_cycles",
    "plan_on",
    "variant_on_pe",
]
