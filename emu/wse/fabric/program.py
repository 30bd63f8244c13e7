"""A fabric program: who may send where on which color, and what each PE's tasks do.

Places are given as NumPy gives them, on the grid `[y, x]`, y counted from the north and x from the
west: `np.s_[0, 1:]`, a mask, or nothing for all PEs.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from emu.errors import LimitExceeded
from emu.instruction import caller
from emu.wse.fabric import ops

DIRECTIONS = ("north", "east", "south", "west", "ramp")
NORTH, EAST, SOUTH, WEST, RAMP = range(5)
OPPOSITE = (SOUTH, WEST, NORTH, EAST)
POSITIONS = 4
TASKS = 31
THREADS = 8
BANK_BYTES = 4
ALL = np.s_[:, :]
Place = Any
Sides = str | Sequence[str]


def mask_of(sides: Sides, what: str) -> int:
    """Directions as bits.

    Raises:
      LimitExceeded: a name that is none.
    """
    names = (sides,) if isinstance(sides, str) else tuple(sides)
    for name in names:
        if name not in DIRECTIONS:
            raise LimitExceeded(
                f"{what} is {name!r}, must be one of {', '.join(DIRECTIONS)}"
            )
    return sum(1 << DIRECTIONS.index(name) for name in set(names))


@dataclasses.dataclass
class Color:
    """One color's routes over the grid.

    Attributes:
      index: its number, which breaks ties between colors that want one link.
      receive, send: `uint8[positions, height, width]`, directions as bits; 0 where it has no route.
      last: `int8[height, width]`, the highest switch position.
      heeds: `bool[height, width]`, whether control wavelets advance the switch.
      input_queue, output_queue: numbers of the queues at the PE's ramp, which set their depths.
    """

    index: int
    receive: np.ndarray
    send: np.ndarray
    last: np.ndarray
    heeds: np.ndarray
    input_queue: int
    output_queue: int


def merging(color: Color) -> np.ndarray:
    """Flat PEs whose routers take a color from several sides in one position."""
    several = (color.receive & (color.receive - 1)) != 0
    return np.flatnonzero(several.any(axis=0))


@dataclasses.dataclass(frozen=True)
class Task:
    """Code that some PEs run under a task's name.

    Attributes:
      place: `bool[height, width]`.
      code: its operations.
      start: active when the program starts.
      blocked: blocked when it starts.
      color, argument: a data task's color, and where the wavelet that starts it is put.
      where: the line that declared it.
    """

    place: np.ndarray
    code: tuple[ops.Op, ...]
    start: bool
    blocked: bool
    color: str | None
    argument: ops.Memory | None
    where: str


class FabricProgram:
    """Routes, buffers and tasks of a rectangle of PEs.

    Args:
      width, height: PEs along x and y.
      code_bytes: SRAM that the code takes in each PE; None takes the datasheet's.
    """

    def __init__(self, width: int, height: int = 1, code_bytes: int | None = None):
        if width < 1 or height < 1:
            raise LimitExceeded(
                f"fabric program: {width} x {height} PEs, must be at least 1 x 1"
            )
        self.width = width
        self.height = height
        self.code_bytes = code_bytes
        self.colors: dict[str, Color] = {}
        self.buffers: dict[str, ops.Buffer] = {}
        self.held: dict[str, np.ndarray] = {}
        self.tasks: dict[str, list[Task]] = {}
        self._top = 0

    @property
    def shape(self) -> tuple[int, int]:
        return self.height, self.width

    def place(self, where: Place = ALL) -> np.ndarray:
        """`bool[height, width]`, true at the PEs that `where` names."""
        out = np.zeros(self.shape, bool)
        out[where] = True
        return out

    def color(
        self,
        name: str,
        input_queue: int | None = None,
        output_queue: int | None = None,
        positions: int = 1,
    ) -> Color:
        """Declares a color; `route` does so too. Queues are 2, 3, ... unless given."""
        if name not in self.colors:
            n = len(self.colors)
            empty = np.zeros((positions, *self.shape), np.uint8)
            self.colors[name] = Color(
                n,
                empty,
                empty.copy(),
                np.zeros(self.shape, np.int8),
                np.zeros(self.shape, bool),
                2 + n % 2 if input_queue is None else input_queue,
                2 + n % 2 if output_queue is None else output_queue,
            )
        return self.colors[name]

    def route(
        self,
        color: str,
        where: Place = ALL,
        *,
        receive: Sides,
        send: Sides,
        then: Sequence[tuple[Sides, Sides]] = (),
        on_control: str = "advance",
    ) -> None:
        """What the routers at `where` do with `color`.

        Args:
          color: its name.
          where: which PEs.
          receive: direction from which wavelets are taken, `"ramp"` being the PE itself; of
            several, only one may deliver in a cycle.
          send: one or more directions to which each is sent, `"ramp"` being into the PE.
          then: up to three further (receive, send), the switch's other positions.
          on_control: `"advance"` to the next position at a control wavelet, or `"ignore"`.
        """
        if len(then) >= POSITIONS:
            raise LimitExceeded(
                f"route '{color}': {1 + len(then)} positions, a switch has 4"
            )
        if on_control not in ("advance", "ignore"):
            raise LimitExceeded(
                f"route '{color}': on_control is {on_control!r}, must be advance or ignore"
            )
        c, place = self.color(color), self.place(where)
        missing = 1 + len(then) - len(c.receive)
        if missing > 0:
            more = np.zeros((missing, *self.shape), np.uint8)
            c.receive = np.concatenate([c.receive, more])
            c.send = np.concatenate([c.send, more])
        for at, (rx, tx) in enumerate([(receive, send), *then]):
            c.receive[at][place] = mask_of(rx, f"route '{color}': receive")
            c.send[at][place] = mask_of(tx, f"route '{color}': send")
        c.last[place] = len(then)
        c.heeds[place] = on_control == "advance"

    def buffer(
        self,
        name: str,
        elements: int,
        dtype: str = "float32",
        where: Place = ALL,
        bank: int | None = None,
    ) -> ops.Buffer:
        """Room for `elements` in the SRAM of the PEs at `where`; holds NaN until written.

        Args:
          name: under which data go in and come out.
          elements: how many.
          dtype: float32, float16 or bfloat16.
          where: which PEs hold it.
          bank: which of the eight 32-bit banks it starts in; the next free word if None.
        """
        if name in self.buffers:
            raise LimitExceeded(f"buffer '{name}' is declared twice")
        if elements < 1:
            raise LimitExceeded(
                f"buffer '{name}': {elements} elements, must be 1 or more"
            )
        address = -(-self._top // BANK_BYTES) * BANK_BYTES
        if bank is not None:
            address += (bank - address // BANK_BYTES) % 8 * BANK_BYTES
        made = ops.Buffer(name, elements, str(jnp.dtype(dtype)), address)
        self.buffers[name], self.held[name] = made, self.place(where)
        self._top = address + made.nbytes
        return made

    def task(
        self,
        name: str,
        code: Sequence[ops.Op],
        where: Place = ALL,
        *,
        start: bool = False,
        blocked: bool = False,
        on_wavelet: str | None = None,
        argument: ops.Memory | None = None,
    ) -> None:
        """What the PEs at `where` do when task `name` runs; of two ready tasks the earlier named.

        Args:
          name: by which operations activate it.
          code: its operations, in order.
          where: which PEs; others may run other code under the same name.
          start: active from the first cycle.
          blocked: waits for an `unblock` even when active.
          on_wavelet: a data task: each wavelet on this color starts it once.
          argument: one element of memory that takes the wavelet that started it.
        """
        if not code:
            raise LimitExceeded(f"task '{name}' has no operations")
        kept = self.tasks.setdefault(name, [])
        if len(self.tasks) > TASKS:
            raise LimitExceeded(
                f"task '{name}': {len(self.tasks)} tasks, a PE has {TASKS}"
            )
        place = self.place(where)
        if any((place & t.place).any() for t in kept):
            raise LimitExceeded(f"task '{name}' is declared twice on some PE")
        kept.append(
            Task(place, tuple(code), start, blocked, on_wavelet, argument, caller())
        )

    def used_bytes(self) -> np.ndarray:
        """`int64[height, width]`: bytes of buffers, to the last one that each PE holds."""
        used = np.zeros(self.shape, np.int64)
        for name, place in self.held.items():
            buffer = self.buffers[name]
            used[place] = np.maximum(used[place], buffer.address + buffer.nbytes)
        return used


Data = Mapping[str, np.ndarray]

__all__ = [
    "ALL",
    "Color",
    "DIRECTIONS",
    "Data",
    "FabricProgram",
    "OPPOSITE",
    "Task",
    "mask_of",
    "merging",
]
