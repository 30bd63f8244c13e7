"""Arithmetic of the older generation: values against NumPy, and which instructions it becomes."""

import jax.numpy as jnp
import numpy as np
import pytest

from emu.trainium.nki import interpret
from emu.trainium.nki.record import record
from emu.trainium.nki.tree import walk
from tests.emu.trainium.nki.old_kernels import (
    names,
    nisa,
    nl,
    one_tile,
    operations,
    recorded,
    run,
)

BF16 = np.dtype(jnp.bfloat16)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


X, Y = normal(16, 24), normal(16, 24, seed=1)
COLUMN, ROW = normal(16, 1, seed=2), normal(1, 24, seed=3)


def softmax(x):
    powers = np.exp(x - x.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


PAIRS = {
    "add": (lambda x, y: nl.add(x, y), np.add),
    "operator": (lambda x, y: x * 2 - y / 4, lambda x, y: x * 2 - y / 4),
    "reversed": (lambda x, y: 1 - x + y, lambda x, y: 1 - x + y),
    "maximum": (lambda x, y: nl.maximum(x, y), np.maximum),
    "divide": (lambda x, y: nl.divide(x, y), np.divide),
    "where": (lambda x, y: nl.where(x > y, x, y), np.maximum),
    "where_number": (
        lambda x, y: nl.where(x > 0, y, 2.0),
        lambda x, y: np.where(x > 0, y, 2),
    ),
    "less": (lambda x, y: nl.less(x, y), lambda x, y: np.less(x, y).astype(np.uint8)),
    "numpy_operator": (lambda x, y: nisa.tensor_tensor(x, y, np.subtract), np.subtract),
    "fused": (
        lambda x, y: nisa.scalar_tensor_tensor(
            data=x, op0=nl.multiply, operand0=3.0, op1=np.add, operand1=y
        ),
        lambda x, y: x * 3 + y,
    ),
    "cast": (lambda x, y: nl.copy(x, dtype=nl.bfloat16), lambda x, y: x.astype(BF16)),
}


@pytest.mark.parametrize("case", PAIRS)
def test_two_tiles(case):
    function, expected = PAIRS[case]
    np.testing.assert_allclose(run(one_tile(function), X, Y), expected(X, Y), 1e-6)


BROADCASTS = {
    "column": (lambda x, c: x - c, COLUMN, "trn.tensor_scalar"),
    "column_first": (lambda x, c: c - x, COLUMN, "trn.tensor_scalar"),
    "row": (lambda x, r: nl.subtract(x, r), ROW, "trn.tensor_tensor"),
    "row_spread": (
        lambda x, r: nl.subtract(x, r.broadcast_to((16, 24))),
        ROW,
        "trn.tensor_tensor",
    ),
}


@pytest.mark.parametrize("case", BROADCASTS)
def test_a_column_or_a_row_beside_a_tile(case):
    function, other, instruction = BROADCASTS[case]
    kernel = one_tile(function)
    sign = -1 if case == "column_first" else 1
    np.testing.assert_allclose(run(kernel, X, other), sign * (X - other), 1e-6)
    assert names(recorded(kernel, X, other))[-2] == instruction


SINGLES = {
    "exp": (lambda x: nl.exp(x), np.exp),
    "negative": (lambda x: nl.negative(x), np.negative),
    "reciprocal": (lambda x: nl.reciprocal(x), np.reciprocal),
    "scaled": (
        lambda x: nisa.activation(nl.tanh, x, scale=0.5),
        lambda x: np.tanh(x / 2),
    ),
    "sum": (lambda x: nl.sum(x, axis=1), lambda x: x.sum(1, keepdims=True)),
    "max_negated": (
        lambda x: nisa.tensor_reduce(np.max, x, axis=(1,), negate=True),
        lambda x: -x.max(1, keepdims=True),
    ),
    "mean": (lambda x: nl.mean(x, axis=1), lambda x: x.mean(1, keepdims=True)),
    "var": (lambda x: nl.var(x, axis=1), lambda x: x.var(1, keepdims=True)),
    "softmax": (lambda x: nl.softmax(x, axis=1), softmax),
    "two_operators": (
        lambda x: nisa.tensor_scalar(x, np.add, 1.0, op1=nl.multiply, operand1=3.0),
        lambda x: (x + 1) * 3,
    ),
    "window": (
        lambda x: nl.sum(x.reshape((16, 6, 4)), axis=[2]),
        lambda x: x.reshape(16, 6, 4).sum(2),
    ),
    "all": (
        lambda x: nl.all(x > -9, axis=1),
        lambda x: np.ones((16, 1), np.uint8),
    ),
}


@pytest.mark.parametrize("case", SINGLES)
def test_one_tile(case):
    function, expected = SINGLES[case]
    result = run(one_tile(function), X)
    np.testing.assert_allclose(result, expected(X), rtol=1e-5, atol=1e-6)


def test_rms_norm_with_a_row_of_weights():
    kernel = one_tile(lambda x, w: nl.rms_norm(x, w, axis=1, n=24))
    expected = X / np.sqrt((X**2).mean(1, keepdims=True) + 1e-6) * ROW
    np.testing.assert_allclose(run(kernel, X, ROW), expected, 1e-5)


def test_a_scan_goes_on_from_the_last_state_of_the_one_before():
    def kernel(a, b):
        output = nl.ndarray(a.shape, a.dtype, buffer=nl.shared_hbm)
        state = nl.zeros((16, 1), dtype=a.dtype)
        for part in nl.sequential_range(2):
            columns = nl.ds(12 * part, 12)
            left, right = nl.load(a[:, columns]), nl.load(b[:, columns])
            scan = nisa.tensor_tensor_scan(
                left, right, initial=state, op0=np.multiply, op1=np.add
            )
            state[...] = scan[:, 11]
            nl.store(output[:, columns], scan)
        return output

    states, state = [], np.zeros(16, np.float32)
    for column in range(24):
        state = X[:, column] * state + Y[:, column]
        states.append(state)
    np.testing.assert_allclose(run(kernel, X, Y), np.stack(states, 1), 1e-6)


def test_a_value_assigned_to_a_tile_is_made_there():
    def kernel(x):
        output = nl.ndarray(x.shape, x.dtype, buffer=nl.shared_hbm)
        tile = nl.ndarray((16, 24), dtype=x.dtype)
        loaded = nl.load(x)
        tile[:, 0:12] = nl.exp(loaded[:, 0:12])
        half = nl.exp(loaded[:, 12:24])
        tile[:, 12:24] = half
        # The name goes on to stand for the value, wherever it is.
        tile[:, 0:12] = tile[:, 0:12] + half
        nl.store(output, tile)
        return output

    expected = np.exp(X)
    expected[:, :12] += expected[:, 12:]
    np.testing.assert_allclose(run(kernel, X), expected, 1e-6)
    assert names(recorded(kernel, X)) == [
        "trn.dma_copy",
        "trn.activation",
        "trn.activation",
        "trn.tensor_tensor",
        "trn.dma_copy",
    ]


def test_a_value_that_was_read_before_it_is_assigned_is_copied():
    def kernel(x):
        output = nl.ndarray(x.shape, x.dtype, buffer=nl.shared_hbm)
        tile = nl.ndarray((16, 24), dtype=x.dtype)
        value = nl.exp(nl.load(x))
        twice = value + value
        tile[...] = value
        nl.store(output, tile + twice)
        return output

    np.testing.assert_allclose(run(kernel, X), 3 * np.exp(X), 1e-6)
    assert "trn.tensor_copy" in names(recorded(kernel, X))


def test_a_named_value_outlives_the_tile_it_was_made_in():
    def kernel(x):
        output = nl.ndarray(x.shape, x.dtype, buffer=nl.shared_hbm)
        tile = nl.ndarray((16, 24), dtype=x.dtype)
        value = nl.exp(nl.load(x))
        tile[...] = value
        tile[...] = 1.0
        nl.store(output, value + tile)
        return output

    np.testing.assert_allclose(run(kernel, X), np.exp(X) + 1, 1e-6)


def test_the_programs_of_a_launch_share_what_they_return():
    def kernel(x):
        output = nl.ndarray(x.shape, x.dtype, buffer=nl.shared_hbm)
        rows, columns = nl.ds(8 * nl.program_id(0), 8), nl.ds(8 * nl.program_id(1), 8)
        nl.store(output[rows, columns], nl.load(x[rows, columns]) * 2.0)
        return output

    found = record(kernel, (X,), api="neuronxcc.nki", grid=(2, 3))
    (result,) = interpret.run(found, X)
    np.testing.assert_allclose(result, 2 * X, 1e-6)
    loops = {loop.kind for _, path in walk(found.body) for loop in path}
    assert loops == {"grid"}


def test_patterns_of_indices():
    def kernel(x):
        output = nl.ndarray((2, 16, 24), np.float32, buffer=nl.shared_hbm)
        i, j = nl.mgrid[0:16, 0:24]
        causal = nisa.affine_select(i >= j, nl.load(x), -1.0)
        nl.store(output[0], causal)
        nl.store(output[1], nisa.iota(3 * i + 2 * j + 1, dtype=nl.float32))
        return output

    rows, columns = np.mgrid[0:16, 0:24]
    expected = [np.where(rows >= columns, X, -1), 3 * rows + 2 * columns + 1]
    np.testing.assert_allclose(run(kernel, X), expected, 1e-6)


def test_masks_leave_the_tail_of_the_last_tile():
    def kernel(x):
        output = nl.ndarray(x.shape, x.dtype, buffer=nl.shared_hbm)
        rows, columns = nl.mgrid[0:16, 0:24]
        for part in nl.affine_range(3):
            here = 16 * part + rows
            tile = nl.load(x[here, columns], mask=here < 40)
            result = nl.square(tile, mask=here < 40)
            nl.store(output[here, columns], result, mask=here < 40)
        return output

    x = normal(40, 24)
    np.testing.assert_allclose(run(kernel, x), x**2, 1e-6)
    last = [
        operation.writes[0].shape[0] for operation in operations(recorded(kernel, x))
    ]
    assert last[-1] == 8


def test_the_register_of_sums_adds_over_activations():
    def kernel(x):
        output = nl.ndarray((16, 1), x.dtype, buffer=nl.shared_hbm)
        tile, total = nl.load(x), nl.ndarray((16, 1), x.dtype)
        commands = nisa.reduce_cmd
        for part, command in enumerate((commands.reset_reduce, commands.reduce)):
            last = {"reduce_res": total} if part else {}
            nisa.activation(
                nl.exp,
                tile[:, nl.ds(12 * part, 12)],
                reduce_op=nl.add,
                reduce_cmd=command,
                **last,
            )
        nl.store(output, total)
        return output

    np.testing.assert_allclose(run(kernel, X), np.exp(X).sum(1, keepdims=True), 1e-6)


def test_the_engine_is_open_unless_the_kernel_says():
    def kernel(x):
        tile = nl.load(x)
        nisa.tensor_scalar(tile, nl.multiply, 2.0)
        nisa.tensor_scalar(tile, nl.multiply, 2.0, engine=nisa.vector_engine)
        nisa.tensor_copy(tile, engine=nisa.gpsimd_engine)

    *_, free, vector, gpsimd = operations(recorded(kernel, X))
    engines = [choice.engine for choice in free.choices]
    assert engines == ["vector", "scalar", "gpsimd"]
    assert [choice.engine for choice in vector.choices] == ["vector"]
    assert gpsimd.choice.engine == "gpsimd"


def test_on_trainium1_the_scalar_engine_copies_by_an_activation():
    def kernel(x):
        nl.copy(nl.load(x))

    copy = operations(recorded(kernel, X, device="trn1"))[-1]
    scalar = next(choice for choice in copy.choices if choice.engine == "scalar")
    assert scalar.instruction.name == "trn.activation"


def test_more_axes_than_an_engine_has_become_a_loop():
    def kernel(x):
        output = nl.ndarray(x.shape, x.dtype, buffer=nl.shared_hbm)
        tile = nl.load(x)
        result = nl.ndarray((2, 64), x.dtype)
        p, a, b, c, d, e = nl.mgrid[0:2, 0:2, 0:2, 0:2, 0:2, 0:4]
        place = 32 * a + 16 * b + 8 * c + 4 * d + e
        turned = 32 * (1 - a) + 16 * (b * -1 + 1) + 8 * (c * -1 + 1) + 4 * (1 - d) + e
        result[p, place] = 2 * tile[p, turned]
        nl.store(output, result)
        return output

    x = normal(2, 64)
    expected = 2 * x.reshape(2, 16, 4)[:, ::-1].reshape(2, 64)
    np.testing.assert_allclose(run(kernel, x), expected, 1e-6)
    for operation in operations(recorded(kernel, x)):
        if operation.choice.engine != "dma":
            assert len(operation.writes[0].shape) <= 5
