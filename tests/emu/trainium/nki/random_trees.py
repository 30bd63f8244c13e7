"""Recorded kernels made at random, for properties that hold of every kernel.

Tiles are 4 partitions by 8. A tile is made anew in every turn of the loops around it, as a kernel
that calls `nl.load` in a loop does, or declared outside of some of them and written many times.
"""

import numpy as np

from emu.trainium import isa
from emu.trainium.engines.dma_compute import dma_copy
from emu.trainium.nki.tree import (
    Access,
    Affine,
    Choice,
    Loop,
    Operation,
    Place,
    Recorded,
    Tensor,
)

HERE = Place("kernel.py", 1)
F32 = np.dtype(np.float32)
ROWS, COLUMNS = 4, 8
LOAD = Choice("dma", dma_copy, {"queue": "load_queue"})
STORE = Choice("dma", dma_copy, {"queue": "store_queue"})
COPIES = (
    Choice("vector", isa.tensor_copy, {}),
    Choice("scalar", isa.activation, {"op": "copy"}),
)
TILES = 16


def operation(name, choices, writes, reads, line=1):
    return Operation(name, choices, writes, reads, Place("kernel.py", line))


def tile(path=(), space="sbuf", shape=(ROWS, COLUMNS), name=""):
    return Tensor(shape, F32, space, name, HERE, tuple(loop.count for loop in path))


def whole(tensor, member=()):
    free = tensor.shape[1]
    return Access(
        tensor, tuple(member), Affine(), tensor.shape[0], Affine(), ((1, free),)
    )


def of(path):
    return tuple(Affine(0, ((loop, 1),)) for loop in path)


def in_hbm(tensor, number, columns=COLUMNS):
    """Tile `number`, an expression, of a tensor `[TILES, ROWS, COLUMNS]`."""
    offset = number.times(ROWS * COLUMNS)
    return Access(tensor, (), Affine(), None, offset, ((COLUMNS, ROWS), (1, columns)))


def either(instruction, **parameters):
    """An operation that Vector or GpSimd may run."""
    return (
        Choice("vector", instruction, {**parameters, "engine": "vector"}),
        Choice("gpsimd", instruction, {**parameters, "engine": "gpsimd"}),
    )


class Tree:
    """One random kernel."""

    def __init__(self, seed, size=10):
        self.random = np.random.default_rng(seed)
        self.left = size
        self.line = 0
        self.x = Tensor(
            (TILES, ROWS, COLUMNS), F32, "hbm", "x", HERE, role="input", number=0
        )
        self.y = Tensor(
            (TILES, ROWS, COLUMNS), F32, "hbm", "y", HERE, role="output", number=0
        )
        self.stored = 0
        body = []
        # So that even a kernel without stores has a result.
        zero = tile()
        body.append(self.made("memset", isa.memset, whole(zero), (), value=0.0))
        every = Loop(TILES, [], "affine", HERE)
        target = in_hbm(self.y, Affine(0, ((every, 1),)))
        every.body = [operation("store", (STORE,), (target,), (whole(zero),))]
        body.append(every)
        body += self.body((), [])
        self.recorded = Recorded(
            "kernel", "neuronxcc.nki", body, (self.x,), (self.y,), ()
        )

    def pick(self, choices):
        return choices[self.random.integers(len(choices))]

    def made(self, name, instruction, write, reads, **parameters):
        self.line += 1
        choice = Choice("vector", instruction, parameters)
        return operation(name, (choice,), (write,), tuple(reads), self.line)

    def number(self, path):
        """A tile's number, with some of the loops around in it."""
        terms = []
        for loop in path:
            if self.random.random() < 0.5:
                terms.append((loop, 1))
        return Affine(int(self.random.integers(4)), tuple(terms))

    def body(self, path, seen):
        """Nodes; `seen` are accesses that are written when they run, readable here."""
        seen = list(seen)
        nodes = []
        for _ in range(int(self.random.integers(2, 6))):
            if self.left <= 0:
                break
            kind = self.random.random()
            if kind < 0.3 and len(path) < 3:
                nodes += self.loop(path, seen)
            else:
                self.left -= 1
                nodes += self.statement(path, seen)
        if not nodes:
            nodes += self.statement(path, seen)
        return nodes

    def loop(self, path, seen):
        loop = Loop(
            int(self.random.integers(1, 7)),
            [],
            self.pick(["affine", "sequential"]),
            HERE,
        )
        before = []
        total = None
        if self.random.random() < 0.4:
            # A running sum, declared outside of the loop.
            total = whole(tile(path), of(path))
            before.append(self.made("memset", isa.memset, total, (), value=0.0))
        inner = []
        if self.random.random() < 0.5 and seen:
            family = whole(tile((*path, loop)), of((*path, loop)))
            inner.append(self.load(family, (*path, loop)))
        else:
            family = None
        loop.body = inner + self.body(
            (*path, loop), seen + ([family] if family else [])
        )
        if total:
            added = family or (self.pick(seen) if seen else None)
            if added:
                loop.body.append(
                    self.made("add", isa.tensor_tensor, total, (total, added), op="add")
                )
            seen.append(total)
        if family is not None:
            # What each turn made is read after the loop, in another order.
            other = Loop(loop.count, [], "affine", HERE)
            last = Affine(loop.count - 1, ((other, -1),))
            index = self.pick([Affine(0, ((other, 1),)), last])
            part = whole(family.tensor, (*of(path), index))
            result = whole(tile((*path, other)), of((*path, other)))
            other.body = [
                self.binary(result, part, self.pick(seen) if seen else part),
                self.store(result, (*path, other)),
            ]
            return [*before, loop, other]
        return [*before, loop]

    def load(self, access, path):
        self.line += 1
        source = in_hbm(self.x, self.number(path))
        return operation("load", (LOAD,), (access,), (source,), self.line)

    def store(self, access, path):
        self.line += 1
        self.stored += 1
        target = in_hbm(self.y, self.number(path))
        return operation("store", (STORE,), (target,), (access,), self.line)

    def binary(self, result, one, other):
        self.line += 1
        op = self.pick(["add", "multiply", "subtract"])
        choices = either(isa.tensor_tensor, op=op)
        return operation("tensor_tensor", choices, (result,), (one, other), self.line)

    def statement(self, path, seen):
        kind = self.random.random()
        # Of a loop's every turn, or one for all turns of the inner loops.
        around = path if self.random.random() < 0.8 else path[: len(path) // 2]
        result = whole(tile(around), of(around))
        if kind < 0.35 or not seen:
            nodes = [self.load(result, path)]
        elif kind < 0.6:
            nodes = [self.binary(result, self.pick(seen), self.pick(seen))]
        elif kind < 0.75:
            nodes = self.product(result, path, self.pick(seen), self.pick(seen))
        elif kind < 0.85:
            turned = whole(tile(path, "psum", (COLUMNS, ROWS)), of(path))
            back = whole(tile(path, "sbuf", (COLUMNS, ROWS)), of(path))
            again = whole(tile(path, "psum"), of(path))
            nodes = [
                self.made("transpose", isa.nc_transpose, turned, (self.pick(seen),)),
                self.made("copy", isa.tensor_copy, back, (turned,)),
                self.made("transpose", isa.nc_transpose, again, (back,)),
                self.made("copy", isa.tensor_copy, result, (again,)),
            ]
        else:
            return [self.store(self.pick(seen), path)]
        seen.append(result)
        return nodes

    def product(self, result, path, one, other):
        """A sum of products in a bank, over a loop."""
        loop = Loop(int(self.random.integers(1, 4)), [], "affine", HERE)
        bank = whole(tile(path, "psum", (COLUMNS, COLUMNS)), of(path))
        part = Access(
            bank.tensor, bank.member, Affine(), ROWS, Affine(), ((1, COLUMNS),)
        )
        flag = Affine(0, ((loop, 1),))
        moving = whole(tile((*path, loop)), of((*path, loop)))
        loop.body = [
            self.load(moving, (*path, loop)),
            self.made("matmul", isa.nc_matmul, bank, (one, moving, flag)),
        ]
        return [loop, self.made("copy", isa.tensor_copy, result, (part,))]


__all__ = ["LOAD", "STORE", "Tree"]
