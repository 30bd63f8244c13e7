"""Collectives between the cores of one chip, through the HBM that they share.

A buffer of a collective counts `N` chunks of `C` bytes for `N` cores. Steps, reads and writes of
one core are the runtime's published algorithms, by size (SDK, intra-node collectives guide):

- *mesh* under 1 MB: everybody reaches everybody in one step;
- *recursive doubling and halving* to 56 MB: log2 N steps;
- *KangaRing* beyond: N / 2 steps, and pairs of cores that share each read.

The plain ring is the runtime's fallback with one core a chip, so it is not used here. Time is
`steps · hop + bytes / bandwidth`: the core's DMA engines carry its reads or writes, whichever is
more, and the chip's HBM carries both of all cores.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from emu.datasheet import Device
from emu.errors import LimitExceeded
from emu.instruction import Cost, Crossing, Operand, instruction, limit
from emu.trainium.datasheets.sheet import DMA_QUEUES
from emu.trainium.engines.memory import f32


@dataclasses.dataclass(frozen=True)
class Pass:
    """One core's share of a collective: steps in sequence, and chunks it reads and writes."""

    steps: int
    reads: float
    writes: float

    def __add__(self, other: "Pass") -> "Pass":
        return Pass(
            self.steps + other.steps,
            self.reads + other.reads,
            self.writes + other.writes,
        )

    def seconds(self, device: Device, chunk_bytes: float) -> tuple[float, float]:
        """Time of the data, and of the steps besides."""
        rate = device.dma_engines * device.dma_engine_bytes_per_s
        hbm = (self.reads + self.writes) * device.cores_running / device.hbm_bytes_per_s
        data_s = chunk_bytes * max(max(self.reads, self.writes) / rate, hbm)
        return data_s, self.steps * device.link_hop_s


def gather(device: Device, cores: int, nbytes: float) -> Pass:
    """Every core's chunk to every core; `nbytes` are those of the result."""
    sent = cores - 1
    if nbytes < device.mesh_limit_bytes:
        return Pass(min(1, sent), sent, sent)
    if nbytes <= device.rdh_limit_bytes:
        return Pass(math.ceil(math.log2(cores)), sent, sent)
    return Pass(cores // 2, sent / 2, sent)  # 1 read and 2 writes for every two cores


def scatter(device: Device, cores: int, nbytes: float) -> Pass:
    """Every core's sum of one chunk; `nbytes` are those of the source."""
    sent = cores - 1
    if nbytes < device.mesh_limit_bytes:
        return Pass(min(1, sent), cores if sent else 0, min(1, sent))
    if nbytes <= device.rdh_limit_bytes:
        return Pass(math.ceil(math.log2(cores)), 2 * sent, sent)
    # 3 reads and 1 write for every two cores.
    return Pass(cores // 2, 3 * sent / 2, sent / 2)


def reduce_all(device: Device, cores: int, nbytes: int) -> Pass:
    """A scatter of sums and their gather, or all of it in one step where that is faster."""
    both = scatter(device, cores, nbytes) + gather(device, cores, nbytes)
    if cores == 1 or nbytes >= device.mesh_limit_bytes:
        return both
    # Whole buffers to every peer, then N of them read and one written.
    sent = cores * (cores - 1)
    once = Pass(1, sent + cores**2, sent + cores)
    return min(both, once, key=lambda p: sum(p.seconds(device, nbytes / cores)))


def _cost(
    name: str, device: Device, cores: int, share: Pass, chunk_bytes: float
) -> Cost:
    limit(name, "number of cores", cores, device.cores_per_chip)
    if cores > device.cores_running:
        raise LimitExceeded(
            f"{name}: {cores} cores take part, {device.cores_running} of {device.name} run: "
            f"read on `with_cores(sheet, {cores})`"
        )
    data_s, steps_s = share.seconds(device, chunk_bytes)
    whole = device.ticks(data_s + steps_s)
    read, written = (math.ceil(n * chunk_bytes) for n in (share.reads, share.writes))
    return Cost(
        engine="collective",
        busy_cycles=whole,
        latency_cycles=whole,
        moved_bytes={"hbm_read": read, "hbm_write": written},
        counts={"collective_bytes": written},
        taken=dict.fromkeys(DMA_QUEUES, device.ticks(data_s)),
    )


def _arrival(
    device: Device,
    mesh: Mapping[str, int],
    c: Crossing,
    *_: Operand,
    axis: str,
    cores: int,
) -> tuple[np.ndarray, np.ndarray]:
    """It starts when the last core has come and every destination is idle; all end together."""
    at = list(mesh).index(axis)
    start = np.maximum(c.start_ticks, c.destination_idle_ticks).max(
        axis=at, keepdims=True
    )
    ready = np.broadcast_to(start + c.latency_ticks, c.start_ticks.shape)
    return ready, ready


def _all_reduce_cost(
    device: Device, dst: Operand, src: Operand, *, axis: str, cores: int
) -> Cost:
    share = reduce_all(device, cores, src.nbytes)
    return _cost("trn.all_reduce", device, cores, share, src.nbytes / cores)


@instruction(
    "trn.all_reduce",
    cost=_all_reduce_cost,
    reads=("hbm",),
    writes="hbm",
    arrival=_arrival,
)
def _all_reduce(dst: Any, src: Any, *, axis: str, cores: int) -> Any:
    return jnp.broadcast_to(_sum(src)[None], src.shape).astype(dst.dtype)


def all_reduce(dst: Any, src: Any, *, axis: str) -> Any:
    """`dst` on every core of `axis` is the sum of their `src`.

    Args:
      dst: HBM `[...]`.
      src: HBM, of the same shape; added up in float32, in the order of the cores.
      axis: mesh axis over cores of one chip.

    Raises:
      LimitExceeded: more cores than the chip has, or than the datasheet says are running.
    """
    return _all_reduce(dst, src, axis=axis, cores=lax.axis_size(axis))


def _all_gather_cost(
    device: Device, dst: Operand, src: Operand, *, axis: str, cores: int
) -> Cost:
    longer("trn.all_gather", "destination", dst.shape, "source", src.shape, cores)
    share = gather(device, cores, dst.nbytes)
    return _cost("trn.all_gather", device, cores, share, src.nbytes)


@instruction(
    "trn.all_gather",
    cost=_all_gather_cost,
    reads=("hbm",),
    writes="hbm",
    arrival=_arrival,
)
def _all_gather(dst: Any, src: Any, *, axis: str, cores: int) -> Any:
    dim = long_dimension(dst.shape, src.shape)
    whole = jnp.concatenate(list(src), axis=dim - 1)
    return jnp.broadcast_to(whole[None], dst.shape).astype(dst.dtype)


def all_gather(dst: Any, src: Any, *, axis: str) -> Any:
    """`dst` on every core of `axis` is their `src`, one behind the other.

    Args:
      dst: HBM, one dimension N times as long as `src`'s: the one along which they are joined.
      src: HBM.
      axis: mesh axis over N cores of one chip.

    Raises:
      LimitExceeded: shapes that do not fit, or cores as for `all_reduce`.
    """
    return _all_gather(dst, src, axis=axis, cores=lax.axis_size(axis))


def _reduce_scatter_cost(
    device: Device, dst: Operand, src: Operand, *, axis: str, cores: int
) -> Cost:
    longer("trn.reduce_scatter", "source", src.shape, "destination", dst.shape, cores)
    share = scatter(device, cores, src.nbytes)
    return _cost("trn.reduce_scatter", device, cores, share, dst.nbytes)


@instruction(
    "trn.reduce_scatter",
    cost=_reduce_scatter_cost,
    reads=("hbm",),
    writes="hbm",
    arrival=_arrival,
)
def _reduce_scatter(dst: Any, src: Any, *, axis: str, cores: int) -> Any:
    dim = long_dimension(src.shape, dst.shape)
    return jnp.stack(jnp.split(_sum(src), cores, axis=dim - 1)).astype(dst.dtype)


def reduce_scatter(dst: Any, src: Any, *, axis: str) -> Any:
    """`dst` on core i of `axis` is part i of N of the sum of their `src`.

    Args:
      dst: HBM.
      src: HBM, one dimension N times as long as `dst`'s: the one that is split. Added up in
        float32, in the order of the cores.
      axis: mesh axis over N cores of one chip.

    Raises:
      LimitExceeded: shapes that do not fit, or cores as for `all_reduce`.
    """
    return _reduce_scatter(dst, src, axis=axis, cores=lax.axis_size(axis))


def _sum(stacked: Any) -> Any:
    """Over the leading dimension, first core first: every run rounds alike."""
    return functools.reduce(jnp.add, [f32(x) for x in stacked])


def long_dimension(long: tuple[int, ...], short: tuple[int, ...]) -> int:
    """The dimension in which two stacked shapes differ; the first after the cores' if none does."""
    return next(
        (i for i, (a, b) in enumerate(zip(long, short, strict=True)) if a != b), 1
    )


def longer(
    name: str,
    whole: str,
    long: tuple[int, ...],
    part: str,
    short: tuple[int, ...],
    cores: int,
) -> None:
    """Raises `LimitExceeded` unless one dimension is `cores` times as long and the others equal."""
    fits = [
        tuple(n * (cores if i == j else 1) for j, n in enumerate(short))
        for i in range(len(short))
    ]
    if long not in fits:
        raise LimitExceeded(
            f"{name}: {whole} is {list(long)}, must be the {part}'s {list(short)} with one "
            f"dimension {cores} times as long"
        )
