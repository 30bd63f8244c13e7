"""How a kernel begins: at once, or with an activation that walks in from the region behind.

The region behind stands in the fabric as the PEs of its edge that send, `gap` routers before the
kernel's own first PE. A microthread of each PE receives, and its end starts the PE's task:

    column     0        1 .. gap        gap + 1           ...   gap + columns
    PE         sends    passes on       takes, passes on  ...   takes
"""

import dataclasses

import numpy as np

from emu.datasheet import Device
from emu.errors import LimitExceeded
from emu.wse.fabric import ops
from emu.wse.fabric.layout.code import everywhere
from emu.wse.fabric.program import FREE, FabricProgram
from emu.wse.from_kernel.crossings import memory
from emu.wse.from_kernel.evaluation import Places
from emu.wse.from_kernel.steps import Step
from emu.wse.from_kernel.tiles import Tile, View
from emu.wse.pe.laws import call_cycles

WALK = "wse.walk"
COLOR = "walk"
THREAD = 1
SENDS = "send"
BEGINS = "begin"
KERNEL = "kernel"


@dataclasses.dataclass(frozen=True)
class Entry:
    """An activation that walks in.

    Attributes:
      step: the kernel's first.
      axis: of the mesh, 0 or 1, along which it comes.
      before: PEs before the kernel's first: the sender and the routers between.
    """

    step: Step
    axis: int
    before: int

    @property
    def tile(self) -> Tile:
        """What walks."""
        (result,) = self.step.results
        return result.tile

    def sender(self, places: Places) -> tuple[slice, slice]:
        """The PEs that send."""
        rows, columns = places.within
        first = slice(0, 1)
        return (first, columns) if self.axis == 0 else (rows, first)

    def lay(self, program: FabricProgram, device: Device, places: Places) -> None:
        """Routes, and the tasks that come before the kernel's."""
        (result,) = self.step.results
        x = memory(self.step, result)
        back, away = ("north", "south") if self.axis == 0 else ("west", "east")
        program.color(COLOR, FREE, FREE)
        pes = places.grid[self.axis]

        def at(first: int, last: int) -> tuple[slice, slice]:
            rows, columns = places.within
            along = slice(first, last)
            return (along, columns) if self.axis == 0 else (rows, along)

        end = self.before + pes
        program.route(COLOR, at(0, 1), receive="ramp", send=away)
        if self.before > 1:
            program.route(COLOR, at(1, self.before), receive=back, send=away)
        if pes > 1:
            passing = at(self.before, end - 1)
            program.route(COLOR, passing, receive=back, send=(away, "ramp"))
        program.route(COLOR, at(end - 1, end), receive=back, send="ramp")
        call = ops.Code(call_cycles(device), "call")
        stream = ops.send(COLOR, x.elements)
        sends = everywhere(program, call, ops.copy(stream, x), where=at(0, 1))
        sends.declare(program, SENDS, start=True)
        comes = ops.receive(COLOR, x.elements)
        takes = ops.copy(x, comes, thread=THREAD, activate=KERNEL)
        begins = everywhere(program, call, takes, where=places.within)
        begins.declare(program, BEGINS, start=True)


def entry_of(steps: list[Step], axes: tuple[str, ...]) -> Entry | None:
    """The walk that a kernel begins with, if there is one.

    Raises:
      LimitExceeded: one elsewhere, or of what the region behind has not as the program begins.
    """
    walks = [number for number, step in enumerate(steps) if step.inst.name == WALK]
    if not walks:
        return None
    step = steps[walks[0]]
    dst, x, _, gap = step.operands
    assert isinstance(dst, View) and isinstance(x, View) and isinstance(gap, np.ndarray)
    is_first = walks == [0] and x.tile.given is not None and step.place.all()
    if not (is_first and dst.same_place(x)):
        raise LimitExceeded(
            f"{WALK}: must be the first instruction, once, of an argument and in its own tile: "
            "what the region behind does is not part of the program",
            step.where,
        )
    gaps = np.unique(gap)
    if len(gaps) != 1:
        raise LimitExceeded(
            f"{WALK}: gaps of {gaps.tolist()} hops, must be one for all PEs", step.where
        )
    axis = axes.index(step.params["axis"])
    return Entry(step, axis, 1 + int(gaps[0]))


__all__ = ["BEGINS", "Entry", "KERNEL", "SENDS", "entry_of"]
