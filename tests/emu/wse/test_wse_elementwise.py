"""Element by element on live slots: values against NumPy, cycles worked out by hand.

Literals use the WSE-3's nominal datasheet: 6 a vector operation's issue, 4 a descriptor load, one
cycle a float32, `2 * ceil(n / 8)` for n 16-bit elements, 10 a turn of a software loop.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from emu import EmulationError, wse
from tests.emu.wse.single_pe import data, read, struct, wide

ROWS, SLOTS, LIVE = 3, 9, 7
N = ROWS * LIVE
CLOSE: dict[str, Any] = {"rtol": 2e-6, "atol": 1e-6}


def tile(rows: int = ROWS, slots: int = SLOTS, dtype: str = "float32") -> Any:
    return wse.sram_tile(shape=(rows, slots), dtype=jnp.dtype(dtype))


def half(n: int) -> int:
    return 2 * -(-n // 8)


@pytest.mark.parametrize("shape", [(ROWS, SLOTS), (1, SLOTS), (ROWS, 1), (1, 1)])
@pytest.mark.parametrize("op", ["add", "sub", "mul", "max", "min"])
def test_arithmetic_with_repeated_operands(op: str, shape: tuple[int, int]) -> None:
    a, b = data(0, ROWS, SLOTS), data(1, *shape)
    by_name = {"add": "add", "sub": "subtract", "mul": "multiply"}
    function = getattr(np, by_name.get(op, f"{op}imum"))
    got = np.asarray(wse.vector_live(tile(), a, b, LIVE, op=op))
    expected = function(np.asarray(a), np.asarray(b))
    assert (got[:, :LIVE] == expected[:, :LIVE]).all() and np.isnan(got[:, LIVE:]).all()
    clock = read(lambda a, b, n: wse.vector_live(tile(), a, b, n, op=op), a, b, LIVE)
    one = 3 * 4 + 6 + N  # however often an operand is read again
    # min(a, b) is -max(-a, -b): three negations, each with two descriptors.
    assert clock.end_ticks == (one if op != "min" else one + 3 * (2 * 4 + 6 + N))


def test_numbers_of_16_bits_go_at_their_pace() -> None:
    a, b = data(0, ROWS, SLOTS, dtype="bfloat16"), data(1, 1, SLOTS, dtype="bfloat16")

    def product(a: Any, b: Any, n: Any, dtype: str = "bfloat16") -> Any:
        return wse.vector_live(tile(dtype=dtype), a, b, n, op="mul")

    got = np.asarray(product(a, b, LIVE))[:, :LIVE]
    assert got.dtype == jnp.bfloat16
    assert (got == (np.asarray(a) * np.asarray(b))[:, :LIVE]).all()
    assert read(product, a, b, LIVE).end_ticks == 3 * 4 + 6 + half(N)
    # Results of 32 bits are as slow as all operands of 32 bits.
    wide = read(lambda *x: product(*x, dtype="float32"), a, b, LIVE)
    assert wide.end_ticks == 3 * 4 + 6 + N


@pytest.mark.parametrize(
    ("op", "cycles"),
    [
        # A difference, and its sign bit over 16-bit halves; `not` is one more operation on them.
        ("lt", (3 * 4 + 6 + N) + (2 * 4 + 6 + half(N))),
        ("ge", (3 * 4 + 6 + N) + 2 * (2 * 4 + 6 + half(N))),
        # 0 - |a - b| is negative where they differ.
        ("ne", (3 * 4 + 6 + N) + 2 * (2 * 4 + 6 + N) + (2 * 4 + 6 + half(N))),
        ("eq", (3 * 4 + 6 + N) + 2 * (2 * 4 + 6 + N) + 2 * (2 * 4 + 6 + half(N))),
    ],
)
def test_comparisons_give_masks(op: str, cycles: int) -> None:
    a = jnp.round(data(0, ROWS, SLOTS))
    b = jnp.round(data(1, 1, SLOTS))
    names = {"lt": np.less, "ge": np.greater_equal, "ne": np.not_equal, "eq": np.equal}
    got = wse.vector_live(tile(dtype="int16"), a, b, LIVE, op=op)
    expected = -names[op](a, b).astype(np.int16)
    assert got.dtype == jnp.int16
    assert (np.asarray(got)[:, :LIVE] == expected[:, :LIVE]).all()
    clock = read(
        lambda a, b, n: wse.vector_live(tile(dtype="int16"), a, b, n, op=op), a, b, LIVE
    )
    assert clock.end_ticks == cycles


def test_selection_keeps_what_is_not_chosen_out() -> None:
    x = data(0, ROWS, SLOTS).at[0, 0].set(jnp.nan).at[1, 1].set(jnp.inf)
    mask = jnp.asarray([[0, 0] + [-1] * (SLOTS - 2)], jnp.int16)
    other = jnp.full((1, 1), -jnp.inf)
    got = np.asarray(wse.select_live(tile(), mask, x, other, LIVE))
    assert (got[:, :2] == -np.inf).all()
    assert (got[:, 2:LIVE] == np.asarray(x)[:, 2:LIVE]).all()
    clock = read(lambda *a: wse.select_live(tile(), *a), mask, x, other, LIVE)
    assert clock.end_ticks == 3 * (3 * 4 + 6 + half(2 * N))


@pytest.mark.parametrize(
    ("op", "cycles", "function"),
    [
        ("exp", 60, np.exp),
        ("tanh", 60 + 50 + 4 * 2, np.tanh),
        ("logistic", 60 + 50 + 2 * 2, lambda x: 1 / (1 + np.exp(-x))),
        ("log1p", 60 + 2, np.log1p),
        ("floor", 4 * 2, np.floor),
        ("sqrt", 50, np.sqrt),
    ],
)
def test_scalar_code(op: str, cycles: int, function: Any) -> None:
    x = jnp.abs(data(0, ROWS, SLOTS))
    kind = {"op": op, "arithmetic": "float32"}
    got = np.asarray(wse.scalar_of_one_live(tile(), x, LIVE, **kind, opens=True))
    np.testing.assert_allclose(got[:, :LIVE], function(wide(x))[:, :LIVE], **CLOSE)
    for opens in (True, False):
        clock = read(
            lambda x, n, o=opens: wse.scalar_of_one_live(tile(), x, n, **kind, opens=o),
            *(x, LIVE),
        )
        assert clock.end_ticks == N * (cycles + 10 * opens)


def test_whole_numbers_are_converted_and_divided_as_jax_does() -> None:
    x = jnp.asarray([[-7, -6, 0, 5, 6, 7, 8, 99, 99]], jnp.float32)
    three = jnp.full((1, 1), 3, jnp.float32)
    kind: Any = {"op": "rem", "arithmetic": "int32", "opens": True}
    got = np.asarray(wse.scalar_of_two_live(tile(1), x, three, LIVE, **kind))
    assert got[0, :LIVE].tolist() == [-1, 0, 0, 2, 0, 1, 2]
    clock = read(lambda *a: wse.scalar_of_two_live(tile(1), *a, **kind), x, three, LIVE)
    # A quotient, times three, taken away; three conversions.
    assert clock.end_ticks == LIVE * (10 + 50 + 2 * 2 + 3 * 2)


def test_look_up_takes_the_nearest_entry() -> None:
    table = data(0, 5)
    index = jnp.asarray([[-3, 0, 4, 5, 2, 1, 3, 0, 0]], jnp.int32)
    got = np.asarray(wse.lookup_live(tile(1), table, index, LIVE, opens=True))
    assert (got[0, :LIVE] == np.asarray(table)[[0, 0, 4, 4, 2, 1, 3]]).all()
    clock = read(
        lambda *a: wse.lookup_live(tile(1), *a, opens=True), table, index, LIVE
    )
    assert clock.end_ticks == LIVE * (10 + 4 * 2)


def test_refuses_shapes_that_do_not_repeat() -> None:
    with pytest.raises(EmulationError, match="1 in place of either"):
        read(
            lambda a, b: wse.vector_live(tile(), a, b, 1, op="add"),
            *(struct((ROWS, SLOTS)), struct((2, SLOTS))),
        )


@pytest.mark.parametrize("rows", [1, ROWS])
def test_rows_of_a_table(rows: int) -> None:
    table, places = data(0, rows * 5, SLOTS), jnp.asarray([[2.0], [9.0], [-3.0]])
    got = np.asarray(wse.row_live(tile(), table, places, LIVE, entries=5))
    # What is beyond the table takes the nearest entry.
    which = [2, 4, 0] if rows == 1 else [2, 5 + 4, 10]
    assert (got[:, :LIVE] == np.asarray(table)[which, :LIVE]).all()
    assert np.isnan(got[:, LIVE:]).all()
    clock = read(lambda *a: wse.row_live(tile(), *a, entries=5), table, places, LIVE)
    # A place is converted, kept within the table from both sides, and made an address; a copy has
    # two descriptors and moves 16 bytes a cycle.
    assert clock.end_ticks == ROWS * (5 * 2 + 2 * 4 + 6 + -(-4 * LIVE // 16))
    with pytest.raises(EmulationError, match="must be 4 entries, or 3 times as many"):
        wse.row_live(tile(), table, places, LIVE, entries=4)
