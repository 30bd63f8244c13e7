"""Kernels of the newer generation: values, by the slow reading and by the program."""

import ml_dtypes
import numpy as np
import pytest

from emu.errors import EmulationError
from emu.trainium.nki import interpret, stubs
from emu.trainium.nki.dtypes import PACKED
from emu.trainium.nki.program import program, values
from emu.trainium.nki.record import record
from emu.trainium.nki.tree import PerCore

MODULES = stubs.modules()
nl, nisa = MODULES["nki.language"], MODULES["nki.isa"]
F32 = np.float32


def recorded(kernel, *arguments, grid=(), device="trn2"):
    return record(kernel, arguments, api="nki", device=device, grid=grid)


def both(kernel, *arguments, **options):
    """The first output of both readings, which have to agree."""
    made = recorded(kernel, *arguments, **options)
    arrays = [x for x in arguments if isinstance(x, np.ndarray)]
    slow = interpret.run(made, *arrays)
    fast = values(made, program(made).run(*arrays))
    for one, other in zip(slow, fast, strict=True):
        np.testing.assert_allclose(one.astype(float), other.astype(float), rtol=1e-6)
    return slow[0]


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(F32)


def exchange(x):
    """Each core loads half of the rows, adds what the other has, and stores its half."""
    rows, columns = x.shape
    half, core = rows // nl.num_programs(0), nl.program_id(0)
    out = nl.ndarray(x.shape, x.dtype, buffer=nl.shared_hbm)
    mine = nl.ndarray((half, columns), x.dtype, buffer=nl.sbuf)
    theirs = nl.ndarray((half, columns), x.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=mine, src=x[core * half : (core + 1) * half])
    nisa.sendrecv(
        src=mine, dst=theirs, send_to_rank=1 - core, recv_from_rank=1 - core, pipe_id=0
    )
    nisa.tensor_tensor(mine, mine, theirs, op=nl.add)
    nisa.dma_copy(dst=out[core * half : (core + 1) * half], src=mine)
    return out


def test_two_cores_exchange_tiles():
    x = drawn(64, 32)
    total = x[:32] + x[32:]
    np.testing.assert_array_equal(
        both(exchange, x, grid=(2,)), np.concatenate([total, total])
    )


def through_hbm(x):
    """Core 1 alone doubles the second half; behind a barrier each reads the other's half."""
    rows, columns = x.shape
    half, core = rows // 2, nl.program_id(0)
    held = nl.ndarray(x.shape, x.dtype, buffer=nl.shared_hbm)
    out = nl.ndarray(x.shape, x.dtype, buffer=nl.shared_hbm)
    tile = nl.ndarray((half, columns), x.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=tile, src=x[core * half : (core + 1) * half])
    if core == 1:
        nisa.tensor_scalar(tile, tile, nl.multiply, 2.0)
    nisa.dma_copy(dst=held[core * half : (core + 1) * half], src=tile)
    nisa.core_barrier(held, (0, 1))
    nisa.dma_copy(dst=tile, src=held[(1 - core) * half : (2 - core) * half])
    nisa.dma_copy(dst=out[core * half : (core + 1) * half], src=tile)
    return out


def test_a_barrier_hands_on_what_was_written_to_hbm():
    x = drawn(64, 32)
    expected = np.concatenate([2 * x[32:], x[:32]])
    np.testing.assert_array_equal(both(through_hbm, x, grid=(2,)), expected)


def test_what_one_core_does_alone_is_apart():
    made = recorded(through_hbm, drawn(64, 32), grid=(2,))
    (own,) = [node for node in made.body if isinstance(node, PerCore)]
    assert [len(body) for body in own.bodies] == [0, 1]


def rows_from(x, first):
    """As many rows as `first[0, 1]` says, from row `first[0, 0]` on, a row each turn."""
    out = nl.ndarray(x.shape, x.dtype, buffer=nl.shared_hbm)
    row = nl.ndarray((1, 1), nl.int32, buffer=nl.sbuf)
    count = nl.ndarray((1, 1), nl.int32, buffer=nl.sbuf)
    nisa.dma_copy(dst=row, src=first[0:1, 0:1])
    nisa.dma_copy(dst=count, src=first[0:1, 1:2])
    turns = nisa.register_alloc()
    nisa.register_load(turns, count)
    columns = x.shape[1]
    for _ in nl.dynamic_range(turns):
        tile = nl.ndarray((1, columns), x.dtype, buffer=nl.sbuf)
        pattern = [[columns, 1], [1, columns]]
        where = {"scalar_offset": row, "indirect_dim": 0}
        nisa.dma_copy(dst=tile, src=x.ap(pattern=pattern, offset=0, **where))
        nisa.dma_copy(dst=out.ap(pattern=pattern, offset=0, **where), src=tile)
        nisa.tensor_scalar(row, row, nl.add, 1)
    return out


def test_trip_counts_and_offsets_are_those_that_tensors_hold():
    x, first = drawn(16, 8), np.array([[3, 5]], np.int32)
    result = both(rows_from, x, first)
    np.testing.assert_array_equal(result[3:8], x[3:8])
    assert np.isnan(result[:3]).all() and np.isnan(result[8:]).all()


def test_a_trip_count_is_not_known_of_a_shape_alone():
    import jax

    shape = jax.ShapeDtypeStruct((1, 2), np.int32)
    with pytest.raises(EmulationError, match="what first holds decides"):
        recorded(rows_from, drawn(16, 8), shape)


def gathers(table, index):
    columns, count = table.shape[1], index.shape[0]
    out = nl.ndarray((count, columns), table.dtype, buffer=nl.shared_hbm)
    places = nl.ndarray((count, 1), nl.int32, buffer=nl.sbuf)
    tile = nl.ndarray((count, columns), table.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=places, src=index)
    nisa.memset(tile, 7.0)
    rows = table.ap(
        pattern=[[columns, count], [1, columns]],
        offset=0,
        vector_offset=places,
        indirect_dim=0,
    )
    nisa.dma_copy(dst=tile, src=rows, oob_mode=nisa.oob_mode.skip)
    nisa.dma_copy(dst=out, src=tile)
    return out


def test_rows_are_gathered_and_those_that_do_not_exist_left_out():
    table, index = drawn(20, 6), np.array([[3], [-1], [19], [20]], np.int32)
    expected = np.stack([table[3], np.full(6, 7.0), table[19], np.full(6, 7.0)])
    np.testing.assert_array_equal(both(gathers, table, index), expected)


def mx_product(x, y, packed):
    k, m, n = x.shape[0], x.shape[1] // 4, y.shape[1] // 4
    operands = []
    for held, columns in ((x, m), (y, n)):
        tile = nl.ndarray(held.shape, held.dtype, buffer=nl.sbuf)
        elements = nl.ndarray((k, columns), packed, buffer=nl.sbuf)
        scale = nl.ndarray((k, columns), nl.uint8, buffer=nl.sbuf)
        nisa.dma_copy(dst=tile, src=held)
        nisa.quantize_mx(dst=elements, src=tile, dst_scale=scale)
        operands.append((elements, scale))
    (left, left_scale), (right, right_scale) = operands
    sums = nl.ndarray((m, n), nl.float32, buffer=nl.psum)
    nisa.nc_matmul_mx(sums, left, right, left_scale, right_scale)
    result = nl.ndarray((m, n), nl.float32, buffer=nl.sbuf)
    out = nl.ndarray((m, n), nl.float32, buffer=nl.shared_hbm)
    nisa.tensor_copy(result, sums)
    nisa.dma_copy(dst=out, src=result)
    return out


def test_packed_tiles_are_quantised_and_multiplied():
    bf16 = ml_dtypes.bfloat16
    x, y = drawn(64, 32).astype(bf16), drawn(64, 64, seed=1).astype(bf16)
    result = both(mx_product, x, y, PACKED["float8_e4m3fn_x4"], device="trn3")
    left, right = (v.astype(float).reshape(64, -1, 4) for v in (x, y))
    expected = np.einsum("kmq,knq->mn", left, right)
    # Elements have 4 bits: of 256 products the errors add up to about 3 % of the largest.
    assert np.abs(result - expected).max() < 0.05 * np.abs(expected).max()
