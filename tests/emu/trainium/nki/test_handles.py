"""Handles against NumPy: a view names the elements that NumPy's same expression gives."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from emu.errors import EmulationError, LimitExceeded, WrongShape
from emu.trainium.nki.handles import Handle, whole_tensor
from emu.trainium.nki.index import Ds, arange, mgrid
from emu.trainium.nki.tree import Access, Tensor

ROWS = np.arange(128)
COLUMNS = np.arange(32)


def handle(*shape: int, space: str = "hbm", block: tuple[int, ...] = ()) -> Handle:
    return whole_tensor(Tensor(shape, np.dtype(np.float32), space, "t", block=block))


def elements(access: Access) -> np.ndarray:
    """Flat numbers, in the tensor, of the elements of an access, in the access's shape."""
    flat = np.full((), access.offset.constant)
    for stride, count in access.axes:
        flat = np.add.outer(flat, stride * np.arange(count))
    if access.partitions is None:
        return flat
    row = int(np.prod(access.tensor.shape[1:]))
    steps = access.partition_step * np.arange(access.partitions)
    return np.add.outer(row * (access.partition.constant + steps), flat)


def same(view: Handle, numbers: np.ndarray) -> None:
    assert view.shape == view.access().shape
    np.testing.assert_array_equal(
        elements(view.access()).reshape(numbers.shape), numbers
    )


KEYS: list[tuple[tuple[int, ...], Callable[[Any], Any], Callable[[Any], Any]]] = [
    ((128, 64), lambda t: t[3:100, 5], lambda t: t[3:100, 5]),
    ((128, 64), lambda t: t[::2, 60:4:-3], lambda t: t[::2, 60:4:-3]),
    ((128, 8, 4), lambda t: t[..., Ds(1, 2)], lambda t: t[..., 1:3]),
    ((128, 8, 4), lambda t: t[:, None, 2], lambda t: t[:, None, 2]),
    ((128, 8, 4), lambda t: t[-1:, -2, :3], lambda t: t[-1:, -2, :3]),
    (
        (128, 64),
        lambda t: t[arange(128)[:, None], 32 + arange(32)[None, :]],
        lambda t: t[ROWS[:, None], 32 + COLUMNS[None, :]],
    ),
    (
        (128, 8, 32),
        lambda t: t[arange(64)[:, None] + 3, 5, 31 - arange(32)[None, :]],
        lambda t: t[ROWS[:64, None] + 3, 5, 31 - COLUMNS[None, :]],
    ),
    (
        (128, 256),
        lambda t: t[
            arange(128)[:, None, None],
            64 * arange(4)[None, :, None] + arange(32)[None, None, :],
        ],
        lambda t: t[ROWS[:, None, None], 64 * np.arange(4)[None, :, None] + COLUMNS],
    ),
    ((128, 64), lambda t: t[mgrid[0:64, 0:32]], lambda t: t[:64, :32]),
    ((128, 64), lambda t: t[0, arange(64)], lambda t: t[0:1]),
]


@pytest.mark.parametrize("space", ["hbm", "sbuf"])
@pytest.mark.parametrize("case", range(len(KEYS)))
def test_keys_name_what_numpy_names(case: int, space: str) -> None:
    shape, ours, numpys = KEYS[case]
    numbers = np.arange(np.prod(shape)).reshape(shape)
    same(ours(handle(*shape, space=space)), numpys(numbers))
    # Again, from what was kept, and at another place of the tensor.
    same(ours(handle(*shape, space=space)), numpys(numbers))


def test_views_are_numpys() -> None:
    numbers = np.arange(128 * 24).reshape(128, 24)
    tile = handle(128, 24, space="sbuf")
    same(
        tile.reshape((128, 2, -1)).permute((0, 2, 1)),
        numbers.reshape(128, 2, 12).swapaxes(1, 2),
    )
    same(tile.slice(1, 3, 21, 2).expand_dim(1), numbers[:, None, 3:21:2])
    same(
        tile.rearrange("p (a b) -> p b a", a=4),
        numbers.reshape(128, 4, 6).swapaxes(1, 2),
    )
    same(tile[:, 0:1].broadcast(1, 7), np.broadcast_to(numbers[:, :1], (128, 7)))
    # Two rows apart, from partition 4 on: element 3 and every second after it.
    same(tile.ap([[48, 8], [2, 5]], offset=4 * 24 + 3), numbers[4:20:2, 3:13:2])
    wide = tile.view(np.int16)
    assert wide.shape == (128, 48) and wide.access().cast == np.dtype(np.int16)


def test_a_mask_clips_and_what_it_leaves_must_fit() -> None:
    rows, columns = arange(128)[:, None], arange(64)[None, :]
    hbm = handle(300, 64)
    tail = hbm[256 + rows, columns]
    assert tail.access(256 + rows < 300).shape == (44, 64)
    assert tail.access((256 + rows < 300) & (columns >= 60)).shape == (44, 4)
    assert hbm[rows, columns].access(rows < 0).shape == (0, 0)
    with pytest.raises(
        LimitExceeded, match="dimension 0 of t has 300 elements .* to 383"
    ):
        tail.access()
    with pytest.raises(LimitExceeded, match="to 300"):
        tail.access(256 + rows <= 300)
    with pytest.raises(EmulationError, match="affine_select"):
        hbm[rows, columns].access(rows >= columns)


def test_block_dimensions_are_members() -> None:
    tiles = handle(128, 16, space="sbuf", block=(4, 3))
    tile = tiles[2, 1, arange(128)[:, None], arange(16)[None, :]]
    assert [index.constant for index in tile.access().member] == [2, 1]
    assert tiles[2].shape == (3, 128, 16) and tiles[2][1].same(tiles[2, 1])
    with pytest.raises(EmulationError, match="block dimensions"):
        tiles[2].access()


def test_what_the_hardware_has_no_pattern_for_is_refused() -> None:
    tile = handle(128, 64, space="sbuf")
    with pytest.raises(WrongShape, match="other partitions"):
        tile.reshape((64, 128))
    with pytest.raises(WrongShape, match="steps through partitions"):
        tile.ap([[32, 4], [1, 32]])
    with pytest.raises(LimitExceeded, match="reaches from 0 to 64"):
        tile.ap([[64, 128], [1, 65]]).access()
    with pytest.raises(WrongShape, match="first axis"):
        tile[arange(64)[None, :], arange(64)[:, None]].access()
    with pytest.raises(WrongShape, match="partition"):
        tile.permute((1, 0))
    with pytest.raises(EmulationError, match="branch"):
        bool(tile)
