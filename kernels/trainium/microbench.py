"""Kernels around one instruction, from which its latency and steady distance are read."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from emu.trainium.engines.memory import dma_load, dma_store, psum, sbuf
from emu.trainium.isa import (
    activation,
    activation_bias,
    memset,
    nc_matmul,
    tensor_copy,
    tensor_tensor,
)
from emu.trainium.spaces import Hbm, OnChip, Psum, Sbuf

SPACES = {"sbuf": sbuf, "psum": psum}


class Shape(NamedTuple):
    """Of a matmul: rows that are contracted, stationary columns, moving columns."""

    k: int
    m: int
    n: int


def matmul_runs(
    stationary: Hbm,
    moving: Hbm,
    *,
    shapes: Sequence[Sequence[int]],
    count: int,
) -> tuple[Hbm, ...]:
    """Runs of matmuls on parts of one stationary and one moving tile, nothing between them.

    Args:
      stationary: HBM `[k, m]`.
      moving: HBM `[k, n]`.
      shapes: of each run: rows, stationary columns, moving columns.
      count: matmuls of each run, all into the same PSUM tile, none accumulating.

    Returns:
      Per run the product, HBM float32 `[m, n]`.
    """
    left = _load(stationary)
    right = _load(moving)
    sums = []
    for shape in shapes:
        sums.append(_matmul_run(left, right, Shape(*shape), count))
    # Copied and stored after the last run, so that nothing stands between two matmuls.
    stored = []
    for bank in sums:
        result = sbuf(*bank.shape)
        result = tensor_copy(result, bank)
        stored.append(dma_store(result))
    return tuple(stored)


def _matmul_run(
    left: Sbuf,
    right: Sbuf,
    shape: Shape,
    count: int,
) -> Psum:
    stationary = left[: shape.k, : shape.m]
    moving = right[: shape.k, : shape.n]

    def again(bank: Psum, _: None) -> tuple[Psum, None]:
        overwrite = jnp.int32(0)
        written = nc_matmul(bank, stationary, moving, overwrite)
        return written, None

    bank = psum(shape.m, shape.n)
    # A loop, whose matmuls are the same instruction again: their distance is the engine's steady
    # pace.
    last, _ = lax.scan(again, bank, None, length=count)
    return last


def activations(x: Hbm, *, op: str, count: int) -> tuple[Hbm, ...]:
    """`count` independent activations of one SBUF tile; `x` HBM `[partitions, free]`."""
    tile = _load(x)
    done = []
    for _ in range(count):
        # A tile of its own for each: none waits for another's reader, so starts are as close as the
        # engine allows.
        room = _like(x)
        done.append(activation(room, tile, op=op))
    return _all_stored(done)


def activation_chain(x: Hbm, *, op: str, count: int) -> Hbm:
    """`count` activations in place, with scale and bias, each of the one before; `x` as above."""
    partitions = x.shape[0]
    bias = sbuf(partitions, 1)
    bias = memset(bias, value=1.0)

    def again(tile: Sbuf, _: None) -> tuple[Sbuf, None]:
        # In place: each reads what the one before wrote, so their distance is the latency, not the
        # pace.
        written = activation_bias(tile, tile, bias, op=op, scale=0.5)
        return written, None

    tile = _load(x)
    last, _ = lax.scan(again, tile, None, length=count)
    return dma_store(last)


def tensor_tensors(x: Hbm, y: Hbm, *, op: str, count: int) -> tuple[Hbm, ...]:
    """`count` independent `x op y` in SBUF; `x`, `y` HBM `[partitions, free]`."""
    left = _load(x)
    right = _load(y)
    done = []
    for _ in range(count):
        room = _like(x)
        done.append(tensor_tensor(room, left, right, op=op))
    return _all_stored(done)


def tensor_copies(
    x: Hbm,
    unit: Hbm,
    *,
    src: str,
    dst: str,
    count: int,
) -> tuple[Hbm, ...]:
    """`count` independent copies of one tile between the named memories.

    Args:
      x: HBM `[partitions, free]`.
      unit: HBM `[partitions, partitions]`, the unit matrix, which brings `x` into PSUM.
      src, dst: `"sbuf"` or `"psum"`.
      count: how many.
    """
    tile = _load(x)
    if src == "psum":
        # A DMA cannot write PSUM: a product with the unit matrix gets the tile there.
        bank = psum(*x.shape, dtype=x.dtype)
        stationary = _load(unit)
        overwrite = jnp.int32(0)
        tile = nc_matmul(bank, stationary, tile, overwrite)
    # SBUF and PSUM differ in their access time, so each pair of memories is measured for itself.
    fresh = SPACES[dst]
    done = []
    for _ in range(count):
        room = fresh(*x.shape, dtype=x.dtype)
        done.append(tensor_copy(room, tile))
    return _all_stored(done)


def dma_copies(x: Hbm, *, queues: Sequence[str], buffers: int) -> tuple[Hbm, ...]:
    """Loads and stores each tile of `x`, HBM `[tiles, partitions, free]`, independently.

    `buffers` tiles at a time: all loads, then all stores, each in turn on another of `queues`.
    """
    tiles, *shape = x.shape
    ring = []
    for _ in range(buffers):
        ring.append(sbuf(*shape, dtype=x.dtype))
    # Loads and stores in turn on all queues, so that no queue's own pace is what is measured.
    turn = itertools.cycle(queues)
    stored = []
    for first in range(0, tiles, buffers):
        count = min(buffers, tiles - first)
        for number in range(count):
            source = x[first + number]
            ring[number] = dma_load(ring[number], source, queue=next(turn))
        for tile in ring[:count]:
            stored.append(dma_store(tile, queue=next(turn)))
    return tuple(stored)


def _all_stored(tiles: Sequence[OnChip]) -> tuple[Hbm, ...]:
    return tuple(map(dma_store, tiles))


def _load(source: Hbm) -> Sbuf:
    """A whole HBM array in SBUF."""
    tile = _like(source)
    return dma_load(tile, source, queue="load_queue")


def _like(source: Hbm) -> Sbuf:
    """An SBUF tile of an HBM array's shape and dtype."""
    return sbuf(*source.shape, dtype=source.dtype)
