"""The links between chips: a neighbour permute around the ring, with its arrival on every core."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from emu.datasheet import Device
from emu.instruction import Cost, Crossing, Operand, instruction


def _send_cost(device: Device, dst: Operand, src: Operand, *, axis: str) -> Cost:
    # The links are the chip's: its running cores share them.
    busy_s = src.nbytes * device.cores_running / device.link_bytes_per_s
    return Cost(
        engine="neuronlink",
        busy_cycles=device.ticks(busy_s),
        latency_cycles=device.ticks(busy_s + device.link_hop_s),
        counts={"link_bytes": src.nbytes},
    )


def _send_arrival(
    device: Device, mesh: Mapping[str, int], c: Crossing, *operands: Operand, axis: str
) -> tuple[np.ndarray, np.ndarray]:
    """The neighbour has it when the sender could start, its buffer was idle, and the hop is over.

    Each core's start already waits for its own destination; the sender also waits for the
    receiver's, because the write goes straight into the neighbour's HBM.
    """
    at = list(mesh).index(axis)
    receiver_idle = np.roll(c.destination_idle_ticks, -1, at)
    sent = np.maximum(c.start_ticks, receiver_idle)
    arrived = np.roll(sent + c.latency_ticks, 1, at)
    return arrived, sent + c.busy_ticks


@instruction("trn.send_next", cost=_send_cost, reads=("hbm",), writes="hbm", arrival=_send_arrival)
def send_next(dst: Any, src: Any, *, axis: str) -> Any:
    """Sends `src` to the next chip around `axis`; `dst` receives the previous chip's.

    Hop latency and bandwidth: SDK intra-node collectives guide; on Trainium3's switched fabric
    every chip is one hop from the next.
    """
    return jnp.roll(src, 1, axis=0)
