"""MeshGEMM: tiles of two matrices shift round rings of PEs while each PE adds up their products.

WaferLLM's kernel (arXiv 2502.04563) as its authors wrote it for the WSE-3, task by task: X tiles
are first aligned along the rows, then X moves along rows and W along columns, once a step, while
the tiles at hand are multiplied. Scalar code is counted instruction by instruction, see `_Scalars`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

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
START, END = "start", "end"


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


def shifts(row: int) -> tuple[int, bool]:
    """How often a row's X tiles move to be aligned, and whether backwards round the ring."""
    return (row // 2, True) if row % 2 == 0 else ((row + 1) // 2, False)


def _ring(line: Line, prefix: str, by: int = 1) -> list[tuple[str, str]]:
    """Lays a ring; the colors on which each place of the line sends and receives."""
    ring = ring_places(line.pes)
    streams = ring_streams(line.pes, prefix, by)
    streams.lay(line)
    before = dict(zip(np.roll(ring, -by).tolist(), ring, strict=True))
    return [(streams.color[i], streams.color[before[i]]) for i in range(line.pes)]


def mesh_gemm(device: Device, s: Sizes) -> FabricProgram:
    """The program; stamps `start` and `end` are read on every PE.

    X lies in buffer `X0`, W in `W0`, as `mesh_tiles` lays them out; the result in `C`,
    which it puts together. Only one repeat from fresh data gives the product: as in the
    source, the next takes X from where the last one left it.

    Args:
      device: gives the cycles of scalar code.
      s: sizes and repeats.
    """
    if s.p < 2:
        raise LimitExceeded(
            f"mesh_gemm: p is {s.p}, must be 2 or more: tiles move between PEs"
        )
    program = FabricProgram(s.p, s.p)
    pe = _Pe(_Scalars(device), s, *_buffers(program, s))
    for name, queue in QUEUES.items():
        for k in range(COLORS):
            program.color(f"{name}{k}", queue, queue)
    row = _ring(Line(program, "x"), "X")
    column = _ring(Line(program, "y"), "W")
    aligned = [
        _ring(
            Line(program, "x", np.s_[y : y + 1, :]), "shift", -1 if shifts(y)[1] else 1
        )
        for y in range(s.p)
    ]
    at = {
        (y, x): (shifts(y)[0], *aligned[y][x], *row[x], *column[y])
        for y in range(s.p)
        for x in range(s.p)
    }
    # A lower task goes first, so the order of these is that of the source's task numbers.
    _everywhere(program, "aligned", pe.alignment, at)
    for name, operation in (
        ("joint", Unblock("next")),
        ("x done", Unblock("joint")),
        ("y done", Activate("joint")),
    ):
        program.task(name, pe.task(Block(name), operation), blocked=True)
    steps = {k: (v[0] % 2, *v[3:]) for k, v in at.items()}
    _everywhere(program, "next", pe.steps, steps)
    _everywhere(
        program, "repeat", pe.repeats, {k: v[:3] for k, v in at.items()}, start=True
    )
    return program


def _buffers(
    program: FabricProgram, s: Sizes
) -> tuple[list[Buffer], list[Buffer], Buffer]:
    x = [program.buffer(f"X{i}", s.mt * s.kt, "float16") for i in (0, 1)]
    w = [program.buffer(f"W{i}", s.kt * s.nt, "float16") for i in (0, 1)]
    return x, w, program.buffer("C", s.mt * s.nt, "float16")


def _everywhere(
    program: FabricProgram,
    name: str,
    code: Callable[..., list[Op]],
    at: dict[tuple[int, int], tuple[Any, ...]],
    *,
    start: bool = False,
) -> None:
    """Declares a task, blocked unless it starts; PEs whose code would be the same share it."""
    places: dict[tuple[Any, ...], np.ndarray] = {}
    for place, key in at.items():
        places.setdefault(key, np.zeros(program.shape, bool))[place] = True
    for key, where in places.items():
        program.task(name, code(*key), where, start=start, blocked=not start)


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
    s: Sizes
    x: list[Buffer]
    w: list[Buffer]
    c: Buffer

    def task(self, *code: Op) -> list[Op]:
        """Code and the way back to the next task, a taken branch."""
        return [*code, Code(self.cycles.exit, "task exit")]

    def runs(self, runs: list[list[Op]]) -> list[Op]:
        """A task that does one of these each time it runs."""
        out: list[Op] = []
        for run in runs:
            out += [*([Pause()] if out else []), *self.task(*run)]
        return out

    # --- repeats and alignment ---

    def repeats(self, count: int, out: str, into: str) -> list[Op]:
        """Starts each repeat with the alignment's first shift."""
        c, runs = self.cycles, []
        for k in range(self.s.warm_up + self.s.repeats):
            stamp = [Stamp(START)] if k == self.s.warm_up else []
            entry = Code(2 * c.test + c.count + 2 * c.base, "repeat")
            runs.append([entry, *stamp, *self.shift(0, count, out, into)])
        return self.runs([*runs, [Code(c.test, "repeats done"), Stamp(END)]])

    def shift(self, k: int, count: int, out: str, into: str) -> list[Op]:
        """The `k`-th shift; after the first `count` a row's tiles move without being taken."""
        here = min(k, count) % 2
        c = self.cycles
        moves = c.swap + c.count if k <= count else 0
        code = Code(2 * c.test + moves + c.count + 2 * c.base, "shift")
        return [
            code,
            self.loads(2),
            copy(send(out, wide=True), self.x[here][:], thread=1, unblock="aligned"),
            copy(
                self.x[1 - here][:],
                receive(into, wide=True),
                thread=2,
                activate="aligned",
            ),
        ]

    def alignment(self, count: int, out: str, into: str, *streams: str) -> list[Op]:
        """Shifts until the row is aligned; then clears the result and takes the first step."""
        half, c = self.s.p // 2, self.cycles
        runs = [
            [Block("aligned"), *self.shift(k, count, out, into)] for k in range(1, half)
        ]
        swaps = c.swap if count < half else 0
        code = Code(2 * c.test + swaps + 4 * c.base, "aligned")
        first = [Block("aligned"), code, copy(self.c[:], 0.0)]
        return self.runs([*runs, first + self.step(0, count % 2, *streams)])

    # --- steps ---

    def steps(self, shifted: int, *streams: str) -> list[Op]:
        """Every step but the first, and the last pass, which finds that all are done."""
        runs = [
            [Block("next"), *self.step(t, shifted, *streams)]
            for t in range(1, self.s.p)
        ]
        c = self.cycles
        done = Code(2 * c.swap + c.test + c.exit, "steps done")
        return self.runs([*runs, [Block("next"), done, Activate("repeat")]])

    def step(self, t: int, shifted: int, *streams: str) -> list[Op]:
        """Swaps buffers, sends the tiles on, multiplies them meanwhile, and waits for the next."""
        x, w = (shifted + t) % 2, t % 2
        c = self.cycles
        out: list[Op] = [Code(2 * c.swap + c.test, "swap")]
        out += self.moves(x, w, *streams) if self.s.communicate else [Unblock("next")]
        for _ in range(self.s.compute_repeats):
            out += self.product(self.x[x], self.w[w])
        return [*out, Code(c.count, "step"), Activate("next")]

    def moves(
        self, x: int, w: int, x_out: str, x_in: str, w_out: str, w_in: str
    ) -> list[Op]:
        """Four moves on four microthreads; the last of each pair to end starts the task chain."""
        return [
            Code(4 * self.cycles.base, "addresses"),
            self.loads(4),
            copy(send(x_out, wide=True), self.x[x][:], thread=2, unblock="x done"),
            copy(
                self.x[1 - x][:], receive(x_in, wide=True), thread=1, activate="x done"
            ),
            copy(send(w_out, wide=True), self.w[w][:], thread=4, unblock="y done"),
            copy(
                self.w[1 - w][:], receive(w_in, wide=True), thread=3, activate="y done"
            ),
        ]

    def product(self, x: Buffer, w: Buffer) -> list[Op]:
        """`C += X W`: for each column of X and row of W a hardware loop over the row.

        The published runs leave 3.5 cycles around each hardware loop: the loads of its three
        descriptors, and next to nothing for the two addresses that advance and the branch back,
        which the drain before them hides.
        """
        mt, nt = self.s.mt, self.s.nt
        out: list[Op] = [Code(2 * self.cycles.base, "product")]
        for k in range(self.s.kt):
            column = x[k * mt : (k + 1) * mt]
            row = w[k * nt : (k + 1) * nt]
            out += [self.loads(3), Map(self.c[:], column, row)]
        return out

    def loads(self, descriptors: int) -> Code:
        """Descriptor loads in a row, which issue back to back."""
        return Code(descriptors * self.cycles.load, "descriptors")


__all__ = ["END", "START", "Sizes", "mesh_gemm", "shifts"]
