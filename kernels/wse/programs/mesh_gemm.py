"""MeshGEMM: tiles of two matrices shift round rings of PEs while each PE adds up their products.

WaferLLM's kernel (arXiv 2502.04563) as its authors wrote it for the WSE-3, task by task: X tiles
are first aligned along the rows, then X moves along rows and W along columns, once a step, while
the tiles at hand are multiplied. Scalar code is counted instruction by instruction, see `_Scalars`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from emu.datasheet import Device
from emu.errors import LimitExceeded
from emu.wse.collectives.programs import Line, ring_places, ring_streams
from emu.wse.fabric.ops import (
    Activate,
    Block,
    Buffer,
    Code,
    Map,
    Op,
    Pause,
    Stamp,
    Unblock,
    copy,
    receive,
    send,
)
from emu.wse.fabric.program import FabricProgram

QUEUES = {"X": 2, "shift": 3, "W": 5}
COLORS = 3  # of a ring
START = "start"
END = "end"


@dataclasses.dataclass(frozen=True)
class Sizes:
    """One MeshGEMM.

    Attributes:
      p: PEs along each side.
      mt, kt, nt: rows and columns of the tiles, `X[mt, kt]`, `W[kt, nt]`, `C[mt, nt]`.
      compute_repeats: times each local product is done; 0 moves data only.
      communicate: whether tiles move during the steps.
      repeats: of the whole, back to back.
      warm_up: repeats before the first timestamp.
    """

    p: int
    mt: int
    kt: int
    nt: int
    compute_repeats: int = 1
    communicate: bool = True
    repeats: int = 1
    warm_up: int = 0


class Ends(NamedTuple):
    """The colors on which a PE sends and receives on one ring."""

    out: str
    into: str


Place: TypeAlias = tuple[int, int]
"""A PE's row and column."""


class Streams(NamedTuple):
    """What differs between PEs.

    Attributes:
      shifts: how often the row's X tiles move to be aligned.
      align: the ring on which they do.
      x, w: the rings on which X moves along the row and W along the column, once a step.
    """

    shifts: int
    align: Ends
    x: Ends
    w: Ends


def shifts(row: int) -> tuple[int, bool]:
    """How often a row's X tiles move to be aligned, and whether backwards round the ring.

    Rows 0 to 5 move them 0, 1 forwards, 1 backwards, 2 forwards, 2 backwards, 3 forwards.
    """
    backwards = row % 2 == 0
    return (row + 1) // 2, backwards


def _ring(line: Line, prefix: str, by: int = 1) -> list[Ends]:
    """Lays a ring; what each place of the line sends and receives on.

    Args:
      line: of PEs.
      prefix: of the colors' names.
      by: places of the ring that a tile moves on: 1, or −1 for backwards.
    """
    ring = ring_places(line.pes)
    streams = ring_streams(line.pes, prefix, by)
    streams.lay(line)
    # Where each place's tiles come from: on the ring 0, 2, 3, 1 place 2 takes those of place 0.
    receivers = np.roll(ring, -by).tolist()
    source = dict(zip(receivers, ring, strict=True))
    ends = []
    for place in range(line.pes):
        out = streams.color[place]
        into = streams.color[source[place]]
        ends.append(Ends(out, into))
    return ends


def mesh_gemm(device: Device, sizes: Sizes) -> FabricProgram:
    """The program; stamps `start` and `end` are read on every PE.

    X lies in buffer `X0`, W in `W0`, as `mesh_tiles` lays them out; the result in `C`,
    which it puts together. Only one repeat from fresh data gives the product: as in the
    source, the next takes X from where the last one left it.

    Args:
      device: gives the cycles of scalar code.
      sizes: with repeats.
    """
    if sizes.p < 2:
        raise LimitExceeded(
            f"mesh_gemm: p is {sizes.p}, must be 2 or more: tiles move between PEs"
        )
    program = FabricProgram(sizes.p, sizes.p)
    pe = _Pe(_Scalars(device), sizes, *_buffers(program, sizes))
    for name, queue in QUEUES.items():
        for number in range(COLORS):
            program.color(f"{name}{number}", queue, queue)
    streams = _streams(program, sizes.p)

    # A lower task goes first, so the order of these is that of the source's task numbers.
    _everywhere(program, "aligned", pe.alignment, streams)
    # "x done" waits for two ends, by two bits: blocked until the send of X is over, active once the
    # receive is, it runs after both in whatever order they come. "y done" does the same for W, and
    # "joint" for the two of them: the one unblocks it, the other activates it.
    for name, operation in (
        ("joint", Unblock("next")),
        ("x done", Unblock("joint")),
        ("y done", Activate("joint")),
    ):
        program.task(name, pe.task(Block(name), operation), blocked=True)
    of_steps = {}
    of_repeats = {}
    for at, own in streams.items():
        shifted = own.shifts % 2
        of_steps[at] = (shifted, own.x, own.w)
        of_repeats[at] = (own.shifts, own.align)
    _everywhere(program, "next", pe.steps, of_steps)
    _everywhere(program, "repeat", pe.repeats, of_repeats, start=True)
    return program


def _streams(program: FabricProgram, p: int) -> dict[Place, Streams]:
    """Lays all rings; every PE's streams."""
    along_row = _ring(Line(program, "x"), "X")
    along_column = _ring(Line(program, "y"), "W")
    aligning = []
    for row in range(p):
        _, backwards = shifts(row)
        by = -1 if backwards else 1
        line = Line(program, "x", np.s_[row : row + 1, :])
        aligning.append(_ring(line, "shift", by))
    streams = {}
    for row in range(p):
        count, _ = shifts(row)
        for column in range(p):
            streams[row, column] = Streams(
                count,
                aligning[row][column],
                along_row[column],
                along_column[row],
            )
    return streams


def _buffers(
    program: FabricProgram, sizes: Sizes
) -> tuple[list[Buffer], list[Buffer], Buffer]:
    """Two of X and two of W, of which one is computed on and one received into, and C."""

    def buffer(name: str, rows: int, columns: int) -> Buffer:
        return program.buffer(name, rows * columns, "float16")

    x = [
        buffer("X0", sizes.mt, sizes.kt),
        buffer("X1", sizes.mt, sizes.kt),
    ]
    w = [
        buffer("W0", sizes.kt, sizes.nt),
        buffer("W1", sizes.kt, sizes.nt),
    ]
    return x, w, buffer("C", sizes.mt, sizes.nt)


def _everywhere(
    program: FabricProgram,
    name: str,
    code: Callable[..., list[Op]],
    arguments: Mapping[Place, tuple[Any, ...]],
    *,
    start: bool = False,
) -> None:
    """Declares a task, blocked unless it starts; PEs whose code would be the same share it."""
    masks: dict[tuple[Any, ...], np.ndarray] = {}
    for place, given in arguments.items():
        nowhere = np.zeros(program.shape, bool)
        mask = masks.setdefault(given, nowhere)
        mask[place] = True
    for given, where in masks.items():
        operations = code(*given)
        program.task(name, operations, where, start=start, blocked=not start)


class _Scalars:
    """Cycles of the scalar code that the source's statements come to.

    A load from memory is used at once and so takes as long as a dependent instruction.
    """

    def __init__(self, device: Device):
        one = int(device.instruction_cycles)
        load = int(device.scalar_cycles)
        self.swap = 2 * load + 3 * one  # of two pointers, through a third
        self.count = load + 2 * one  # load, add, store
        self.test = int(device.untaken_branch_cycles)
        self.base = load + one  # a pointer into a descriptor
        self.load = one  # of several descriptor registers in a row
        self.exit = int(device.branch_cycles)


@dataclasses.dataclass
class _Pe:
    """What one PE does, run by run of its tasks."""

    cycles: _Scalars
    sizes: Sizes
    x: list[Buffer]
    w: list[Buffer]
    c: Buffer

    def task(self, *code: Op) -> list[Op]:
        """Code and the way back to the next task, a taken branch."""
        return [*code, Code(self.cycles.exit, "task exit")]

    def runs(self, runs: list[list[Op]]) -> list[Op]:
        """A task that does one of these each time it runs."""
        code: list[Op] = []
        for run in runs:
            if code:
                code.append(Pause())
            code += self.task(*run)
        return code

    # --- repeats and alignment ---

    def repeats(self, count: int, align: Ends) -> list[Op]:
        """Starts each repeat with the alignment's first shift."""
        cycles = self.cycles
        runs: list[list[Op]] = []
        for repeat in range(self.sizes.warm_up + self.sizes.repeats):
            code: list[Op] = [
                Code(2 * cycles.test + cycles.count + 2 * cycles.base, "repeat")
            ]
            if repeat == self.sizes.warm_up:
                code.append(Stamp(START))
            runs.append(code + self.shift(0, count, align))
        runs.append([Code(cycles.test, "repeats done"), Stamp(END)])
        return self.runs(runs)

    def shift(self, number: int, count: int, align: Ends) -> list[Op]:
        """One shift; after the first `count` a row's tiles move without being taken."""
        # Once the row is aligned its buffers are not swapped any more, so the tile stays in the one
        # where the last shift that counted left it.
        here = min(number, count) % 2
        cycles = self.cycles
        taken = cycles.swap + cycles.count if number <= count else 0
        scalar = 2 * cycles.test + taken + cycles.count + 2 * cycles.base
        sent = self.x[here][:]
        received = self.x[1 - here][:]
        return [
            Code(scalar, "shift"),
            self.loads(2),
            copy(send(align.out, wide=True), sent, thread=1, unblock="aligned"),
            copy(
                received,
                receive(align.into, wide=True),
                thread=2,
                activate="aligned",
            ),
        ]

    def alignment(self, count: int, align: Ends, x: Ends, w: Ends) -> list[Op]:
        """Shifts until the row is aligned; then clears the result and takes the first step."""
        # The last row, p - 1, moves p // 2 times, the most of all. Every row shifts that often, and
        # beyond its own count takes nothing.
        half = self.sizes.p // 2
        cycles = self.cycles
        runs: list[list[Op]] = []
        for number in range(1, half):
            runs.append([Block("aligned"), *self.shift(number, count, align)])
        swaps = cycles.swap if count < half else 0
        first: list[Op] = [
            Block("aligned"),
            Code(2 * cycles.test + swaps + 4 * cycles.base, "aligned"),
            copy(self.c[:], 0.0),
        ]
        runs.append(first + self.step(0, count % 2, x, w))
        return self.runs(runs)

    # --- steps ---

    def steps(self, shifted: int, x: Ends, w: Ends) -> list[Op]:
        """Every step but the first, and the last pass, which finds that all are done.

        Args:
          shifted: which of the two X buffers the alignment left the tile in.
          x, w: the rings on which tiles move.
        """
        cycles = self.cycles
        runs: list[list[Op]] = []
        for step in range(1, self.sizes.p):
            # It blocks itself first: what starts it again is "joint", when the tiles have come, and
            # its own last operation, when the product is done.
            runs.append([Block("next"), *self.step(step, shifted, x, w)])
        done = Code(2 * cycles.swap + cycles.test + cycles.exit, "steps done")
        runs.append([Block("next"), done, Activate("repeat")])
        return self.runs(runs)

    def step(self, step: int, shifted: int, x: Ends, w: Ends) -> list[Op]:
        """Swaps buffers, sends the tiles on, multiplies them meanwhile, and waits for the next."""
        x_here = (shifted + step) % 2
        w_here = step % 2
        cycles = self.cycles
        code: list[Op] = [Code(2 * cycles.swap + cycles.test, "swap")]
        if self.sizes.communicate:
            code += self.moves(x_here, w_here, x, w)
        else:
            code.append(Unblock("next"))
        for _ in range(self.sizes.compute_repeats):
            code += self.product(self.x[x_here], self.w[w_here])
        return [*code, Code(cycles.count, "step"), Activate("next")]

    def moves(self, x_here: int, w_here: int, x: Ends, w: Ends) -> list[Op]:
        """Four moves on four microthreads; the last of each pair to end starts the task chain."""
        x_sent = self.x[x_here][:]
        x_received = self.x[1 - x_here][:]
        w_sent = self.w[w_here][:]
        w_received = self.w[1 - w_here][:]
        return [
            Code(4 * self.cycles.base, "addresses"),
            self.loads(4),
            copy(send(x.out, wide=True), x_sent, thread=2, unblock="x done"),
            copy(x_received, receive(x.into, wide=True), thread=1, activate="x done"),
            copy(send(w.out, wide=True), w_sent, thread=4, unblock="y done"),
            copy(w_received, receive(w.into, wide=True), thread=3, activate="y done"),
        ]

    def product(self, x: Buffer, w: Buffer) -> list[Op]:
        """`C += X W`: for each column of X and row of W a hardware loop over the row.

        The published runs leave 3.5 cycles around each hardware loop: the loads of its three
        descriptors, and next to nothing for the two addresses that advance and the branch back,
        which the drain before them hides.
        """
        rows = self.sizes.mt
        columns = self.sizes.nt
        code: list[Op] = [Code(2 * self.cycles.base, "product")]
        for k in range(self.sizes.kt):
            column = x[k * rows : (k + 1) * rows]
            row = w[k * columns : (k + 1) * columns]
            code += [self.loads(3), Map(self.c[:], column, row)]
        return code

    def loads(self, descriptors: int) -> Code:
        """Descriptor loads in a row, which issue back to back."""
        return Code(descriptors * self.cycles.load, "descriptors")


__all__ = ["END", "Ends", "START", "Sizes", "Streams", "mesh_gemm", "shifts"]
