"""What it costs to bring a cache into the wafer's order and into its format, at either end.

*Order.* Chips store keys with their tokens side by side, `[heads, features, 128 tokens]`, as
attention multiplies by them, and values token by token; what is in codes is all token by token. A
row of the wafer wants every `rows`-th token, and a column a few features of each. In `"chip"` order
a chip's DMA gathers what each PE wants, a descriptor for each contiguous piece, and a wafer's row
gets its own words alone. In `"wafer"` order chips send what they have as it is, all PEs see all of
it and keep what is theirs.

    stored                     piece of a block of one PE
    keys, latents              one number
    values                     a column's features of a token, in one run or two
    codes, of one token        the same
    codes of keys, of several  one code: a PE has its slots side by side

*Format.* What prefill stores in codes is sent so. What it stores wide is brought into codes by a
chip before, or by the PEs behind: a PE does every token's as it does a new one's.
"""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
from jax import lax

from emu import Program
from emu.datasheet import Device
from emu.trainium import dma_load, sbuf
from emu.trainium.datasheets.sheet import NeuronCoreSheet
from emu.trainium.engines.dma import Descriptors, dma_cost
from emu.trainium.spaces import Hbm
from emu.wse.pe.laws import move_cycles
from kernels.formats.formats import POWER_OF_TWO, Format
from kernels.trainium.layer.cached import stored_in_codes
from kernels.trainium.tiles import PARTITIONS
from kernels.wse.decode.coded_cache import append_cycles
from kernels.wse.decode.mapping import LayerMap
from models.machines.handoff.fields import Field, fields_of

ORDERS = ("chip", "wafer")


def pieces(layer: LayerMap, sent: Format, tokens: int, is_stored_coded: bool) -> int:
    """Contiguous pieces that a chip gathers for the blocks of all PEs.

    Args:
      layer: the region's mapping.
      sent: the format.
      tokens: that the chip has.
      is_stored_coded: whether they stand in its HBM in codes, and so token by token.
    """
    by_token = tokens * sum(
        _runs(layer, field) for field in fields_of(layer, sent) if field.tile == "v"
    )
    of_slots = -(-tokens // layer.rows)
    total = by_token
    for field in fields_of(layer, sent):
        if field.tile == "v":
            continue
        is_by_token = is_stored_coded and of_slots == 1 and field.is_number
        each = _runs(layer, field) if is_by_token else field.count
        total += tokens * each
    return total


def _runs(layer: LayerMap, field: Field) -> int:
    """Runs of a token's features, of which each is one column's, one behind the other."""
    if layer.parts == 1:
        return layer.kv_heads
    halves = 1 + (layer.turned > 0)
    others = layer.turned not in (0, layer.head_dim)
    return min(field.count, layer.cols * (halves + others))


def gather_s(chip: Device, count: int, nbytes: int, cores: int) -> Fraction:
    """For how long gathering so many pieces keeps the DMA engines of a chip's cores busy.

    Each core gathers its heads', or its share of latents, from HBM into one piece of HBM.

    Example: of 128 tokens Llama 3.1 8B has in a layer 131,072 numbers of keys, and of values 8,192
    runs of 16 on 512 columns; on one core's 16 engines pieces of 3.8 bytes, 1.1 ns each, take 9.7
    us. At 22.8 GB/s they leave in 23.
    """
    each = math.ceil(count / cores)
    what = Descriptors(
        number=each,
        nbytes=nbytes / count,
        partitions=PARTITIONS,
        hbm_bytes=2 * math.ceil(nbytes / cores),
    )
    cost = dma_cost(chip, "hand-off", "store_queue", what)
    return Fraction(int(cost.busy_cycles), int(chip.tick_hz))


def coding_s(
    sheet: NeuronCoreSheet,
    band: str,
    heads: int,
    features: int,
    held: Format,
    wide: str,
) -> Fraction:
    """What a core takes to bring the keys, or values, of a tile of 128 tokens into codes.

    Read off the clock of the very program that prefill has for it: what three more tiles take, over
    three.

    Raises:
      ValueError: a format whose blocks share a power of two, of which chips make none of a cache.
    """
    if held.scale == POWER_OF_TWO:
        raise ValueError(
            f"chips bring a cache into fp8 or int8, got {held.name}; let the wafer do it"
        )

    def tiles(x: Hbm) -> jax.Array:
        def one(_: None, tile: Hbm) -> tuple[None, object]:
            rows = sbuf(*tile.shape, dtype=tile.dtype, buffers=2)
            return None, stored_in_codes(dma_load(rows, tile), held)

        return lax.scan(one, None, x)[1]  # type: ignore[return-value]

    def ticks(count: int) -> int:
        shape = count, PARTITIONS, heads, features
        stored = jax.ShapeDtypeStruct(shape, jnp.dtype(wide))
        return Program(tiles, {"core": 1}, ((),)).read(sheet.at(band), stored).end_ticks

    return Fraction(ticks(8) - ticks(5), 3 * int(sheet.at(band).tick_hz))


def keeping_s(layer: LayerMap, wafer: Device, sent: Format, tokens: int) -> Fraction:
    """What a PE takes for so many tokens: codes of numbers, if it makes them.

    Args:
      layer: the region's mapping.
      wafer: its datasheet.
      sent: the format in which they arrive.
      tokens: of the PE's row.
    """
    held = layer.held.cache
    if held is None or sent.is_coded:
        return Fraction(0)
    numbers = layer.dims if layer.values_are_keys else 2 * layer.dims
    each = append_cycles(numbers, held, wafer)
    return Fraction(math.ceil(tokens * each), int(wafer.clock_hz))


def picking_s(layer: LayerMap, wafer: Device, nbytes: int) -> Fraction:
    """What a PE takes to put its numbers of a message into its own order.

    Args:
      layer: the region's mapping.
      wafer: its datasheet.
      nbytes: of the message, of which each PE keeps its part.
    """
    own = math.ceil(nbytes / (layer.rows * layer.cols))
    return Fraction(math.ceil(move_cycles(wafer, own)), int(wafer.clock_hz))


__all__ = [
    "ORDERS",
    "coding_s",
    "gather_s",
    "keeping_s",
    "picking_s",
    "pieces",
]
