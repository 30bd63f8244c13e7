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

import jax
import jax.numpy as jnp
import numpy as np

from emu import given, numerics
from emu.datasheet import Device
from emu.errors import LimitExceeded
from emu.instruction import Cost, Crossing, Operand, instruction, limit
from emu.tracing.mesh_axis import axis_size
from emu.trainium.datasheets.sheet import DMA_QUEUES
from emu.trainium.engines.memory import f32
from emu.trainium.spaces import Hbm


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
        """Time of the data, and of the steps besides.

        Example: 8 cores of Trainium2 gather 2 MiB, 256 KiB each: 3 steps by recursive doubling, 7
        chunks read and 7 written. DMA: 7 / (16 · 23 B/ns) = 0.0190 ns a byte of a chunk; HBM, which
        8 cores share: 14 · 8 / 2,900 B/ns = 0.0386 ns. So the data takes 256 KiB · 0.0386 = 10.1 us
        and the steps 3 · 1.5 = 4.5 us besides.
        """
        dma_rate = device.dma_engines * device.dma_engine_bytes_per_s
        moved = self.reads + self.writes
        hbm_s = moved * device.cores_running / device.hbm_bytes_per_s
        dma_s = max(self.reads, self.writes) / dma_rate
        data_s = chunk_bytes * max(dma_s, hbm_s)
        return data_s, self.steps * device.link_hop_s


def gather(device: Device, cores: int, nbytes: float) -> Pass:
    """Every core's chunk to every core; `nbytes` are those of the result."""
    # A core alone has nobody to send to: every count below is then 0.
    sent = cores - 1
    if nbytes < device.mesh_limit_bytes:
        return Pass(steps=min(1, sent), reads=sent, writes=sent)
    if nbytes <= device.rdh_limit_bytes:
        return Pass(steps=_doublings(cores), reads=sent, writes=sent)
    # 1 read and 2 writes for every two cores: of 8 each reads 3.5 chunks and writes 7, in 4 steps.
    return Pass(steps=cores // 2, reads=sent / 2, writes=sent)


def scatter(device: Device, cores: int, nbytes: float) -> Pass:
    """Every core's sum of one chunk; `nbytes` are those of the source."""
    sent = cores - 1
    if nbytes < device.mesh_limit_bytes:
        # Every core reads its chunk of all buffers, and writes one sum.
        once = min(1, sent)
        return Pass(steps=once, reads=once * cores, writes=once)
    # A step of a reduction reads what came and what it is added to: of 8 cores 14 chunks, where a
    # gather reads 7.
    if nbytes <= device.rdh_limit_bytes:
        return Pass(steps=_doublings(cores), reads=2 * sent, writes=sent)
    # 3 reads and 1 write for every two cores.
    return Pass(steps=cores // 2, reads=3 * sent / 2, writes=sent / 2)


def _doublings(cores: int) -> int:
    return math.ceil(math.log2(cores))


def reduce_all(device: Device, cores: int, nbytes: int) -> Pass:
    """A scatter of sums and their gather, or all of it in one step where that is faster."""
    both = scatter(device, cores, nbytes) + gather(device, cores, nbytes)
    if cores == 1 or nbytes >= device.mesh_limit_bytes:
        return both
    # Whole buffers, of N chunks, to every peer; then N of them read and one written.
    sent = cores * (cores - 1)
    once = Pass(steps=1, reads=sent + cores**2, writes=sent + cores)

    def seconds(way: Pass) -> float:
        data_s, steps_s = way.seconds(device, chunk_bytes=nbytes / cores)
        return data_s + steps_s

    # 8 cores of Trainium2, all running: 1 KiB takes 3.0 us one after the other and 1.6 us at once,
    # 64 KiB 3.5 us and 5.7 us: one step saves a hop, and moves N times the bytes.
    return min(both, once, key=seconds)


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
    read = math.ceil(share.reads * chunk_bytes)
    written = math.ceil(share.writes * chunk_bytes)
    return Cost(
        engine="collective",
        busy_cycles=whole,
        latency_cycles=whole,
        moved_bytes={"hbm_read": read, "hbm_write": written},
        counts={"collective_bytes": written},
        # The data alone: while a step's hop lasts, the DMA engines serve the core's own queues.
        taken=dict.fromkeys(DMA_QUEUES, device.ticks(data_s)),
    )


def arrival(
    device: Device,
    mesh: Mapping[str, int],
    crossing: Crossing,
    *_: Operand,
    axis: str,
    cores: int,
) -> tuple[np.ndarray, np.ndarray]:
    """It starts when the last core has come and every destination is idle; all end together."""
    at = list(mesh).index(axis)
    # Through the HBM they share, everybody reads everybody's buffer: none can begin before the last
    # has written its own, and no destination may still be read.
    could_start = np.maximum(crossing.start_ticks, crossing.destination_idle_ticks)
    start = could_start.max(axis=at, keepdims=True)
    ready = start + crossing.latency_ticks
    ready = np.broadcast_to(ready, crossing.start_ticks.shape)
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
    arrival=arrival,
)
def _all_reduce(dst: Hbm, src: Hbm, *, axis: str, cores: int) -> Hbm:
    return numerics.cast(jnp.broadcast_to(_sum(src)[None], src.shape), dst.dtype)


def all_reduce(dst: Hbm, src: Hbm, *, axis: str) -> Hbm:
    """`dst` on every core of `axis` is the sum of their `src`.

    Args:
      dst: HBM `[...]`.
      src: HBM, of the same shape; added up in float32, in the order of the cores.
      axis: mesh axis over cores of one chip.

    Raises:
      LimitExceeded: more cores than the chip has, or than the datasheet says are running.
    """
    same_shape("trn.all_reduce", dst, src)
    return _all_reduce(dst, src, axis=axis, cores=axis_size("trn.all_reduce", axis))


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
    arrival=arrival,
)
def _all_gather(dst: Hbm, src: Hbm, *, axis: str, cores: int) -> Hbm:
    dim = long_dimension(dst.shape, src.shape)
    whole = jnp.concatenate(list(src), axis=dim - 1)
    return numerics.cast(jnp.broadcast_to(whole[None], dst.shape), dst.dtype)


def all_gather(dst: Hbm, src: Hbm, *, axis: str) -> Hbm:
    """`dst` on every core of `axis` is their `src`, one behind the other.

    Args:
      dst: HBM, one dimension N times as long as `src`'s: the one along which they are joined.
      src: HBM.
      axis: mesh axis over N cores of one chip.

    Raises:
      LimitExceeded: shapes that do not fit, or cores as for `all_reduce`.
    """
    return _all_gather(dst, src, axis=axis, cores=axis_size("trn.all_gather", axis))


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
    arrival=arrival,
)
def _reduce_scatter(dst: Hbm, src: Hbm, *, axis: str, cores: int) -> Hbm:
    dim = long_dimension(src.shape, dst.shape)
    # `_sum` takes the cores' dimension away, which `dim` counts.
    parts = jnp.split(_sum(src), cores, axis=dim - 1)
    return numerics.cast(jnp.stack(parts), dst.dtype)


def reduce_scatter(dst: Hbm, src: Hbm, *, axis: str) -> Hbm:
    """`dst` on core i of `axis` is part i of N of the sum of their `src`.

    Args:
      dst: HBM.
      src: HBM, one dimension N times as long as `dst`'s: the one that is split. Added up in
        float32, in the order of the cores.
      axis: mesh axis over N cores of one chip.

    Raises:
      LimitExceeded: shapes that do not fit, or cores as for `all_reduce`.
    """
    return _reduce_scatter(
        dst, src, axis=axis, cores=axis_size("trn.reduce_scatter", axis)
    )


def _sum(stacked: jax.Array) -> jax.Array:
    """Over the leading dimension, first core first: every run rounds alike."""
    total = functools.reduce(jnp.add, [f32(x) for x in stacked])
    # Here, where it stands once, and not on every core that gets it.
    return numerics.rounded(total)


def same_shape(name: str, dst: Hbm, src: Hbm) -> None:
    """Raises `LimitExceeded` unless a buffer takes what comes into it whole."""
    if dst.shape != src.shape:
        given.refuse(
            f"{name}: destination is {list(dst.shape)}, must be the source's {list(src.shape)}"
        )


def long_dimension(long: tuple[int, ...], short: tuple[int, ...]) -> int:
    """The dimension in which two stacked shapes differ; the first after the cores' if none does."""
    for dimension, (ours, theirs) in enumerate(zip(long, short, strict=True)):
        if ours != theirs:
            return dimension
    return 1


def longer(
    name: str,
    whole: str,
    long: tuple[int, ...],
    part: str,
    short: tuple[int, ...],
    cores: int,
) -> None:
    """Raises `LimitExceeded` unless one dimension is `cores` times as long and the others equal."""
    allowed: list[tuple[int, ...]] = []
    for dimension, size in enumerate(short):
        allowed.append((*short[:dimension], size * cores, *short[dimension + 1 :]))
    if tuple(long) not in allowed:
        raise LimitExceeded(
            f"{name}: {whole} is {list(long)}, must be the {part}'s {list(short)} with one "
            f"dimension {cores} times as long"
        )
