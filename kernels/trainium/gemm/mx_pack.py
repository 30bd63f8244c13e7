"""Weights coded in MX and laid out so that each load is one contiguous read."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from numpy.typing import ArrayLike

from emu import numerics
from emu.annotations import DType
from emu.trainium.datasheets.limits import MX_PARTITIONS, MX_QUAD
from kernels.formats.coding import coded
from kernels.formats.formats import POWER_OF_TWO, Format
from kernels.trainium.gemm.mx_blocks import Quantised
from kernels.trainium.tiles import CHUNK_BYTES, largest_divisor


@dataclasses.dataclass(frozen=True)
class MxFormats:
    """What a product in MX has its operands in.

    Attributes:
      weights: as they are packed.
      activations: as they are quantised on the way in.
    """

    weights: Format
    activations: Format

    @property
    def elements(self) -> DType:
        """Of activations."""
        return jnp.dtype(self.activations.element)


def elements_of(mx: MxFormats | None) -> DType | None:
    """Of a product's activations; None where it has them as they are."""
    return None if mx is None else mx.elements


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def pack_mx(
    weight: ArrayLike, held: Format, partitions: int, columns: int
) -> Quantised:
    """A weight in MX as `gemm.matmul.project` and `over_chunks` load it.

    Scales are those of the matrix's own groups: 32 consecutive rows of a column. MXFP8 of
    4096 x 1024 on 128 partitions by 512 columns has 8 tiles of 512 rows, 4 of them a chunk, and 2
    blocks of columns: elements `[2, 2, 128, 4, 512, 4]` and scales `[2, 2, 16, 4, 512]`.

    Args:
      weight: `[..., K, N]`, floats.
      held: MXFP8 or MXFP4, whose elements are packed two to a byte.
      partitions: of a tile, which has four rows of K on each; K is padded with zeros to a multiple.
      columns: output columns a block; N likewise.

    Returns:
      Elements `[..., blocks, chunks, partitions, depth, columns, 4]`, of MXFP4 `uint8[..., 2]`, and
      scales `uint8[..., blocks, chunks, partitions / 8, depth, columns]`.
    """
    assert held.scale == POWER_OF_TWO
    matrix = jnp.asarray(weight)
    *lead, k, n = matrix.shape
    tiles = math.ceil(k / (partitions * MX_QUAD))
    blocks = math.ceil(n / columns)
    missing = (0, tiles * partitions * MX_QUAD - k), (0, blocks * columns - n)
    padded = jnp.pad(matrix, [(0, 0)] * len(lead) + list(missing))
    elements, scales = coded(padded, held)
    assert scales is not None
    quad_bytes = MX_QUAD * held.element_bits // 8
    depth = largest_divisor(tiles, CHUNK_BYTES // (columns * quad_bytes))

    def tiled(x: jax.Array, rows: int) -> jax.Array:
        """`[..., chunks, depth, rows, quad, blocks, columns]` in the order of loads."""
        cut = x.reshape(*lead, tiles // depth, depth, rows, -1, blocks, columns)
        chunk, deep, row, quad, block, column = range(len(lead), len(lead) + 6)
        order = block, chunk, row, deep, column, quad
        return cut.transpose(*range(len(lead)), *order)

    by_quad = tiled(elements, partitions)
    if held.element_bits == 4:
        by_quad = numerics.fp4_pack(by_quad)
    return Quantised(by_quad, tiled(scales, partitions // MX_PARTITIONS)[..., 0])


def in_quarters(weight: ArrayLike, size: int) -> jax.Array:
    """Columns in the order in which products give the quarters of MX tiles.

    Column `(tile * size + partition) * 4 + place` comes behind all columns of smaller `tile * 4 +
    place`: with a size of 2 columns 0 to 7 are 0 4, 1 5, 2 6, 3 7.

    Args:
      weight: `[..., K, N]`; N is padded with zeros to whole tiles.
      size: partitions of a tile.
    """
    matrix = jnp.asarray(weight)
    missing = -matrix.shape[-1] % (size * MX_QUAD)
    padded = jnp.pad(matrix, [(0, 0)] * (matrix.ndim - 1) + [(0, missing)])
    apart = padded.reshape(*matrix.shape[:-1], -1, size, MX_QUAD)
    return jnp.swapaxes(apart, -1, -2).reshape(padded.shape)


__all__ = ["MxFormats", "elements_of", "in_quarters", "pack_mx"]
