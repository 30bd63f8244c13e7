"""What an operation of a fabric program costs its PE: from dispatch to the next dispatch.

On a WSE-3 (4 cycles of set-up for the fabric, 4 of drain) a synchronous receive of 10 wavelets that
is dispatched in cycle 100 may issue from cycle 104 on; if all wavelets are there its last issue is
in cycle 113, and the next instruction is dispatched in cycle 114 + 4 = 118.
"""

import dataclasses
import math

import jax.numpy as jnp

from emu.datasheet import Device
from emu.errors import LimitExceeded
from emu.wse.fabric import ops
from emu.wse.fabric.program import BANK_BYTES
from emu.wse.pe import laws

BANKS_READ_APART = 4
"""Banks with equal numbers modulo this cannot be read in one cycle."""


@dataclasses.dataclass(frozen=True)
class Timing:
    """Cycles of one operation.

    Attributes:
      setup_cycles: from dispatch to the first issue; for scalar code, to the next dispatch.
      issues: times it takes the datapath: wavelets, or datapath cycles if it is local.
      words: wavelets that one issue moves at most.
      interval_cycles: from one issue to the next at the earliest.
      drain_cycles: from the cycle after the last issue to the next dispatch.
      conflict: whether its issues are twice as many because of a bank conflict.
    """

    setup_cycles: int
    issues: int = 0
    words: int = 1
    drain_cycles: int = 0
    conflict: bool = False
    interval_cycles: int = 1


def price(op: ops.Op, device: Device) -> Timing:
    """The cycles of `op` on a device."""
    match op:
        case ops.Vector():
            return _vector(op, device)
        case ops.Map():
            precision = laws.precision(op.dst.dtype, op.weights.dtype, op.x.dtype)
            cycles = laws.callbacks_cycles(device, op.x.elements, op.length, precision)
            return _local(device, cycles)
        case ops.Control():
            return _fabric(device, 1)
        case ops.Code():
            if op.cycles < 1:
                raise LimitExceeded(
                    f"code '{op.what}': {op.cycles} cycles, must be 1 or more"
                )
            return Timing(op.cycles)
        case ops.Load():
            cycles = math.ceil(op.descriptors * device.descriptor_load_cycles)
            return Timing(max(1, cycles))
        case ops.Stamp():
            return Timing(int(device.timestamp_cycles))
    return Timing(1)  # one instruction that sets a bit


def _vector(op: ops.Vector, device: Device) -> Timing:
    # Of an operation that takes and sends the two are equal, or it is refused
    # (`trains/routing.py`).
    wavelets = max(op.wavelets_of(op.inward), op.wavelets_of(op.outward))
    if wavelets:
        timing = _fabric(device, wavelets)
        together = int(device.send_words)
        if op.wide:
            interval = int(device.wide_cycles)
            timing = dataclasses.replace(
                timing, words=together, interval_cycles=interval
            )
        # Nothing comes in, a word an issue, that would set the pace.
        elif op.op == "copy" and op.inward is None:
            timing = dataclasses.replace(timing, words=together)
        return timing
    timing = _local(device, _local_cycles(op, device))
    if conflicts(op) and device.bank_conflict_factor > 1:
        issues = math.ceil(timing.issues * device.bank_conflict_factor)
        timing = dataclasses.replace(timing, issues=issues, conflict=True)
    return timing


def _local_cycles(op: ops.Vector, device: Device) -> laws.Cycles:
    dtype = op.dtype_of(op.dst)
    if op.op == "copy":
        itemsize = jnp.dtype(dtype).itemsize
        return op.elements * itemsize / device.move_bytes_per_cycle
    dtypes = []
    for source in op.sources:
        # A number comes from a register and says nothing of the precision.
        if isinstance(source, ops.Memory):
            dtypes.append(op.dtype_of(source))
    precision = laws.precision(dtype, *dtypes)
    return laws.element_cycles(device, op.elements, precision)


def _local(device: Device, cycles: laws.Cycles) -> Timing:
    # What a float is off by, in its last bit, is no cycle more.
    whole = math.ceil(round(float(cycles), 6))
    # The datapath is held for a cycle even by an operation that it would do in a fraction of one.
    issues = max(1, whole)
    return Timing(
        setup_cycles=int(device.vector_setup_cycles),
        issues=issues,
        drain_cycles=int(device.vector_drain_cycles),
    )


def _fabric(device: Device, wavelets: int) -> Timing:
    return Timing(
        setup_cycles=int(device.fabric_setup_cycles),
        issues=wavelets,
        drain_cycles=int(device.vector_drain_cycles),
    )


def conflicts(op: ops.Vector) -> bool:
    """Whether two memory sources start in banks that cannot be read together (equal mod 4).

    Buffers at bytes 0 and 64 start in words 0 and 16, both 0 mod 4: a conflict. At bytes 0 and 68
    they do not conflict, and a buffer read twice never conflicts with itself.
    """
    # A set: two operands at one address are read once.
    addresses = set()
    for source in op.sources:
        if isinstance(source, ops.Memory) and source.elements > 1:
            addresses.add(source.address)
    # What it adds to is read as well.
    if op.op == "fmac" and isinstance(op.dst, ops.Memory):
        addresses.add(op.dst.address)
    banks = {address // BANK_BYTES % BANKS_READ_APART for address in addresses}
    return len(banks) < len(addresses)


__all__ = ["Timing", "conflicts", "price"]
