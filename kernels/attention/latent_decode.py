"""Decode of attention to latents on the wafer: absorbed, each latent stored once.

All heads of a sequence share its latents, so they are the queries of one KV head, whose columns
hold the latents and the rotary keys; a value is the first part of its key, where it lies. Before,
rows multiply their features of the query by `w_k`; after, the means of latents by `w_v`. A row ends
with its own features of the output, as a row of a layer has its part of the residual stream.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from emu import Device, Program, Sheet
from emu.clock.reading import Reading as Clock
from emu.datasheet import BANDS
from emu.errors import OutOfMemory
from emu.wse import WSE3
from emu.wse.lower import Tiles
from emu.wse.placement.regions import DoesNotFit
from emu.wse.spaces import Sram
from kernels.attention.decode import DecodeTime
from kernels.attention.decode_plan import DecodePlan
from kernels.attention.decode_spent import decode_spent
from kernels.attention.on_pe import DecodeSizes, variant_on_pe
from kernels.attention.region import bands, plan_decode
from kernels.scores.form import Reading
from kernels.wse.decode.attention import Cache
from kernels.wse.decode.latent import absorbed, as_dtype, beside, products, values_of
from kernels.wse.decode.mapping import PE
from kernels.wse.decode.share import Share
from kernels.wse.decode.sums import all_reduce

Results = tuple[np.ndarray, np.ndarray | None]


@dataclasses.dataclass(frozen=True, eq=False)
class LatentDecode:
    """Decode on a region.

    Attributes:
      plan: of attention to latents; one KV head for each sequence, whose values are keys.
      nope: features of a query that meet latents.
      value_dim: features of an output.
    """

    plan: DecodePlan
    nope: int
    value_dim: int

    @property
    def _absorbs(self) -> Share:
        return Share(self.plan.map.queries, self.nope, self.plan.map.rows)

    @property
    def _projects(self) -> Share:
        return Share(self.plan.map.queries, self.value_dim, self.plan.map.rows)

    @functools.cached_property
    def program(self) -> Program:
        """Of the query's features, weights, the cache and what its functions hold."""
        plan, layout = self.plan, self.plan.map
        before, after = self._absorbs, self._projects

        def kernel(
            nope: Sram,
            rotary: Sram,
            weights: tuple[Sram, Sram],
            cache: Cache,
            tiles: Tiles,
            first: Any,
            live: Any,
        ) -> tuple[Sram, ...]:
            of_keys, of_values = weights
            of_queries = products(of_keys, before)
            own = absorbed(nope, of_queries, layout.value_dims, before)
            latents = as_dtype(all_reduce(own, "row"), layout.dtype)
            q = beside(latents, rotary)
            mean, *sums = plan.attended(q, cache, tiles, first, live)
            of_means = products(of_values, after)
            out = values_of(mean, of_means, after, layout.parts)
            return out, *sums

        of_q, *others = plan.specs
        specs = (PE, of_q, PE, *others)
        return Program(kernel, layout.mesh, specs)

    # --- values ---

    def run(self, q: Any, latent: Any, rotary: Any, w_k: Any, w_v: Any) -> Results:
        """Attention of the newest query; see `kernels.attention.latent.LatentVariant.decode`."""
        layout, dtype = self.plan.map, jnp.dtype(self.plan.map.dtype)
        queries, latents, turned, of_keys, of_values = (
            np.asarray(x) for x in (q, latent, rotary, w_k, w_v)
        )
        rope_dims = layout.dims - layout.value_dims
        nope = [self._absorbs.dealt(x[:, 0, : self.nope]) for x in queries]
        # The same on all columns of a sequence.
        by_column = np.repeat(np.stack(nope, axis=1), layout.parts, axis=1)
        rope = queries[:, :, 0, self.nope :].reshape(
            layout.batch, layout.queries, layout.parts, rope_dims
        )
        rope = np.moveaxis(rope, 2, 1).reshape(layout.cols, layout.queries, rope_dims)
        keys = [
            self.plan.dealt(latents[:, None], layout.value_dims),
            self.plan.dealt(turned[:, None], rope_dims),
        ]
        cache = {"k": np.swapaxes(np.concatenate(keys, axis=-1), 2, 3).astype(dtype)}
        mean, *sums = self.program.run(
            by_column.astype(dtype),
            rope.astype(dtype),
            (
                self._key_weights(of_keys).astype(dtype),
                self._value_weights(of_values).astype(dtype),
            ),
            cache,
            self.plan.tables.tiles(),
            *self.plan.ranges(),
        )
        # All columns of a sequence have the same.
        by_row = np.asarray(mean)[:, :: layout.parts]
        out = [self._projects.collected(by_row[:, b]) for b in range(layout.batch)]
        given = np.stack(out)[:, :, None].astype(dtype)
        if not sums:
            return given, None
        (lse,) = sums
        of_sequence = np.asarray(lse[0])[:: layout.parts]
        return given, of_sequence.reshape(layout.batch, layout.queries, 1)

    def _on_columns(self, x: np.ndarray) -> np.ndarray:
        """`[rows, parts, ...]` on the columns of every sequence."""
        return np.concatenate([x] * self.plan.map.batch, axis=1)

    def _key_weights(self, w_k: np.ndarray) -> np.ndarray:
        """`[rank, heads, nope]` as `[rows, cols, heads_a_row * width, latent dims]`."""
        parts = self.plan.map.parts
        by_part = np.moveaxis(w_k.reshape(parts, -1, *w_k.shape[1:]), 1, -1)
        dealt = [self._absorbs.dealt(own) for own in by_part]
        return self._on_columns(np.stack(dealt, axis=1))

    def _value_weights(self, w_v: np.ndarray) -> np.ndarray:
        """`[rank, heads, value_dim]` as `[rows, cols, heads_a_row * latent dims, width]`."""
        share, parts = self._projects, self.plan.map.parts
        by_part = np.moveaxis(w_v.reshape(parts, -1, *w_v.shape[1:]), 1, -1)
        dealt = []
        for own in by_part:  # heads, features, latent dims
            rows = share.dealt(own)
            by_head = rows.reshape(share.rows, share.heads_a_row, share.width, -1)
            turned = np.swapaxes(by_head, 2, 3)
            dealt.append(turned.reshape(share.rows, -1, share.width))
        return self._on_columns(np.stack(dealt, axis=1))

    # --- clock and bytes ---

    @functools.cached_property
    def timed(self) -> "LatentDecode":
        """What the clock reads in its place: one sequence, where all do the same."""
        return dataclasses.replace(self, plan=self.plan.timed)

    @functools.cached_property
    def arguments(self) -> tuple[Any, ...]:
        """Shapes in place of data."""
        layout, dtype = self.plan.map, jnp.dtype(self.plan.map.dtype)
        before, after = self._absorbs, self._projects
        grid = (layout.rows, layout.cols)
        _, *others = self.plan.arguments

        def struct(*shape: int) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(shape, dtype)

        inputs = before.size
        rope_dims = layout.dims - layout.value_dims
        weights = (
            struct(*grid, inputs, layout.value_dims),
            struct(*grid, after.heads_a_row * layout.value_dims, after.width),
        )
        return (
            struct(*grid, inputs),
            struct(layout.cols, layout.queries, rope_dims),
            weights,
            *others,
        )

    def read(self, device: Device | None = None, **options: Any) -> Clock:
        """The clock of one token, from its features on their PEs to those of the output."""
        device = WSE3.at() if device is None else device
        timed = self.timed
        return timed.program.read(device, *timed.arguments, **options)

    def sram_bytes(self, device: Device) -> int:
        """Bytes of a PE, code included.

        Raises:
          DoesNotFit: more than it has.
        """
        timed = self.timed
        try:
            peak = timed.program.memory(device, *timed.arguments)["sram"]
        except OutOfMemory as error:
            raise self._refusal(device) from error
        if peak + device.code_bytes > device.sram_bytes:
            raise self._refusal(device)
        return peak + device.code_bytes

    def _refusal(self, device: Device) -> DoesNotFit:
        _, _, weights, *_ = self.arguments
        own = sum(math.prod(x.shape[2:]) * x.dtype.itemsize for x in weights)
        layout = self.plan.map
        return DoesNotFit(
            f"{device.name}: latents take {layout.cache_bytes:,} bytes of a PE of "
            f"{layout.rows} x {layout.cols} and weights {own:,}, beside scores and code; a PE has "
            f"{device.sram_bytes:,}; use more rows or parts, or fewer keys"
        )

    def time(self, sheet: Sheet) -> DecodeTime:
        """The clock under every band."""
        device = sheet.at()
        timed = self.timed
        clocks = timed.program.read_bands(sheet, *timed.arguments)
        moved = clocks["nominal"].tally.by("bytes")
        layout, times = self.plan.map, self.plan.times
        return DecodeTime(
            rows=layout.rows,
            cols=layout.cols,
            copies=layout.copies,
            bands=bands(layout, device) or 1,
            live_slots=layout.most_live,
            slots=layout.held_slots,
            cycles={band: clocks[band].end_ticks for band in BANDS},
            seconds={band: clocks[band].seconds for band in BANDS},
            flops=clocks["nominal"].tally.flops * times,
            sram_read_bytes=moved["sram_read"] * times,
            sram_write_bytes=moved["sram_write"] * times,
            sram_bytes=self.sram_bytes(device),
            spent=decode_spent(self, clocks["nominal"], device),
        )


def latent_decode(
    reading: Reading,
    sizes: DecodeSizes,
    *,
    nope: int,
    value_dim: int,
    device: Device,
    rows: int | None = None,
    parts: int | None = None,
) -> LatentDecode:
    """The plan on the region that is fastest for the attention, with room for the weights.

    Args:
      reading: the variant.
      sizes: of attention to latents, `values_are_keys`.
      nope, value_dim: see `LatentDecode`.
      device: the wafer.
      rows, parts: of the region; None: the fastest.

    Raises:
      CannotLower: arithmetic that a PE has not, with the user's line.
      DoesNotFit: no region has room.
    """
    plan = plan_decode(
        variant_on_pe(reading, sizes), device=device, rows=rows, parts=parts
    )
    found = LatentDecode(plan, nope, value_dim)
    found.sram_bytes(device)
    return found


__all__ = ["LatentDecode", "latent_decode"]
