"""Instructions one after the other give what NumPy gives, bit for bit: every result is rounded.

XLA would compute across them: a product and a sum become one multiply-add, `x + 1e8 - 1e8` becomes
`x`, `1 / (1 / x)` becomes `x`, and `1 / sqrt(x)` an operation of its own.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

from emu import Cost, Program, instruction, old
from emu.tracing.side_by_side import in_order, tiles
from emu.trainium import dma_load, dma_store, isa, sbuf

CORES, TILES, ROWS, COLUMNS = 2, 2, 4, 24
BIG = 1e8  # float32 has a value in eight there, so what is added is rounded to eights
single = np.float32


@instruction(
    "rounding.multiply",
    cost=lambda device, *_: Cost(engine="vector", busy_cycles=1),
    reads=("sbuf", "sbuf"),
    writes="sbuf",
)
def own_multiply(dst, a, b):
    """A user's own instruction, which knows of nothing that has to be rounded."""
    return a.astype(dst.dtype) * b


class Step(NamedTuple):
    """An instruction on a tile `x`, with another tile `y` and a value `s` of each partition."""

    machine: Callable[[Any, Any, Any], Any]
    numpy: Callable[[Any, Any, Any], Any]


def out(dtype=jnp.float32):
    return sbuf(ROWS, COLUMNS, dtype=dtype)


def scanned(x, y, s):
    state, states = s, []
    for column in range(COLUMNS):
        state = x[:, column : column + 1] * state + y[:, column : column + 1]
        states.append(state)
    return np.concatenate(states, 1)


def added_at(x, y):
    """`x` plus `y`, as one place of a tile of places."""
    places = sbuf(ROWS, 1, COLUMNS)
    places = isa.tensor_copy.at[:, 0](places, x)
    places = isa.tensor_tensor.at[:, 0](places, old, y, op="add")
    return jnp.squeeze(places, 1)


STEPS = {
    "multiply": Step(
        lambda x, y, s: isa.tensor_tensor(out(), x, y, op="multiply"),
        lambda x, y, s: x * y,
    ),
    "own_multiply": Step(
        lambda x, y, s: own_multiply(out(), x, y), lambda x, y, s: x * y
    ),
    "add": Step(
        lambda x, y, s: isa.tensor_tensor(out(), x, y, op="add"),
        lambda x, y, s: x + y,
    ),
    "subtract_from": Step(
        lambda x, y, s: isa.tensor_tensor(out(), y, x, op="subtract"),
        lambda x, y, s: y - x,
    ),
    "add_at": Step(lambda x, y, s: added_at(x, y), lambda x, y, s: x + y),
    "multiply_bfloat16": Step(
        lambda x, y, s: isa.tensor_tensor(out(jnp.bfloat16), x, y, op="multiply"),
        lambda x, y, s: (x * y).astype(jnp.bfloat16).astype(single),
    ),
    "times_a_tenth": Step(
        lambda x, y, s: isa.tensor_immediate(out(), x, op="multiply", value=0.1),
        lambda x, y, s: x * single(0.1),
    ),
    "times_ten": Step(
        lambda x, y, s: isa.tensor_immediate(out(), x, op="multiply", value=10.0),
        lambda x, y, s: x * single(10),
    ),
    "add_big": Step(
        lambda x, y, s: isa.tensor_immediate(out(), x, op="add", value=BIG),
        lambda x, y, s: x + single(BIG),
    ),
    "subtract_big": Step(
        lambda x, y, s: isa.tensor_immediate(out(), x, op="subtract", value=BIG),
        lambda x, y, s: x - single(BIG),
    ),
    "to_eights": Step(
        lambda x, y, s: isa.tensor_immediate(
            out(), x, op="add", value=BIG, op1="subtract", value1=BIG
        ),
        lambda x, y, s: (x + single(BIG)) - single(BIG),
    ),
    "scale_and_shift": Step(
        lambda x, y, s: isa.tensor_scalars(out(), x, s, s, op0="multiply", op1="add"),
        lambda x, y, s: x * s + s,
    ),
    "scale_and_subtract": Step(
        lambda x, y, s: isa.scalar_tensor_tensor(
            out(), x, s, y, op0="multiply", op1="subtract"
        ),
        lambda x, y, s: x * s - y,
    ),
    "scale_and_shift_by_constants": Step(
        lambda x, y, s: isa.tensor_immediate(
            out(), x, op="multiply", value=0.3, op1="add", value1=0.1
        ),
        lambda x, y, s: x * single(0.3) + single(0.1),
    ),
    "scan": Step(
        lambda x, y, s: isa.tensor_tensor_scan(
            out(), x, y, s, op0="multiply", op1="add"
        ),
        scanned,
    ),
    "activation_bias": Step(
        lambda x, y, s: isa.activation_bias(out(), x, s, op="copy", scale=0.3),
        lambda x, y, s: x * single(0.3) + s,
    ),
    "activation_scaled": Step(
        lambda x, y, s: isa.activation_scaled(out(), x, s, s, op="square"),
        lambda x, y, s: np.square(x * s + s),
    ),
    "reciprocal": Step(lambda x, y, s: isa.reciprocal(out(), x), lambda x, y, s: 1 / x),
    "root": Step(
        lambda x, y, s: isa.activation(
            out(), isa.activation(out(), x, op="abs"), op="sqrt"
        ),
        lambda x, y, s: np.where(np.abs(x) < 2.0**-116, np.nan, np.sqrt(np.abs(x))),
    ),
    "rsqrt": Step(
        lambda x, y, s: isa.rsqrt_gpsimd(out(), isa.activation(out(), x, op="abs")),
        lambda x, y, s: 1 / np.sqrt(np.abs(x)),
    ),
}
# What XLA would join with the instruction before.
AFTER = "add", "subtract_from", "subtract_big", "times_ten", "reciprocal"
PAIRS = list(itertools.product(STEPS, AFTER))


def every_pair(x, y, s):
    """Each pair on tiles of its own, since XLA fuses no product that others need as well."""

    def on_one(operands):
        results = []
        for number, (first, second) in enumerate(PAIRS):
            own_x, own_y, own_s = [a[number] for a in operands]
            x = dma_load(out(), own_x)
            y = dma_load(out(), own_y)
            s = dma_load(sbuf(ROWS, 1), own_s)
            once = STEPS[first].machine(x, y, s)
            twice = STEPS[second].machine(once, y, s)
            results.append(dma_store(twice))
        return results

    return tiles(on_one, (x, y, s))


@pytest.fixture(scope="module")
def operands():
    rng = np.random.default_rng(0)

    def draw(columns):
        shape = CORES, TILES, len(PAIRS), ROWS, columns
        return rng.standard_normal(shape).astype(single)

    return draw(COLUMNS), draw(COLUMNS), draw(1)


@pytest.fixture(scope="module")
def expected(operands):
    found = []
    for number, (first, second) in enumerate(PAIRS):
        x, y, s = (a[:, :, number] for a in operands)
        found.append(np.empty_like(x))
        for at in np.ndindex(CORES, TILES):
            with np.errstate(all="ignore"):
                once = STEPS[first].numpy(x[at], y[at], s[at])
                found[-1][at] = STEPS[second].numpy(once, y[at], s[at])
    return found


PROGRAM = Program(every_pair, {"core": CORES}, (("core",),) * 3)


def in_order_on_devices(*operands):
    with in_order({"core": CORES}):
        return PROGRAM.sharded()(*operands)


RUNS = {
    "side by side": PROGRAM.run,
    "in order": lambda *operands: PROGRAM.run(*operands, in_order=True),
    "side by side on devices": lambda *operands: PROGRAM.sharded()(*operands),
    "in order on devices": in_order_on_devices,
}


# Each reading and each mapping once; the other two pairs of them are slow.
@pytest.mark.parametrize(
    "run",
    [
        "side by side",
        pytest.param("in order", marks=pytest.mark.slow),
        pytest.param("side by side on devices", marks=pytest.mark.slow),
        "in order on devices",
    ],
)
def test_pairs_of_instructions_are_as_numpy_computes_them(run, operands, expected):
    results = RUNS[run](*operands)
    wrong = {}
    for pair, result, wanted in zip(PAIRS, results, expected, strict=True):
        differs = np.asarray(result) != wanted
        both_nan = np.isnan(np.asarray(result)) & np.isnan(wanted)
        if count := int((differs & ~both_nan).sum()):
            wrong[pair] = count
    assert not wrong
