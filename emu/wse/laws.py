"""How many cycles a PE's datapath takes: vector operations, hardware loops and scalar code.

Every law takes element counts as integers or as integer arrays over the mesh, so that work on the
live slots of a cache costs each PE what that PE holds.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from emu.datasheet import Device
from emu.instruction import Cost, Operand
from emu.wse.datasheet import ENGINE

LANES = 8
WORD_BYTES = 4


def is_half(*dtypes: Any) -> bool:
    """Whether every operand has 16-bit elements, so that several pass per cycle."""
    return all(jnp.dtype(t).itemsize == 2 for t in dtypes)


def element_cycles(device: Device, n: Any, half: bool) -> Any:
    """Datapath cycles of `n` elements of vector arithmetic: `2*ceil(n/8)` or one each."""
    if half:
        return np.ceil(np.asarray(n) / LANES) * (LANES / device.half_per_cycle)
    return np.asarray(n) * device.single_cycles


def vector_cycles(device: Device, n: Any, half: bool, descriptors: int = 3) -> Any:
    """One vector operation: descriptor loads, issue, elements."""
    loads = descriptors * device.descriptor_load_cycles
    return loads + device.vector_setup_cycles + element_cycles(device, n, half)


def move_cycles(device: Device, nbytes: Any, descriptors: int = 2) -> Any:
    """One copy or fill of `nbytes`."""
    loads = descriptors * device.descriptor_load_cycles
    return loads + device.vector_setup_cycles + np.ceil(nbytes / device.move_bytes_per_cycle)


def map_cycles(device: Device, callbacks: Any, n: Any, half: bool) -> Any:
    """A hardware loop that issues `callbacks` multiply-adds of length `n`; nothing if empty."""
    each = device.callback_cycles if half else device.callback_single_cycles
    body = callbacks * (each + element_cycles(device, n, half))
    setup = 3 * device.descriptor_load_cycles + device.vector_setup_cycles
    return np.where(np.asarray(callbacks) * np.asarray(n) > 0, setup + body, 0)


def loop_cycles(device: Device, n: Any, each_cycles: float) -> Any:
    """A software loop of `n` rounds of scalar code."""
    return np.asarray(n) * (device.loop_cycles + each_cycles)


def words(elements: Any, dtype: Any) -> Any:
    """32-bit wavelets that carry `elements`, two 16-bit elements to a wavelet."""
    return -(-np.asarray(elements) * jnp.dtype(dtype).itemsize // WORD_BYTES)


def known(operand: Operand) -> np.ndarray:
    """A known integer scalar operand as `int64` over the mesh."""
    return np.asarray(operand.known, np.int64)


def on_datapath(cycles: Any, flops: Any = 0, **rest: Any) -> Cost:
    """The cost of an operation that holds the datapath for all its cycles."""
    return Cost(engine=ENGINE, busy_cycles=cycles, latency_cycles=cycles, flops=flops, **rest)
