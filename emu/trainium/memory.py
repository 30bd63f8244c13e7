"""Tiles and the DMA that moves them: HBM, SBUF and PSUM."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax import lax

from emu.datasheet import Device
from emu.instruction import Cost, Operand, instruction, limit

EITHER = ("sbuf", "psum")

NO_TIME = Cost(engine="vector", busy_cycles=0)


def _allocation(name: str, space: str) -> Any:
    def cost(device: Device, *, shape: tuple[int, ...], dtype: Any, **_: Any) -> Cost:
        if space != "hbm":
            limit(name, "partition dimension", shape[0], device.partitions)
        return NO_TIME

    @instruction(name, cost=cost, reads=(), writes=space, in_place=False)
    def tile(*, shape: tuple[int, ...], dtype: Any, **_: Any) -> Any:
        poison = jnp.nan if jnp.issubdtype(dtype, jnp.floating) else jnp.iinfo(dtype).max
        return jnp.full(shape, poison, dtype)

    return tile


_sbuf = _allocation("trn.sbuf", "sbuf")
_psum = _allocation("trn.psum", "psum")
_hbm = _allocation("trn.hbm", "hbm")


def sbuf(*shape: int, dtype: Any = jnp.float32, buffers: int = 1) -> Any:
    """A fresh SBUF tile `[partition ≤ 128, ...free]`, holding NaN.

    Args:
      shape: partitions first.
      dtype: of its elements.
      buffers: declared inside a loop, the tile is a ring this deep: each time the declaration is
        met the next buffer is used, as soon as its last reader is done.
    """
    return _sbuf(shape=shape, dtype=jnp.dtype(dtype), buffers=buffers)


def psum(
    *shape: int, dtype: Any = jnp.float32, buffers: int = 1, bank: int | None = None
) -> Any:
    """A fresh PSUM tile `[partition ≤ 128, free]`, holding NaN; banks are 2 KiB a partition.

    Args:
      shape: partitions first.
      dtype: of its elements.
      buffers: depth of the ring, as for `sbuf`.
      bank: puts the tile in this bank, beside others that name it: two engines cannot use one bank
        at the same time. None gives it banks of its own.
    """
    return _psum(shape=shape, dtype=jnp.dtype(dtype), buffers=buffers, bank=bank)


def hbm(*shape: int, dtype: Any = jnp.float32) -> Any:
    """A fresh HBM buffer, holding NaN."""
    return _hbm(shape=shape, dtype=jnp.dtype(dtype))


def dma_cost(device: Device, queue: str, nbytes: int) -> Cost:
    """Occupancy `issue + bytes / rate` of a queue, and the fixed path before and after.

    Source: fit to Trn2 kernels, `0.25 us + bytes/368 GB/s`; fixed latency from the DMA guide.
    """
    engines = device.load_queue_engines if queue == "load_queue" else device.store_queue_engines
    busy_s = device.dma_issue_s + nbytes / (engines * device.dma_engine_bytes_per_s)
    return Cost(
        engine=queue,
        busy_cycles=device.ticks(busy_s),
        latency_cycles=device.ticks(busy_s + device.dma_fixed_s),
    )


def _load_cost(device: Device, dst: Operand, src: Operand) -> Cost:
    return dma_cost(device, "load_queue", src.nbytes)


def _store_cost(device: Device, src: Operand) -> Cost:
    return dma_cost(device, "store_queue", src.nbytes)


def _at_cost(queue: str) -> Any:
    def cost(device: Device, dst: Operand, src: Operand, *starts: Operand) -> Cost:
        whole = dma_cost(device, queue, src.nbytes)
        return dataclasses.replace(whole, moved_bytes=moved_to_range(dst, src))

    return cost


def moved_to_range(dst: Operand, *sources: Operand) -> dict[str, int]:
    """Traffic of a write to part of `dst`: every source read, as many elements written."""
    moved = {f"{dst.space}_write": sources[0].size * dst.dtype.itemsize}
    for x in sources:
        key = f"{x.space}_read"
        moved[key] = moved.get(key, 0) + x.nbytes
    return moved


@instruction("trn.dma_load", cost=_load_cost, reads=("hbm",), writes="sbuf")
def dma_load(dst: Any, src: Any) -> Any:
    """HBM to SBUF: `dst = src`."""
    return src


@instruction("trn.dma_load_tiles", cost=_load_cost, reads=("hbm",), writes="sbuf")
def dma_load_tiles(dst: Any, src: Any) -> Any:
    """Several tiles in one DMA: `dst[p, i, n] = src[i, p, n]`."""
    return jnp.swapaxes(src, 0, 1)


@instruction(
    "trn.dma_load_at",
    cost=_at_cost("load_queue"),
    reads=("hbm", "register", "register"),
    writes="sbuf",
    partial=True,
)
def dma_load_at(dst: Any, src: Any, i: Any, j: Any) -> Any:
    """HBM to part of an SBUF tile: `dst[:, i, j:j+n] = src[:, :n]`."""
    return at(dst, src, i, j)


@instruction("trn.dma_store", cost=_store_cost, reads=("sbuf",), writes="hbm", in_place=False)
def dma_store(src: Any) -> Any:
    """SBUF to a fresh HBM buffer."""
    return src


@instruction(
    "trn.dma_store_at",
    cost=_at_cost("store_queue"),
    reads=("sbuf", "register"),
    writes="hbm",
    partial=True,
)
def dma_store_at(dst: Any, src: Any, i: Any) -> Any:
    """SBUF to slice `i` of an HBM buffer: `dst[i] = src`."""
    return lax.dynamic_update_index_in_dim(dst, src, i, 0)


def _gather_cost(device: Device, dst: Operand, table: Operand, ids: Operand) -> Cost:
    cost = dma_cost(device, "load_queue", dst.nbytes)
    moved = {"hbm_read": dst.nbytes + ids.nbytes, "sbuf_write": dst.nbytes}
    return dataclasses.replace(cost, moved_bytes=moved)


@instruction("trn.dma_gather", cost=_gather_cost, reads=("hbm", "hbm"), writes="sbuf")
def dma_gather(dst: Any, table: Any, ids: Any) -> Any:
    """Indirect load of rows: `dst[p] = table[ids[p]]`, ids `int32[p]` in HBM."""
    return jnp.take(table, ids, axis=0, mode="clip")


def at(dst: Any, src: Any, i: Any, j: Any) -> Any:
    """`dst[:p, i:i+a, j:j+n] = src`, src `[p, n]` (a = 1) or `[p, a, n]`."""
    block = src[:, None] if src.ndim == 2 else src
    zero = jnp.zeros((), jnp.int32)
    return lax.dynamic_update_slice(dst, block.astype(dst.dtype), (zero, i, j))


def f32(x: Any) -> Any:
    return x.astype(jnp.float32)
