"""Values of selections and random numbers: exact, or by their distribution."""

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from emu import Program
from emu.trainium import isa
from emu.trainium.datasheets import TRN3
from emu.trainium.engines.memory import dma_load, dma_store, sbuf
from tests.emu.trainium.operands import BF16, F32, I32, blank, draw, wide

DTYPES = pytest.mark.parametrize("dtype", [F32, BF16], ids=["fp32", "bf16"])
COMPARE = {
    "equal": np.equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
}


@pytest.mark.parametrize("compare1", COMPARE)
@pytest.mark.parametrize("compare0", COMPARE)
def test_range_select(compare0, compare1):
    x = draw(0, 6, 2, 10)
    low, high = (np.arange(6, dtype=F32)[:, None] + k for k in (2, 11))
    y, highest = isa.range_select(
        blank(6, 2, 10),
        blank(6, 1),
        jnp.asarray(x),
        jnp.asarray(low),
        jnp.asarray(high),
        compare0=compare0,
        compare1=compare1,
        start=3,
    )
    place = 3 + np.arange(20)[None]
    keep = COMPARE[compare0](place, low) & COMPARE[compare1](place, high)
    expected = np.where(keep, x.reshape(6, 20), np.finfo(F32).min)
    np.testing.assert_array_equal(np.asarray(y).reshape(6, 20), expected)
    np.testing.assert_array_equal(highest, expected.max(1, keepdims=True))


@DTYPES
def test_max8_and_places(dtype):
    """Descending; of equal values the first place."""
    x = draw(0, 3, 40, dtype=dtype)
    x[:, 30] = x[:, 7] = 9.0
    best = isa.nc_max8(blank(3, 8, dtype=dtype), jnp.asarray(x))
    np.testing.assert_array_equal(wide(best), -np.sort(-wide(x), axis=1)[:, :8])
    place = isa.nc_find_index8(jnp.zeros((3, 8), I32), jnp.asarray(x), best)
    assert (np.asarray(place)[:, 0] == 7).all()
    np.testing.assert_array_equal(np.take_along_axis(x, np.asarray(place), 1), best)


def test_match_replace8_takes_the_largest_away():
    """Twice each of the largest, so that one match must not take both."""
    x = np.repeat(draw(0, 3, 20), 2, axis=1)
    x = np.random.default_rng(1).permuted(x, axis=1)
    ordered = -np.sort(-x, axis=1)
    rest, found = jnp.asarray(x), []
    for _ in range(3):
        best = isa.nc_max8(blank(3, 8), rest)
        rest = isa.nc_match_replace8(blank(3, 40), rest, best, value=-1e9)
        found.append(np.asarray(best))
    np.testing.assert_array_equal(np.hstack(found), ordered[:, :24])
    assert (np.asarray(rest) == -1e9).sum() == 3 * 24
    kept = np.asarray(rest) != -1e9
    np.testing.assert_array_equal(np.asarray(rest)[kept], x[kept])


def test_match_replace8_leaves_what_does_not_match():
    x = draw(0, 2, 10)
    absent = jnp.full((2, 8), 77.0)
    actual = isa.nc_match_replace8(blank(2, 10), jnp.asarray(x), absent, value=0.0)
    np.testing.assert_array_equal(actual, x)


def test_dropout():
    """Each partition by its own probability; four standard deviations of 4,000 draws."""
    x = np.ones((4, 4000), F32)
    probability = np.array([[0.0], [0.25], [0.5], [1.0]], F32)
    given = jnp.asarray(x), jnp.asarray(probability)
    y = np.asarray(isa.dropout(blank(4, 4000), *given, jnp.int32(1)))
    assert set(np.unique(y)) == {0.0, 1.0}
    p = probability[:, 0]
    assert (np.abs((y == 0).mean(1) - p) <= 4 * np.sqrt(p * (1 - p) / 4000)).all()
    np.testing.assert_array_equal(y, isa.dropout(blank(4, 4000), *given, jnp.int32(1)))
    assert (y != np.asarray(isa.dropout(blank(4, 4000), *given, jnp.int32(2)))).any()


def test_each_iteration_and_core_draws_anew():
    """The seed is a known integer: here of the iteration and of the core."""

    def kernel(x):
        x = dma_load(sbuf(4, 64), x)
        half = isa.memset(sbuf(4, 1), value=0.5)

        def step(x, i):
            seed = i + 10 * lax.axis_index("core")
            return x, dma_store(isa.dropout(sbuf(4, 64), x, half, seed))

        return lax.scan(step, x, jnp.arange(3))[1]

    program = Program(kernel, {"core": 2}, (("core",),))
    y = np.asarray(program.run(jnp.ones((2, 4, 64))))
    assert y.shape == (2, 3, 4, 64)
    assert len(np.unique(y.reshape(6, -1), axis=0)) == 6
    clock = program.read(TRN3.at(), jnp.ones((2, 4, 64)))
    assert clock.tally.by("count")["trn.dropout"] == 6


def test_rand2_is_uniform():
    """Mean and variance of 20,000 draws in [2, 5) within four standard deviations."""
    y = wide(isa.rand2(blank(4, 5000), jnp.int32(7), low=2.0, high=5.0)).ravel()
    assert y.min() >= 2 and y.max() < 5
    variance = 3**2 / 12
    assert abs(y.mean() - 3.5) <= 4 * np.sqrt(variance / y.size)
    # The fourth central moment of a uniform variable is 9/5 of its variance squared.
    assert abs(y.var() - variance) <= 4 * variance * np.sqrt((9 / 5 - 1) / y.size)
