"""Features in MX layout, 4 elements on each partition: loaded in one DMA, quantised in one go."""

import math
from typing import Any

import jax.numpy as jnp

from emu.trainium.datasheets.limits import MX_PARTITIONS
from emu.trainium.engines.memory import dma_load_tiles, sbuf
from emu.trainium.isa import quantize_mx
from kernels.trainium.tiles import part


def load_blocks(x: Any, i: Any, count: int, buffers: int) -> Any:
    """The `i`-th `count` columns of every block of features.

    Args:
      x: HBM `[blocks, p, T, 4]`, or scales `[blocks, p / 8, T]`.
      i: which.
      count: columns.
      buffers: depth of the ring of tiles.

    Returns:
      SBUF `[p, blocks, count, 4]`, or `[p / 8, blocks, count]`.
    """
    blocks, p, _, *quad = x.shape
    n = math.prod((count, *quad))
    flat = part(x.reshape(blocks, p, -1), i * n, n, axis=2)
    tile = dma_load_tiles(sbuf(p, blocks, n, dtype=x.dtype, buffers=buffers), flat)
    return tile.reshape(p, blocks, count, *quad)


def quantised(x: Any, dtype: Any, buffers: int) -> tuple[Any, Any]:
    """MX elements and scales of a tile of a 16-bit float.

    Args:
      x: SBUF `[p, blocks, t, 4]`.
      dtype: float8_e4m3fn or float8_e5m2.
      buffers: depth of the rings of tiles.

    Returns:
      SBUF `dtype[p, blocks, t, 4]` and `uint8[p / 8, blocks, t]`.
    """
    p, blocks, t, quad = x.shape
    elements = sbuf(p, blocks * t, quad, dtype=dtype, buffers=buffers)
    scale = sbuf(p // MX_PARTITIONS, blocks * t, dtype=jnp.uint8, buffers=buffers)
    elements, scale = quantize_mx(elements, scale, x.reshape(elements.shape))
    return elements.reshape(x.shape), scale.reshape(-1, blocks, t)
