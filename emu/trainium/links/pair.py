"""The two cores of a logical NeuronCore (LNC=2): tiles exchanged, and waiting for each other.

They share HBM. Here each core has a copy of a buffer there, to which it writes its own part; a
barrier hands the parts on. What AWS does not publish: how long a barrier takes. Taken is one
semaphore of the engine that waits, on both cores (`semaphore_s`). An exchange is a DMA from SBUF to
SBUF that begins when both cores have come to it (NKI: *Shared DMA with CoreBarrier
synchronization*).
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from emu import given, numerics
from emu.datasheet import Device
from emu.errors import LimitExceeded
from emu.instruction import Cost, Crossing, Operand, instruction
from emu.trainium.engines.control import ENGINES
from emu.trainium.engines.dma import rows_cost
from emu.trainium.spaces import Hbm, Sbuf


@dataclasses.dataclass(frozen=True)
class Owners:
    """Which core's copy of a buffer holds an element: `int8` of the buffer's shape, -1 the own.

    Two are equal if they say the same of every element, however they were made.
    """

    shape: tuple[int, ...]
    data: bytes

    @classmethod
    def of(cls, cores: np.ndarray) -> "Owners":
        return cls(cores.shape, cores.astype(np.int8).tobytes())

    @functools.cached_property
    def cores(self) -> np.ndarray:
        return np.frombuffer(self.data, np.int8).reshape(self.shape)


def _together(mesh: Mapping[str, int], crossing: Crossing, axis: str) -> np.ndarray:
    """When the cores along an axis have all come, and their destinations are idle."""
    at = list(mesh).index(axis)
    could_start = np.maximum(crossing.start_ticks, crossing.destination_idle_ticks)
    start = could_start.max(axis=at, keepdims=True)
    return np.broadcast_to(start, crossing.start_ticks.shape)


def _exchange_cost(
    device: Device, dst: Operand, src: Operand, *, axis: str, queue: str = "load_queue"
) -> Cost:
    name = "trn.sendrecv"
    if (src.shape, src.dtype) != (dst.shape, dst.dtype):
        raise LimitExceeded(
            f"{name}: source is {src.dtype}{list(src.shape)}, must be the destination's "
            f"{dst.dtype}{list(dst.shape)}"
        )
    return rows_cost(device, name, queue, dst, 0)


def _exchange_arrival(
    device: Device,
    mesh: Mapping[str, int],
    crossing: Crossing,
    *_: Operand,
    axis: str,
    **__: Any,
) -> tuple[np.ndarray, np.ndarray]:
    start = _together(mesh, crossing, axis)
    return start + crossing.latency_ticks, start + crossing.busy_ticks


@instruction(
    "trn.sendrecv",
    cost=_exchange_cost,
    reads=("sbuf",),
    writes="sbuf",
    arrival=_exchange_arrival,
)
def sendrecv(dst: Sbuf, src: Sbuf, *, axis: str, queue: str = "load_queue") -> Sbuf:
    """`dst` of each of two cores is `src` of the other.

    Args:
      dst: SBUF `[p, ...]`.
      src: SBUF, of the same shape and dtype.
      axis: mesh axis over the two cores.
      queue: one of the DMA queues.
    """
    if len(src) != 2:
        given.refuse(f"trn.sendrecv: {len(src)} cores along {axis}, must be 2")
    return src[::-1]


def _barrier_cost(
    device: Device,
    dst: Operand,
    *,
    axis: str,
    owners: Owners | None = None,
    engine: str = "gpsimd",
) -> Cost:
    given.one_of("trn.core_barrier: engine", engine, ENGINES)
    ticks = device.ticks(device.semaphore_s)
    cycles = ticks / device.ticks_per_cycle[engine]
    return Cost(
        engine=engine, busy_cycles=cycles, latency_cycles=cycles, moved_bytes={}
    )


def _barrier_arrival(
    device: Device,
    mesh: Mapping[str, int],
    crossing: Crossing,
    *_: Operand,
    axis: str,
    **__: Any,
) -> tuple[np.ndarray, np.ndarray]:
    start = _together(mesh, crossing, axis)
    ready = start + crossing.latency_ticks
    return ready, ready


@instruction(
    "trn.core_barrier",
    cost=_barrier_cost,
    reads=(),
    writes=(("hbm", "sbuf"),),
    reads_destination=True,
    arrival=_barrier_arrival,
)
def core_barrier(
    dst: Hbm | Sbuf,
    *,
    axis: str,
    owners: Owners | None = None,
    engine: str = "gpsimd",
) -> Hbm | Sbuf:
    """Both cores wait for each other; of `dst` each has then what the other wrote.

    Args:
      dst: the buffer that they share, or a tile that is each core's own.
      axis: mesh axis over the cores.
      owners: whose copy of `dst` holds what; None leaves every copy as it is.
      engine: that waits.
    """
    if owners is None:
        return dst
    own = jnp.arange(len(dst)).reshape(-1, *(1,) * (dst.ndim - 1))
    held = jnp.asarray(owners.cores, own.dtype)
    if held.size == dst[0].size:
        # The buffer may be declared in another view than the owners tell of.
        held = held.reshape(1, *dst.shape[1:])
    else:
        # Behind the cores stand other axes of the mesh, then the buffer's own.
        others = (1,) * (dst.ndim - 1 - held.ndim)
        held = held.reshape(1, *others, *held.shape)
    source = jnp.where(held < 0, own, held)
    source = jnp.broadcast_to(source, dst.shape)
    return numerics.cast(jnp.take_along_axis(dst, source, 0), dst.dtype)


__all__ = ["Owners", "core_barrier", "sendrecv"]
