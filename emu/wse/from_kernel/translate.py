"""A kernel's program as a fabric program, mechanically: its jaxpr read, operations written.

- A vector or scalar instruction holds its PE for the cycles that its cost says and writes what its
  meaning says (`evaluation.py`).
- A collective becomes its own fabric program, routed word by word (`crossings.py`): what the words
  wait for is for the stepper to find out.
- Loops, branches on known integers and views are gone when the program is made (`steps.py`).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from emu.annotations import PyTree
from emu.datasheet import Device
from emu.errors import LimitExceeded
from emu.program import Program
from emu.wse.fabric.layout.code import Code, code
from emu.wse.fabric.program import FabricProgram
from emu.wse.fabric.result import Run
from emu.wse.from_kernel.buffers import place_tiles
from emu.wse.from_kernel.crossings import Crossings, partial
from emu.wse.from_kernel.entry import KERNEL, Entry, entry_of
from emu.wse.from_kernel.evaluation import Places, operation
from emu.wse.from_kernel.sequences import Free, joined
from emu.wse.from_kernel.steps import Step, Steps, steps
from emu.wse.from_kernel.tiles import Tile, View


@dataclasses.dataclass(frozen=True)
class Translated:
    """A kernel as a fabric program.

    Attributes:
      kernel: what was translated.
      program: for the stepper.
      places: where the mesh's PEs are in it.
      taken: the kernel's steps.
      entry: the walk that it begins with, or None.
    """

    kernel: Program
    program: FabricProgram
    places: Places
    taken: Steps
    entry: Entry | None

    def data(self, *args: Any) -> dict[str, np.ndarray]:
        """The kernel's arguments as the stepper takes them, buffer name to content."""
        arrays = self.kernel.on_mesh(args)
        data: dict[str, np.ndarray] = {}
        for tile, content in self.taken.given:
            assert tile.given is not None and tile.buffer is not None
            if content is None:
                content = arrays[self.taken.inputs[tile.given]]
            data[tile.buffer.name] = self._content(tile, content)
        return data

    def _content(self, tile: Tile, content: np.ndarray) -> np.ndarray:
        """`[height, width, elements]` of what each PE of the mesh holds, `[*mesh, *shape]`."""
        buffer = tile.buffer
        assert buffer is not None
        grid = self.places.grid
        own = self.places.over_grid(np.asarray(content))
        own = own.reshape(*grid, -1)
        dtype = np.dtype(tile.dtype)
        own = own.astype(dtype, copy=False)
        if str(dtype) != tile.stored_dtype:
            own = _stored(own, buffer.dtype, buffer.elements)
        if self.program.shape == grid:
            return own
        whole = np.zeros((*self.program.shape, buffer.elements), own.dtype)
        whole[self.places.within] = own
        if self.entry is not None and tile is self.entry.tile:
            # The region behind has what this one's last PEs along the axis are said to have.
            at = (slice(-1, None), slice(None))
            last = own[at] if self.entry.axis == 0 else own[:, -1:]
            whole[self.entry.sender(self.places)] = last
        return whole

    def results(self, run: Run, *args: Any) -> PyTree:
        """The kernel's results, as `Program.run` gives them, of a run of the stepper."""
        found = []
        for value in self.taken.outputs:
            if not isinstance(value, View):
                sizes = tuple(self.taken.mesh.values())
                own = value.shape[len(sizes) :]
                found.append(np.broadcast_to(value, (*sizes, *own)))
                continue
            found.append(self._result(run, value))
        tree = self.kernel.results_tree(args)
        return jax.tree.unflatten(tree, found)

    def _result(self, run: Run, view: View) -> np.ndarray:
        tile = view.tile
        assert tile.buffer is not None
        held = run.values[tile.buffer.name][self.places.within]
        if str(tile.dtype) != tile.stored_dtype:
            held = np.ascontiguousarray(held).view(tile.dtype)
        if not isinstance(view.offset, int):
            raise LimitExceeded(
                "results: a result is elsewhere in its tile on each PE; copy it into a tile of its "
                "own"
            )
        stored = tile.stored(view.index.reshape(-1) + view.offset)
        return held[..., stored].reshape(*self.taken.mesh.values(), *view.shape)


def _stored(own: np.ndarray, dtype: str, elements: int) -> np.ndarray:
    """Elements of a dtype that the fabric has not, as words of one that it has."""
    words = np.dtype(dtype)
    nbytes = elements * words.itemsize
    raw = np.zeros((*own.shape[:-1], nbytes // own.dtype.itemsize), own.dtype)
    raw[..., : own.shape[-1]] = own
    return raw.view(words)


def translated(kernel: Program, device: Device, *args: Any) -> Translated:
    """A kernel's program as a fabric program for the stepper.

    Args:
      kernel: instructions of `emu.wse` on a mesh of one axis or two, rows of PEs first.
      device: whose costs, colors and queues.
      args: as for `Program.read`: arrays, shapes or `Known`.

    Raises:
      LimitExceeded: what has no operation of the fabric, with the kernel's line.
      EmulationError: what the instructions' costs raise.
    """
    axes = tuple(kernel.mesh)
    if len(axes) > 2:
        raise LimitExceeded(
            f"translated: a mesh of axes {', '.join(axes)}, a fabric has two; use one or two"
        )
    body, arguments = kernel.trace(args)
    taken = steps(body, arguments, kernel.mesh, device)
    entry = entry_of(taken.steps, axes)
    grid = _grid(kernel.mesh)
    first = (0, 0)
    if entry is not None:
        first = (entry.before, 0) if entry.axis == 0 else (0, entry.before)
    shape = grid[0] + first[0], grid[1] + first[1]
    program = FabricProgram(
        shape[1], shape[0], code_bytes=int(device.code_bytes), reassigns_queues=True
    )
    places = Places(grid, first, shape[1], len(axes))
    _place(program, taken, places, entry)
    if entry is not None:
        entry.lay(program, device, places)
    of_kernel = taken.steps if entry is None else taken.steps[1:]
    to = Crossings(program, device, axes, places)
    codes = [_code(to, step) for step in of_kernel]
    joined(codes).declare(program, KERNEL, start=entry is None)
    return Translated(kernel, program, places, taken, entry)


def _grid(mesh: Mapping[str, int]) -> tuple[int, int]:
    sizes = tuple(mesh.values())
    return (sizes[0], sizes[1]) if len(sizes) == 2 else (1, sizes[0])


def _place(
    program: FabricProgram, taken: Steps, places: Places, entry: Entry | None
) -> None:
    """Gives the kernel's tiles their buffers."""
    for step in taken.steps:
        matrix = partial(step)
        if matrix is not None:
            matrix.tile.by_column = True
    tiles: dict[Tile, None] = {}
    for step in taken.steps:
        for value in step.operands:
            if isinstance(value, View):
                tiles[value.tile] = None
    for tile, _ in taken.given:
        tiles[tile] = None
    where = program.place(places.within)
    held = where.copy()
    if entry is not None:
        held[entry.sender(places)] = True
    walking = [tile for tile in tiles if entry is not None and tile is entry.tile]
    place_tiles(program, walking, held)
    place_tiles(program, [tile for tile in tiles if tile not in walking], where)


def _code(to: Crossings, step: Step) -> Code:
    """What each PE does in one step."""
    if step.inst.across:
        return to.code(step)
    pairs = []
    for cycles in np.unique(step.cycles[step.place]).tolist():
        here = np.zeros(to.program.shape, bool)
        mine = step.place & (step.cycles == cycles)
        here[to.places.within] = mine.reshape(to.places.grid)
        if cycles:
            done: Any = operation(step, to.places, cycles)
        else:
            done = Free(operation(step, to.places, 1))
        pairs.append((here, (done,)))
    return code(to.program, pairs)


__all__ = ["Translated", "translated"]
