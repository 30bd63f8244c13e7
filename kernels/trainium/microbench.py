"""Kernels around one instruction, from which its latency and steady distance are read."""

import itertools
from collections.abc import Sequence
from typing import Any

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


def _load(x: Any, queue: str = "load_queue") -> Any:
    """A whole HBM array in SBUF."""
    return dma_load(sbuf(*x.shape, dtype=x.dtype), x, queue=queue)


def matmul_runs(
    stationary: Any, moving: Any, *, shapes: Sequence[Sequence[int]], count: int
) -> tuple[Any, ...]:
    """Runs of matmuls on parts of one stationary and one moving tile, nothing between them.

    Args:
      stationary: HBM `[k, m]`.
      moving: HBM `[k, n]`.
      shapes: of each run: rows, stationary columns, moving columns.
      count: matmuls of each run, all into the same PSUM tile, none accumulating.

    Returns:
      Per run the product, HBM float32 `[m, n]`.
    """
    left, right = _load(stationary), _load(moving)
    sums = []
    for k, m, n in shapes:
        a, b = (x[:k, :columns] for x, columns in ((left, m), (right, n)))

        def again(bank: Any, _: Any, a: Any = a, b: Any = b) -> tuple[Any, None]:
            return nc_matmul(bank, a, b, jnp.int32(0)), None

        sums.append(lax.scan(again, psum(m, n), None, length=count)[0])
    return tuple(dma_store(tensor_copy(sbuf(*x.shape), x)) for x in sums)


def activations(x: Any, *, op: str, count: int) -> tuple[Any, ...]:
    """`count` independent activations of one SBUF tile; `x` HBM `[partitions, free]`."""
    tile = _load(x)
    done = [
        activation(sbuf(*x.shape, dtype=x.dtype), tile, op=op) for _ in range(count)
    ]
    return tuple(map(dma_store, done))


def activation_chain(x: Any, *, op: str, count: int) -> Any:
    """`count` activations in place, with scale and bias, each of the one before; `x` as above."""
    bias = memset(sbuf(x.shape[0], 1), value=1.0)

    def again(tile: Any, _: Any) -> tuple[Any, None]:
        return activation_bias(tile, tile, bias, op=op, scale=0.5), None

    return dma_store(lax.scan(again, _load(x), None, length=count)[0])


def tensor_tensors(x: Any, y: Any, *, op: str, count: int) -> tuple[Any, ...]:
    """`count` independent `x op y` in SBUF; `x`, `y` HBM `[partitions, free]`."""
    a, b = _load(x), _load(y)
    done = [
        tensor_tensor(sbuf(*x.shape, dtype=x.dtype), a, b, op=op) for _ in range(count)
    ]
    return tuple(map(dma_store, done))


def tensor_copies(
    x: Any, unit: Any, *, src: str, dst: str, count: int
) -> tuple[Any, ...]:
    """`count` independent copies of one tile between the named memories.

    Args:
      x: HBM `[partitions, free]`.
      unit: HBM `[partitions, partitions]`, the unit matrix, which brings `x` into PSUM.
      src, dst: `"sbuf"` or `"psum"`.
      count: how many.
    """
    spaces = {"sbuf": sbuf, "psum": psum}
    tile = _load(x)
    if src == "psum":
        tile = nc_matmul(psum(*x.shape, dtype=x.dtype), _load(unit), tile, jnp.int32(0))
    done = [
        tensor_copy(spaces[dst](*x.shape, dtype=x.dtype), tile) for _ in range(count)
    ]
    return tuple(map(dma_store, done))


def dma_copies(x: Any, *, queues: Sequence[str], buffers: int) -> tuple[Any, ...]:
    """Loads and stores each tile of `x`, HBM `[tiles, partitions, free]`, independently.

    `buffers` tiles at a time: all loads, then all stores, each in turn on another of `queues`.
    """
    ring = [sbuf(*x.shape[1:], dtype=x.dtype) for _ in range(buffers)]
    turn = itertools.cycle(queues)
    stored = []
    for first in range(0, x.shape[0], buffers):
        count = min(buffers, x.shape[0] - first)
        for i in range(count):
            ring[i] = dma_load(ring[i], x[first + i], queue=next(turn))
        stored += [dma_store(ring[i], queue=next(turn)) for i in range(count)]
    return tuple(stored)
