"""Features in MX layout, 4 elements on each partition: loaded in one DMA, quantised in one go."""

import math
from typing import NamedTuple

import jax.numpy as jnp

from emu.annotations import DType, KnownInt
from emu.trainium.datasheets.limits import MX_PARTITIONS
from emu.trainium.engines.memory import dma_load_tiles, sbuf
from emu.trainium.isa import quantize_mx
from emu.trainium.spaces import Hbm, Sbuf
from kernels.trainium.tiles import part


class Quantised(NamedTuple):
    """A tile in MX: 32 elements, four each on eight partitions, share a scale.

    Attributes:
      elements: SBUF float8 `[p, blocks, columns, 4]`.
      scale: SBUF `uint8[p / 8, blocks, columns]`.
    """

    elements: Sbuf
    scale: Sbuf


def load_blocks(
    features: Hbm,
    number: KnownInt,
    count: int,
    buffers: int,
) -> Sbuf:
    """The `number`-th `count` columns of every block of features.

    Args:
      features: HBM `[blocks, p, T, 4]`, or scales `[blocks, p / 8, T]`.
      number: which.
      count: columns.
      buffers: depth of the ring of tiles.

    Returns:
      SBUF `[p, blocks, count, 4]`, or `[p / 8, blocks, count]`.
    """
    blocks, partitions, _, *quad = features.shape
    size = count * math.prod(quad)  # of a partition, in each block
    # A column's places stand together, so one DMA brings them in runs of `size` elements.
    flat = features.reshape(blocks, partitions, -1)
    start = number * size
    source = part(flat, start, size, axis=2)
    tile = sbuf(
        partitions,
        blocks,
        size,
        dtype=features.dtype,
        buffers=buffers,
    )
    tile = dma_load_tiles(tile, source)
    return tile.reshape(partitions, blocks, count, *quad)


def quantised(tile: Sbuf, dtype: DType, buffers: int) -> Quantised:
    """MX elements and scales of a tile of a 16-bit float.

    Args:
      tile: SBUF `[p, blocks, t, 4]`.
      dtype: float8_e4m3fn or float8_e5m2.
      buffers: depth of the rings of tiles.
    """
    partitions, blocks, tokens, quad = tile.shape
    columns = blocks * tokens
    # A tile of 128 partitions has 16 scales a column, each of 8 partitions by 4 places.
    scales = partitions // MX_PARTITIONS
    elements = sbuf(
        partitions,
        columns,
        quad,
        dtype=dtype,
        buffers=buffers,
    )
    scale = sbuf(scales, columns, dtype=jnp.uint8, buffers=buffers)
    # All blocks side by side are one tile of many columns, and so one instruction.
    side_by_side = tile.reshape(elements.shape)
    elements, scale = quantize_mx(elements, scale, side_by_side)
    return Quantised(
        elements=elements.reshape(tile.shape),
        scale=scale.reshape(scales, blocks, tokens),
    )
