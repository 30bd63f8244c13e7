"""How many cycles a PE's datapath takes: vector operations, hardware loops and scalar code.

Every law takes element counts as integers or as integer arrays over the mesh, so that work on the
live slots of a cache costs each PE what that PE holds.
"""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from emu.datasheet import Device
from emu.instruction import Cost, Operand
from emu.wse.datasheets.datasheet import ENGINE

LANES = 8


def precision(dst: Any, *sources: Any) -> str:
    """How the datapath does arithmetic on these dtypes.

    `half` where all are 16-bit, `mixed` where 16-bit sources are added up in float32, else
    `single`.
    """
    if any(jnp.dtype(t).itemsize != 2 for t in sources):
        return "single"
    return "half" if jnp.dtype(dst).itemsize == 2 else "mixed"


def element_cycles(device: Device, n: Any, kind: str) -> Any:
    """Datapath cycles of `n` elements of vector arithmetic: `2*ceil(n/8)` for 16-bit ones."""
    if kind == "half":
        return np.ceil(np.asarray(n) / LANES) * (LANES / device.half_per_cycle)
    each = device.mixed_cycles if kind == "mixed" else device.single_cycles
    return np.asarray(n) * each


def issue_cycles(device: Device) -> int:
    """From a vector operation's dispatch to the next one's, without its elements."""
    return device.vector_setup_cycles + device.vector_drain_cycles


def vector_cycles(device: Device, n: Any, kind: str, descriptors: int = 3) -> Any:
    """One vector operation: descriptor loads, issue, elements."""
    loads = descriptors * device.descriptor_load_cycles
    return loads + issue_cycles(device) + element_cycles(device, n, kind)


def move_cycles(device: Device, nbytes: Any, descriptors: int = 2) -> Any:
    """One copy or fill of `nbytes`."""
    loads = descriptors * device.descriptor_load_cycles
    return loads + issue_cycles(device) + np.ceil(nbytes / device.move_bytes_per_cycle)


def callbacks_cycles(device: Device, callbacks: Any, n: Any, kind: str) -> Any:
    """What a hardware loop's `callbacks` multiply-adds of length `n` hold the datapath.

    The overhead lies between two of them: the loop's own set-up and drain are the first's and the
    last's, so that `c` callbacks of 16-bit elements take `c * (6 + 2*ceil(n/8))` in all.
    """
    each = device.callback_cycles if kind != "single" else device.callback_single_cycles
    return callbacks * element_cycles(device, n, kind) + (callbacks - 1) * each


def map_cycles(device: Device, callbacks: Any, n: Any, kind: str) -> Any:
    """A hardware loop that issues `callbacks` multiply-adds of length `n`; nothing if empty."""
    body = callbacks_cycles(device, callbacks, n, kind)
    setup = 3 * device.descriptor_load_cycles + issue_cycles(device)
    return np.where(np.asarray(callbacks) * np.asarray(n) > 0, setup + body, 0)


def loop_cycles(device: Device, n: Any, each_cycles: float) -> Any:
    """A software loop of `n` rounds of scalar code."""
    return np.asarray(n) * (device.loop_cycles + each_cycles)


def operation_cycles(device: Device, words: Any, sends: bool = False) -> Any:
    """One fabric operation that nothing holds up, from its dispatch to the next one's."""
    per = int(device.send_words) if sends else 1
    issues = -(-np.asarray(words) // per)
    return device.fabric_setup_cycles + issues + device.vector_drain_cycles


def call_cycles(device: Device) -> int:
    """What begins a collective: its address, one register load, the branches to a PE's role."""
    return math.ceil(device.role_cycles + device.descriptor_load_cycles)


def known(operand: Operand) -> np.ndarray:
    """A known integer scalar operand as `int64` over the mesh."""
    return np.asarray(operand.known, np.int64)


def on_datapath(cycles: Any, flops: Any = 0, **rest: Any) -> Cost:
    """The cost of an operation that holds the datapath for all its cycles."""
    return Cost(
        engine=ENGINE, busy_cycles=cycles, latency_cycles=cycles, flops=flops, **rest
    )
