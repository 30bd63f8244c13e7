"""How many cycles a PE's datapath takes: vector operations, hardware loops and scalar code.

Every law takes element counts as integers or as integer arrays over the mesh, so that work on the
live slots of a cache costs each PE what that PE holds.

An add of 20 float16 elements on a WSE-3: three descriptor loads of 4 cycles, an issue of 2 + 4, and
three groups of 8 lanes at 4 elements a cycle: 12 + 6 + 3 x 2 = 24.
"""

import math
from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np

from emu.annotations import DType
from emu.datasheet import Device
from emu.errors import LimitExceeded
from emu.instruction import Cost, Operand
from emu.wse.datasheets.datasheet import ENGINE

LANES = 8

Count: TypeAlias = int | np.ndarray
"""Elements, bytes or wavelets: one number for all PEs, or one for each PE of the mesh."""

Cycles: TypeAlias = int | float | np.ndarray
"""Of a PE's datapath; a datasheet's rates may make them fractions."""

# How the datapath does arithmetic on 16-bit operands, on those added up in float32, on float32.
HALF = "half"
MIXED = "mixed"
SINGLE = "single"


def precision(dst: DType, *sources: DType) -> str:
    """How the datapath does arithmetic on these dtypes: `HALF`, `MIXED` or `SINGLE`."""
    if any(jnp.dtype(source).itemsize != 2 for source in sources):
        return SINGLE
    return HALF if jnp.dtype(dst).itemsize == 2 else MIXED


def element_cycles(device: Device, n: Count, kind: str) -> Cycles:
    """Datapath cycles of `n` elements of vector arithmetic: `2*ceil(n/8)` for 16-bit ones."""
    if kind == HALF:
        # The lanes of a group that is not full idle: 17 elements take as long as 24.
        groups = np.ceil(np.asarray(n) / LANES)
        return groups * (LANES / device.half_per_cycle)
    each = device.mixed_cycles if kind == MIXED else device.single_cycles
    return np.asarray(n) * each


def issue_cycles(device: Device) -> int:
    """From a vector operation's dispatch to the next one's, without its elements."""
    return device.vector_setup_cycles + device.vector_drain_cycles


def load_cycles(device: Device, descriptors: int) -> int:
    """Loading the registers that describe a vector operation's operands."""
    return descriptors * device.descriptor_load_cycles


def vector_cycles(device: Device, n: Count, kind: str, descriptors: int = 3) -> Cycles:
    """One vector operation: descriptor loads, issue, elements."""
    before = load_cycles(device, descriptors) + issue_cycles(device)
    return before + element_cycles(device, n, kind)


def move_cycles(device: Device, nbytes: Count, descriptors: int = 2) -> Cycles:
    """One copy or fill of `nbytes`."""
    before = load_cycles(device, descriptors) + issue_cycles(device)
    return before + np.ceil(nbytes / device.move_bytes_per_cycle)


def callbacks_cycles(device: Device, callbacks: Count, n: Count, kind: str) -> Cycles:
    """What a hardware loop's `callbacks` multiply-adds of length `n` hold the datapath.

    The overhead lies between two of them: the loop's own set-up and drain are the first's and the
    last's, so that `c` callbacks of 16-bit elements take `c * (6 + 2*ceil(n/8))` in all.
    """
    is_single = kind == SINGLE
    between = device.callback_single_cycles if is_single else device.callback_cycles
    return callbacks * element_cycles(device, n, kind) + (callbacks - 1) * between


def map_cycles(device: Device, callbacks: Count, n: Count, kind: str) -> Cycles:
    """A hardware loop that issues `callbacks` multiply-adds of length `n`; nothing if empty."""
    body = callbacks_cycles(device, callbacks, n, kind)
    before = load_cycles(device, 3) + issue_cycles(device)
    # A PE without a live slot branches past its loop: not even the descriptors are loaded.
    has_elements = np.asarray(callbacks) * np.asarray(n) > 0
    return np.where(has_elements, before + body, 0)


def loop_cycles(device: Device, rounds: Count, each_cycles: float) -> Cycles:
    """A software loop of so many rounds of scalar code."""
    return np.asarray(rounds) * (device.loop_cycles + each_cycles)


def operation_cycles(device: Device, words: Count, sends: bool = False) -> Cycles:
    """One fabric operation that nothing holds up, from its dispatch to the next one's."""
    # Of a collective's operations only a send from memory moves several words an issue; what comes
    # in comes one a cycle.
    words_an_issue = int(device.send_words) if sends else 1
    issues = -(-np.asarray(words) // words_an_issue)
    return device.fabric_setup_cycles + issues + device.vector_drain_cycles


def call_cycles(device: Device) -> int:
    """What begins a collective: its address, one register load, the branches to a PE's role."""
    return math.ceil(device.role_cycles + device.descriptor_load_cycles)


def known(operand: Operand) -> np.ndarray:
    """A known integer scalar operand as `int64` over the mesh."""
    return np.asarray(operand.known, np.int64)


def known_part(name: str, what: str, operand: Operand, whole: int) -> np.ndarray:
    """`known` of an operand that counts elements of a tile.

    Raises:
      LimitExceeded: it is less than 0, or more than the `whole` of them.
    """
    counts = known(operand)
    for count in (counts.min(), counts.max()):
        if not 0 <= count <= whole:
            raise LimitExceeded(
                f"{name}: {what} is {count}, must be a whole number from 0 to {whole}"
            )
    return counts


def on_datapath(cycles: Cycles, flops: Any = 0, **rest: Any) -> Cost:
    """The cost of an operation that holds the datapath for all its cycles.

    Args:
      cycles: of the datapath.
      flops: floating-point operations, a multiply-add counting 2.
      rest: as `Cost` takes it, such as `moved_bytes` and `counts`.
    """
    return Cost(
        engine=ENGINE,
        busy_cycles=cycles,
        latency_cycles=cycles,
        flops=flops,
        **rest,
    )


__all__ = [
    "Count",
    "Cycles",
    "HALF",
    "LANES",
    "MIXED",
    "SINGLE",
    "call_cycles",
    "callbacks_cycles",
    "element_cycles",
    "issue_cycles",
    "known",
    "known_part",
    "load_cycles",
    "loop_cycles",
    "map_cycles",
    "move_cycles",
    "on_datapath",
    "operation_cycles",
    "precision",
    "vector_cycles",
]
