"""Every PE instruction: its value against float64 NumPy, its cost against hand-worked cycles.

Literals use the WSE-3's nominal datasheet: 6 a vector operation's issue, 4 a descriptor load.
"""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from emu import EmulationError, wse
from emu.wse import WSE2
from tests.emu.wse.single_pe import data, read, struct, wide

F = "float32"
CLOSE: dict[str, Any] = {"rtol": 1e-6, "atol": 1e-6}


def tile(shape: tuple[int, ...], dtype: str = F) -> Any:
    return wse.sram_tile(shape=shape, dtype=jnp.dtype(dtype))


def test_fresh_tile_holds_nan_or_the_largest_integer() -> None:
    assert np.isnan(np.asarray(tile((3,)))).all()
    assert (np.asarray(tile((3,), "int32")) == 2**31 - 1).all()


@pytest.mark.parametrize(
    ("dtype", "cycles"),
    [(F, 3 * 4 + 6 + 12), ("float16", 3 * 4 + 6 + 2 * 2)],  # 12 = 2 groups of 8 lanes
)
def test_vector(dtype: str, cycles: int) -> None:
    a, b = data(0, 12, dtype=dtype), data(1, 12, dtype=dtype)
    for op, f in {
        "add": np.add,
        "sub": np.subtract,
        "mul": np.multiply,
        "max": np.maximum,
    }.items():
        got = wse.vector(tile((12,), dtype), a, b, op=op)
        assert (np.asarray(got) == f(wide(a), wide(b)).astype(np.dtype(dtype))).all()
    add = functools.partial(wse.vector, op="add")
    clock = read(lambda a, b: add(tile((12,), dtype), a, b), a, b)
    assert clock.end_ticks == cycles and clock.tally.flops == 12


def test_vector_refuses_shapes_that_differ() -> None:
    with pytest.raises(EmulationError, match="must be equal"):
        wse.vector(tile((12,)), data(0, 12), data(1, 1), op="add")


def test_fill_copy_and_copy_into() -> None:
    x = data(0, 3, 4)
    assert (np.asarray(wse.fill(tile((3, 4)), value=2.0)) == 2).all()
    assert read(lambda: wse.fill(tile((3, 4)), value=2.0)).end_ticks == 4 + 6 + 48 // 16
    half = wse.copy(tile((3, 4), "float16"), x)
    assert (np.asarray(half) == np.asarray(x).astype(np.float16)).all()
    assert (
        read(lambda x: wse.copy(tile((3, 4)), x), x).end_ticks == 2 * 4 + 6 + 48 // 16
    )
    big = np.zeros((3, 9), np.float32)
    big[:, 5:9] = np.asarray(x)
    into = functools.partial(wse.copy_into, axis=1)
    assert (np.asarray(into(jnp.zeros((3, 9)), x, 5)) == big).all()
    clock = read(lambda old, x, at: into(old, x, at), struct((3, 9)), x, 5)
    assert clock.end_ticks == 2 * 4 + 6 + 3
    assert clock.tally.by("bytes") == {"sram_read": 48, "sram_write": 48}


def test_copy_into_refuses_a_part_larger_than_the_tile() -> None:
    with pytest.raises(EmulationError, match="extent of dimension 0 is 5, at most 4"):
        read(lambda o, x: wse.copy_into(o, x, 0, axis=0), struct((4,)), struct((5,)))


def test_vector_scale_is_one_operation_a_row() -> None:
    x, s = data(0, 3, 8), data(1, 3)
    got = wse.vector_scale(tile((3, 8)), x, s)
    np.testing.assert_allclose(got, wide(x) * wide(s)[:, None], **CLOSE)
    clock = read(lambda x, s: wse.vector_scale(tile((3, 8)), x, s), x, s)
    assert clock.end_ticks == 3 * (3 * 4 + 6 + 8)


def test_rope_turns_pairs() -> None:
    x, angle = data(0, 3, 8), wide(data(1, 4))
    cos, sin = jnp.asarray(np.cos(angle), F), jnp.asarray(np.sin(angle), F)
    z = (wide(x)[:, :4] + 1j * wide(x)[:, 4:]) * np.exp(1j * angle)
    got = wse.rope(tile((3, 8)), x, cos, sin)
    np.testing.assert_allclose(got, np.concatenate([z.real, z.imag], 1), **CLOSE)
    clock = read(lambda *a: wse.rope(tile((3, 8)), *a), x, cos, sin)
    assert clock.end_ticks == 11 * 4 + 6 * (6 + 12)
    odd = np.asarray(wse.rope(tile((3, 9)), jnp.pad(x, ((0, 0), (0, 1))), cos, sin))
    assert (odd[:, :8] == np.asarray(got)).all() and (odd[:, 8] == 0).all()


@pytest.mark.parametrize(
    ("dst", "w", "cycles"),
    [
        (F, F, 12 + 12 * (6 + 20)),
        ("float16", "float16", 12 + 12 * (6 + 2 * 3)),  # 20 = 3 groups of 8 lanes
        (F, "float16", 12 + 12 * (6 + 10)),  # two float32 results a cycle
    ],
)
def test_fmac_map(dst: str, w: str, cycles: int) -> None:
    weights, x, start = (
        data(0, 12, 20, dtype=w),
        data(1, 12, dtype=w),
        data(2, 20, dtype=dst),
    )
    got = wse.fmac_map(start, weights, x)
    expected = np.asarray(start)
    for k in range(12):  # the accumulator rounds after every scalar
        exact = wide(expected) + wide(weights)[k] * wide(x)[k]
        expected = exact.astype(np.float32).astype(np.dtype(dst))
    # A fused multiply-add may round differently.
    tolerance = {"float16": 2e-3, F: 2e-6}[dst]
    np.testing.assert_allclose(
        wide(got), wide(expected), rtol=tolerance, atol=tolerance
    )
    clock = read(lambda y, w, x: wse.fmac_map(y, w, x), start, weights, x)
    assert clock.end_ticks == cycles and clock.tally.flops == 2 * 240


def test_leading_dimension_is_loops_one_after_the_other() -> None:
    w, x = data(0, 3, 12, 20), data(1, 12)
    got = wse.fmac_map(jnp.zeros((3, 20)), w, x)
    one = [np.asarray(wse.fmac_map(jnp.zeros(20), w[i], x)) for i in range(3)]
    assert (np.asarray(got) == np.stack(one)).all()
    call = lambda y, w, x: wse.fmac_map(y, w, x)  # noqa: E731
    clock = read(call, jnp.zeros((3, 20)), w, x)
    assert clock.end_ticks == 3 * read(call, jnp.zeros(20), w[0], x).end_ticks
    assert clock.tally.flops == 2 * w.size


def test_long_maps_are_the_same_sum() -> None:
    w, x = data(0, 100, 4), data(1, 100)
    got = wse.fmac_map(jnp.zeros(4), w, x)
    np.testing.assert_allclose(got, wide(x) @ wide(w), rtol=1e-5, atol=1e-5)


def test_wse2_map_matches_the_vendor_simulator() -> None:
    """wse-0045: 30 columns of 32 rows, float32: 1029.8 cycles a mat-vec, timestamps included."""
    args = struct((32,)), struct((30, 32)), struct((30,))
    clock = read(lambda y, w, x: wse.fmac_map(y, w, x), *args, device=WSE2.at())
    assert clock.end_ticks == 3 * 9 + 6 + 30 * 33 - 1
    assert abs(clock.end_ticks / 1029.8 - 1) < 0.01


def test_maps_over_a_cache_touch_live_slots_only() -> None:
    k, v, q, p = data(0, 4, 9), data(1, 9, 4), data(2, 3, 4), data(3, 3, 9)
    scores = wse.score_map(jnp.zeros((3, 9)), k, q, 7)
    expected = wide(q) @ wide(k)
    np.testing.assert_allclose(np.asarray(scores)[:, :7], expected[:, :7], **CLOSE)
    assert (np.asarray(scores)[:, 7:] == 0).all()
    dead = v.at[7:].set(jnp.nan)
    values = wse.value_map(jnp.zeros((3, 4)), dead, p.at[:, 7:].set(jnp.nan), 7)
    np.testing.assert_allclose(values, wide(p)[:, :7] @ wide(v)[:7], **CLOSE)
    shapes = struct((3, 9)), struct((4, 9)), struct((3, 4))
    clock = read(lambda *a: wse.score_map(*a), *shapes, 7)
    assert (clock.end_ticks, clock.tally.flops) == (12 + 12 * (6 + 7), 2 * 12 * 7)
    shapes = struct((3, 4)), struct((9, 4)), struct((3, 9))
    clock = read(lambda *a: wse.value_map(*a), *shapes, 7)
    assert (clock.end_ticks, clock.tally.flops) == (12 + 21 * (6 + 4), 2 * 21 * 4)
    assert read(lambda *a: wse.value_map(*a), *shapes, 0).end_ticks == 0
