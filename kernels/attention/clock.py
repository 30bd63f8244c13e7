"""A variant's time on both machines, from sizes alone."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from emu import Sheet
from emu.report.explain import NAMES
from emu.trainium import TRN3
from emu.trainium.datasheets import NeuronCoreSheet
from emu.wse import WSE3
from kernels.attention.decode import DecodeTime, decode_time
from kernels.attention.on_pe import DecodeSizes
from kernels.attention.prefill_time import PrefillTime, prefill_time
from kernels.scores.form import Reading


@dataclasses.dataclass(frozen=True)
class VariantTime:
    """Prefill of a sequence, and decode of the token at its end.

    Attributes:
      name: of the variant.
      prefill: on Trainium.
      decode: on the wafer.
    """

    name: str
    prefill: PrefillTime
    decode: DecodeTime

    def __str__(self) -> str:
        return "\n".join([self.name, *self.lines])

    @property
    def lines(self) -> tuple[str, ...]:
        """Two for each machine: its time, and what bounds it."""
        prefill, decode = self.prefill, self.decode
        busy = {NAMES.get(name, name): share for name, share in prefill.busy.items()}
        return (
            f"prefill on {prefill.chips} chips, {prefill.placed}: {_told(prefill.seconds)}, "
            f"{prefill.flops:,} FLOPs",
            f"  bound by {_shares(busy, 'busy')}",
            f"decode on {decode.cols} x {decode.rows} PEs: {_told(decode.seconds)}, "
            f"{decode.flops:,} FLOPs",
            f"  bound by {_shares(decode.shares, 'of it')}",
        )


def _shares(of: Mapping[str, float], meaning: str) -> str:
    """The largest with what its share means, then the next three."""
    most, *others = sorted(of, key=lambda name: -of[name])
    rest = ", ".join(f"{name} {of[name]:.0%}" for name in others[:3])
    return f"{most}, {of[most]:.0%} {meaning}; beside it {rest}"


def _told(seconds: dict[str, float]) -> str:
    nominal = seconds["nominal"] * 1e6
    low, high = (seconds[band] * 1e6 for band in ("low", "high"))
    return f"{nominal:,.1f} us ({low:,.1f} to {high:,.1f})"


def variant_time(
    name: str,
    reading: Reading,
    *,
    tokens: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    batch: int = 1,
    keys: int | None = None,
    chips: int = 1,
    cores: int = 1,
    scale: float | None = None,
    dtype: str = "bfloat16",
    cache_dtype: str | None = None,
    block: int = 0,
    chip: NeuronCoreSheet = TRN3,
    wafer: Sheet = WSE3,
    rows: int | None = None,
    parts: int | None = None,
    **options: Any,
) -> VariantTime:
    """The time of both machines.

    Args:
      name: of the variant.
      reading: the variant.
      tokens: queries of the prefill.
      heads, kv_heads, head_dim, batch: of attention.
      keys: of the prefill, and in the cache when the newest token is decoded; None: as many as
        tokens.
      chips, cores: of the mesh, cores of each chip; they share the heads of the prefill.
      scale: of the scores; None: `1 / sqrt(head_dim)`.
      dtype: of queries, keys and values on both machines.
      cache_dtype: of keys and values in the wafer's cache, such as "int8"; None: `dtype`.
      block: features of them that share a power of two, 32 in MXFP8; 0: none do.
      chip, wafer: datasheets.
      rows, parts: of the region of the wafer; None: the fastest.
      options: of the prefill: `placement`, `scheme` and others of `context_attention`.
    """
    count = tokens if keys is None else keys
    prefill = prefill_time(
        reading,
        q=(batch, heads, tokens, head_dim),
        k=(batch, kv_heads, count, head_dim),
        sheet=chip,
        chips=chips,
        cores=cores,
        scale=scale,
        dtype=jnp.dtype(dtype),
        **options,
    )
    sizes = DecodeSizes(
        batch=batch,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        context=count,
        scale=scale,
        dtype=dtype,
        cache_dtype=cache_dtype,
        block=block,
    )
    decode = decode_time(reading, sizes, rows=rows, parts=parts, sheet=wafer)
    return VariantTime(name, prefill, decode)


__all__ = ["VariantTime", "variant_time"]
