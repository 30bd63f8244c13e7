"""What products of a layer contract: tiles of numbers as they are, of MX elements with scales, or
of 8-bit floats in double rows.

They stand alike, so that one kernel serves them: contraction tiles along axis 1, tokens or output
columns behind.

                 operand                                weight in HBM, of a chunk
    wide         [k, tiles, tokens]                     [k, depth, columns]
    MX           [p, tiles, tokens, 4], [p/8, ...]      [p, depth, columns, 4], [p/8, ...]
    double rows  [k, tiles, 2, tokens]                  [k, depth, 2, columns]

A contraction tile of MX has four features of each of its p partitions, `feature = (tile * p +
partition) * 4 + place`, so that 32 features in a row share a scale. A tile that something with one
feature a partition gives, a transpose or a product, is a quarter of it: number 4 t + q fills place
q of tile t.

A contraction tile of double rows is two tiles of one feature a partition, which enter the Tensor
Engine at once. Elements stand for themselves times scales that `kernels.trainium.gemm.scaled`
applies to sums.
"""

import itertools
import math
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from emu.annotations import DType, KnownInt
from emu.boxes import Range
from emu.trainium.datasheets.limits import (
    MX_PARTITIONS,
    MX_QUAD,
    MX_ROWS,
)
from emu.trainium.datasheets.sheet import LOAD_QUEUES
from emu.trainium.engines.memory import dma_load, sbuf
from emu.trainium.isa import (
    nc_matmul,
    nc_matmul_double_row,
    nc_matmul_mx,
    quantize_mx,
    tensor_copy,
)
from emu.trainium.spaces import Hbm, Psum, Sbuf
from kernels.refusal import refuse
from kernels.trainium.gemm.mx_blocks import Quantised
from kernels.trainium.gemm.widened import Nibbles, widened, widened_nibbles
from kernels.trainium.tiles import (
    PARTITIONS,
    divide,
    index,
    part,
    split,
    split_for,
)

ROWS_AT_ONCE = 2  # of a partition that enter the Tensor Engine as a double row


class DoubleRows(NamedTuple):
    """8-bit floats of which two contraction tiles enter the Tensor Engine at once.

    Attributes:
      elements: SBUF `[k, tiles, 2, tokens]`, or in HBM `[blocks, chunks, k, depth, 2, columns]`.
    """

    elements: Sbuf


Operand: TypeAlias = Sbuf | Quantised | DoubleRows
"""Of a product, in SBUF."""

Weight: TypeAlias = Hbm | Quantised | DoubleRows | Nibbles
"""Packed in HBM; elements of MXFP4 are packed too, `uint8[..., 2]`. Of operands in a wide dtype it
may be codes of a byte or of 4 bits, which are made wide as they are loaded."""


def double_row_tiles(features: int) -> tuple[int, int]:
    """The fewest equal tiles of one feature a partition that come in twos, `(count, rows)`.

    576 features are 6 tiles of 96, where they would else be 5 of 116.
    """
    pairs, each = split(features, PARTITIONS * ROWS_AT_ONCE)
    return pairs * ROWS_AT_ONCE, math.ceil(each / ROWS_AT_ONCE)


def double_row_blocks(features: int, block: int) -> tuple[int, int]:
    """Tiles of which two are a block of features that share a scale, `(count, rows)`.

    Of 576 features in blocks of 128 they are 10 tiles of 64, the last of padding alone.
    """
    return math.ceil(features / block) * ROWS_AT_ONCE, block // ROWS_AT_ONCE


def in_double_rows(x: Sbuf) -> DoubleRows:
    """Activations `[k, tiles, tokens]`, an even number of tiles, as a product takes them."""
    rows, count, tokens = x.shape
    pairs = count // ROWS_AT_ONCE
    return DoubleRows(x.reshape(rows, pairs, ROWS_AT_ONCE, tokens))


def quarters(features: int) -> tuple[int, int]:
    """Quarters of the fewest equal MX tiles that cover some features, `(count, partitions)`.

    576 features are two tiles of 96 partitions, 8 quarters: 768 with padding, because partitions
    of an MX operand come in 32s.
    """
    tiles, each = split(features, PARTITIONS * MX_QUAD)
    return tiles * MX_QUAD, math.ceil(each / (MX_QUAD * MX_ROWS)) * MX_ROWS


def cut_of(features: int, *, quads: bool) -> tuple[int, int]:
    """Contraction tiles of features, `(count, rows)`: the fewest, or quarters of those of MX."""
    return quarters(features) if quads else split(features, PARTITIONS)


def hidden_cut(features: int, parts: int, *, quads: bool) -> tuple[int, int]:
    """Tiles of a layer's hidden dimension, `(count, rows)`, the same for all of its products.

    Args:
      features: of the residual stream.
      parts: of equally many features that it is summed up in, as by the cores of a chip.
      quads: whether any product of the layer is in MX; such ones take four of these tiles for one,
        and no other product minds the padding. 2,880 features are then 24 tiles of 128 (3,072),
        else for 8 parts 24 of 120 (2,880).
    """
    return quarters(features) if quads else split_for(parts, features, PARTITIONS)


def fresh(size: int, count: int, tokens: int, *, dtype: DType, quads: bool) -> Sbuf:
    """A tile for activations with features on partitions, which `put` fills.

    Args:
      size: partitions.
      count: tiles of one feature a partition.
      tokens: columns.
      dtype: of the activations.
      quads: whether four such tiles make one of MX.

    Returns:
      SBUF `[size, count, tokens]`, or `[size, count / 4, tokens, 4]`.
    """
    if not quads:
        return sbuf(size, count, tokens, dtype=dtype)
    return sbuf(size, count // MX_QUAD, tokens, MX_QUAD, dtype=dtype)


def place(
    out: Sbuf, number: KnownInt, tokens: Range | slice = slice(None)
) -> tuple[slice | KnownInt | Range, ...]:
    """Where in `fresh`'s tile the features of tile `number` go, as `instruction.at` takes it."""
    if not has_quads(out):
        return slice(None), number, tokens
    tile, quarter = divide(number, MX_QUAD)
    return slice(None), tile, tokens, quarter


def axes_of_tiles(out: Sbuf) -> int | tuple[int, int]:
    """Along which axes of `fresh`'s tile its tiles follow each other."""
    return (1, 3) if has_quads(out) else 1


def has_quads(x: Sbuf) -> bool:
    """Whether activations stand four features to a partition."""
    return x.ndim == 4


def side_by_side(apart: Sbuf) -> Sbuf:
    """A filled `fresh` with quads, of features whose four places stand apart.

    A DMA moves runs of tokens, and a quad has its four features side by side. By the Scalar Engine,
    as the Vector Engine adds what the products before give.

    Args:
      apart: SBUF `[size, tiles, 4, tokens]`, as a DMA brings rows of HBM, four to a partition.
    """
    size, tiles, quad, tokens = apart.shape
    out = fresh(size, tiles * quad, tokens, dtype=apart.dtype, quads=True)
    for quarter in range(quad):
        own = index(apart, quarter, 2)
        out = tensor_copy.at[..., quarter](out, own, engine="scalar")
    return out


def ready(x: Sbuf, elements: DType) -> Operand:
    """Activations as a product takes them: themselves, or quantised where they stand in quads.

    Args:
      x: SBUF, a filled `fresh`.
      elements: dtype of MX elements; not looked at where `x` has no quads.
    """
    if not has_quads(x):
        return x
    partitions, tiles, tokens, quad = x.shape
    columns = tiles * tokens
    held = sbuf(partitions, columns, quad, dtype=elements)
    scale = sbuf(partitions // MX_PARTITIONS, columns, dtype=jnp.uint8)
    # As one tile of many columns, and so by one instruction.
    held, scale = quantize_mx(held, scale, x.reshape(held.shape))
    return Quantised(held.reshape(x.shape), scale.reshape(-1, tiles, tokens))


# --- as products go through them ---


def sizes(weight: Weight) -> tuple[int, ...]:
    """Of packed weights, `(blocks, chunks, partitions, depth, columns)`, or of a view the last."""
    if isinstance(weight, Quantised):
        return weight.elements.shape[:-1]
    if isinstance(weight, DoubleRows):
        *rest, _, columns = weight.elements.shape
        return *rest, columns
    if isinstance(weight, Nibbles):
        columns = weight.scale.shape[-1]
        return *weight.codes.shape[:-1], columns
    return weight.shape


def tile_rows(features: int, together: int) -> tuple[int, int]:
    """The fewest tiles of one feature a partition of which some stay together, `(count, rows)`.

    576 features of which 32 share a scale are 5 tiles of 128, where they would else be of 116.
    """
    count, each = split(features, PARTITIONS)
    return count, math.ceil(each / together) * together


def token_count(x: Operand) -> int:
    """Tokens of an operand."""
    return jax.tree.leaves(x)[0].shape[_token_axis(x)]


def _token_axis(x: Operand) -> int:
    return 3 if isinstance(x, DoubleRows) else 2


def tokens_of(x: Operand, start: int, size: int) -> Operand:
    """Some tokens of an operand, a view."""
    axis = _token_axis(x)
    return jax.tree.map(
        lambda leaf: lax.slice_in_dim(leaf, start, start + size, axis=axis), x
    )


def tiles_of(x: Operand, start: KnownInt, count: int) -> Operand:
    """Some contraction tiles of an operand, a view."""
    return jax.tree.map(lambda leaf: part(leaf, start, count, axis=1), x)


def tile_of(x: Operand, number: KnownInt) -> Operand:
    """One contraction tile, a view without their axis."""
    return jax.tree.map(lambda leaf: index(leaf, number, 1), x)


def tile_count(x: Operand) -> int:
    """Contraction tiles of an operand."""
    return jax.tree.leaves(x)[0].shape[1]


def load_chunk(weight: Weight, number: int, buffers: int, x: Operand) -> Operand:
    """One chunk of weights in SBUF, as a product with `x` takes it.

    Args:
      weight: a chunk in HBM.
      number: of several weights that are loaded by turns, so that they take different queues.
      buffers: chunks in flight.
      x: activations; codes are made as wide as these where they are in a wide dtype.
    """
    if isinstance(weight, Nibbles):
        assert not isinstance(x, tuple)
        queue = LOAD_QUEUES[number % len(LOAD_QUEUES)]
        return widened_nibbles(weight, x.dtype, queue, buffers)
    loaded = load_codes(weight, number, buffers)
    if isinstance(x, tuple) or isinstance(loaded, tuple) or x.dtype == loaded.dtype:
        return loaded
    return widened(loaded, x.dtype, buffers)


def load_codes(weight: Weight, number: int, buffers: int) -> Operand:
    """The same chunk as HBM has it, for a product that takes it so."""
    leaves, tree = jax.tree.flatten(weight)
    queues = itertools.islice(itertools.cycle(LOAD_QUEUES), number, None)
    loaded = []
    for source, queue in zip(leaves, queues):
        tile = sbuf(*source.shape, dtype=source.dtype, buffers=buffers)
        loaded.append(dma_load(tile, source, queue=queue))
    return jax.tree.unflatten(tree, loaded)


def multiply(
    bank: Psum, stationary: Operand, moving: Operand, accumulate: KnownInt
) -> Psum:
    """`bank (+)= stationaryᵀ · moving` of one tile, or side by side of several."""
    if isinstance(stationary, DoubleRows) and isinstance(moving, DoubleRows):
        left, right = stationary.elements, moving.elements
        return nc_matmul_double_row(bank, left, right, accumulate)
    if not isinstance(stationary, tuple) and not isinstance(moving, tuple):
        return nc_matmul(bank, stationary, moving, accumulate)
    if not isinstance(stationary, Quantised) or not isinstance(moving, Quantised):
        refuse(
            "one operand of a product is in MX or in double rows, must be both or none"
        )
    left, right = _one_tile(stationary), _one_tile(moving)
    return nc_matmul_mx(
        bank, left.elements, right.elements, left.scale, right.scale, accumulate
    )


def _one_tile(x: Quantised) -> Quantised:
    """Several tiles, `[p, tiles, columns, 4]`, as one of as many partitions more."""
    if x.scale.ndim == 2:
        return x
    return Quantised(
        *(jnp.swapaxes(leaf, 0, 1).reshape(-1, *leaf.shape[2:]) for leaf in x)
    )


__all__ = [
    "ROWS_AT_ONCE",
    "DoubleRows",
    "Operand",
    "Weight",
    "axes_of_tiles",
    "cut_of",
    "double_row_blocks",
    "double_row_tiles",
    "fresh",
    "has_quads",
    "hidden_cut",
    "in_double_rows",
    "load_chunk",
    "load_codes",
    "multiply",
    "place",
    "quarters",
    "ready",
    "side_by_side",
    "sizes",
    "tile_count",
    "tile_of",
    "tile_rows",
    "tiles_of",
    "token_count",
    "tokens_of",
]
