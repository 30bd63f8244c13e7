"""A fabric program: who may send where on which color, and what each PE's tasks do.

Places are given as NumPy gives them, on the grid `[y, x]`, y counted from the north and x from the
west: `np.s_[0, 1:]`, a mask, or nothing for all PEs.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from emu import given
from emu.tracing.jaxpr import caller
from emu.wse.fabric import ops
from emu.wse.fabric.directions import Sides, bits_of, several
from emu.wse.fabric.errors import first_of
from emu.wse.fabric.operands import dtype_of_pe

POSITIONS = ops.POSITIONS
TASKS = 31
MOST_PES = 1 << 22
"""Several times those of a wafer; beyond, a mistake would take the host's memory."""
BANKS = 8
BANK_BYTES = 4
FIRST_QUEUE = 2
"""Colors take this queue and the next by turns, unless told otherwise."""
FREE: Literal["free"] = "free"
"""In place of a queue's number: at each PE, the first queue that no other color there has."""
QueueNumber: TypeAlias = int | Literal["free"]
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
    input_queue: QueueNumber
    output_queue: QueueNumber


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
      reassigns_queues: a queue at a PE's ramp that has run empty is given to another color as the
        program goes on, which takes no time (`encoding/queues.py`).
    """

    def __init__(
        self,
        width: int,
        height: int = 1,
        code_bytes: int | None = None,
        reassigns_queues: bool = False,
    ):
        self.width = given.whole("fabric program: width", width, 1)
        self.height = given.whole("fabric program: height", height, 1)
        given.whole("fabric program: width x height", width * height, 1, MOST_PES)
        self.reassigns_queues = reassigns_queues
        self.code_bytes = code_bytes
        if code_bytes is not None:
            self.code_bytes = given.whole("fabric program: code_bytes", code_bytes, 0)
        self.colors: dict[str, Color] = {}
        self.buffers: dict[str, ops.Buffer] = {}
        self.held: dict[str, np.ndarray] = {}
        self.tasks: dict[str, list[Task]] = {}
        self._declared: dict[str, np.ndarray] = {}
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
        try:
            chosen[where] = True
        except (IndexError, TypeError, ValueError) as error:
            given.refuse(
                f"place {given.told(where)} is none of the program's {self.height} x "
                f"{self.width} PEs, [y, x] from [0, 0] to [{self.height - 1}, {self.width - 1}]: "
                f"{error}"
            )
        return chosen

    def color(
        self,
        name: str,
        input_queue: QueueNumber | None = None,
        output_queue: QueueNumber | None = None,
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
        positions = given.whole(f"color '{name}': positions", positions, 1, POSITIONS)
        known = self.colors.get(given.name("color: its name", name))
        for side, queue in (("input", input_queue), ("output", output_queue)):
            what = f"color '{name}': {side}_queue"
            if queue is None or queue == FREE:
                continue
            given.whole(f"{what}, unless it is {FREE!r},", queue, 0)
            if known is not None and queue != getattr(known, f"{side}_queue"):
                given.refuse(
                    f"{what} is {queue}, but the color was declared before with "
                    f"{getattr(known, f'{side}_queue')}; declare its queues before its routes"
                )
        if known is None:
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
        what = f"route '{color}'"
        given.one_of(f"{what}: on_control", on_control, ("advance", "ignore"))
        ways = _positions(what, receive, send, then)
        place = self.place(where)
        routes = self.color(color)
        missing = 1 + len(then) - len(routes.receive)
        if missing > 0:
            more = np.zeros((missing, *self.shape), np.uint8)
            routes.receive = np.concatenate([routes.receive, more])
            routes.send = np.concatenate([routes.send, more])
        for position, (taken_bits, sent_bits) in enumerate(ways):
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
          dtype: float32, float16, bfloat16 or int16.
          where: which PEs hold it.
          bank: which of the eight 32-bit banks it starts in; the next free word if None.
        """
        what = f"buffer '{given.name('buffer: its name', name)}'"
        if name in self.buffers:
            given.refuse(
                f"{what} is declared twice; give each buffer a name of its own"
            )
        elements = given.whole(f"{what}: elements", elements, 1)
        dtype = dtype_of_pe(what, dtype)
        held = self.place(where)
        first_word = -(-self._top // BANK_BYTES)
        if bank is not None:
            # Words go round the banks: with word 13 free (bank 5), bank 2 is next met at word 18.
            bank = given.whole(f"{what}: bank", bank, 0, BANKS - 1)
            first_word += (bank - first_word) % BANKS
        address = first_word * BANK_BYTES
        made = ops.Buffer(name, elements, dtype, address)
        self.buffers[name] = made
        self.held[name] = held
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
        what = f"task '{given.name('task: its name', name)}'"
        operations = _operations(what, code)
        _check_wavelet(what, on_wavelet, argument)
        place = self.place(where)
        declared = self.tasks.get(name, [])
        taken = self._declared.setdefault(name, np.zeros(self.shape, bool))
        # Of thousands of parts of one task that with the PE is looked for only if there is one.
        for other in declared if (place & taken).any() else ():
            twice = place & other.place
            if twice.any():
                given.refuse(
                    f"{what} is declared twice on PE {first_of(twice)}, the first time in "
                    f"{other.where}; give one of them another name, or other PEs"
                )
        if name not in self.tasks and len(self.tasks) == TASKS:
            given.refuse(
                f"{what} is the {TASKS + 1}th, a PE has {TASKS} tasks; let PEs share names, or "
                "put operations of several tasks into one"
            )
        self.tasks[name] = declared
        task = Task(
            place=place,
            code=operations,
            start=start,
            blocked=blocked,
            color=on_wavelet,
            argument=argument,
            where=caller(),
        )
        declared.append(task)
        taken |= place

    def used_bytes(self) -> np.ndarray:
        """`int64[height, width]`: bytes of buffers, to the last one that each PE holds."""
        used = np.zeros(self.shape, np.int64)
        for name, place in self.held.items():
            buffer = self.buffers[name]
            used[place] = np.maximum(used[place], buffer.address + buffer.nbytes)
        return used


def _positions(
    what: str,
    receive: Sides,
    send: Sides,
    then: Sequence[tuple[Sides, Sides]],
) -> list[tuple[int, int]]:
    """Of each position of a switch, the sets of directions that it receives from and sends to."""
    positions: list[tuple[int, int]] = []
    for way in [(receive, send), *then]:
        if isinstance(way, str) or len(way) != 2:
            given.refuse(
                f"{what}: then has {given.told(way)}, must have pairs (receive, send)"
            )
        taken, sent = way
        taken_bits = bits_of(taken, f"{what}: receive")
        sent_bits = bits_of(sent, f"{what}: send")
        positions.append((taken_bits, sent_bits))
    if len(positions) > POSITIONS:
        given.refuse(
            f"{what}: {len(positions)} positions, a switch has {POSITIONS}; take another color "
            "for what comes after"
        )
    return positions


def _operations(what: str, code: Sequence[ops.Op]) -> tuple[ops.Op, ...]:
    if isinstance(code, ops.Op):
        given.refuse(f"{what}: code is one operation, must be a list of operations")
    try:
        operations = tuple(code)
    except TypeError:
        given.refuse(
            f"{what}: code is {given.told(code)}, must be a list of operations"
        )
    if not operations:
        given.refuse(f"{what} has no operations; give it some, or leave it out")
    for number, op in enumerate(operations):
        if not isinstance(op, ops.Op):
            given.refuse(
                f"{what}: its code[{number}] is {given.told(op)}, must be an operation of ops"
            )
    return operations


def _check_wavelet(what: str, color: str | None, argument: ops.Memory | None) -> None:
    """A data task's color and the element that takes its wavelet."""
    if color is not None:
        given.name(f"{what}: on_wavelet", color)
    if argument is None:
        return
    if not isinstance(argument, ops.Memory) or argument.elements != 1:
        given.refuse(
            f"{what}: argument is {given.told(argument)}, must be one element, such as x[0]"
        )
    if color is None:
        given.refuse(f"{what} has an argument but no on_wavelet: no wavelet starts it")


__all__ = [
    "ALL",
    "FREE",
    "Color",
    "FabricProgram",
    "QueueNumber",
    "Task",
    "is_static",
    "merging",
]
