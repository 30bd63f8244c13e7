"""An instruction of a kernel as an operation of the fabric: its cycles, and its own meaning.

The stepper takes a PE's instruction for so many cycles of its main thread; what it writes is worked
out by the instruction's meaning, the one that runs on the mesh, on all PEs at once that have come
to it. Tiles are read as the kernel views them and written back where they lie.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from emu.errors import LimitExceeded
from emu.instruction import Instruction, on_cores
from emu.program import strict_jit
from emu.wse.fabric import ops
from emu.wse.fabric.arrays import Elements, PEs
from emu.wse.from_kernel.steps import Step
from emu.wse.from_kernel.tiles import Known, Value, View

SMALLEST_BATCH = 16
"""PEs that are worked on together are filled up to this or four, sixteen, ... times as many."""

Params: TypeAlias = tuple[tuple[str, Any], ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Places:
    """Where PEs of the mesh are among the fabric's.

    Attributes:
      grid: of the mesh, rows and columns.
      first: the fabric's row and column of the mesh's first PE.
      width: of the fabric.
      rank: axes that the mesh has; of one axis it is a row.
    """

    grid: tuple[int, int]
    first: tuple[int, int]
    width: int
    rank: int

    @property
    def within(self) -> tuple[slice, slice]:
        """The mesh as a rectangle of the fabric."""
        (rows, columns), (top, left) = self.grid, self.first
        return slice(top, top + rows), slice(left, left + columns)

    def known(self, value: Known, pes: PEs) -> np.ndarray:
        """`[PEs, *shape]`: what some PEs of the fabric, by flat index, know."""
        y, x = np.divmod(np.asarray(pes), self.width)
        full = self.over_grid(value)
        return full[y - self.first[0], x - self.first[1]]

    def over_grid(self, value: Known) -> np.ndarray:
        """`[rows, columns, *shape]` of what is known."""
        own = value.reshape(*(1,) * (2 - self.rank), *value.shape)
        return np.broadcast_to(own, (*self.grid, *own.shape[2:]))


def operation(step: Step, places: Places, cycles: int) -> ops.Code:
    """A step on PEs where it takes so many cycles.

    Raises:
      LimitExceeded: it writes several tiles.
    """
    if len(step.results) != 1:
        raise LimitExceeded(
            f"{step.inst.name}: writes {len(step.results)} tiles, an operation of the fabric "
            "writes one; use instructions that do",
            step.where,
        )
    (result,) = step.results
    evaluate = Evaluation(step, places)
    return ops.Code(
        cycles=cycles,
        what=step.inst.name,
        dst=_memory(result),
        function=evaluate,
        sources=evaluate.sources,
        by_pe=True,
    )


def _memory(view: View) -> ops.Memory:
    """All of the buffer that a view's tile has."""
    buffer = view.tile.buffer
    assert buffer is not None
    return buffer[: view.tile.stored_elements]


class Evaluation:
    """What a step writes, of what PEs hold: a function that `ops.Code` takes.

    Attributes:
      sources: the tiles that it reads, its own destination first.
    """

    def __init__(self, step: Step, places: Places):
        self.step = step
        self.places = places
        params: Params = tuple(sorted(step.params.items()))
        self.compute = _compiled(step.inst, params)
        views = [value for value in step.operands if isinstance(value, View)]
        (result,) = step.results
        tiles = {view.tile: _memory(view) for view in (result, *views)}
        self.order = {tile: number for number, tile in enumerate(tiles)}
        self.sources = tuple(tiles.values())

    def __call__(self, pes: PEs, *held: Elements) -> Elements:
        count = len(pes)
        filled = _filled(count)
        read: list[Any] = []
        for value in self.step.operands:
            own = self._read(value, pes, held)
            read.append(_padded(own, filled))
        (found,) = self.compute(*read)
        return self._written(np.asarray(found)[:count], pes, held)

    def _elements(self, view: View, held: Sequence[Elements]) -> np.ndarray:
        """`[PEs, elements]` of a view's tile, as they are stored."""
        tile = view.tile
        own = held[self.order[tile]]
        if str(tile.dtype) != tile.stored_dtype:
            own = np.ascontiguousarray(own).view(tile.dtype)
        return own[:, : tile.size]

    def _stored(self, view: View, pes: PEs) -> np.ndarray:
        """Where a view's elements are stored, `[elements]` or, if PEs differ, `[PEs, elements]`."""
        index = view.index.reshape(-1)
        if isinstance(view.offset, np.ndarray):
            offset = self.places.known(view.offset, pes)
            if (offset == offset[:1]).all():
                index = index + offset[0]
            else:
                index = index + offset[:, None]
        elif view.offset:
            index = index + view.offset
        return view.tile.stored(index)

    def _read(self, value: Value, pes: PEs, held: Sequence[Elements]) -> np.ndarray:
        if not isinstance(value, View):
            return self.places.known(value, pes)
        elements = self._elements(value, held)
        stored = self._stored(value, pes)
        if not _is_all(stored, value.tile.size):
            elements = _taken(elements, stored)
        return elements.reshape(len(pes), *value.shape)

    def _written(
        self, found: np.ndarray, pes: PEs, held: Sequence[Elements]
    ) -> Elements:
        """The destination's buffer with what was found in its place."""
        (result,) = self.step.results
        tile = result.tile
        flat = found.reshape(len(pes), -1)
        stored = self._stored(result, pes)
        if not _is_all(stored, tile.size):
            whole = np.array(self._elements(result, held))
            rows = np.arange(len(pes))[:, None]
            whole[rows, stored] = flat
            flat = whole
        if str(tile.dtype) == tile.stored_dtype:
            return flat
        into = np.array(held[self.order[tile]])
        into.view(tile.dtype)[:, : tile.size] = flat
        return into


def _is_all(stored: np.ndarray, size: int) -> bool:
    """Whether places are all of a tile's elements, in the order in which they lie."""
    return (
        stored.ndim == 1 and stored.size == size and bool((np.diff(stored) == 1).all())
    )


def _taken(elements: np.ndarray, stored: np.ndarray) -> np.ndarray:
    if stored.ndim == 1:
        return elements[:, stored]
    return np.take_along_axis(elements, stored, axis=1)


def _filled(count: int) -> int:
    batch = SMALLEST_BATCH
    while batch < count:
        batch *= 4
    return batch


def _padded(own: np.ndarray, count: int) -> np.ndarray:
    """The last PE's again and again, up to so many."""
    missing = count - len(own)
    if not missing:
        return own
    return np.concatenate([own, np.repeat(own[-1:], missing, axis=0)])


@functools.lru_cache(maxsize=4096)
def _compiled(inst: Instruction[..., Any], params: Params) -> Callable[..., Any]:
    """An instruction's meaning on PEs side by side, rounded as on the mesh."""
    named: Mapping[str, Any] = dict(params)

    def on_pes(*operands: jax.Array) -> list[jax.Array]:
        dims = [0] * len(operands)
        arrays = [jnp.asarray(operand) for operand in operands]
        return on_cores(inst, len(arrays[0]), dims, arrays, named)

    return strict_jit(on_pes)


__all__ = ["Evaluation", "Places", "operation"]
