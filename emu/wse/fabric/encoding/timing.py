"""What an operation of a fabric program costs its PE: from dispatch to the next dispatch."""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp

from emu.datasheet import Device
from emu.errors import LimitExceeded
from emu.wse.fabric import operands, ops
from emu.wse.pe import laws


@dataclasses.dataclass(frozen=True)
class Timing:
    """Cycles of one operation.

    Attributes:
      setup_cycles: from dispatch to the first issue; for scalar code, to the next dispatch.
      issues: times it takes the datapath: wavelets, or datapath cycles if it is local.
      words: wavelets that one issue moves.
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
            kind = laws.precision(op.dst.dtype, op.weights.dtype, op.x.dtype)
            issues = laws.callbacks_cycles(device, op.x.elements, op.length, kind)
            return _local(device, issues)
        case ops.Control():
            return _fabric(device, 1)
        case ops.Code():
            if op.cycles < 1:
                raise LimitExceeded(
                    f"code '{op.what}': {op.cycles} cycles, must be 1 or more"
                )
            return Timing(op.cycles)
        case ops.Load():
            return Timing(
                max(1, math.ceil(op.descriptors * device.descriptor_load_cycles))
            )
        case ops.Stamp():
            return Timing(int(device.timestamp_cycles))
    return Timing(1)  # one instruction that sets a bit


def _vector(op: ops.Vector, device: Device) -> Timing:
    words = max(op.words(op.inward), op.words(op.outward))
    if words:
        timing = _fabric(device, words)
        if op.wide:
            timing = dataclasses.replace(
                timing,
                words=int(device.send_words),
                interval_cycles=int(device.wide_cycles),
            )
        elif op.op == "copy" and op.inward is None:
            timing = dataclasses.replace(timing, words=int(device.send_words))
    else:
        timing = _local(device, _local_cycles(op, device))
        if conflicts(op) and device.bank_conflict_factor > 1:
            issues = math.ceil(timing.issues * device.bank_conflict_factor)
            timing = dataclasses.replace(timing, issues=issues, conflict=True)
    return timing


def _local_cycles(op: ops.Vector, device: Device) -> Any:
    n = op.elements
    if op.op == "copy":
        return n * jnp.dtype(op.dtype_of(op.dst)).itemsize / device.move_bytes_per_cycle
    sources = [op.dtype_of(x) for x in op.sources if isinstance(x, ops.Memory)]
    return laws.element_cycles(device, n, laws.precision(op.dtype_of(op.dst), *sources))


def _local(device: Device, cycles: Any) -> Timing:
    issues = max(1, math.ceil(round(float(cycles), 6)))
    return Timing(
        int(device.vector_setup_cycles),
        issues,
        drain_cycles=int(device.vector_drain_cycles),
    )


def _fabric(device: Device, words: int) -> Timing:
    return Timing(
        int(device.fabric_setup_cycles),
        words,
        drain_cycles=int(device.vector_drain_cycles),
    )


def conflicts(op: ops.Vector) -> bool:
    """Whether two memory sources start in banks that cannot be read together (equal mod 4)."""
    read = [x for x in op.sources if isinstance(x, ops.Memory) and x.elements > 1]
    if op.op == "fmac" and isinstance(op.dst, ops.Memory):
        read.append(op.dst)
    banks = {x.address // operands.WORD_BYTES % 4 for x in read}
    return len(banks) < len({x.address for x in read})


__all__ = ["Timing", "conflicts", "price"]
