"""What every collective's call shares: its groups of PEs, their roles, and when they could start.

Collectives are synchronous operations of the main thread on every PE that takes part. One begins
with a *call*: an address, a register load and the branches that pick the PE's role; `call=False`
goes on within the call of the collective before it.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import jax
import numpy as np

from emu import given
from emu.annotations import DType, KnownInt
from emu.datasheet import Device
from emu.instruction import Crossing, Operand
from emu.tracing import mesh_axis
from emu.wse.pe.laws import call_cycles, known
from emu.wse.spaces import Sram
from emu.wse.timeline.lines import AlikeLines, Lines
from emu.wse.timeline.times import Lengths, Times
from emu.wse.timeline.wires import Wires, wires
from emu.wse.wavelets import words

Mesh: TypeAlias = Mapping[str, int]
"""Axis name to number of PEs."""

Ends: TypeAlias = tuple[np.ndarray, np.ndarray]
"""An arrival rule's answer over the mesh: when the result is ready, and when the PE is free."""


def axis_size(axis: str) -> int:
    """The PEs along an axis of the mesh of the program that is being traced."""
    return mesh_axis.axis_size("wse.fabric", axis)


def elements_of(x: Sram, elements: KnownInt | None) -> KnownInt:
    """How many elements of a tile are sent: all, or as many as are known, from its first on."""
    if elements is None:
        return x.size
    if isinstance(elements, jax.Array):  # known, but not to who traces
        return elements
    return given.whole("wse.fabric: elements", elements, 0, x.size)


def group_size(axis: str, group: int | None) -> int:
    """The PEs of a group, by default the whole axis, of which it must be a divisor."""
    pes = axis_size(axis)
    if group is None:
        return pes
    size = given.whole("wse.fabric: group", group, 1)
    if pes % size:
        given.refuse(
            f"wse.fabric: axis '{axis}' has {pes} PEs, a group of {group} must divide it"
        )
    return size


def role(index: Operand, table: Sequence[int] | np.ndarray) -> np.ndarray:
    """A PE's entry of a table over the places of its group.

    Args:
      index: of the PE along the axis, known.
      table: what the PE at each place does: how many streams it adds, how many hops it sends.
    """
    # Where an axis is cut into groups of 4, PE 5 is at place 1 of its group.
    by_place = np.asarray(table)
    return by_place[known(index) % len(by_place)]


def begin(device: Device, call: bool) -> int:
    """Cycles before a collective's first operation is dispatched."""
    return call_cycles(device) if call else 0


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a collective, on every line of the mesh at once.

    Attributes:
      lines: the mesh's, as far as starts and lengths tell them apart.
      armed: when each PE could dispatch its first operation.
      wires: between the PEs.
    """

    lines: Lines
    armed: Times
    wires: Wires

    @classmethod
    def on(
        cls,
        device: Device,
        mesh: Mesh,
        crossing: Crossing,
        told: Operand,
        *,
        axis: str,
        group: int,
        call: bool = True,
        apart: bool = True,
    ) -> "Call":
        """The call on the lines of a mesh.

        Args:
          device: the wafer.
          mesh: its axes.
          crossing: when each PE could start.
          told: a known operand by which lines may differ, such as the elements that each sends.
          axis: along which the lines lie.
          group: consecutive PEs in a line.
          call: whether it begins a call of its own.
          apart: whether what is done in a line follows from its own starts alone.
        """
        # Both tell lines apart: two that start together but send different lengths are not one.
        kind = AlikeLines if apart else Lines
        lines = kind(mesh, axis, group, crossing.start_ticks, known(told))
        armed = lines.take(crossing.start_ticks) + begin(device, call)
        return cls(lines, armed, wires(device))

    def words(self, elements: Operand, dtype: DType) -> Lengths:
        """Wavelets of each line's streams."""
        of_pes = words(known(elements), dtype)
        each = self.lines.take(of_pes)
        return each.max(axis=1, keepdims=True)

    def ends(self, done: Times) -> Ends:
        """The answer over the mesh, from when each PE can dispatch what follows."""
        # Operations are synchronous: when the next can be dispatched, the result is there.
        ready = self.lines.put(done)
        return ready, ready


__all__ = [
    "Call",
    "Ends",
    "Mesh",
    "axis_size",
    "begin",
    "elements_of",
    "group_size",
    "role",
]
