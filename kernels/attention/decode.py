"""Decode of a variant on the wafer: `decode` for values, `decode_time` for the clock on shapes."""

import dataclasses

import jax
import numpy as np

from emu import BANDS, Device, Sheet
from emu.wse import WSE3
from emu.wse.pe.packed import CODES, SCALES
from kernels.attention.decode_spent import decode_spent
from kernels.attention.on_pe import DecodeSizes, variant_on_pe
from kernels.attention.region import bands, plan_decode
from kernels.refusal import refuse
from kernels.scores.form import Reading

Array = jax.Array | np.ndarray
Cache = tuple[Array, Array]
"""Keys and values, `[batch, kv_heads, context, dim]` each."""

Powers = tuple[Array, Array]
"""Of their blocks, float8_e8m0fnu `[batch, kv_heads, context, blocks]` each."""


def sizes_of(
    q: Array,
    cache: Cache,
    scale: float | None = None,
    position: int | None = None,
    powers: Powers | None = None,
) -> DecodeSizes:
    """The sizes of a query, a cache, and powers of two of its blocks.

    Raises:
      LimitExceeded: their shapes do not go together.
    """
    shapes = [tuple(np.shape(x)) for x in (q, *cache)]
    if any(len(shape) != 4 for shape in shapes):
        refuse(f"q, keys and values must have 4 dimensions each, have {shapes}")
    (batch, heads, queries, dim), of_keys, of_values = shapes
    agree = of_keys[:3] == of_values[:3] and of_keys[0] == batch and of_keys[3] == dim
    if not agree or queries != 1:
        refuse(
            "q must be [batch, heads, 1, head_dim], keys [batch, kv_heads, context, head_dim] and "
            f"values [batch, kv_heads, context, value_dim], are {shapes}"
        )
    held = [np.dtype(x.dtype).name for x in cache]
    of_query = np.dtype(q.dtype).name
    if any(x in CODES for x in held):
        if held[0] != held[1]:
            refuse(f"keys and values of 8 bits must have one dtype, have {held}")
        dtype, cache_dtype = of_query, held[0]
    else:
        dtype, cache_dtype = held[0], None
    return DecodeSizes(
        batch=batch,
        heads=heads,
        kv_heads=of_keys[1],
        head_dim=dim,
        value_dim=of_values[3],
        context=of_keys[2],
        position=position,
        scale=scale,
        dtype=dtype,
        cache_dtype=cache_dtype,
        block=0 if powers is None else _block(powers, of_keys, of_values),
    )


def _block(powers: Powers, *of_cache: tuple[int, ...]) -> int:
    """Features of keys, and of values, that share a power of two."""
    shapes = [tuple(np.shape(x)) for x in powers]
    dtypes = [np.dtype(x.dtype).name for x in powers]
    whole = all(
        of_powers[:-1] == of_codes[:-1] and of_codes[-1] % of_powers[-1] == 0
        for of_powers, of_codes in zip(shapes, of_cache, strict=True)
    )
    blocks = {
        of_codes[-1] // of_powers[-1]
        for of_powers, of_codes in zip(shapes, of_cache, strict=True)
        if whole
    }
    if len(blocks) != 1 or dtypes != [SCALES] * 2:
        refuse(
            f"powers of keys and values must be {SCALES} [batch, kv_heads, context, blocks] of "
            f"blocks of one length, are {dtypes} {shapes} of {list(of_cache)}"
        )
    return blocks.pop()


def decode(
    reading: Reading,
    q: Array,
    cache: Cache,
    *,
    rows: int | None = None,
    parts: int | None = None,
    scale: float | None = None,
    position: int | None = None,
    powers: Powers | None = None,
    device: Device | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Attention of the newest query over a cache, on a region of the wafer.

    Args:
      reading: the variant.
      q: `[batch, heads, 1, head_dim]`, one query; query heads `h * g` to `h * g + g - 1` share
        key/value head `h`.
      cache: keys and values, `[batch, kv_heads, context, head_dim]` and `[..., value_dim]`, in the
        dtype in which PEs are to hold them. Of 8-bit codes (int8, uint8, float8_e4m3fn) the numbers
        are what a score function and a monoid make of them; arithmetic is in the queries' dtype
        then.
      rows, parts: height of the region and columns of a key/value head; default: the fastest.
      scale: factor of a score; default `head_dim ** -0.5`.
      position: of the query; default the cache's last one.
      powers: of two, of blocks of the cache's features, which a number's code is multiplied by: 32
        features have one in MXFP8. None: codes are the numbers.
      device: the wafer; default a WSE-3.

    Returns:
      `[batch, heads, 1, value_dim]` in the dtype of arithmetic, and the log-sum-exp of the scores,
      float32 `[batch, heads, 1]`. Where nothing is attended they are 0 and -inf. A monoid that does
      not sum plain exponentials has no log-sum-exp: None.

    Raises:
      CannotLower: arithmetic that a PE has not, with the user's line.
      DoesNotFit: no region has room.
    """
    device = WSE3.at() if device is None else device
    variant = variant_on_pe(reading, sizes_of(q, cache, scale, position, powers))
    plan = plan_decode(variant, device=device, rows=rows, parts=parts)
    return plan.run(q, *cache, powers=powers)


@dataclasses.dataclass(frozen=True)
class DecodeTime:
    """The clock of one token's attention.

    Attributes:
      rows, cols: PEs of the region.
      copies: of each key/value head, among which its query heads are split.
      bands: in how many bands of rows the region lies on the wafer.
      live_slots: of the fullest PE, of the `slots` that its cache has.
      slots: of the cache in one PE.
      cycles, seconds: by band, low being the shortest time.
      flops: floating-point operations of all PEs.
      sram_read_bytes, sram_write_bytes: traffic of all PEs with their memory.
      sram_bytes: of one PE, code included.
      spent: cycles of the nominal time by what they go to, see `kernels.attention.decode_spent`.
    """

    rows: int
    cols: int
    copies: int
    bands: int
    live_slots: int
    slots: int
    cycles: dict[str, int]
    seconds: dict[str, float]
    flops: int
    sram_read_bytes: int
    sram_write_bytes: int
    sram_bytes: int
    spent: dict[str, int]

    @property
    def bound(self) -> str:
        """What most of the time goes to."""
        return max(self.spent, key=lambda what: self.spent[what])

    @property
    def shares(self) -> dict[str, float]:
        """Of the time, by what it goes to."""
        total = sum(self.spent.values())
        return {what: cycles / total for what, cycles in self.spent.items()}


def decode_time(
    reading: Reading,
    sizes: DecodeSizes,
    *,
    rows: int | None = None,
    parts: int | None = None,
    sheet: Sheet = WSE3,
) -> DecodeTime:
    """The time of `decode` from sizes alone; the region is chosen under the nominal datasheet.

    Raises:
      CannotLower: arithmetic that a PE has not, with the user's line.
      DoesNotFit: no region has room.
    """
    device = sheet.at()
    variant = variant_on_pe(reading, sizes)
    plan = plan_decode(variant, device=device, rows=rows, parts=parts)
    clocks = plan.read_bands(sheet)
    moved = clocks["nominal"].tally.by("bytes")
    layout = plan.map
    return DecodeTime(
        rows=layout.rows,
        cols=layout.cols,
        copies=layout.copies,
        bands=bands(layout, device) or 1,
        live_slots=layout.most_live,
        slots=layout.held_slots,
        cycles={band: clocks[band].end_ticks for band in BANDS},
        seconds={band: clocks[band].seconds for band in BANDS},
        flops=clocks["nominal"].tally.flops * plan.times,
        sram_read_bytes=moved["sram_read"] * plan.times,
        sram_write_bytes=moved["sram_write"] * plan.times,
        sram_bytes=plan.sram_bytes(device),
        spent=decode_spent(plan, clocks["nominal"], device),
    )


__all__ = ["Cache", "DecodeTime", "decode", "decode_time", "sizes_of"]
