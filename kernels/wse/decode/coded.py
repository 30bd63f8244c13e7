"""GEMV on a matrix in codes: they are made wide and multiplied, and they or their sums scaled.

A scale is the factor of all products of its block and column, so it may be multiplied by before or
after they are summed. After is less where a block has many rows: of 32 rows of a column it is one
multiplication. It is in float32, too, where a bfloat16 of a code times its scale would be rounded.
A power of two takes no bit of a bfloat16. Where blocks have few rows, each one's sums would have to
be begun, scaled and added by vector operations of their own, and codes are multiplied first.

A matrix is half as large in codes only if it is not made wide as a whole. So it is gone through in
pieces of rows, each in a tile that the next one takes again.

Where a tile holds its matrix turned, as that by which a query's features meet latents, each of its
rows has scales of its own, which are factors of `x` then: one for each row and block of columns.
"""

import collections
from collections.abc import Iterator

import jax.numpy as jnp
from jax import lax

from emu import old
from emu.annotations import DType
from emu.datasheet import Device
from emu.wse import (
    fmac_map,
    sram_tile,
    vector,
    vector_live,
    vector_scale,
    widen_live,
)
from emu.wse.pe.laws import (
    HALF,
    SINGLE,
    map_cycles,
    move_cycles,
    precision,
    vector_cycles,
)
from emu.wse.pe.nibbles import widen_nibbles, widen_nibbles_cycles, words_of
from emu.wse.pe.packed import SCALES, widen_cycles
from emu.wse.spaces import Sram
from kernels.formats.formats import POWER_OF_TWO, Format
from kernels.wse.decode.held import MatrixTile, scale_of
from kernels.wse.decode.sums import zeros

PIECES = 16
"""The most pieces of a matrix: each begins some vector operations."""

SCALED_BYTES = 16
"""Of a column of a block, made wide: of no more, its codes are scaled and not its sums."""


def coded_gemv(
    tile: MatrixTile,
    held: Format,
    weights: dict[str, Sram],
    name: str,
    x: Sram,
) -> Sram:
    """This PE's part of `x @ weight`, float32 `[columns]`; the sum over PEs is still to be taken.

    Args:
      tile: sizes.
      held: what the matrix is in.
      weights: of this PE, among them the matrix and its scales.
      name: of the matrix.
      x: `[rows]`, in the dtype of arithmetic.

    Pseudocode:
      for each block of rows:  part = x[block] @ wide(codes[block]);  sums += part * scales[block]
    """
    codes, scales = weights[name], weights[scale_of(name)]
    alike, _ = tile.alike(held)
    sums = zeros((tile.columns,))
    if scales_codes(tile, held, x.dtype):
        for first, count in pieces(tile, tile.rows, alike):
            own = lax.slice_in_dim(scales, first // alike, (first + count) // alike)
            wide = _widened(tile, codes, held, x.dtype, first, count)
            wide = _scaled_codes(wide, own, alike)
            sums = fmac_map(sums, wide, lax.slice_in_dim(x, first, first + count))
        return sums
    for place, start in enumerate(range(0, tile.rows, alike)):
        part = sums if start == 0 else zeros((tile.columns,))
        for behind, count in pieces(tile, alike):
            first = start + behind
            wide = _widened(tile, codes, held, x.dtype, first, count)
            part = fmac_map(part, wide, lax.slice_in_dim(x, first, first + count))
        part = _scaled_sums(part, lax.slice_in_dim(scales, place, place + 1), held)
        sums = part if start == 0 else vector(sums, sums, part, op="add")
    return sums


def turned_gemv(
    tile: MatrixTile,
    held: Format,
    weights: dict[str, Sram],
    name: str,
    x: Sram,
    dtype: DType,
) -> Sram:
    """As `coded_gemv`, of a tile that holds its matrix turned.

    Args:
      tile, held, weights, name: as `coded_gemv` takes them.
      x: float32 `[rows]`: it is rounded once, when it has been scaled.
      dtype: of arithmetic, as wide in its exponent as a float32.

    Pseudocode:
      for each block of columns:  sums[block] = (x * scales[:, block]) @ wide(codes[:, block])
    """
    rows, columns = tile.rows, tile.columns
    _, alike = tile.alike(held)
    factors = _factors(weights[scale_of(name)], held)
    scaled = []
    for block in range(columns // alike):
        own = lax.slice_in_dim(factors, block, block + 1, axis=1).reshape(rows)
        rounded = sram_tile(shape=(rows,), dtype=jnp.dtype(dtype).name)
        scaled.append(vector(rounded, x, own, op="mul"))
    sums = zeros((columns,))
    for first, count in pieces(tile, rows):
        wide = _widened(tile, weights[name], held, dtype, first, count)
        for block, of_block in enumerate(scaled):
            begin, end = block * alike, (block + 1) * alike
            own = lax.slice_in_dim(wide, begin, end, axis=1)
            own_x = lax.slice_in_dim(of_block, first, first + count)
            sums = fmac_map.at[begin:end](sums, own, own_x)
    return sums


def scales_codes(tile: MatrixTile, held: Format, dtype: DType) -> bool:
    """Whether codes are multiplied by their scales, and not the sums of their products."""
    # Float16 has too few exponents for a power of two of its own.
    is_exact = held.scale == POWER_OF_TWO and jnp.dtype(dtype) != jnp.float16
    alike, _ = tile.alike(held)
    is_short = alike < tile.rows and alike * jnp.dtype(dtype).itemsize <= SCALED_BYTES
    return is_exact and is_short


def pieces(tile: MatrixTile, rows: int, whole: int = 1) -> Iterator[tuple[int, int]]:
    """First row and rows of each piece of so many rows, in multiples of `whole`."""
    size = max(-(-tile.piece_codes // tile.columns), -(-tile.rows // PIECES))
    size = -(-size // whole) * whole
    for first in range(0, rows, size):
        yield first, min(size, rows - first)


def _widened(
    tile: MatrixTile, codes: Sram, held: Format, dtype: DType, first: int, count: int
) -> Sram:
    """Some rows as numbers, `[count, columns]`."""
    piece = lax.slice_in_dim(codes, first, first + count)
    wide = sram_tile(shape=(count, tile.columns), dtype=jnp.dtype(dtype).name)
    if held.element_bits == 4:
        packed = tile.packed_columns or tile.columns
        rows = wide.reshape(-1, packed)
        words = piece.reshape(rows.shape[0], -1)
        return widen_nibbles(rows, words, codes=held.element).reshape(wide.shape)
    return widen_live(wide, piece, jnp.int32(count), axis=0)


def _scaled_codes(wide: Sram, scales: Sram, alike: int) -> Sram:
    """Numbers `[rows, columns]` times powers of two `[rows / alike, columns]`."""
    columns = jnp.int32(wide.shape[1])
    powers = sram_tile(shape=scales.shape, dtype=wide.dtype.name)
    powers = widen_live(powers, scales, columns, axis=1)
    if alike == 1:
        return vector_live(wide, wide, powers, columns, op="mul")
    for block in range(scales.shape[0]):
        rows = slice(block * alike, (block + 1) * alike)
        power = lax.slice_in_dim(powers, block, block + 1)
        wide = vector_live.at[rows](wide, old, power, columns, op="mul")
    return wide


def _scaled_sums(part: Sram, scales: Sram, held: Format) -> Sram:
    """Sums `[columns]` times scales `[1, n]`, of as many columns each."""
    count = scales.shape[1]
    factors = _factors(scales, held).reshape(-1)
    if count == part.size:
        return vector(part, part, factors, op="mul")
    by_block = part.reshape(count, -1)
    return vector_scale(by_block, by_block, factors).reshape(-1)


def _factors(scales: Sram, held: Format) -> Sram:
    """Scales `[n, m]` as float32."""
    if held.scale != POWER_OF_TWO:
        return scales
    wide = sram_tile(shape=scales.shape, dtype="float32")
    return widen_live(wide, scales, jnp.int32(scales.shape[1]), axis=1)


# --- a rough count of its cycles ---


def matrix_cycles(
    tile: MatrixTile, held: Format | None, dtype: str, device: Device
) -> float:
    """Cycles of a GEMV on a PE, without the sum over PEs."""
    kind = precision("float32", dtype)
    columns = tile.columns
    if held is None:
        return float(map_cycles(device, tile.rows, columns, kind))
    if tile.is_turned:
        return _turned_cycles(tile, held, dtype, device)
    nbytes = jnp.dtype(dtype).itemsize
    alike, _ = tile.alike(held)
    down, across = tile.scales(held)
    first_scaled = scales_codes(tile, held, dtype)
    gone_through = (tile.rows, alike) if first_scaled else (alike, 1)

    def piece_cycles(count: int) -> float:
        n = count * columns
        cycles = _widening_cycles(tile, held, nbytes, count, device)
        cycles += float(map_cycles(device, count, columns, kind))
        if first_scaled:
            blocks = count // alike
            pairs = blocks * (columns // 2 + 1)
            cycles += float(
                widen_cycles(device, SCALES, nbytes, pairs, blocks * columns)
            )
            operations = 1 if alike == 1 else blocks
            of_numbers = HALF if nbytes == 2 else SINGLE
            each = vector_cycles(device, n // operations, of_numbers)
            cycles += operations * float(each)
        return cycles

    # Pieces are alike but for the last one, and planning asks for thousands of tiles.
    counts = collections.Counter(count for _, count in pieces(tile, *gone_through))
    total = sum(times * piece_cycles(count) for count, times in counts.items())
    if first_scaled:
        return total
    total += _scaling_cycles(across, columns, held, device)
    # Every further block's sums begin with zeros and are added.
    again = float(move_cycles(device, 4 * columns, 1))
    again += float(vector_cycles(device, columns, SINGLE))
    return down * total + (down - 1) * again


def _widening_cycles(
    tile: MatrixTile, held: Format, nbytes: int, count: int, device: Device
) -> float:
    """Of so many rows."""
    n = count * tile.columns
    if held.element_bits == 4:
        packed = tile.packed_columns or tile.columns
        words = count * (tile.columns // packed) * words_of(packed)
        return float(widen_nibbles_cycles(device, held.element, nbytes, words, n))
    return float(widen_cycles(device, held.element, nbytes, n // 2 + 1, n))


def _turned_cycles(tile: MatrixTile, held: Format, dtype: str, device: Device) -> float:
    """Of `turned_gemv`."""
    kind, nbytes = precision("float32", dtype), jnp.dtype(dtype).itemsize
    _, alike = tile.alike(held)
    blocks = tile.columns // alike
    total = blocks * float(vector_cycles(device, tile.rows, SINGLE))
    if held.scale == POWER_OF_TWO:
        n, pairs = tile.rows * blocks, tile.rows * (blocks // 2 + 1)
        total += float(widen_cycles(device, SCALES, 4, pairs, n))
    counts = collections.Counter(count for _, count in pieces(tile, tile.rows))
    for count, times in counts.items():
        each = _widening_cycles(tile, held, nbytes, count, device)
        each += blocks * float(map_cycles(device, count, alike, kind))
        total += times * each
    return total


def _scaling_cycles(count: int, columns: int, held: Format, device: Device) -> float:
    """Of the sums of one block of rows."""
    if count < columns:
        return count * float(vector_cycles(device, columns // count, SINGLE))
    cycles = float(vector_cycles(device, columns, SINGLE))
    if held.scale == POWER_OF_TWO:
        cycles += float(widen_cycles(device, SCALES, 4, columns // 2 + 1, columns))
    return cycles


__all__ = ["coded_gemv", "matrix_cycles", "scales_codes", "turned_gemv"]
