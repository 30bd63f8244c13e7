"""A variant whose keys stand in pages of a memory that several sequences share.

Nothing is gathered: both machines attend to the memory as it is, and ask the page table which
position of a sequence a key has there. Pages of others, and of nobody, are not attended; a tile of
keys that has no other pages is skipped, as any tile is that a mask leaves out.

All sequences see one memory, so what to a variant is a batch is to the machines more heads of each
KV head. Of 2 sequences with 4 query heads over 2 KV heads a machine has one of 8 over 2:

    machine's head    0 1    2 3    4 5    6 7
    KV head           0      0      1      1
    sequence          0      1      0      1
    variant's head    0 1    0 1    2 3    2 3
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from emu import Sheet
from emu.trainium import TRN3
from emu.trainium.datasheets import NeuronCoreSheet
from emu.wse import WSE3
from kernels.attention.check import (
    ROUNDING,
    Forms,
    Report,
    on_machines,
    with_cache,
)
from kernels.attention.clock import VariantTime
from kernels.attention.decode import Cache, decode_time
from kernels.attention.explain import Explanation, explain
from kernels.attention.on_pe import DecodeSizes
from kernels.attention.page_table import ABSENT, PageTable
from kernels.attention.prefill_time import prefill_time
from kernels.attention.reindexed import Indices, reindexed
from kernels.attention.variant import Variant
from kernels.masks import catalogue
from kernels.masks.catalogue import Allowed, Positions
from kernels.refusal import refuse
from kernels.tokens.placement import PLACEMENTS


@dataclasses.dataclass(frozen=True, eq=False)
class PagedVariant:
    """A variant over a paged KV cache.

    Attributes:
      variant: of logical positions: its functions know nothing of pages.
      table: of the pages.
    """

    variant: Variant
    table: PageTable

    @property
    def name(self) -> str:
        """Of the variant, and that it is paged."""
        return f"paged {self.variant.name}"

    @property
    def newest(self) -> tuple[int, ...]:
        """The last position of every sequence."""
        return tuple(int(n) - 1 for n in self.table.keys)

    # --- values ---

    def dense(
        self,
        q: Any,
        k: Any,
        v: Any,
        *,
        q_offset: int | Sequence[int] = 0,
        dtype: DTypeLike = "float64",
    ) -> tuple[jax.Array, jax.Array | None]:
        """The oracle: each sequence's keys gathered from their pages, then dense attention.

        Args:
          q: `[batch, heads, queries, head_dim]`.
          k: `[1, kv_heads, pages * page_size, head_dim]`, the memory.
          v: `[1, kv_heads, pages * page_size, value_dim]`.
          q_offset: position of the first query, of each sequence; `newest` is decoding.
          dtype: of the computation and of the results.

        Returns:
          Output and log-sum-exp, as `kernels.attention.dense.dense`.

        Raises:
          LimitExceeded: a memory of another size than the table's.
        """
        self._check_memory(q, k, v)
        lengths, offsets = self.table.keys, self._offsets(q_offset)

        def moved(b: Positions, h: Positions, q: Positions, k: Positions) -> Indices:
            return b, h, q + jnp.asarray(offsets)[b], k

        def present(b: Positions, h: Positions, q: Positions, k: Positions) -> Allowed:
            return k < jnp.asarray(lengths)[b]

        gathered = reindexed(self.variant, moved, catalogue.named(present))
        own_k, own_v = (self._gathered(x) for x in (k, v))
        return gathered.dense(q, own_k, own_v, dtype=dtype)

    def _gathered(self, x: Any) -> Any:
        """`[1, kv_heads, slots, features]` to `[batch, kv_heads, keys, features]`."""
        array = x if isinstance(x, np.ndarray) else jnp.asarray(x)
        return array[0][:, self.table.physical].swapaxes(0, 1)

    def prefill(
        self,
        q: Any,
        k: Any,
        v: Any,
        *,
        q_offset: int | Sequence[int] = 0,
        **options: Any,
    ) -> tuple[jax.Array, jax.Array | None]:
        """Context-parallel prefill over the memory, whose slots are spread over chips as they are.

        Args:
          q: `[batch, heads, queries, head_dim]`.
          k, v: the memory, as for `dense`.
          q_offset: position of the first query, of each sequence: others are in the cache.
          options: as for `Variant.prefill`.

        Returns:
          Output and log-sum-exp, as `dense`.
        """
        self._check_memory(q, k, v)
        heads, kv_heads = np.shape(q)[1], np.shape(k)[1]
        on_pages = self.on_pages(heads, kv_heads, q_offset)
        out, sums = on_pages.prefill(
            _as_heads(jnp.asarray(q), kv_heads), k, v, **options
        )
        return self._by_sequence(out, kv_heads), self._by_sequence(sums, kv_heads)

    def decode(
        self, q: Any, cache: Cache, **options: Any
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Attention of the newest query of every sequence, on a region of the emulated wafer.

        Args:
          q: `[batch, heads, 1, head_dim]`, each at the last position of its sequence.
          cache: the memory's keys and values, as for `dense`.
          options: as for `Variant.decode`.

        Returns:
          Output and log-sum-exp, as `dense`.
        """
        self._check_memory(q, *cache)
        heads, kv_heads = np.shape(q)[1], np.shape(cache[0])[1]
        on_pages = self.on_pages(heads, kv_heads, self.newest)
        folded = _as_heads(np.asarray(q), kv_heads)
        out, sums = on_pages.decode(folded, cache, position=0, **options)
        return self._by_sequence(out, kv_heads), self._by_sequence(sums, kv_heads)

    # --- what machines see ---

    def on_pages(
        self, heads: int, kv_heads: int, q_offset: int | Sequence[int] = 0
    ) -> Variant:
        """The variant as machines take it: of physical keys, and of one sequence with more heads.

        Args:
          heads, kv_heads: of each sequence.
          q_offset: position of the first query, of each sequence.
        """
        table, group = self.table, heads // kv_heads
        offsets = self._offsets(q_offset)

        def part_of(h: Positions, k: Positions) -> tuple[Positions, Positions]:
            """The sequence, and which part of it the key's page holds."""
            b = h // group % table.batch
            return b, jnp.asarray(table.logical)[b, k // table.page_size]

        def to_users(_: Positions, h: Positions, q: Positions, k: Positions) -> Indices:
            b, part = part_of(h, k)
            # Of a page that a sequence has not nothing is asked that counts, but tables of the
            # user's must not be read before their beginning.
            position = jnp.maximum(part, 0) * table.page_size + k % table.page_size
            own = h // (group * table.batch) * group + h % group
            return b, own, q + jnp.asarray(offsets)[b], position

        def present(_: Positions, h: Positions, q: Positions, k: Positions) -> Allowed:
            b, part = part_of(h, k)
            position = part * table.page_size + k % table.page_size
            return (part != ABSENT) & (position < jnp.asarray(table.keys)[b])

        on_pages = reindexed(self.variant, to_users, catalogue.named(present))
        return dataclasses.replace(on_pages, name=self.name)

    def _offsets(self, q_offset: int | Sequence[int]) -> np.ndarray:
        return np.broadcast_to(np.asarray(q_offset, np.int32), (self.table.batch,))

    def _by_sequence(self, x: Any, kv_heads: int) -> Any:
        """`[1, kv_heads * batch * group, ...]` to `[batch, heads, ...]`; None stays."""
        if x is None:
            return None
        _, _, *rest = x.shape
        by_group = x.reshape(kv_heads, self.table.batch, -1, *rest)
        return by_group.swapaxes(0, 1).reshape(self.table.batch, -1, *rest)

    def _check_memory(self, q: Any, k: Any, v: Any) -> None:
        of_q, of_k, of_v = (tuple(np.shape(x)) for x in (q, k, v))
        table = self.table
        fits = all(
            len(shape) == 4 and shape[0] == 1 and shape[2] == table.slots
            for shape in (of_k, of_v)
        )
        if not fits:
            refuse(
                f"{self.name}: k is {of_k} and v {of_v}, must be [1, kv_heads, {table.slots}, "
                f"features]: one memory of {table.pages} pages of {table.page_size} keys, which "
                "all sequences share"
            )
        if len(of_q) != 4 or of_q[0] != table.batch or of_q[1] % of_k[1]:
            refuse(
                f"{self.name}: q is {of_q}, must be [{table.batch}, a multiple of {of_k[1]} KV "
                "heads, queries, head_dim]: block_table has that many sequences"
            )

    # --- clocks ---

    def time(
        self,
        *,
        tokens: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        batch: int | None = None,
        keys: int | None = None,
        chips: int = 1,
        cores: int = 1,
        dtype: str = "bfloat16",
        chip: NeuronCoreSheet = TRN3,
        wafer: Sheet = WSE3,
        rows: int | None = None,
        parts: int | None = None,
        **options: Any,
    ) -> VariantTime:
        """The clock of both machines, from sizes alone.

        Args:
          tokens: queries of each sequence, from position 0 on; when decoding it is the newest one.
          heads, kv_heads, head_dim: of attention.
          batch, keys: None, or the table's own: sequences, and slots of the memory.
          chips, cores, dtype, chip, wafer, rows, parts: as for `Variant.time`.
          options: of the prefill, as for `Variant.time`.
        """
        self._check_sizes(batch, keys)
        many_heads = self.table.batch * heads
        scale = self.variant.scale
        prefill = prefill_time(
            self.on_pages(heads, kv_heads).reading,
            q=(1, many_heads, tokens, head_dim),
            k=(1, kv_heads, self.table.slots, head_dim),
            sheet=chip,
            chips=chips,
            cores=cores,
            scale=scale,
            dtype=jnp.dtype(dtype),
            **options,
        )
        sizes = DecodeSizes(
            heads=many_heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            context=self.table.slots,
            position=0,
            scale=scale,
            dtype=dtype,
        )
        reading = self.on_pages(heads, kv_heads, self.newest).reading
        decode = decode_time(reading, sizes, rows=rows, parts=parts, sheet=wafer)
        return VariantTime(self.name, prefill, decode)

    def explain(
        self,
        *,
        tokens: int,
        heads: int = 1,
        kv_heads: int = 1,
        head_dim: int = 128,
        batch: int | None = None,
        keys: int | None = None,
        **options: Any,
    ) -> Explanation:
        """Its live tiles, over queries and slots of the memory; see `Variant.explain`."""
        clock = self.time(
            tokens=tokens,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            batch=batch,
            keys=keys,
            **options,
        )
        return explain(
            self.name,
            self.on_pages(heads, kv_heads).reading,
            clock,
            tokens=tokens,
            heads=self.table.batch * heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            keys=self.table.slots,
            **options,
        )

    def _check_sizes(self, batch: int | None, keys: int | None) -> None:
        table = self.table
        if batch not in (None, table.batch) or keys not in (None, table.slots):
            refuse(
                f"{self.name}: batch is {batch} and keys {keys}, must be {table.batch} and "
                f"{table.slots}, as the page table has them, or None"
            )

    # --- do they agree? ---

    def check(
        self,
        *,
        heads: int = 4,
        kv_heads: int = 2,
        head_dim: int = 8,
        chips: Sequence[int] = (1, 2, 4),
        placements: Sequence[str] = PLACEMENTS,
        seed: int = 0,
    ) -> Report:
        """Compares all forms on random operands; sequences and pages are the table's.

        Args:
          heads, kv_heads, head_dim: of attention.
          chips: sizes of the mesh.
          placements: of tokens on more than one chip.
          seed: of the operands.
        """
        rng = np.random.default_rng(seed)
        table = self.table
        tokens = int(table.keys.max())
        shape = (table.batch, heads, tokens, head_dim)
        q = rng.standard_normal(shape).astype(np.float32)
        memory = (2, 1, kv_heads, table.slots, head_dim)
        k, v = rng.standard_normal(memory).astype(np.float32)
        allowed = ROUNDING * max(1.0, float(np.abs(v).max()))

        forms = Forms(self.dense, self.prefill, with_cache(self.decode))
        found = on_machines(forms, (q, k, v), self.newest, allowed, chips, placements)
        return Report(self.name, tuple(found))

    def __repr__(self) -> str:
        return f"<attention {self.name}>"


def _as_heads(q: Any, kv_heads: int) -> Any:
    """`[batch, heads, queries, head_dim]` to `[1, kv_heads * batch * group, queries, head_dim]`."""
    batch, _, queries, features = q.shape
    by_group = q.reshape(batch, kv_heads, -1, queries, features)
    return by_group.swapaxes(0, 1).reshape(1, -1, queries, features)


__all__ = ["PagedVariant"]
