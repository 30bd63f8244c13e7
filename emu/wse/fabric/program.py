"""A fabric program: who may send where on which color, and what each PE's tasks do.

Places are given as NumPy gives them, on the grid `[y, x]`, y counted from the north and x from the
west: `np.s_[0, 1:]`, a mask, or nothing for all PEs.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from emu.errors import LimitExceeded
from emu.instruction import caller
from emu.wse.fabric import ops
from emu.wse.fabric.directions import Sides, bits_of, several

POSITIONS = 4
TASKS = 31
THREADS = 8
BANKS = 8
BANK_BYTES = 4
FIRST_QUEUE = 2
"""Colors take this queue and the next by turns, unless told otherwise."""
FREE: Literal["free"] = "free"
"""In place of a queue's number: at each PE, the first queue that no other color there has."""
Queue = int | Literal["free"] | None
ALL = np.s_[:, :]
Place = Any


@dataclasses.dataclass
class Color:
    """One color's routes over the grid.

    Attributes:
      index: its number, which breaks ties between colors that want one link.
      receive, send: `uint8[positions, height, width]`, sets of directions (`directions.py`); 0
        where it has no route.
      last: `int8[height, width]`, the highest switch position.
      heeds: `bool[height, width]`, whether control wavelets advance the switch.
      input_queue, output_queue: numbers of the queues at the PEs' ramps, which set their depths, or
        FREE: then they are given out PE by PE (`encoding/queues.py`).

    `receive[1, 0, 3]` is what the router of PE (x=3, y=0) takes the color from in position 1. A
    color with fewer positions on some PEs holds 0 in the others there.
    """

    index: int
    receive: np.ndarray
    send: np.ndarray
    last: np.ndarray
    heeds: np.ndarray
    input_queue: int | Literal["free"]
    output_queue: int | Literal["free"]


def merging(color: Color) -> np.ndarray:
    """Flat PEs whose routers take a color from several sides in one position."""
    return np.flatnonzero(several(color.receive).any(axis=0))


def is_static(color: Color) -> bool:
    """Whether each router has one position for the color and takes it from one direction."""
    return len(color.receive) == 1 and not several(color.receive).any()


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

    def coordinates(self, pe: int) -> str:
        """`(x=3, y=0)` of a flat index `y * width + x`, as errors and reports name a PE."""
        y, x = divmod(int(pe), self.width)
        return f"(x={x}, y={y})"

    def place(self, where: Place = ALL) -> np.ndarray:
        """`bool[height, width]`, true at the PEs that `where` names."""
        chosen = np.zeros(self.shape, bool)
        chosen[where] = True
        return chosen

    def color(
        self,
        name: str,
        input_queue: Queue = None,
        output_queue: Queue = None,
        positions: int = 1,
    ) -> Color:
        """Declares a color; `route` does so too.

        A queue serves one color of a PE. Where a PE takes words of three colors or more, or sends
        on as many, say which queues serve them, by number or by FREE.

        Args:
          name: under which operations know it.
          input_queue, output_queue: at the PEs' ramps; 2 and 3 by turns unless given.
          positions: of its routers' switches, where they are known.
        """
        if name not in self.colors:
            index = len(self.colors)
            queue = FIRST_QUEUE + index % 2
            no_routes = np.zeros((positions, *self.shape), np.uint8)
            self.colors[name] = Color(
                index=index,
                receive=no_routes,
                send=no_routes.copy(),
                last=np.zeros(self.shape, np.int8),
                heeds=np.zeros(self.shape, bool),
                input_queue=queue if input_queue is None else input_queue,
                output_queue=queue if output_queue is None else output_queue,
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

        PEs 1 and 2 of a row send to PE 0 on one color, one after the other: the router of PE 1
        takes what its own PE sends first, and once a control wavelet has followed that, what comes
        from the east.

            program.route("up", np.s_[0, 0], receive="east", send="ramp")
            program.route("up", np.s_[0, 1], receive="ramp", send="west", then=[("east", "west")])
            program.route("up", np.s_[0, 2], receive="ramp", send="west")

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
        routes = self.color(color)
        place = self.place(where)
        missing = 1 + len(then) - len(routes.receive)
        if missing > 0:
            more = np.zeros((missing, *self.shape), np.uint8)
            routes.receive = np.concatenate([routes.receive, more])
            routes.send = np.concatenate([routes.send, more])
        for position, (taken, sent) in enumerate([(receive, send), *then]):
            taken_bits = bits_of(taken, f"route '{color}': receive")
            sent_bits = bits_of(sent, f"route '{color}': send")
            routes.receive[position][place] = taken_bits
            routes.send[position][place] = sent_bits
        routes.last[place] = len(then)
        routes.heeds[place] = on_control == "advance"

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
        first_word = -(-self._top // BANK_BYTES)
        if bank is not None:
            # Words go round the banks: with word 13 free (bank 5), bank 2 is next met at word 18.
            first_word += (bank - first_word) % BANKS
        address = first_word * BANK_BYTES
        made = ops.Buffer(name, elements, str(jnp.dtype(dtype)), address)
        self.buffers[name] = made
        self.held[name] = self.place(where)
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
        declared = self.tasks.setdefault(name, [])
        if len(self.tasks) > TASKS:
            raise LimitExceeded(
                f"task '{name}': {len(self.tasks)} tasks, a PE has {TASKS}"
            )
        place = self.place(where)
        if any((place & other.place).any() for other in declared):
            raise LimitExceeded(f"task '{name}' is declared twice on some PE")
        task = Task(
            place=place,
            code=tuple(code),
            start=start,
            blocked=blocked,
            color=on_wavelet,
            argument=argument,
            where=caller(),
        )
        declared.append(task)

    def used_bytes(self) -> np.ndarray:
        """`int64[height, width]`: bytes of buffers, to the last one that each PE holds."""
        used = np.zeros(self.shape, np.int64)
        for name, place in self.held.items():
            buffer = self.buffers[name]
            used[place] = np.maximum(used[place], buffer.address + buffer.nbytes)
        return used


__all__ = ["ALL", "FREE", "Color", "FabricProgram", "Task", "is_static", "merging"]
