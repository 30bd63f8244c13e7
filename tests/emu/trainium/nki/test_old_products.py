"""Products of the older generation: which overwrite and which add, what the compiler adds."""

import numpy as np
import pytest

from emu.trainium.nki.interpret import steps  # noqa: F401  (the reading these values come from)
from emu.trainium.nki.tree import Affine, Loop
from tests.emu.trainium.nki.old_kernels import (
    names,
    nisa,
    nl,
    one_tile,
    operations,
    recorded,
    run,
)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


A, B = normal(64, 32), normal(64, 48, seed=1)


def accumulated(a, b):
    """`aᵀ b`, 16 rows at a time."""
    output = nl.ndarray((32, 48), a.dtype, buffer=nl.shared_hbm)
    bank = nl.zeros((32, 48), nl.float32, buffer=nl.psum)
    for part in nl.affine_range(4):
        left = nl.load(a[16 * part : 16 * part + 16, :])
        right = nl.load(b[16 * part : 16 * part + 16, :])
        bank += nisa.nc_matmul(left, right)
    nl.store(output, nl.copy(bank))
    return output


def test_zeros_in_psum_are_never_written_where_a_product_is_first():
    np.testing.assert_allclose(run(accumulated, A, B), A.T @ B, 1e-4, 1e-5)
    found = recorded(accumulated, A, B)
    assert "trn.memset" not in names(found)


def flags(body, turns):
    """The accumulate flag of every product in the order in which they run."""
    for node in body:
        if isinstance(node, Loop):
            for turn in range(node.count):
                yield from flags(node.body, {**turns, node: turn})
        elif node.choice.instruction.name == "trn.nc_matmul":
            flag = node.reads[-1]
            assert isinstance(flag, Affine)
            yield flag.put(turns).constant != 0


def test_the_first_product_overwrites_and_the_others_add():
    body = recorded(accumulated, A, B).body
    assert list(flags(body, {})) == [False, True, True, True]


def test_products_into_banks_that_loops_around_choose():
    def kernel(a, b):
        output = nl.ndarray((2, 32, 24), a.dtype, buffer=nl.shared_hbm)
        banks = nl.zeros((2, nl.par_dim(32), 24), nl.float32, buffer=nl.psum)
        for side in nl.affine_range(2):
            for outer in nl.affine_range(2):
                for inner in nl.affine_range(2):
                    rows = nl.ds(32 * outer + 16 * inner, 16)
                    banks[side, :, :] += nisa.nc_matmul(
                        nl.load(a[rows, :]), nl.load(b[rows, nl.ds(24 * side, 24)])
                    )
            nl.store(output[side], nl.copy(banks[side]))
        return output

    expected = (A.T @ B).reshape(32, 2, 24).swapaxes(0, 1)
    np.testing.assert_allclose(run(kernel, A, B), expected, 1e-4, 1e-5)
    assert list(flags(recorded(kernel, A, B).body, {})) == [False, True, True, True] * 2


def test_zeros_that_are_read_before_a_product_are_written():
    def kernel(a):
        output = nl.ndarray((32, 48), np.float32, buffer=nl.shared_hbm)
        bank = nl.zeros((32, 48), nl.float32, buffer=nl.psum)
        bank[:, 0:32] = nisa.nc_matmul(nl.load(a), nl.load(a))
        nl.store(output, nl.copy(bank))
        return output

    expected = np.concatenate([A.T @ A, np.zeros((32, 16))], 1)
    np.testing.assert_allclose(run(kernel, A), expected, 1e-4, 1e-5)
    memset = next(o for o in operations(recorded(kernel, A)) if o.name == "nl.zeros")
    assert memset.implicit and memset.writes[0].shape == (32, 16)


@pytest.mark.parametrize("device", ["trn1", "trn2", "trn3"])
@pytest.mark.parametrize("transpose_x", [False, True])
def test_matmul_adds_the_transpose_that_the_engine_needs(device, transpose_x):
    kernel = one_tile(lambda x, y: nl.matmul(x, y, transpose_x=transpose_x))
    x = A if transpose_x else np.ascontiguousarray(A.T)
    np.testing.assert_allclose(run(kernel, x, B, device=device), A.T @ B, 1e-4, 1e-5)
    assert ("trn.nc_transpose" in names(recorded(kernel, x, B, device=device))) != (
        transpose_x
    )


def test_a_product_as_an_operand_is_copied_out_of_psum():
    kernel = one_tile(lambda a, b: nisa.nc_matmul(nisa.nc_matmul(a, a), b))
    square, b = normal(32, 32), normal(32, 48)
    expected = (square.T @ square).T @ b
    np.testing.assert_allclose(run(kernel, square, b), expected, 1e-4, 1e-5)
    copies = [o for o in operations(recorded(kernel, square, b)) if o.implicit]
    assert len(copies) == 2  # the operand, and the result before its store


def test_a_mask_shortens_the_moving_tile():
    def kernel(a, b):
        output = nl.ndarray((32, 40), a.dtype, buffer=nl.shared_hbm)
        bank = nl.zeros((32, 48), nl.float32, buffer=nl.psum)
        columns = nl.arange(48)[None, :]
        inside = columns < 40
        bank[nl.arange(32)[:, None], columns] += nisa.nc_matmul(
            nl.load(a), nl.load(b), mask=inside
        )
        copy = nl.copy(bank, mask=inside)
        nl.store(output[nl.arange(32)[:, None], columns], copy, mask=inside)
        return output

    np.testing.assert_allclose(run(kernel, A, B), (A.T @ B)[:, :40], 1e-4, 1e-5)
    product = next(o for o in operations(recorded(kernel, A, B)) if "matmul" in o.name)
    assert product.writes[0].shape == (32, 40)


def test_transposes_on_both_engines():
    small = normal(16, 24)
    tensor = one_tile(lambda x: nisa.nc_transpose(x))
    vector = one_tile(lambda x: nisa.nc_transpose(x, engine=nisa.vector_engine))
    np.testing.assert_array_equal(run(tensor, small), small.T)
    np.testing.assert_array_equal(run(vector, small), small.T)
    assert "trn.nc_transpose_vector" in names(recorded(vector, small))


def test_a_row_wider_than_a_bank_is_spread_in_pieces():
    kernel = one_tile(lambda row: row.broadcast_to((4, 1100)))
    row = normal(1, 1100)
    np.testing.assert_array_equal(run(kernel, row), np.repeat(row, 4, 0))
    found = names(recorded(kernel, row))
    assert found.count("trn.nc_matmul") == 3


def test_loop_reduce_begins_with_the_first_turn():
    def kernel(a):
        output = nl.ndarray((16, 32), a.dtype, buffer=nl.shared_hbm)
        most = nl.ndarray((16, 32), a.dtype)
        for outer in nl.affine_range(2):
            for inner in nl.affine_range(2):
                tile = nl.load(a[nl.ds(32 * outer + 16 * inner, 16), :])
                most[...] = nl.loop_reduce(tile, np.max, loop_indices=[outer, inner])
        nl.store(output, most)
        return output

    np.testing.assert_array_equal(run(kernel, A), A.reshape(4, 16, 32).max(0))


def test_a_transpose_by_an_identity_takes_half_the_passes():
    def kernel(a):
        identity = nl.load(nl.shared_constant(np.identity(64, np.float32)))
        return nisa.nc_matmul(
            nl.load(a), identity, is_moving_onezero=True, is_transpose=True
        )

    older = operations(recorded(kernel, A, device="trn1"))[-1].choice
    assert older.instruction.name == "trn.nc_matmul"
    assert older.parameters == {"onezero": True}
    newer = operations(recorded(kernel, A, device="trn2"))[-1].choice
    assert newer.instruction.name == "trn.nc_transpose"
