"""Collectives of a kernel as their fabric programs: colors, routes and operations of every PE.

All calls of one collective along the same axis and tree share their colors, as their streams come
one after another. Where lines send different numbers of elements, such as rows of different live
slots, each has operations of its own on the same routes.
"""

import dataclasses
from collections.abc import Callable, Hashable

import numpy as np

from emu.datasheet import Device
from emu.errors import LimitExceeded
from emu.wse.collectives import programs
from emu.wse.fabric import ops
from emu.wse.fabric.layout.code import Code, everywhere
from emu.wse.fabric.layout.line import Line
from emu.wse.fabric.ops import Memory
from emu.wse.fabric.program import FabricProgram
from emu.wse.from_kernel.evaluation import Places
from emu.wse.from_kernel.steps import Step
from emu.wse.from_kernel.tiles import View
from emu.wse.pe.laws import call_cycles

ALONG = ("y", "x")
"""Of the mesh's first axis and its second: PEs of a column, and of a row."""


@dataclasses.dataclass
class Crossings:
    """The collectives of one program.

    Attributes:
      program, device: the fabric's.
      axes: of the mesh.
      places: where it is on the fabric.
      prefixes: of the colors of what was met so far.
    """

    program: FabricProgram
    device: Device
    axes: tuple[str, ...]
    places: Places
    prefixes: dict[Hashable, str] = dataclasses.field(default_factory=dict)

    def code(self, step: Step) -> Code:
        """What each PE does in a step that crosses them.

        Raises:
          LimitExceeded: a collective without a fabric program, or used in a way that it has not.
        """
        lay = LAID.get(step.inst.name)
        if lay is None:
            known = ", ".join(LAID)
            raise LimitExceeded(
                f"{step.inst.name}: no fabric program of it can be laid for a kernel, those of "
                f"{known} can",
                step.where,
            )
        if not step.place.all():
            raise LimitExceeded(
                f"{step.inst.name}: in a branch that some PEs do not take; the stepper lays "
                "collectives over the whole mesh alone, so take it out of the branch",
                step.where,
            )
        code = lay(self, step)
        if not step.params.get("call", True):
            return code
        begins = ops.Code(call_cycles(self.device), "call")
        return self.everywhere(begins) + code

    def everywhere(self, *sequence: ops.Op) -> Code:
        """The same on all PEs of the mesh."""
        return everywhere(self.program, *sequence, where=self.places.within)

    def prefix(self, kind: str, axis: str, *rest: Hashable) -> str:
        """Of the colors' names of all calls that are alike."""
        key = kind, axis, *rest
        same = [one for one in self.prefixes if one[:2] == key[:2]]  # type: ignore[index]
        return self.prefixes.setdefault(key, f"{kind} {axis} {len(same)} ")

    def lines(
        self, step: Step, group: int, lay: Callable[[Line, int], Code | None]
    ) -> Code:
        """A collective on all lines of its axis, on those of each number of elements apart.

        Args:
          step: the collective's; its last operand is the number of elements.
          group: PEs of a line.
          lay: lays lines that send so many.
        """
        axis = self.axes.index(step.params["axis"])
        *_, elements = step.operands
        assert isinstance(elements, np.ndarray)
        counts = self.places.over_grid(elements)
        axis += 2 - len(self.axes)  # a mesh of one axis is a row
        along = np.moveaxis(counts, axis, 0)
        per_line = along[0]
        if (along != per_line).any():
            raise LimitExceeded(
                f"{step.inst.name}: elements differ between PEs of one line, must be one number",
                step.where,
            )
        if (per_line == 0).any():
            raise LimitExceeded(
                f"{step.inst.name}: a line sends no elements, such as rows without a live slot, "
                "for which the fabric has no operation; give a later position, or send one",
                step.where,
            )
        code = self.everywhere()
        # Runs of neighbouring lines that send the same.
        cuts = [0, *(np.flatnonzero(np.diff(per_line)) + 1).tolist(), len(per_line)]
        for begin, end in zip(cuts[:-1], cuts[1:], strict=True):
            top, left = self.places.first
            rows, columns = self.places.grid
            within = (
                (slice(top, top + rows), slice(left + begin, left + end))
                if axis == 0
                else (slice(top + begin, top + end), slice(left, left + columns))
            )
            line = Line(self.program, ALONG[axis], within, group)
            laid = lay(line, int(per_line[begin]))
            if laid is not None:
                code = code + laid
        return code


def memory(step: Step, view: View, elements: int | None = None) -> Memory:
    """A view that lies in one piece, or its first elements.

    Of a matrix as many of each row: see `by_column`.

    Raises:
      LimitExceeded: it does not.
    """
    tile = view.tile
    assert tile.buffer is not None
    index = view.index
    if elements is not None and elements != index.size:
        if index.ndim > 1:
            index = index[..., : elements // (index.size // index.shape[-1])]
        else:
            index = index[:elements]
    stored = np.sort(tile.stored(index.reshape(-1)))
    begin, end = int(stored[0]), int(stored[-1]) + 1
    if end - begin != stored.size or not isinstance(view.offset, int):
        raise LimitExceeded(
            f"{step.inst.name}: its tile is in pieces, or elsewhere on each PE; copy it into a "
            "tile of its own first",
            step.where,
        )
    if str(tile.dtype) != tile.stored_dtype:
        raise LimitExceeded(
            f"{step.inst.name}: of {tile.dtype}, of which the fabric's datapath does no "
            "arithmetic; use a float dtype",
            step.where,
        )
    begin += view.offset
    return tile.buffer[begin : end + view.offset]


def partial(step: Step) -> View | None:
    """The matrix of which a step sends a part of each row, if it does."""
    if step.inst.name not in LAID or len(step.operands) < 4:
        return None
    *_, elements = step.operands
    x = step.operands[1]
    if not isinstance(x, View) or isinstance(elements, View):
        return None
    if step.inst.name == "wse.walk" or len(x.shape) < 2:
        return None
    return x if (elements != x.index.size).any() else None


def _in_place(step: Step) -> View:
    dst, x = step.operands[:2]
    assert isinstance(dst, View) and isinstance(x, View)
    if not dst.same_place(x):
        raise LimitExceeded(
            f"{step.inst.name}: its result is in another tile than its operand; the stepper lays "
            "it in place alone, so give the operand as the destination too",
            step.where,
        )
    return x


def _reduce(to: Crossings, step: Step) -> Code:
    x = _in_place(step)
    tree, axis = step.params["tree"], step.params["axis"]
    prefix = to.prefix("reduce", axis, tree)

    def lay(line: Line, elements: int) -> Code | None:
        if tree.pes == 1:
            return None
        part = memory(step, x, elements)
        return programs.reduce(
            line, part, tree, prefix, routes="fixed", op=step.params["op"]
        )

    return to.lines(step, tree.pes, lay)


def _multicast(to: Crossings, step: Step) -> Code:
    x = _in_place(step)
    group, root = step.params["group"], step.params["root"]
    prefix = to.prefix("multicast", step.params["axis"], group, root)

    def lay(line: Line, elements: int) -> Code | None:
        if group == 1:
            return None
        return programs.multicast(line, memory(step, x, elements), prefix, root)

    return to.lines(step, group, lay)


LAID: dict[str, Callable[[Crossings, Step], Code]] = {
    "wse.reduce": _reduce,
    "wse.multicast": _multicast,
}
"""Instructions that cross PEs, and how each is laid; the walk is in `entry.py`."""

__all__ = ["Crossings", "LAID", "memory", "partial"]
