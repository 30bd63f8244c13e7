"""What kernels of libraries rely on: bytes in another format, parts that cross cores, objects."""

import dataclasses
import inspect
from collections.abc import Sequence
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest

from emu.errors import LimitExceeded
from emu.trainium.nki import load
from emu.trainium.nki.counting import Range
from emu.trainium.nki.dtypes import PACKED
from emu.trainium.nki.record import record
from emu.trainium.nki.time import nki_time
from emu.trainium.nki.tree import walk
from tests.emu.trainium.nki.test_new_kernels import both, drawn, nisa, nl

F32 = np.float32


def scaled_with_its_scale(x):
    """Rows as 8-bit floats of at most 100, and behind each the factor, as four of its bytes."""
    rows, columns = x.shape
    tile = nl.ndarray(x.shape, nl.float32, buffer=nl.sbuf)
    nisa.dma_copy(dst=tile, src=x)
    most = nl.ndarray((rows, 1), nl.float32, buffer=nl.sbuf)
    nisa.tensor_reduce(most, nl.maximum, tile, axis=1)
    factor = nl.ndarray((rows, 1), nl.float32, buffer=nl.sbuf)
    nisa.reciprocal(factor, most)
    small = nl.ndarray(x.shape, nl.float8_e4m3, buffer=nl.sbuf)
    nisa.tensor_scalar(small, tile, nl.multiply, factor, op1=nl.multiply, operand1=64.0)
    out = nl.ndarray((rows, columns + 4), nl.float8_e4m3, buffer=nl.shared_hbm)
    nisa.dma_copy(dst=out[:, 0:columns], src=small)
    nisa.dma_copy(dst=out[:, columns : columns + 4], src=most.view(nl.float8_e4m3))
    return out


def test_bytes_of_one_format_are_stored_among_those_of_another():
    x = np.abs(drawn(32, 16)) + 1
    made = nki_time(scaled_with_its_scale, [x], api="nki")
    found = np.ascontiguousarray(np.asarray(made.values(x)))
    most = x.max(1, keepdims=True)
    np.testing.assert_array_equal(found[:, 16:].copy().view(F32), most)
    np.testing.assert_allclose(found[:, :16].astype(F32), 64 * x / most, rtol=0.07)


def product_of_words(x, y, x_scale, y_scale, packed):
    """Microscaled tiles that are given as 32-bit words."""
    k, m = x.shape
    n = y.shape[1]
    held = []
    for words, columns in ((x, m), (y, n)):
        tile = nl.ndarray((k, columns), packed, buffer=nl.sbuf)
        pattern = [[columns, k], [1, columns]]
        nisa.dma_copy(dst=tile, src=words.ap(pattern=pattern, offset=0, dtype=packed))
        held.append(tile)
    scales = []
    for given, columns in ((x_scale, m), (y_scale, n)):
        tile = nl.ndarray((k // 8, columns), nl.uint8, buffer=nl.sbuf)
        nisa.dma_copy(dst=tile, src=given)
        scales.append(tile)
    sums = nl.ndarray((m, n), nl.float32, buffer=nl.psum)
    nisa.nc_matmul_mx(sums, *held, *scales)
    result = nl.ndarray((m, n), nl.float32, buffer=nl.sbuf)
    nisa.tensor_copy(result, sums)
    out = nl.ndarray((m, n), nl.float32, buffer=nl.shared_hbm)
    nisa.dma_copy(dst=out, src=result)
    return out


def test_words_are_multiplied_as_the_packed_elements_that_they_hold():
    left, right = (
        drawn(32, columns * 4, seed=columns).astype(ml_dtypes.float8_e4m3fn)
        for columns in (8, 16)
    )
    scales = [np.full((4, columns), 127 + 2, np.uint8) for columns in (8, 16)]
    words = [each.view(np.uint32) for each in (left, right)]
    packed = PACKED["float8_e4m3fn_x4"]
    found = both(product_of_words, *words, *scales, packed, device="trn3")
    # A scale of 127 is 1.
    values = [4 * each.astype(F32).reshape(32, -1, 4) for each in (left, right)]
    wanted = np.einsum("kmq,knq->mn", *values)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def halves_exchanged(x):
    """Each core squares its half of the columns and gets the other's."""
    rows, columns = x.shape
    half, core = columns // 2, nl.program_id(0)
    tile = nl.ndarray(x.shape, x.dtype, buffer=nl.sbuf)
    mine = nl.ds(core * half, half)
    theirs = nl.ds((1 - core) * half, half)
    nisa.dma_copy(dst=tile[:, mine], src=x[:, mine])
    nisa.tensor_tensor(tile[:, mine], tile[:, mine], tile[:, mine], op=nl.multiply)
    nisa.sendrecv(
        src=tile[:, mine],
        dst=tile[:, theirs],
        send_to_rank=1 - core,
        recv_from_rank=1 - core,
    )
    out = nl.ndarray((2, *x.shape), x.dtype, buffer=nl.shared_hbm)
    nisa.dma_copy(dst=out[core], src=tile)
    return out


def test_cores_exchange_parts_of_a_tile():
    x = drawn(16, 8)
    found = both(halves_exchanged, x, grid=(2,))
    np.testing.assert_array_equal(found, np.stack([x * x, x * x]))
    # No engine copies: a DMA takes the part where it lies.
    made = record(halves_exchanged, [x], api="nki", grid=(2,))
    names = [operation.name for operation, _ in walk(made.body)]
    assert "nki.isa.sendrecv" in names and "nki.isa.tensor_copy" not in names


def sums_alone(x):
    """Only the sums of squares are wanted: the squares all go to one place."""
    rows, columns = x.shape
    tile = nl.ndarray(x.shape, nl.float32, buffer=nl.sbuf)
    nisa.dma_copy(dst=tile, src=x)
    unread = nl.ndarray((rows, 1), nl.float32, buffer=nl.sbuf)
    total = nl.ndarray((rows, 1), nl.float32, buffer=nl.sbuf)
    nisa.activation_reduce(
        unread.ap([[1, rows], [0, columns]]),
        nl.square,
        tile,
        reduce_op=nl.add,
        reduce_res=total,
    )
    out = nl.ndarray((rows, 2), nl.float32, buffer=nl.shared_hbm)
    nisa.dma_copy(dst=out[:, 0:1], src=total)
    nisa.dma_copy(dst=out[:, 1:2], src=unread)
    return out


def test_of_what_goes_to_one_place_the_last_is_left():
    x = drawn(16, 24)
    wanted = np.stack([(x * x).sum(1), (x * x)[:, -1]], 1)
    np.testing.assert_allclose(both(sums_alone, x), wanted, rtol=1e-5)


def unlike_axes(x):
    """A tile of `[p, 2, 4]` with a gap between the halves, added to one of `[p, 8]`."""
    rows, _ = x.shape
    tile = nl.ndarray((rows, 2, 6), x.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=tile, src=x.reshape((rows, 2, 6)))
    sums = nl.ndarray((rows, 8), x.dtype, buffer=nl.sbuf)
    nisa.memset(sums, 1.0)
    nisa.tensor_tensor(sums, sums, tile[:, :, 0:4], op=nl.add)
    out = nl.ndarray((rows, 8), x.dtype, buffer=nl.shared_hbm)
    nisa.dma_copy(dst=out, src=sums)
    return out


def test_engines_count_elements_and_no_dimensions():
    x = drawn(16, 12)
    wanted = 1 + x.reshape(16, 2, 6)[:, :, :4].reshape(16, 8)
    np.testing.assert_array_equal(both(unlike_axes, x), wanted)


@dataclasses.dataclass
class Settings(nl.NKIObject):
    """As libraries hold what a kernel works with; a field may be left out."""

    bias: object
    unused: int
    tiles: list = dataclasses.field(default_factory=list)


def guarded(x, bias=None):
    settings = Settings(bias=bias)
    tile = nl.ndarray(x.shape, x.dtype, buffer=nl.sbuf)
    # A column too far, which is never used.
    outside = tile.ap([[x.shape[1], x.shape[0]], [1, x.shape[1]]], offset=1)
    nisa.dma_copy(dst=tile, src=x)
    settings.tiles.append(tile)
    if settings.bias:
        column = nl.ndarray((x.shape[0], 4), x.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=column[:, 0:1], src=settings.bias)
        # A dimension that was indexed away is one of 1.
        nisa.tensor_scalar(tile, settings.tiles[0], nl.add, column[:, 0][:, 0:1])
    if x.shape[1] > 64:
        nisa.memset(outside, 0.0)
    out = nl.ndarray(x.shape, x.dtype, buffer=nl.shared_hbm)
    nisa.dma_copy(dst=out, src=tile)
    return out


def test_a_tensor_is_true_and_an_object_does_without_a_field():
    x, bias = drawn(16, 8), drawn(16, 1, seed=1)
    np.testing.assert_array_equal(both(guarded, x, bias), x + bias)
    np.testing.assert_array_equal(both(guarded, x), x)
    assert Settings(1).tiles is not Settings(1).tiles


def test_a_pattern_that_leaves_its_tile_is_refused_where_it_is_used():
    with pytest.raises(LimitExceeded, match=r"a partition of .* 80 .* 1 to 80.*\.py:"):
        record(guarded, [jax.ShapeDtypeStruct((16, 80), F32)], api="nki")


def test_rows_are_cast_on_their_way():
    def scattered(table, rows, index):
        tile = nl.ndarray(rows.shape, rows.dtype, buffer=nl.sbuf)
        places = nl.ndarray(index.shape, index.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=tile, src=rows)
        nisa.dma_copy(dst=places, src=index)
        width = table.shape[1]
        into = table.ap(
            [[width, rows.shape[0]], [1, width]],
            offset=0,
            vector_offset=places,
            indirect_dim=0,
        )
        nisa.dma_copy(dst=into, src=tile)
        return table

    table = np.zeros((6, 4), ml_dtypes.bfloat16)
    rows, index = drawn(2, 4), np.array([[4], [1]], np.int32)
    wanted = table.copy()
    wanted[index[:, 0]] = rows.astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(both(scattered, table, rows, index), wanted)


def test_a_name_that_a_package_gives_to_a_kernel_is_the_kernel(tmp_path: Path):
    folder = tmp_path / "lib/scale"
    folder.mkdir(parents=True)
    (tmp_path / "lib/__init__.py").write_text("import that_nobody_has\n")
    (folder / "__init__.py").write_text("from .scale import scale\n")
    (folder / "scale.py").write_text("import nki\n@nki.jit\ndef scale(x): ...\n")
    (tmp_path / "lib/user.py").write_text("from lib.scale import scale\n")
    for file in ("lib/user.py", "lib/scale/scale.py"):
        kernel = load.kernel(load.load(tmp_path / file), "scale")
        assert list(inspect.signature(kernel).parameters) == ["x"]


def turned(x, identity):
    """A transpose said as a product, into PSUM in the tile's own format."""
    rows, columns = x.shape
    tile = nl.ndarray(x.shape, x.dtype, buffer=nl.sbuf)
    ones = nl.ndarray(identity.shape, x.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=tile, src=x)
    nisa.dma_copy(dst=ones, src=identity)
    moved = nl.ndarray((columns, rows), x.dtype, buffer=nl.psum)
    nisa.nc_matmul(moved, stationary=tile, moving=ones, is_transpose=True)
    result = nl.ndarray((columns, rows), x.dtype, buffer=nl.sbuf)
    nisa.tensor_copy(result, moved)
    out = nl.ndarray((columns, rows), x.dtype, buffer=nl.shared_hbm)
    nisa.dma_copy(dst=out, src=result)
    return out


def test_a_product_that_is_a_transpose_moves_elements_as_they_are():
    x = drawn(16, 24).astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(both(turned, x, np.eye(16, dtype=x.dtype)), x.T)


def test_a_counted_range_is_a_sequence():
    assert isinstance(Range(3, 6), Sequence)
