"""Several score maps for each output head, over the same values, and a sum of what they attend to.

`out = sum of c[m] * softmax(q[m] k[m]) v` over the maps m of a head. Maps lie as DiffLlama has its
heads: all heads of the first map, then all of the second. Of 2 maps of 4 heads over 2 KV heads

    q   [batch, 8, tokens, head_dim]    heads 0 to 3 are the first map's, 4 to 7 the second's
    k   [batch, 4, tokens, head_dim]    KV heads 0 and 1 are the first map's
    v   [batch, 2, tokens, value_dim]   of both
    out [batch, 4, tokens, value_dim]   head n is of the maps' heads n and n + 4

A score or a mask is called with the head among all maps', so that it may tell them apart. Machines
have the maps of a KV head side by side, where they share its values; values are stored, sent and
loaded for both at once.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from emu import Device, Sheet
from emu.trainium import TRN3, with_cores
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
from kernels.attention.decode import Cache, decode_time, sizes_of
from kernels.attention.explain import Explanation, explain
from kernels.attention.on_pe import DecodeSizes, variant_on_pe
from kernels.attention.prefill import by_sequence, by_token, context_attention
from kernels.attention.prefill_time import time_of
from kernels.attention.region import plan_decode
from kernels.attention.reindexed import Indices, reindexed
from kernels.attention.variant import Variant
from kernels.masks.catalogue import Positions
from kernels.refusal import refuse
from kernels.tokens.placement import PLACEMENTS
from kernels.trainium.context.mixed_attention import MixedAttention

Factor: TypeAlias = ArrayLike | None
"""Of a map: one number, or one for each head; None: 1, and nothing is multiplied."""


@dataclasses.dataclass(frozen=True, eq=False)
class HeadMix:
    """A variant of several maps a head.

    Attributes:
      name: of the variant.
      variant: of each map; its `h` counts the heads of all maps.
      factors: of each map, a number or `[heads]`; arrays of JAX are differentiable.
    """

    name: str
    variant: Variant
    factors: tuple[Factor, ...]

    @property
    def maps(self) -> int:
        """How many each head has."""
        return len(self.factors)

    @property
    def counts_as_is(self) -> tuple[bool, ...]:
        """Of every map, whether its factor is 1."""
        return tuple(x is None for x in self.factors)

    def table(self, heads: int, dtype: DTypeLike = "float32") -> jax.Array:
        """Factors of all maps, `[maps, heads]`.

        Raises:
          LimitExceeded: factors for another number of heads.
        """
        rows = []
        for place, factor in enumerate(self.factors):
            row = jnp.asarray(1.0 if factor is None else factor).astype(dtype)
            if row.shape not in ((), (heads,)):
                refuse(
                    f"{self.name}: factor {place} is {list(row.shape)}, must be one number or one "
                    f"for each of {heads} heads"
                )
            rows.append(jnp.broadcast_to(row, (heads,)))
        return jnp.stack(rows)

    # --- values ---

    def dense(
        self,
        q: Any,
        k: Any,
        v: Any,
        *,
        q_offset: int = 0,
        dtype: DTypeLike = "float64",
    ) -> tuple[jax.Array, jax.Array | None]:
        """The oracle: dense attention of every map, and their sum.

        Args:
          q: `[batch, maps * heads, queries, head_dim]`.
          k: `[batch, maps * kv_heads, keys, head_dim]`.
          v: `[batch, kv_heads, keys, value_dim]`.
          q_offset: position of the first query.
          dtype: of the computation and of the results.

        Returns:
          `[batch, heads, queries, value_dim]`, and the log-sum-exp of every map,
          `[batch, maps * heads, queries]`.
        """
        self._check_heads(q, k, v)
        of_maps = (1, self.maps, 1, 1)
        tile = np.tile if isinstance(v, np.ndarray) else jnp.tile
        out, sums = self.variant.dense(
            q, k, tile(v, of_maps), q_offset=q_offset, dtype=dtype
        )
        with jax.enable_x64(jnp.dtype(dtype).itemsize == 8):
            return self._mixed(out, dtype), sums

    def _mixed(self, out: jax.Array, dtype: DTypeLike) -> jax.Array:
        batch, all_heads, *rest = out.shape
        by_map = out.reshape(batch, self.maps, -1, *rest)
        table = self.table(all_heads // self.maps, dtype)
        exact = jax.lax.Precision.HIGHEST
        return jnp.einsum("mh,bmhqd->bhqd", table, by_map, precision=exact)

    def prefill(
        self,
        q: Any,
        k: Any,
        v: Any,
        *,
        chips: int = 1,
        placement: str = "auto",
        scheme: str = "ring",
        **options: Any,
    ) -> tuple[jax.Array, jax.Array | None]:
        """Context-parallel prefill; maps are mixed on the machine, after they are finished.

        Args:
          q, k, v: as for `dense`.
          chips, placement, scheme, options: as for `Variant.prefill`.

        Returns:
          Output and log-sum-exp, as `dense`.
        """
        self._check_heads(q, k, v)
        queries, keys, values = (jnp.asarray(x) for x in (q, k, v))
        options.setdefault("dtype", queries.dtype)
        batch, heads, kv_heads = len(queries), queries.shape[1], keys.shape[1]
        mixed = self._program(
            queries.shape,
            keys.shape,
            value_dim=values.shape[-1],
            chips=chips,
            placement=placement,
            scheme=scheme,
            **options,
        )
        missing = mixed.attention.tokens - keys.shape[2]
        table = self.table(heads // self.maps)
        out, sums = mixed.run(
            by_token(self._by_group(queries, kv_heads)),
            by_token(self._by_group(keys, kv_heads), missing),
            by_token(values, missing),
            jnp.tile(table, (1, batch)),
        )
        by_map = None
        if sums is not None:
            by_map = self._by_map(by_sequence(sums, batch), kv_heads)
        return by_sequence(out, batch), by_map

    def decode(
        self,
        q: Any,
        cache: Cache,
        *,
        rows: int | None = None,
        parts: int | None = None,
        position: int | None = None,
        device: Device | None = None,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Attention of the newest query on a region of the emulated wafer.

        A group of columns holds the keys of all maps of a KV head beside its values, which are
        there once; the maps' outputs are summed where they are.

        Args:
          q: `[batch, maps * heads, 1, head_dim]`.
          cache: keys and values, as for `dense`.
          rows, parts, position, device: as for `Variant.decode`.

        Returns:
          Output and log-sum-exp, as `dense`.
        """
        keys, values = cache
        self._check_heads(q, keys, values)
        device = WSE3.at() if device is None else device
        heads, kv_heads = np.shape(q)[1], np.shape(keys)[1]
        of_groups = self._by_group(np.asarray(q), kv_heads)
        # A KV head's keys of all maps are one head of as many features more.
        batch, _, context, features = np.shape(keys)
        by_map = np.asarray(keys).reshape(batch, self.maps, -1, context, features)
        one_map = by_map[:, 0]
        sizes = sizes_of(of_groups, (one_map, values), self.variant.scale, position)
        sizes = dataclasses.replace(sizes, mixes=self.counts_as_is)
        reading = self.on_machines(heads, kv_heads).reading
        plan = plan_decode(
            variant_on_pe(reading, sizes), device=device, rows=rows, parts=parts
        )
        table = np.asarray(self.table(heads // self.maps))
        out, sums = plan.run(of_groups, by_map, values, table)
        return out, None if sums is None else self._by_map(sums, kv_heads)

    # --- what machines see ---

    def on_machines(self, heads: int, kv_heads: int) -> Variant:
        """The variant with heads as machines have them: all maps of a KV head side by side.

        Args:
          heads, kv_heads: of all maps.
        """
        maps, group = self.maps, heads // kv_heads

        def to_users(b: Positions, h: Positions, q: Positions, k: Positions) -> Indices:
            which, value_head = h // group % maps, h // (group * maps)
            own = which * (heads // maps) + value_head * group + h % group
            return b, own, q, k

        return dataclasses.replace(reindexed(self.variant, to_users), name=self.name)

    def _by_group(self, x: Any, kv_heads: int) -> Any:
        """`[batch, maps * heads, ...]` with the maps of a KV head side by side."""
        batch, heads, *rest = x.shape
        shape = (batch, self.maps, kv_heads // self.maps, -1, *rest)
        return x.reshape(shape).swapaxes(1, 2).reshape(batch, heads, *rest)

    def _by_map(self, x: Any, kv_heads: int) -> Any:
        """What `_by_group` has turned, as it was."""
        batch, heads, *rest = x.shape
        shape = (batch, kv_heads // self.maps, self.maps, -1, *rest)
        return x.reshape(shape).swapaxes(1, 2).reshape(batch, heads, *rest)

    def _program(
        self, q: tuple[int, ...], k: tuple[int, ...], **options: Any
    ) -> MixedAttention:
        """The prefill's program, of shapes with the heads of all maps."""
        attention = context_attention(
            self.on_machines(q[1], k[1]).reading,
            q=q,
            k=k,
            maps=self.maps,
            scale=self.variant.scale,
            **options,
        )
        return MixedAttention(attention=attention, counts_as_is=self.counts_as_is)

    def _check_heads(self, q: Any, k: Any, v: Any) -> None:
        of_q, of_k, of_v = (tuple(np.shape(x)) for x in (q, k, v))
        fits = all(len(x) == 4 for x in (of_q, of_k, of_v))
        if not fits or of_q[1] % of_k[1] or of_k[1] != self.maps * of_v[1]:
            refuse(
                f"{self.name}: q is {of_q}, k {of_k} and v {of_v}, must be [batch, {self.maps} * "
                f"heads, queries, head_dim], [batch, {self.maps} * kv_heads, keys, head_dim] and "
                "[batch, kv_heads, keys, value_dim]"
            )

    # --- clocks ---

    def time(
        self,
        *,
        tokens: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        value_dim: int | None = None,
        batch: int = 1,
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
          tokens, batch, keys, chips, cores, dtype, chip, wafer, rows, parts: as for `Variant.time`.
          heads, kv_heads: of the outputs, and of the values; each map has as many.
          head_dim, value_dim: of each map's keys, and of the values; default alike.
          options: of the prefill, as for `Variant.time`.
        """
        count = tokens if keys is None else keys
        # Fewer heads than cores stand on several of them.
        of_cores = max(kv_heads, cores)
        mixed = self._program(
            (batch, self.maps * heads, tokens, head_dim),
            (batch, self.maps * of_cores, count, head_dim),
            value_dim=value_dim,
            chips=chips,
            cores=cores,
            dtype=jnp.dtype(dtype),
            **options,
        )
        readings = mixed.read_bands(with_cores(chip, cores))
        sizes = DecodeSizes(
            batch=batch,
            heads=self.maps * heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            value_dim=value_dim,
            context=count,
            scale=self.variant.scale,
            dtype=dtype,
            mixes=self.counts_as_is,
        )
        reading = self.on_machines(self.maps * heads, self.maps * kv_heads).reading
        decode = decode_time(reading, sizes, rows=rows, parts=parts, sheet=wafer)
        return VariantTime(self.name, time_of(mixed.attention, readings), decode)

    def explain(
        self,
        *,
        tokens: int,
        heads: int = 1,
        kv_heads: int = 1,
        head_dim: int = 128,
        **sizes: Any,
    ) -> Explanation:
        """Live tiles of all maps, and what is done to every score; see `Variant.explain`.

        Args:
          tokens, head_dim: of attention.
          heads, kv_heads: of the outputs, and of the values.
          sizes: `chips` and more, as for `time`.
        """
        clock = self.time(
            tokens=tokens, heads=heads, kv_heads=kv_heads, head_dim=head_dim, **sizes
        )
        all_heads, all_kv_heads = self.maps * heads, self.maps * kv_heads
        return explain(
            self.name,
            self.on_machines(all_heads, all_kv_heads).reading,
            clock,
            tokens=tokens,
            heads=all_heads,
            kv_heads=all_kv_heads,
            head_dim=head_dim,
            **sizes,
        )

    # --- do they agree? ---

    def check(
        self,
        *,
        tokens: int = 24,
        heads: int = 4,
        kv_heads: int = 2,
        head_dim: int = 8,
        batch: int = 2,
        chips: Sequence[int] = (1, 2, 4),
        placements: Sequence[str] = PLACEMENTS,
        seed: int = 0,
    ) -> Report:
        """Compares all forms on random operands.

        Args:
          tokens, head_dim, batch: of attention.
          heads, kv_heads: of the outputs, and of the values.
          chips: sizes of the mesh.
          placements: of tokens on more than one chip.
          seed: of the operands.
        """
        rng = np.random.default_rng(seed)
        counts = (self.maps * heads, self.maps * kv_heads, kv_heads)
        q, k, v = (
            rng.standard_normal((batch, n, tokens, head_dim)).astype(np.float32)
            for n in counts
        )
        # A difference of maps has the roundings of all of them.
        most = np.abs(np.asarray(self.table(heads))).sum(0).max()
        allowed = ROUNDING * max(1.0, float(np.abs(v).max() * most))

        forms = Forms(self.dense, self.prefill, with_cache(self.decode))
        found = on_machines(forms, (q, k, v), tokens - 1, allowed, chips, placements)
        return Report(self.name, tuple(found))

    def __repr__(self) -> str:
        return f"<attention {self.name}>"


__all__ = ["HeadMix"]
