"""Recorded kernels written by hand and at random, for tests of what becomes of them."""

import dataclasses
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from emu import Instruction
from emu.trainium import dma_load, isa
from emu.trainium.engines.memory import dma_store
from emu.trainium.nki.tree import (
    Access,
    Affine,
    Choice,
    Loop,
    Node,
    Operation,
    Place,
    Recorded,
    Tensor,
)

F32 = np.dtype(np.float32)


def place(line: int) -> Place:
    return Place("/kernels/mine.py", line)


def affine(constant: int = 0, *terms: tuple[Loop, int]) -> Affine:
    return Affine(constant, tuple(term for term in terms if term[1]))


def loop(count: int, line: int, *body: Node, kind: str = "affine") -> Loop:
    return Loop(count, list(body), kind, place(line))


def tile(
    shape: tuple[int, ...], name: str, block: tuple[int, ...] = (), space: str = "sbuf"
) -> Tensor:
    return Tensor(shape, F32, space, name, place(1), block)


def on_chip(
    tensor: Tensor,
    member: Sequence[Affine] = (),
    axes: Sequence[tuple[int, int]] | None = None,
    offset: Affine | int = 0,
    rows: tuple[int, int, int] | None = None,
) -> Access:
    """Part of a tile; `rows` are the first partition, how many, and the step."""
    first, count, step = rows or (0, tensor.shape[0], 1)
    start = Affine(offset) if isinstance(offset, int) else offset
    free = tuple(axes) if axes is not None else ((1, math.prod(tensor.shape[1:])),)
    return Access(tensor, tuple(member), Affine(first), count, start, free, step)


def in_hbm(
    tensor: Tensor, axes: Sequence[tuple[int, int]], offset: Affine | int = 0
) -> Access:
    start = Affine(offset) if isinstance(offset, int) else offset
    return Access(tensor, (), Affine(), None, start, tuple(axes))


def operation(
    line: int,
    instruction: Instruction[..., Any],
    writes: Sequence[Access],
    reads: Sequence[Access | Affine],
    **parameters: Any,
) -> Operation:
    choice = Choice("", instruction, parameters)
    return Operation(
        instruction.name, (choice,), tuple(writes), tuple(reads), place(line)
    )


# --- at random ---


@dataclasses.dataclass
class Random:
    """A kernel of loops in loops: each turn loads, computes on tiles and stores into its own rows.

    Attributes:
      keep: whether families of tiles may be used across the turns that name them.
    """

    seed: int
    keep: bool = True

    def __post_init__(self) -> None:
        self.draw = random.Random(self.seed)
        self.line = 10

    def kernel(self) -> Recorded:
        draw = self.draw
        counts = [draw.randint(1, 3) for _ in range(draw.randint(1, 3))]
        loops = [loop(count, n) for n, count in enumerate(counts)]
        turns = math.prod(counts)
        rows, columns = draw.choice([32, 64]), draw.choice([8, 16])
        x = Tensor((turns * rows, columns), F32, "hbm", "x", role="input", number=0)
        y = Tensor((turns * rows, columns), F32, "hbm", "y", role="output", number=0)
        # Row-major among the loops, as a kernel numbers its tiles.
        terms: list[tuple[Loop, int]] = []
        number = 1
        for each in reversed(loops):
            terms.append((each, number))
            number *= each.count
        turn = affine(0, *terms)
        whole = ((columns, rows), (1, columns))
        block = tuple(counts)
        member = [affine(0, (each, 1)) for each in loops]
        if draw.random() < 0.5:
            block, member = (turns,), [turn]
        a = tile((rows, columns), "a", block)
        b = tile((rows, columns), "b", block)
        part = in_hbm(x, whole, turn.times(rows * columns))
        body: list[Node] = [
            operation(20, dma_load, [on_chip(a, member)], [part]),
            operation(21, isa.tensor_copy, [on_chip(b, member)], [on_chip(a, member)]),
            *self.halves(a, b, member, columns),
            *self.sums(a, b, member, rows, columns),
        ]
        into = in_hbm(y, whole, turn.times(rows * columns))
        store = operation(40, dma_store, [into], [on_chip(b, member)])
        nest: list[Node] = [*body, store]
        if self.keep and draw.random() < 0.5:
            # A second nest of the same loops reads what the first one has left.
            others = [dataclasses.replace(each, body=[]) for each in loops]
            swap: Mapping[Loop, Affine | int] = {
                old: affine(0, (new, 1)) for old, new in zip(loops, others, strict=True)
            }
            late = put(store, swap)
            return Recorded(
                "random",
                "nki",
                [nested(loops, body), nested(others, [late])],
                (x,),
                (y,),
                (),
            )
        return Recorded("random", "nki", [nested(loops, nest)], (x,), (y,), ())

    def halves(
        self, a: Tensor, b: Tensor, member: Sequence[Affine], columns: int
    ) -> list[Node]:
        """Each half of the columns of one tile is added to the other's, in a loop of two."""
        half = loop(2, 22)
        step = self.draw.choice([1, 2])
        axes = ((step, columns // 2),)
        offset = affine(0, (half, columns // 2 if step == 1 else 1))
        both = [on_chip(t, member, axes, offset) for t in (a, b)]
        half.body.append(operation(23, isa.tensor_tensor, both[1:], both, op="add"))
        return [half] if self.draw.random() < 0.8 else []

    def sums(
        self,
        a: Tensor,
        b: Tensor,
        member: Sequence[Affine],
        rows: int,
        columns: int,
    ) -> list[Node]:
        """A matmul summed over a loop in PSUM, copied out of it."""
        if self.draw.random() < 0.3:
            return []
        times = loop(self.draw.randint(1, 3), 30)
        sums = tile((columns, columns), "sums", a.block, "psum")
        into = on_chip(sums, member)
        register = affine(0, (times, 1))
        sources = [on_chip(a, member), on_chip(b, member), register]
        times.body.append(operation(31, isa.nc_matmul, [into], sources))
        out = on_chip(b, member, ((1, columns),), rows=(0, columns, 1))
        return [times, operation(32, isa.tensor_copy, [out], [into])]


def nested(loops: Sequence[Loop], body: Sequence[Node]) -> Loop:
    for each, inner in zip(loops, loops[1:], strict=False):
        each.body.append(inner)
    loops[-1].body.extend(body)
    return loops[0]


def put(node: Node, values: Mapping[Loop, Affine | int]) -> Node:
    """A copy of a node with other expressions in place of some loops' indices."""
    if isinstance(node, Loop):
        copy = dataclasses.replace(node, body=[])
        inner = {**values, node: affine(0, (copy, 1))}
        copy.body.extend(put(each, inner) for each in node.body)
        return copy
    assert isinstance(node, Operation)

    def access(each: Access) -> Access:
        return dataclasses.replace(
            each,
            member=tuple(index.put(values) for index in each.member),
            partition=each.partition.put(values),
            offset=each.offset.put(values),
        )

    reads = [
        access(read) if isinstance(read, Access) else read.put(values)
        for read in node.reads
    ]
    writes = tuple(map(access, node.writes))
    return dataclasses.replace(node, writes=writes, reads=tuple(reads))


def unrolled(body: Sequence[Node]) -> list[Node]:
    """The same with every turn of every loop written out."""
    flat: list[Node] = []
    for node in body:
        if isinstance(node, Loop):
            for turn in range(node.count):
                flat += unrolled([put(each, {node: turn}) for each in node.body])
        else:
            flat.append(node)
    return flat
