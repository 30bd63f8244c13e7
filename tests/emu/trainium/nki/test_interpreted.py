"""The slow reading of a recorded kernel, on trees made by hand."""

import numpy as np
import pytest

from emu.errors import EmulationError
from emu.trainium import isa
from emu.trainium.nki import interpret
from emu.trainium.nki.tree import (
    Access,
    Affine,
    Choice,
    Loop,
    Operation,
    PerCore,
    Place,
    Recorded,
    Tensor,
)

HERE = Place("kernel.py", 1)
F32 = np.dtype(np.float32)
ZERO = Affine()


def tensor(shape, role="temporary", number=None, space="hbm", block=()):
    return Tensor(shape, F32, space, role=role, number=number, block=block)


def copy(dst, src):
    choice = Choice("vector", isa.tensor_copy, {})
    return Operation("nki.isa.tensor_copy", (choice,), (dst,), (src,), HERE)


def recorded(body, x, y, cores=None):
    return Recorded("kernel", "nki", body, (x,), (y,), (), cores)


def test_a_loop_moves_columns_to_rows_of_other_members():
    x, y = tensor((2, 6), "input", 0), tensor((3, 4), "output", 0)
    tile = tensor((2, 2), space="sbuf", block=(3,))
    loop = Loop(3, [], "affine", HERE)
    turn = Affine(0, ((loop, 1),))
    whole = Access(tile, (turn,), ZERO, 2, ZERO, ((1, 2),))
    # Two rows of columns 2 i and 2 i + 1, then both as row i of four.
    loop.body = [
        copy(whole, Access(x, (), ZERO, None, turn.times(2), ((6, 2), (1, 2)))),
        copy(Access(y, (), ZERO, None, turn.times(4), ((2, 2), (1, 2))), whole),
    ]
    given = np.arange(12, dtype=np.float32).reshape(2, 6)
    (result,) = interpret.run(recorded([loop], x, y), given)
    expected = given.reshape(2, 3, 2).swapaxes(0, 1).reshape(3, 4)
    np.testing.assert_array_equal(result, expected)


def test_cores_share_hbm_and_not_their_tiles():
    x, y = tensor((2, 4), "input", 0), tensor((2, 4), "output", 0)
    tile = tensor((1, 4), space="sbuf")
    cores = Loop(2, [], "cores", HERE)
    row = Affine(0, ((cores, 4),))
    whole = Access(tile, (), ZERO, 1, ZERO, ((1, 4),))
    load = copy(whole, Access(x, (), ZERO, None, row, ((4, 1), (1, 4))))
    others = [
        copy(Access(y, (), ZERO, None, Affine(4 * place), ((4, 1), (1, 4))), whole)
        for place in (1, 0)
    ]
    body = [load, PerCore(([others[0]], [others[1]]))]
    given = np.arange(8, dtype=np.float32).reshape(2, 4)
    (result,) = interpret.run(recorded(body, x, y, cores), given)
    np.testing.assert_array_equal(result, given[::-1])


def test_an_address_outside_its_tensor_is_refused():
    x, y = tensor((4,), "input", 0), tensor((4,), "output", 0)
    beyond = Access(x, (), ZERO, None, Affine(1), ((1, 4),))
    here = Access(y, (), ZERO, None, ZERO, ((1, 4),))
    with pytest.raises(EmulationError, match="elements 1 to 4, must be 0 to 3"):
        interpret.run(recorded([copy(here, beyond)], x, y), np.zeros(4, np.float32))
