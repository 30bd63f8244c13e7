"""Accesses as boxes: every form against the elements that the strides name."""

import itertools
import math

import jax.numpy as jnp
import numpy as np
import pytest

from emu.regions import Bitcast, Box, Pattern
from emu.trainium import isa
from emu.trainium.nki.layout import forms, placed
from emu.trainium.nki.scopes import Scopes, scopes
from emu.trainium.nki.tree import Access, Affine, Loop, Tensor
from tests.emu.trainium.nki.trees import (
    affine,
    in_hbm,
    loop,
    nested,
    on_chip,
    operation,
    tile,
)


def read_alone(access: Access, loops: list[Loop]) -> Scopes:
    """A kernel that only reads this, in these loops."""
    into = tile((128, math.prod(access.shape) // access.shape[0]), "into")
    step = operation(20, isa.tensor_copy, [on_chip(into)], [access])
    return scopes([nested(loops, [step])] if loops else [step])


def numbers(access: Access, turns: dict[Loop, int]) -> np.ndarray:
    """The places of an access's elements in its flat buffer, by the definition of `Access`."""

    def value(index: Affine) -> int:
        return index.constant + sum(c * turns[each] for each, c in index.terms)

    tensor = access.tensor
    number = 0
    for size, index in zip(tensor.block, access.member, strict=True):
        number = number * size + value(index)
    first = value(access.offset)
    counts = [range(count) for _, count in access.axes]
    strides = [stride for stride, _ in access.axes]
    free = [
        first + sum(s * n for s, n in zip(strides, each, strict=True))
        for each in itertools.product(*counts)
    ]
    if access.partitions is None:
        return np.reshape(free, access.shape)
    one = math.prod(tensor.shape[1:])
    row = math.prod(tensor.block) * one
    rows = value(access.partition) + access.partition_step * np.arange(
        access.partitions
    )
    return np.reshape(rows[:, None] * row + number * one + np.array(free), access.shape)


def check(access: Access, loops: list[Loop]) -> Box | Pattern | None:
    """Compares what is read in every turn; returns the form."""
    found = read_alone(access, loops)
    buffer = found.of(access)
    shape = forms(found)[buffer]
    part = placed(access, buffer, shape)
    whole = np.arange(math.prod(shape), dtype=np.int32).reshape(shape)
    for turn in itertools.product(*(range(each.count) for each in loops)):
        turns = dict(zip(loops, turn, strict=True))
        starts = [
            jnp.int32(s.constant + sum(c * turns[each] for each, c in s.terms))
            for s in part.starts
        ]
        seen = whole if part.box is None else part.box.read(jnp.asarray(whole), starts)
        np.testing.assert_array_equal(seen, numbers(access, turns))
    assert not isinstance(part.box, Bitcast)
    return part.box


def test_rows_and_columns_of_a_matrix_in_hbm() -> None:
    i, j = loop(4, 1), loop(2, 2)
    x = Tensor((512, 256), np.dtype(np.float32), "hbm", role="input")
    start = affine(0, (i, 128 * 256), (j, 128))
    box = check(in_hbm(x, ((256, 128), (1, 128)), start), [i, j])
    # In the buffer's own shape: row 128·i, column 128·j.
    assert box == Box((512, 256), (128, 128), shape=(128, 128))


def test_all_of_a_tile_needs_no_box() -> None:
    t = tile((128, 8, 64), "t")
    assert check(on_chip(t, axes=((64, 8), (1, 64))), []) is None


@pytest.mark.parametrize(
    "axes, offset, expected",
    [
        (((64, 8), (1, 64)), 0, Box),  # rows of a flat tile
        (((1, 256),), 128, Box),
        (((2, 256),), 1, Box),  # every other column, from the second on
        (((1, 64), (64, 8)), 0, Box),  # transposed
        (((0, 4), (1, 128)), 128, Box),  # repeated
        (((128, 4), (0, 3), (1, 32)), 96, Box),  # repeated in the middle
        (((128, 2), (32, 2), (1, 16)), 16, Box),
        (((6, 5), (1, 2)), 3, Pattern),  # 3 is no start in rows of 2
        (((1, 6), (1, 3)), 0, Pattern),  # windows that overlap
        (((3, 4), (2, 4)), 0, Pattern),
    ],
)
def test_forms_of_a_tile(
    axes: tuple[tuple[int, int], ...], offset: int, expected: type
) -> None:
    t = tile((16, 512), "t")
    assert isinstance(check(on_chip(t, axes=axes, offset=offset), []), expected)


def test_every_other_partition() -> None:
    t = tile((128, 8), "t")
    assert isinstance(check(on_chip(t, rows=(1, 64, 2)), []), Box)


def test_a_digit_that_overflows_makes_a_finer_view() -> None:
    """A column of `[64, 1024]` at 1536·i is row 3·i of `[128, 512]`, every second one."""
    i = loop(4, 1)
    t = tile((4, 65536), "t")
    box = check(on_chip(t, axes=((1024, 16),), offset=affine(0, (i, 1536))), [i])
    assert isinstance(box, Box) and box.steps[1] == 2


def test_members_that_stay_are_a_dimension() -> None:
    i, j = loop(3, 1), loop(4, 2)
    t = tile((8, 32), "t", (3, 4))
    member = [affine(0, (i, 1)), affine(3, (j, -1))]
    # Another use, by number, keeps both dimensions.
    whole = on_chip(t, [affine(), affine()])
    access = on_chip(t, member, ((2, 16),), 1)
    step = operation(20, isa.tensor_tensor, [whole], [access, access], op="add")
    found = scopes([nested([i, j], [step])])
    assert forms(found)[found.of(access)] == (8, 3, 4, 32)


def test_a_buffer_is_declared_in_the_view_of_its_writes() -> None:
    """Rows of 64 of each 128 columns are written, so columns are declared as `[8, 2, 64]`."""
    t = tile((16, 1024), "t")
    part = on_chip(t, axes=((128, 8), (1, 64)), offset=64)
    source = tile((16, 8, 64), "s")
    read = on_chip(source, axes=((64, 8), (1, 64)))
    found = scopes([operation(20, isa.tensor_copy, [part], [read])])
    shape = forms(found)[found.of(part)]
    assert shape == (16, 8, 128)
    box = placed(part, found.of(part), shape).box
    assert isinstance(box, Box) and box.view == shape


@pytest.mark.parametrize("seed", range(40))
def test_random_accesses(seed: int) -> None:
    draw = np.random.default_rng(seed)
    dims = [int(d) for d in draw.choice([2, 3, 4, 8], size=3)]
    t = tile((4, *dims), "t")
    strides = [dims[1] * dims[2], dims[2], 1]
    loops: list[Loop] = []
    axes: list[tuple[int, int]] = []
    offset = affine(0)
    for stride, size in zip(strides, dims, strict=True):
        count = int(draw.integers(1, size + 1))
        room = size - count
        axes.append((stride, count))
        if room and draw.random() < 0.7:
            each = loop(room + 1, len(loops))
            loops.append(each)
            offset = offset.plus(affine(0, (each, stride)))
    draw.shuffle(axes)
    assert not isinstance(check(on_chip(t, axes=axes, offset=offset), loops), Pattern)
