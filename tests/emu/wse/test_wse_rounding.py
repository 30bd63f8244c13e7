"""A PE's operations give what NumPy gives, bit for bit, one after the other: results are rounded.

XLA would make one multiply-add, which rounds once, of a product and the sum that follows.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

from emu import Program, wse

PES, ROWS, COLUMNS = 2, 4, 24
HALF = COLUMNS // 2
N, EPS = 24, 1e-5
single = np.float32


class Step(NamedTuple):
    """An operation on a tile `x`, with another tile `y` and a value `s` of each row."""

    machine: Callable[[Any, Any, Any], Any]
    numpy: Callable[[Any, Any, Any], Any]


def out():
    return wse.sram_tile(shape=(ROWS, COLUMNS), dtype=single)


def repeated(x):
    return jnp.broadcast_to(x[None], (ROWS, *x.shape))


def turned(x, y, s):
    cos, sin = y[0, :HALF], y[1, :HALF]
    first, second = x[:, :HALF], x[:, HALF:]
    parts = first * cos - second * sin, second * cos + first * sin
    return np.concatenate(parts, 1)


def multiply_added(x, y, s):
    """Scalar by scalar, as the hardware loop takes them."""
    for row in range(ROWS):
        y = y + s[row] * x[row]
    return y


STEPS = {
    "multiply": Step(
        lambda x, y, s: wse.vector(out(), x, y, op="mul"), lambda x, y, s: x * y
    ),
    "add": Step(
        lambda x, y, s: wse.vector(out(), x, y, op="add"), lambda x, y, s: x + y
    ),
    "subtract from": Step(
        lambda x, y, s: wse.vector(out(), y, x, op="sub"), lambda x, y, s: y - x
    ),
    "scale": Step(
        lambda x, y, s: wse.vector_scale(out(), x, s), lambda x, y, s: x * s[:, None]
    ),
    "reciprocal": Step(lambda x, y, s: wse.reciprocal(out(), x), lambda x, y, s: 1 / x),
    "turn": Step(lambda x, y, s: wse.rope(out(), x, y[0, :HALF], y[1, :HALF]), turned),
    "multiply-add": Step(
        lambda x, y, s: wse.fmac_map(y, repeated(x), s), multiply_added
    ),
    "score": Step(
        lambda x, y, s: wse.score_map(y, x, repeated(s), COLUMNS),
        multiply_added,
    ),
    "value": Step(
        lambda x, y, s: wse.value_map(y, x, repeated(s), ROWS),
        multiply_added,
    ),
    "rsqrt_mean": Step(
        lambda x, y, s: wse.rsqrt_mean(
            out(), wse.vector(out(), x, x, op="mul"), n=N, eps=EPS
        ),
        lambda x, y, s: 1 / np.sqrt(x * x * single(1 / N) + single(EPS)),
    ),
}
AFTER = "add", "subtract from", "scale", "reciprocal", "turn", "multiply-add"
PAIRS = list(itertools.product(STEPS, AFTER))


def every_pair(x, y, s):
    """Each pair on tiles of its own, since XLA fuses no product that others need as well."""
    results = []
    for number, (first, second) in enumerate(PAIRS):
        own_x, own_y, own_s = x[number], y[number], s[number]
        once = STEPS[first].machine(own_x, own_y, own_s)
        results.append(STEPS[second].machine(once, own_y, own_s))
    return results


PROGRAM = Program(every_pair, {"pe": PES}, (("pe",),) * 3)
RUNS = {
    "vmap": lambda *operands: PROGRAM.run(*operands),
    "on devices": lambda *operands: PROGRAM.sharded()(*operands),
}


@pytest.mark.parametrize("run", RUNS)
def test_pairs_of_operations_are_as_numpy_computes_them(run):
    rng = np.random.default_rng(0)
    shapes = [(ROWS, COLUMNS), (ROWS, COLUMNS), (ROWS,)]
    operands = [
        rng.standard_normal((PES, len(PAIRS), *shape)).astype(single)
        for shape in shapes
    ]
    results = RUNS[run](*operands)
    wrong = {}
    for number, (first, second) in enumerate(PAIRS):
        for pe in range(PES):
            x, y, s = (a[pe, number] for a in operands)
            wanted = STEPS[second].numpy(STEPS[first].numpy(x, y, s), y, s)
            if count := int((np.asarray(results[number][pe]) != wanted).sum()):
                wrong[first, second] = count
    assert not wrong
