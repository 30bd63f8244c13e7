"""Tiled matmul: stationary and moving tiles from SBUF, accumulation over K in PSUM."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from emu.annotations import KnownInt, PyTree
from emu.tracing.loop import loop
from emu.tracing.side_by_side import is_in_order, tiles
from emu.trainium.datasheets.sheet import LOAD_QUEUES
from emu.trainium.engines.memory import dma_load, psum, sbuf
from emu.trainium.isa import nc_matmul
from emu.trainium.spaces import Hbm, Psum, Sbuf
from kernels.trainium.tiles import index, part

Emit: TypeAlias = Callable[[Any, KnownInt, Any], Any]
"""`(into, block, psum_tiles) -> into`."""

Pairs: TypeAlias = tuple[tuple[Sbuf, Sbuf], ...]
"""For each sum its stationary and its moving operand."""

Sums: TypeAlias = tuple[Psum, ...]


def project(
    x_t: Sbuf,
    weight: Hbm,
    into: PyTree,
    emit: Emit,
    *,
    rows: int,
    axis: int = 2,
    buffers: int = 2,
) -> PyTree:
    """`x · weight` with tokens on the output's partitions: a weight tile serves all token tiles.

    Dimensions:
      K: contraction, `chunks · depth · k` (k ≤ 128).
      T: tokens of `x_t`, a multiple of `rows`; at most four tiles of them.
      N: output columns, `blocks · n` (n ≤ 512).

    Args:
      x_t: SBUF `[k, K/k, T]`, activations with features on partitions.
      weight: HBM `[blocks, chunks, k, depth, n]`, from `tiles.pack`.
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
    count = x_t.shape[2] // rows
    columns = weight.shape[4]

    def pairs(x: Sbuf, weight: Sbuf) -> Pairs:
        made = []
        for tile in range(count):
            start = tile * rows
            stationary = lax.slice_in_dim(x, start, start + rows, axis=2)
            made.append((stationary, weight))
        return tuple(made)

    def block(weight: Hbm) -> Sums:
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

    return tiles(block, weight, into=into, emit=emit, axis=axis)


def over_chunks(
    sums: Sums,
    x_t: Sbuf,
    weights: tuple[Hbm, ...],
    pairs: Callable[..., Pairs],
    *,
    buffers: int,
) -> Sums:
    """Streams chunks of weights into SBUF and adds their products to PSUM tiles.

    Args:
      sums: PSUM tiles, overwritten.
      x_t: SBUF `[k, chunks · depth, T]`.
      weights: HBM `[chunks, k, depth, n]` each.
      pairs: `(x [k, depth, T], *weights [k, depth, n]) -> pairs`, from views of one chunk in SBUF,
        as `add_products` takes them.
      buffers: chunks of each weight in flight.

    Returns:
      The sums.
    """
    if not is_in_order():
        x_t, weights = _one_chunk(x_t, weights)
    chunks, _, depth, _ = weights[0].shape

    def chunk(sums: Sums, at: Any) -> tuple[Sums, None]:
        number, *sources = at
        loaded = []
        for source, queue in zip(sources, LOAD_QUEUES):
            tile = sbuf(*source.shape, dtype=source.dtype, buffers=buffers)
            loaded.append(dma_load(tile, source, queue=queue))
        done = number * depth
        x = part(x_t, done, depth, axis=1)
        of_chunk = pairs(x, *loaded)
        sums = add_products(sums, of_chunk, done)
        return sums, None

    numbers = jnp.arange(chunks, dtype=jnp.int32)
    sums, _ = lax.scan(chunk, sums, (numbers, *weights))
    return sums


def _one_chunk(x_t: Sbuf, weights: tuple[Hbm, ...]) -> tuple[Sbuf, tuple[Hbm, ...]]:
    """The same operands as one chunk, whose tiles have as many rows as those of all chunks."""
    chunks, k, depth, columns = weights[0].shape
    rows = chunks * k
    by_chunk = x_t.reshape(k, chunks, depth, -1)
    rows_together = jnp.swapaxes(by_chunk, 0, 1)
    one_chunk = rows_together.reshape(rows, depth, -1)
    merged = []
    for weight in weights:
        merged.append(weight.reshape(1, rows, depth, columns))
    return one_chunk, tuple(merged)


def add_products(sums: Sums, pairs: Pairs, done: jax.Array) -> Sums:
    """`sum (+)= Σ over tiles of stationaryᵀ · moving`, for each PSUM tile.

    A K tile fills the partitions once, so the machine needs one matmul for each; a bank adds them
    up in float32. Side by side they are one product over all of them.

    Args:
      sums: PSUM `[m, n]` each.
      pairs: for each sum SBUF stationary `[k, tiles, m]` and moving `[k, tiles, n]`.
      done: K tiles that the sums hold already, a known integer; at 0 they are overwritten.

    Returns:
      The sums.
    """

    def k_tile(sums: Sums, number: KnownInt) -> Sums:
        has_sum = done + number > 0
        accumulate = has_sum.astype(jnp.int32)
        at_tile = []
        for stationary, moving in pairs:
            own_stationary = index(stationary, number, 1)
            own_moving = index(moving, number, 1)
            at_tile.append((own_stationary, own_moving))
        return _matmuls(sums, tuple(at_tile), accumulate)

    if is_in_order():
        first_stationary, _ = pairs[0]
        count = first_stationary.shape[1]
        return loop(k_tile, sums, count)
    accumulate = (done > 0).astype(jnp.int32)
    return _matmuls(sums, pairs, accumulate)


def _matmuls(sums: Sums, pairs: Pairs, accumulate: KnownInt) -> Sums:
    """One matmul for each sum; at `accumulate` = 0 it overwrites."""
    results = []
    for bank, (stationary, moving) in zip(sums, pairs, strict=True):
        results.append(nc_matmul(bank, stationary, moving, accumulate))
    return tuple(results)
