"""Rolling is exact: the tree, unrolled, is what was recorded, operation by operation."""

import dataclasses
import random
from collections.abc import Callable, Hashable, Iterator

import numpy as np
import pytest

from emu.trainium import isa
from emu.trainium.nki.handles import Handle, fresh, whole_tensor
from emu.trainium.nki.index import arange
from emu.trainium.nki.record import RECORDER, Recorder
from emu.trainium.nki.tree import (
    Access,
    Affine,
    Choice,
    Loop,
    Node,
    Operation,
    Tensor,
    walk,
)

CHOICES = (Choice("vector", isa.tensor_copy, {}),)
Program = Callable[["Trace", Handle], None]


@dataclasses.dataclass
class Trace:
    """What a program asked of the recorder, in order, before anything is rolled."""

    recorder: Recorder
    operations: list[Operation] = dataclasses.field(default_factory=list)

    def tile(self, space: str = "sbuf") -> Handle:
        return fresh((128, 64), np.float32, space)

    def op(
        self, destination: Handle, *operands: "Handle | bool | int", name: str = "op"
    ) -> None:
        reads = [x.access() if isinstance(x, Handle) else x for x in operands]
        made = self.recorder.emit(name, CHOICES, [destination.access()], reads)
        self.operations.append(made)

    def loop(self, count: int) -> Iterator[int]:
        return self.recorder.loop(count, "affine")


def rolled(program: Program) -> tuple[Trace, list[Node]]:
    """A program's trace, and the tree that rolling makes of it."""
    trace = Trace(Recorder("nki", "trn2"))
    token = RECORDER.set(trace.recorder)
    try:
        shape = (4096, 64)
        source = Tensor(shape, np.dtype(np.float32), "hbm", "x", role="input")
        program(trace, whole_tensor(source))
    finally:
        RECORDER.reset(token)
    return trace, trace.recorder.roll.finish()[0]


def unrolled(
    body: list[Node], turns: dict[Loop, int]
) -> Iterator[tuple[Operation, dict]]:
    for node in body:
        if isinstance(node, Loop):
            for turn in range(node.count):
                yield from unrolled(node.body, {**turns, node: turn})
        else:
            assert isinstance(node, Operation)
            yield node, turns


def at(address: Affine, turns: dict[Loop, int]) -> int:
    """An address in one turn of the loops; it may name no loop but those around it."""
    return address.constant + sum(c * turns[loop] for loop, c in address.terms)


def check(program: Program) -> list[Node]:
    """That the tree says what the trace says; gives the tree."""
    trace, body = rolled(program)
    said = list(unrolled(body, {}))
    assert len(said) == len(trace.operations)
    names: dict[Tensor, tuple[Tensor, tuple[int, ...]]] = {}
    for (operation, turns), meant in zip(said, trace.operations, strict=True):
        assert (operation.name, operation.place) == (meant.name, meant.place)
        parts = (*operation.writes, *operation.reads)
        wanted = (*meant.writes, *meant.reads)
        for part, want in zip(parts, wanted, strict=True):
            if isinstance(part, Affine) or isinstance(want, Affine):
                assert isinstance(part, Affine) and isinstance(want, Affine)
                value = at(part, turns)
                flag = want.constant in (0, 1)
                assert (
                    bool(value) == bool(want.constant)
                    if flag
                    else value == want.constant
                )
                continue
            assert at(part.offset, turns) == want.offset.constant
            assert at(part.partition, turns) == want.partition.constant
            assert (part.partitions, part.axes) == (want.partitions, want.axes)
            assert part.tensor.shape == want.tensor.shape
            member = tuple(at(index, turns) for index in part.member)
            for index, size in zip(member, part.tensor.block, strict=True):
                assert 0 <= index < size
            # One recorded tensor is one member of one family, wherever it is used.
            assert names.setdefault(want.tensor, (part.tensor, member)) == (
                part.tensor,
                member,
            )
    assert len(set(names.values())) == len(names)
    return body


def shape(body: list[Node]) -> list[Hashable]:
    """Loops as [turns, ...] and operations as their names."""
    return [
        (node.count, *shape(node.body)) if isinstance(node, Loop) else node.name  # pyright: ignore[reportAttributeAccessIssue]
        for node in body
    ]


def accesses(body: list[Node]) -> list[Access]:
    return [access for operation, _ in walk(body) for access in operation.accesses]


def test_nested_loops_are_one_operation_with_affine_addresses() -> None:
    def program(trace: Trace, x: Handle) -> None:
        tile = trace.tile()
        for i in trace.loop(4):
            for j in trace.loop(8):
                trace.op(tile, x[1024 * i + 128 * j : 1024 * i + 128 * j + 128])

    body = check(program)
    assert shape(body) == [(4, (8, "op"))]
    ((operation, (outer, inner)),) = walk(body)
    read = operation.reads[0]
    assert isinstance(read, Access)
    assert dict(read.offset.terms) == {outer: 1024 * 64, inner: 128 * 64}


def test_a_row_tail_stays_apart() -> None:
    def program(trace: Trace, x: Handle) -> None:
        rows = arange(128)[:, None]
        for i in trace.loop(4):
            tile = trace.tile()
            mask = 128 * i + rows < 400
            source = x[128 * i + rows, arange(64)[None, :]].access(mask)
            destination = tile[rows, arange(64)[None, :]].access(mask)
            made = trace.recorder.emit("load", CHOICES, [destination], [source])
            trace.operations.append(made)

    body = check(program)
    assert shape(body) == [(3, "load"), "load"]
    assert [access.partitions for access in accesses(body) if access.partitions] == [
        128,
        16,
    ]


def test_tiles_of_a_loop_are_a_family_and_lists_of_tiles_members_of_it() -> None:
    def program(trace: Trace, x: Handle) -> None:
        tiles = [trace.tile() for _ in trace.loop(6)]
        for i in trace.loop(6):
            trace.op(tiles[i], x[:128], name="load")
        for i in trace.loop(6):
            trace.op(tiles[5 - i], tiles[i])

    body = check(program)
    assert shape(body) == [(6, "load"), (6, "op")]
    family = {access.tensor for access in accesses(body) if access.space == "sbuf"}
    assert [tensor.block for tensor in family] == [(6,)]


def test_buffers_in_turn_make_several_iterations_one_turn() -> None:
    def program(trace: Trace, x: Handle) -> None:
        buffers = [trace.tile() for _ in trace.loop(3)]
        for i in trace.loop(13):
            trace.op(buffers[i % 3], x[i : i + 128])

    body = check(program)
    assert shape(body) == [(4, "op", "op", "op"), "op"]
    # No loop goes from one buffer to another: three tensors, not a family.
    assert {a.tensor.block for a in accesses(body) if a.space == "sbuf"} == {()}


def test_a_carried_tile_is_the_member_before() -> None:
    def program(trace: Trace, x: Handle) -> None:
        before = trace.tile()
        for _ in trace.loop(9):
            tile = trace.tile()
            trace.op(tile, before)
            before = tile

    body = check(program)
    # The first iteration reads another tensor.
    assert shape(body) == ["op", (8, "op")]
    assert isinstance(body[1], Loop)
    (operation,) = body[1].body
    assert isinstance(operation, Operation) and isinstance(operation.reads[0], Access)
    write, read = operation.writes[0], operation.reads[0]
    assert write.tensor is read.tensor
    assert write.member[0].constant - read.member[0].constant == 1


def test_an_accumulate_register_is_the_sum_of_the_loops_that_go_on() -> None:
    def program(trace: Trace, x: Handle) -> None:
        for _ in trace.loop(2):
            bank = trace.tile("psum")
            for i in trace.loop(3):
                for j in trace.loop(4):
                    trace.op(bank, x[:128], i > 0 or j > 0)

    body = check(program)
    assert shape(body) == [(2, (3, (4, "op")))]
    ((operation, (_, outer, inner)),) = walk(body)
    assert isinstance(operation.reads[1], Affine)
    assert dict(operation.reads[1].terms) == {outer: 1, inner: 1}
    assert operation.reads[1].constant == 0


def test_a_triangle_stays_unrolled_outside_and_rolls_inside() -> None:
    def program(trace: Trace, x: Handle) -> None:
        tile = trace.tile()
        for i in trace.loop(5):
            for j in trace.loop(i + 1):
                trace.op(tile, x[128 * j : 128 * j + 128])

    assert shape(check(program)) == ["op", (2, "op"), (3, "op"), (4, "op"), (5, "op")]


def test_loops_end_at_break_and_when_two_run_together() -> None:
    def program(trace: Trace, x: Handle) -> None:
        tile = trace.tile()
        for i in trace.loop(9):
            if i == 5:
                break
            trace.op(tile, x[i : i + 128], name="broken")
        for i, j in zip(trace.loop(4), trace.loop(4), strict=True):
            trace.op(tile, x[i + j : i + j + 128], name="zipped")
        trace.op(tile, x[:128], name="after")

    assert shape(check(program)) == [(5, "broken"), (4, "zipped"), "after"]


class Writer:
    """A random program: nested loops over tiles from here and there."""

    def __init__(self, seed: int):
        self.random = random.Random(seed)

    def body(
        self, trace: Trace, x: Handle, tiles: list[Handle], depth: int, turn: int
    ) -> None:
        # A statement is chosen by the place in the program, not by the turn, or nothing rolls.
        own = list(tiles)
        for _ in range(self.random.randint(1, 4)):
            self.statement(trace, x, own, depth, turn)

    def statement(
        self, trace: Trace, x: Handle, tiles: list[Handle], depth: int, turn: int
    ) -> None:
        choose = self.random
        kind = choose.choice(
            ["op", "op", "tile", "loop", "loop", "list", "carry", "if"]
        )
        state = choose.getrandbits(32)
        if kind == "op":
            factor, which = choose.choice([0, 1, 3, 64]), choose.randrange(len(tiles))
            step = choose.choice([0, 1, 1, 2])
            target = tiles[(which + step * turn) % len(tiles)]
            flag = choose.choice([True, False, turn > 0, turn % 2 == 0])
            trace.op(
                target,
                x[factor * turn : factor * turn + 128],
                tiles[which],
                flag,
                5 * turn,
            )
        elif kind == "tile":
            tiles.append(trace.tile(choose.choice(["sbuf", "psum"])))
        elif kind == "list":
            count = choose.randint(2, 5)
            tiles.extend([trace.tile() for _ in trace.loop(count)])
        elif kind == "if":
            wanted = choose.choice([0, 1, 2])
            if turn == wanted:
                self.body(trace, x, tiles, depth + 1, turn)
        elif depth < 3:
            count = choose.choice([1, 2, 3, 4, 6, 7, turn % 4 + 1])
            for i in trace.loop(count):
                self.random = random.Random(state)
                if kind == "carry":
                    tile = trace.tile()
                    trace.op(tile, tiles[-1])
                    tiles.append(tile)
                self.body(trace, x, tiles, depth + 1, i)
        self.random = random.Random(state + 1)


@pytest.mark.parametrize("part", range(8))
def test_random_programs_unroll_to_what_was_recorded(part: int) -> None:
    loops = 0
    for seed in range(25 * part, 25 * part + 25):
        writer = Writer(seed)

        def program(trace: Trace, x: Handle, writer: Writer = writer) -> None:
            for i in trace.loop(3):
                writer.random = random.Random(seed)
                writer.body(trace, x, [trace.tile()], 0, i)

        body = check(program)
        loops += len({loop for _, path in walk(body) for loop in path})
    # And it does roll.
    assert loops > 25
