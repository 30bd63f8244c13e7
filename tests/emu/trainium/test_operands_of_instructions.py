"""Operators of a narrow domain, and instructions that take a tile here and a number there.

Values against float64 NumPy, costs worked out from the published intervals with round numbers for
what is fitted: an interval of at least 64 cycles, on the Vector Engine 20 more of access and 200 of
latency in all, on the Scalar Engine 30 and 300.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from emu.errors import LimitExceeded
from emu.trainium import isa
from tests.emu.trainium.operands import (
    BF16,
    GENERATIONS,
    I32,
    assert_close,
    blank,
    draw,
    psum,
    sbuf,
    wide,
)

N, P = 500, 128
TILE, COLUMN = sbuf(P, N), sbuf(P, 1)


def magnitude(choose):
    def of(x, y):
        return np.where(choose(np.abs(x), np.abs(y)), x, y)

    return of


NUMPY = {
    "divide": np.divide,
    "power": np.power,
    "abs_max": magnitude(np.greater),
    "abs_min": magnitude(np.less),
    "abs": lambda x, y: np.abs(x),
    "rsqrt": lambda x, y: 1 / np.sqrt(x),
    "reciprocal": lambda x, y: 1 / x,
}


@pytest.mark.parametrize("op", NUMPY)
def test_an_operator_of_a_narrow_domain(op):
    a, b = np.abs(draw(0, 8, 33)) + 0.1, np.abs(draw(1, 8, 33)) + 0.1
    if op.startswith("abs"):
        a[:, ::2] *= -1
        b[:, ::3] *= -1
    x, y, out = jnp.asarray(a), jnp.asarray(b), blank(8, 33)
    f: Any = NUMPY[op]
    # A power in float32 errs by its exponent times the logarithm's place.
    places = 16 if op == "power" else 4

    def check(actual, expected):
        assert_close(actual, expected, operations=places)

    check(isa.tensor_tensor(out, x, y, op=op), f(wide(a), wide(b)))
    check(isa.tensor_scalar(out, x, y[:, :1], op=op), f(wide(a), wide(b[:, :1])))
    check(isa.tensor_immediate(out, x, op=op, value=7.0), f(wide(a), np.full(1, 7.0)))


def test_of_two_magnitudes_the_sign_stays():
    x, y = jnp.asarray([[-5.0, 1.0, 2.0]]), jnp.asarray([[3.0, -1.0, 4.0]])
    out = blank(1, 3)
    largest = isa.tensor_tensor(out, x, y, op="abs_max")
    np.testing.assert_array_equal(largest, [[-5, -1, 4]])
    smallest = isa.tensor_tensor(out, x, y, op="abs_min")
    np.testing.assert_array_equal(smallest, [[3, -1, 2]])


def test_a_quotient_is_one_rounding():
    """3 · (1 / 7) in float32 is another number than 3 / 7."""
    x = jnp.asarray([[3.0]])
    third = isa.tensor_immediate(blank(1, 1), x, op="divide", value=7.0)
    assert np.asarray(third) == np.float32(3) / np.float32(7)


@pytest.mark.parametrize("op", ["bitwise_and", "bitwise_or", "bitwise_xor"])
def test_bits_are_reduced(op):
    a = np.random.default_rng(0).integers(0, 2**20, (4, 3, 9), np.int32)
    out = jnp.zeros((4, 3, 1), jnp.int32)
    reduced = isa.tensor_reduce(out, jnp.asarray(a), op=op)
    expected = getattr(np, op).reduce(a, axis=-1, keepdims=True)
    np.testing.assert_array_equal(reduced, expected)
    with pytest.raises(LimitExceeded, match="bitwise.* of float32, must be integers"):
        isa.tensor_reduce(out, jnp.zeros((4, 3, 9)), op=op)
    with pytest.raises(LimitExceeded, match="negate is True, must be False"):
        isa.tensor_reduce(out, jnp.asarray(a), op=op, negate=True)


# --- a number where the others have a tile ---


def test_a_number_is_a_column_of_it():
    """Each instruction that takes an immediate gives what it gives of a column of that number."""
    x, y = jnp.asarray(draw(0, 8, 33)), jnp.asarray(draw(1, 8, 33))
    one, half = jnp.asarray(draw(2, 8, 1)), jnp.full((8, 1), 0.5)
    out, total = blank(8, 33), blank(8, 1)
    chain: Any = dict(op0="subtract", op1="multiply")
    for sides in ({}, {"reverse0": True}, {"reverse1": True}):
        chain |= sides
        pairs = [
            (
                isa.tensor_immediate_scalar(out, x, one, value=0.5, **chain),
                isa.tensor_scalars(out, x, half, one, **chain),
            ),
            (
                isa.immediate_tensor_tensor(out, x, y, value=0.5, **chain),
                isa.scalar_tensor_tensor(out, x, half, y, **chain),
            ),
            (
                isa.tensor_tensor_scan_immediate(out, x, y, initial=0.5, **chain),
                isa.tensor_tensor_scan(out, x, y, half, **chain),
            ),
        ]
        for immediate, tile in pairs:
            assert np.isfinite(np.asarray(tile)).all()
            np.testing.assert_array_equal(immediate, tile)
    with_number = isa.tensor_immediate_reduce(
        out, total, x, op="multiply", value=0.5, reduce="max"
    )
    with_tile = isa.tensor_scalar_reduce(
        out, total, x, half, op="multiply", reduce="max"
    )
    for immediate, tile in zip(with_number, with_tile, strict=True):
        np.testing.assert_array_equal(immediate, tile)
    scale: Any = dict(op="tanh")
    np.testing.assert_array_equal(
        isa.activation(out, x, scale=0.75, bias=0.5, **scale),
        isa.activation_bias(out, x, half, scale=0.75, **scale),
    )
    np.testing.assert_array_equal(
        isa.activation_multiplied(out, x, one, bias=0.5, **scale),
        isa.activation_scaled(out, x, one, half, **scale),
    )


def test_a_scale_alone():
    x, scale = draw(0, 8, 3, 11), draw(1, 8, 1)
    y = isa.activation_multiplied(
        blank(8, 3, 11), jnp.asarray(x), jnp.asarray(scale), op="square"
    )
    assert_close(y, (wide(x) * wide(scale)[..., None]) ** 2, operations=4)


# Cycles from the start of an access to its first element, and of all latency behind an interval.
FIXED = {"vector": (20, 200), "scalar": (30, 300), "gpsimd": (0, 0)}
INSTRUCTIONS = {
    "immediate_tensor_tensor": (
        [TILE, TILE, TILE],
        dict(op0="add", value=1.0, op1="add"),
        ("vector", N),
    ),
    "immediate_tensor_tensor, the fast chain": (
        [sbuf(P, N, dtype=BF16)] * 3,
        dict(op0="subtract", value=1.0, op1="multiply"),
        ("vector", N),
    ),
    "tensor_immediate_scalar": (
        [TILE, TILE, COLUMN],
        dict(op0="add", value=1.0, op1="add"),
        ("vector", N),
    ),
    "tensor_immediate_reduce": (
        [TILE, COLUMN, TILE],
        dict(op="add", value=1.0, reduce="add"),
        ("vector", N + 64),
    ),
    "tensor_tensor_scan_immediate": (
        [TILE, TILE, TILE],
        dict(initial=0.0, op0="add", op1="add"),
        ("vector", 2 * N),
    ),
    "tensor_immediate on gpsimd": (
        [TILE, TILE],
        dict(op="add", value=0.0, op1="rsqrt", engine="gpsimd"),
        ("gpsimd", 4 * N),
    ),
    "tensor_tensor of powers on gpsimd": (
        [TILE, TILE, TILE],
        dict(op="power", engine="gpsimd"),
        ("gpsimd", 4 * N),
    ),
    "activation with a bias": ([TILE, TILE], dict(op="exp", bias=1.0), ("scalar", N)),
    "activation_multiplied": ([TILE, TILE, COLUMN], dict(op="exp"), ("scalar", N)),
}


@pytest.mark.parametrize("case", INSTRUCTIONS)
@pytest.mark.parametrize("generation", [3, 4])
def test_its_interval(generation, case):
    operands, params, (engine, interval) = INSTRUCTIONS[case]
    access, latency = FIXED[engine]
    inst = getattr(isa, case.partition(",")[0].split()[0])
    cost = inst.cost(GENERATIONS[generation], *operands, **params)
    assert cost.engine == engine
    assert cost.busy_cycles == interval + access
    assert cost.latency_cycles == interval + latency


def test_no_number_is_added_on_trainium1():
    for inst, operands, command in (
        (isa.activation, [TILE, TILE], {}),
        (isa.activation_multiplied, [TILE, TILE, COLUMN], {}),
        (isa.activation_accumulate, [TILE, COLUMN, TILE], {"command": "reduce"}),
    ):
        assert inst.cost(GENERATIONS[2], *operands, op="exp", **command)
        with pytest.raises(LimitExceeded, match="bias is a number, must be a tile"):
            inst.cost(GENERATIONS[2], *operands, op="exp", bias=1.0, **command)


# --- the accumulate register ---

FORMS = {
    "": ((), dict(scale=0.75, bias=0.25)),
    "_bias": ((1,), dict(scale=0.75)),
    "_multiplied": ((2,), dict(bias=0.25)),
    "_scaled": ((2, 1), {}),
}


@pytest.mark.parametrize("form", FORMS)
def test_sums_are_kept_over_instructions(form):
    """tanh of three tiles: their sums together, then those of the last one alone."""
    places, params = FORMS[form]
    columns = [jnp.asarray(draw(place, 8, 1)) for place in places]
    given: Any = dict(op="tanh", **params)
    add = getattr(isa, f"activation{form}_accumulate")
    add_out = getattr(isa, f"activation{form}_total")
    plain = getattr(isa, f"activation{form}")
    tiles = [jnp.asarray(draw(seed, 8, 3, 7)) for seed in (5, 6, 7)]
    out, register, total = blank(8, 3, 7), blank(8, 1), blank(8, 1)
    results = [plain(out, tile, *columns, **given) for tile in tiles]
    y, register = add(
        out, register, tiles[0], *columns, command="reset_reduce", **given
    )
    np.testing.assert_array_equal(y, results[0])
    y, register = add(out, register, tiles[1], *columns, command="reduce", **given)
    np.testing.assert_array_equal(y, results[1])
    _, kept = add(out, register, tiles[2], *columns, command="idle", **given)
    np.testing.assert_array_equal(kept, register)
    y, register, total = add_out(
        out, register, total, tiles[2], *columns, command="reduce", **given
    )
    np.testing.assert_array_equal(y, results[2])
    np.testing.assert_array_equal(total, register)
    flat = np.stack([wide(x).reshape(8, -1) for x in results])
    every, size = flat.sum((0, 2)), np.abs(flat).sum((0, 2))
    assert_close(total, every[:, None], operations=70, scale=size[:, None])
    _, register, total = add_out(
        out, register, total, tiles[2], *columns, command="reset_reduce", **given
    )
    assert_close(total, flat[2].sum(1)[:, None], operations=30, scale=size[:, None])
    _, register = add(out, register, tiles[2], *columns, command="reset", **given)
    np.testing.assert_array_equal(register, np.zeros((8, 1)))


@pytest.mark.parametrize("form", FORMS)
def test_reading_the_register_takes_the_minimum_interval(form):
    places, params = FORMS[form]
    columns = [COLUMN] * len(places)
    given = dict(op="exp", command="reduce", **params)
    add = getattr(isa, f"activation{form}_accumulate")
    add_out = getattr(isa, f"activation{form}_total")
    device = GENERATIONS[3]
    cost = add.cost(device, TILE, COLUMN, TILE, *columns, **given)
    assert (cost.busy_cycles, cost.latency_cycles) == (N + 30, N + 300)
    cost = add_out.cost(device, TILE, COLUMN, COLUMN, TILE, *columns, **given)
    assert (cost.busy_cycles, cost.latency_cycles) == (N + 64 + 30, N + 64 + 300)
    # 128 sums of 4 bytes beside the tile; the register itself is no traffic.
    assert cost.moved_bytes["sbuf_write"] == (P * N + P) * 4
    cost = add_out.cost(
        device, psum(P, 8), COLUMN, COLUMN, psum(P, 8), *columns, **given
    )
    assert cost.busy_cycles == 64 + 64 + 30


def test_no_such_command():
    x, column = jnp.zeros((2, 2)), jnp.zeros((2, 1))
    with pytest.raises(LimitExceeded, match="command is 'add', must be one of reset"):
        isa.activation_accumulate(x, column, x, op="exp", command="add")


def test_integers_stay_where_bits_go_on():
    """`(x >> 4) & column` of integers above 2**24, which float32 does not hold."""
    a = np.random.default_rng(0).integers(2**24, 2**30, (4, 9), np.int32)
    mask = np.full((4, 1), 0xFFFFFF, np.int32)
    done = isa.tensor_immediate_scalar(
        jnp.zeros((4, 9), I32),
        jnp.asarray(a),
        jnp.asarray(mask),
        op0="right_shift",
        value=4,
        op1="bitwise_and",
    )
    np.testing.assert_array_equal(done, (a >> 4) & mask)
