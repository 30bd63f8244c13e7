"""Tiled matmul: stationary and moving tiles from SBUF, accumulation over K in PSUM.

Operands are numbers as they are or MX elements with scales, see `kernels.trainium.gemm.operands`.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from emu.annotations import KnownInt, PyTree
from emu.tracing.loop import loop
from emu.tracing.side_by_side import is_in_order, tiles
from emu.trainium.engines.memory import psum
from emu.trainium.spaces import Psum
from kernels.trainium.gemm.operands import (
    Operand,
    Weight,
    load_chunk,
    multiply,
    sizes,
    tile_count,
    tile_of,
    tiles_of,
    token_count,
    tokens_of,
)

Emit: TypeAlias = Callable[[Any, KnownInt, Any], Any]
"""`(into, block, psum_tiles) -> into`."""

Pairs: TypeAlias = tuple[tuple[Operand, Operand], ...]
"""For each sum its stationary and its moving operand."""

Sums: TypeAlias = tuple[Psum, ...]


def project(
    x_t: Operand,
    weight: Weight,
    into: PyTree,
    emit: Emit,
    *,
    rows: int,
    axis: int = 2,
    buffers: int = 2,
) -> PyTree:
    """`x · weight` with tokens on the output's partitions: a weight tile serves all token tiles.

    Dimensions:
      K: contraction, `chunks · depth · k` (k ≤ 128), in MX four times as many.
      T: tokens of `x_t`, a multiple of `rows`; at most four tiles of them.
      N: output columns, `blocks · n` (n ≤ 512).

    Args:
      x_t: SBUF `[k, K/k, T]`, activations with features on partitions; or MX.
      weight: HBM `[blocks, chunks, k, depth, n]`, from `tiles.pack`; or MX, from `tiles.pack_mx`.
      into: buffers that take the result, such as SBUF `[rows, tiles, N]`: a part for each block.
      emit: `(into, block, psum_tiles) -> into`, writes one column block's part from its sums,
        `[rows, n]` float32 for each token tile.
      rows: tokens per tile (≤ 128).
      axis: along which `into` has its parts.
      buffers: weight chunks in flight.

    Returns:
      `into`, filled.

    Pseudocode:
      for block: for chunk: load weight[block, chunk]
        for depth: for tile: psum[tile] += x_tᵀ · weight
    """

    def block(weight: Weight) -> Sums:
        return block_sums(x_t, weight, rows=rows, buffers=buffers)

    return tiles(block, weight, into=into, emit=emit, axis=axis)


def block_sums(x_t: Operand, weight: Weight, *, rows: int, buffers: int = 2) -> Sums:
    """One block of `project`'s columns: PSUM `[rows, n]` float32 for each token tile.

    Args:
      x_t, rows, buffers: as for `project`.
      weight: HBM `[chunks, k, depth, n]`; or MX, or in double rows.
    """
    count = token_count(x_t) // rows
    *_, columns = sizes(weight)

    def pairs(x: Operand, weight: Operand) -> Pairs:
        made = []
        for tile in range(count):
            made.append((tokens_of(x, tile * rows, rows), weight))
        return tuple(made)

    # Two sets of banks: the next block's sums begin while these are taken out.
    banks = []
    for _ in range(count):
        banks.append(psum(rows, columns, buffers=2))
    return over_chunks(
        tuple(banks),
        x_t,
        (weight,),
        pairs,
        buffers=buffers,
    )


def over_chunks(
    sums: Sums,
    x_t: Operand,
    weights: tuple[Weight, ...],
    pairs: Callable[..., Pairs],
    *,
    buffers: int,
) -> Sums:
    """Streams chunks of weights into SBUF and adds their products to PSUM tiles.

    Args:
      sums: PSUM tiles, overwritten.
      x_t: SBUF `[k, chunks · depth, T]`; or MX.
      weights: HBM `[chunks, k, depth, n]` each; or MX.
      pairs: `(x [k, depth, T], *weights [k, depth, n]) -> pairs`, from views of one chunk in SBUF,
        as `add_products` takes them.
      buffers: chunks of each weight in flight.

    Returns:
      The sums.
    """
    if not is_in_order():
        x_t, weights = _one_chunk(x_t, weights)
    chunks, _, depth, _ = sizes(weights[0])

    def chunk(sums: Sums, at: Any) -> tuple[Sums, None]:
        number, *sources = at
        loaded = []
        for place, source in enumerate(sources):
            loaded.append(load_chunk(source, place, buffers, x_t))
        done = number * depth
        x = tiles_of(x_t, done, depth)
        of_chunk = pairs(x, *loaded)
        sums = add_products(sums, of_chunk, done)
        return sums, None

    numbers = jnp.arange(chunks, dtype=jnp.int32)
    sums, _ = lax.scan(chunk, sums, (numbers, *weights))
    return sums


def _one_chunk(
    x_t: Operand, weights: tuple[Weight, ...]
) -> tuple[Operand, tuple[Weight, ...]]:
    """The same operands as one chunk, whose tiles have as many rows as those of all chunks."""
    chunks, _, depth, _ = sizes(weights[0])

    def joined(x: jax.Array) -> jax.Array:
        partitions, _, *rest = x.shape
        by_chunk = x.reshape(partitions, chunks, depth, *rest)
        rows_together = jnp.swapaxes(by_chunk, 0, 1)
        return rows_together.reshape(chunks * partitions, depth, *rest)

    def merged(weight: jax.Array) -> jax.Array:
        _, partitions, *rest = weight.shape
        return weight.reshape(1, chunks * partitions, *rest)

    return jax.tree.map(joined, x_t), jax.tree.map(merged, weights)


def add_products(sums: Sums, pairs: Pairs, done: jax.Array) -> Sums:
    """`sum (+)= Σ over tiles of stationaryᵀ · moving`, for each PSUM tile.

    A K tile fills the partitions once, so the machine needs one matmul for each; a bank adds them
    up in float32. Side by side they are one product over all of them.

    Args:
      sums: PSUM `[m, n]` each.
      pairs: for each sum SBUF stationary `[k, tiles, m]` and moving `[k, tiles, n]`; or MX.
      done: K tiles that the sums hold already, a known integer; at 0 they are overwritten.

    Returns:
      The sums.
    """

    def k_tile(sums: Sums, number: KnownInt) -> Sums:
        has_sum = done + number > 0
        accumulate = has_sum.astype(jnp.int32)
        at_tile = []
        for stationary, moving in pairs:
            at_tile.append((tile_of(stationary, number), tile_of(moving, number)))
        return _matmuls(sums, tuple(at_tile), accumulate)

    if is_in_order():
        first_stationary, _ = pairs[0]
        count = tile_count(first_stationary)
        return loop(k_tile, sums, count)
    accumulate = (done > 0).astype(jnp.int32)
    return _matmuls(sums, pairs, accumulate)


def _matmuls(sums: Sums, pairs: Pairs, accumulate: KnownInt) -> Sums:
    """One matmul for each sum; at `accumulate` = 0 it overwrites."""
    results = []
    for bank, (stationary, moving) in zip(sums, pairs, strict=True):
        results.append(multiply(bank, stationary, moving, accumulate))
    return tuple(results)
