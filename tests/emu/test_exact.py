"""The exact reading: every tile and every operation in float64, and the two readings kept apart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from emu import Cost, Known, Program, instruction, old
from emu.checks import precision
from emu.errors import EmulationError
from emu.trainium import isa
from emu.trainium.engines import memory
from emu.trainium.links.collectives import all_reduce
from tests.emu.trainium.operands import BF16, E4M3, F32, I32, U8, draw, wide
from tests.emu.trainium.test_scalar import NUMPY, inputs
from tests.helpers import SHAPE, TOY, add, load, mul, store
from tests.helpers import tile as float32_tile

WITHIN = 1e-12


@instruction(
    "toy.any_tile",
    cost=lambda d, **_: Cost(engine="add"),
    reads=(),
    writes="sbuf",
    in_place=False,
)
def _tile(*, dtype):
    return jnp.full(SHAPE, jnp.nan, dtype)


def tile(dtype=F32):
    return _tile(dtype=precision.tile_dtype(dtype))


def polynomial(x):
    """`x² + x` in bfloat16, stored."""
    x = load(tile(BF16), x)
    return store(add(tile(BF16), mul(tile(BF16), x, x), x))


def single(kernel, count):
    return Program(kernel, {"core": 1}, ((),) * count)


def near(actual, expected):
    assert actual.dtype == np.float64 and actual.shape == np.shape(expected)
    np.testing.assert_allclose(actual, expected, rtol=WITHIN, atol=WITHIN)


# --- the two readings ---


def test_nothing_is_rounded_and_the_readings_do_not_mix():
    x, p = draw(0, *SHAPE, dtype=BF16), single(polynomial, 1)
    before = p.run(x)
    exact = p.exact(x)[0]
    np.testing.assert_array_equal(exact, wide(x) ** 2 + wide(x))
    after = p.run(x)
    assert before.dtype == after.dtype == BF16
    np.testing.assert_array_equal(before, after)
    assert (wide(before)[0] != exact).any()
    assert not precision.is_exact() and jnp.arange(2).dtype == I32


def test_arguments_keep_their_digits():
    """A float64 argument is not rounded on its way, nor is a Python number."""
    x = np.full(SHAPE, 1 / 3)
    p = Program(
        lambda x, y: store(add(tile(), x, jnp.full_like(x, y))), {"r": 1}, ((), ())
    )
    np.testing.assert_array_equal(p.exact(x, 0.1)[0], x + 0.1)


def test_integers_keep_their_types():
    def kernel(x, n, i, flags):
        return (
            lax.scan(lambda y, k: (add(tile(), y, x), i + flags), x, jnp.arange(3))[0],
            n,
            i,
        )

    program = Program(kernel, {"r": 1}, ((),) * 4)
    args = (
        np.ones(SHAPE, BF16),
        Known(3),
        np.arange(2),
        np.ones(2, np.uint8).astype(np.int32),
    )
    y, n, i = program.exact(*args)
    assert (y.dtype, n.dtype, i.dtype) == (np.float64, I32, I32) and (y == 4).all()


def test_the_clock_does_not_see_it():
    x, p = jax.ShapeDtypeStruct(SHAPE, BF16), single(polynomial, 1)
    ticks = p.read(TOY, x).end_ticks
    p.exact(np.ones(SHAPE, BF16))
    assert (
        p.read(TOY, x).end_ticks
        == single(polynomial, 1).read(TOY, x).end_ticks
        == ticks
    )


def test_a_tile_that_stays_narrow_is_named():
    """Its allocation asks for the dtype that the kernel names."""

    def kernel(x):
        return x, float32_tile()

    message = r"toy.tile: result is float32\[2, 3\], must be float64 .*tile_dtype. \(test_exact.py:"
    with pytest.raises(precision.NotExact, match=message):
        single(kernel, 1).exact(np.ones(SHAPE, np.float32))
    inside = single(
        lambda x: lax.scan(lambda y, _: (y, float32_tile()), x, None, 2)[0], 1
    )
    with pytest.raises(precision.NotExact, match="toy.tile: result is float32"):
        inside.exact(np.ones(SHAPE, np.float32))


def test_gradient():
    x, p = draw(0, *SHAPE), single(polynomial, 1)
    with precision.exact():
        slope = np.asarray(jax.grad(lambda x: p.batched(x).sum())(precision.widen(x)))
    np.testing.assert_array_equal(slope, 2 * wide(x) + 1)


# --- the instructions of a NeuronCore ---


def sb(*shape, dtype=F32):
    return memory.sbuf(*shape, dtype=dtype)


def computed(kernel, *args):
    """The exact results; what XLA is given names no narrower float at all."""
    program = single(kernel, len(args))
    results = program.exact(*args)
    with precision.exact():
        text = program.compiled.lower(*jax.tree.map(precision.widen, args)).as_text()
    assert not [t for t in ("f32>", "bf16>", "f16>", "f8E4M3FN>") if t in text]
    return jax.tree.map(lambda y: y[0], results)


def activations(op, x, bias):
    y, total = isa.activation_reduce(
        sb(8, 33, dtype=BF16), sb(8, 1), x, bias, op=op, scale=0.3
    )
    return y, total, isa.activation(sb(8, 33, dtype=BF16), x, op=op, scale=0.3)


def test_activations():
    """All in one program, which compiles once."""
    given = [inputs(op, BF16) for op in NUMPY]
    results = computed(
        lambda *xs: [activations(op, *x) for op, x in zip(NUMPY, xs, strict=True)],
        *given,
    )
    for f, (x, bias), (y, total, plain) in zip(
        NUMPY.values(), given, results, strict=True
    ):
        expected = f(wide(x) * 0.3 + wide(bias))
        near(y, expected)
        near(total, expected.sum(1, keepdims=True))
        near(plain, f(wide(x) * 0.3))


def statistics(x):
    """Count, mean, and variance times count of even elements, then of odd ones."""
    groups = x[:, ::2], x[:, 1::2]
    return np.stack(
        [
            s
            for g in groups
            for s in (np.full(len(g), g.shape[1]), g.mean(1), g.var(1) * g.shape[1])
        ],
        1,
    )


def running(a, b, initial):
    """`state = a · state + b` along a row."""
    state, out = initial[:, 0], []
    for x, y in zip(a.T, b.T, strict=True):
        state = x * state + y
        out.append(state)
    return np.stack(out, 1)


def by_rows(x):
    """Softmax's pieces on the Vector Engine: `exp(x - max)` and its sum."""
    p = np.exp(x - x.max(1, keepdims=True))
    return p, p.sum(1, keepdims=True)


X, Y, C = draw(0, 8, 20, dtype=BF16), draw(1, 8, 20, dtype=E4M3), draw(2, 8, 1)
A, B, D = wide(X), wide(Y), wide(C)
CASES = {  # kernel of x, y `[8, 20]` and a column c `[8, 1]`, and what it computes
    "tensor_tensor": (
        lambda x, y, c: isa.tensor_tensor(sb(8, 20), x, y, op="multiply"),
        A * B,
    ),
    "fused": (
        lambda x, y, c: isa.scalar_tensor_tensor(
            sb(8, 20), x, c, y, op0="subtract", op1="multiply"
        ),
        (A - D) * B,
    ),
    "immediate": (
        lambda x, y, c: isa.tensor_immediate(
            sb(8, 20), x, op="multiply", value=0.1, op1="add", value1=0.7
        ),
        A * 0.1 + 0.7,
    ),
    "scalars": (
        lambda x, y, c: isa.tensor_scalars(sb(8, 20), x, c, c, op0="add", op1="max"),
        np.maximum(A + D, D),
    ),
    "reciprocal": (lambda x, y, c: isa.reciprocal(sb(8, 20), x), 1 / A),
    "rsqrt": (
        lambda x, y, c: isa.rsqrt_gpsimd(
            sb(8, 1), isa.tensor_tensor(sb(8, 1), c, c, op="multiply")
        ),
        1 / np.abs(D),
    ),
    "add_at": (
        lambda x, y, c: isa.tensor_tensor.at[:, 1](
            isa.memset(sb(8, 2, 20), value=0.1), old, x, op="add"
        ),
        np.stack([A * 0 + 0.1, A + 0.1], 1),
    ),
    "reduce": (
        lambda x, y, c: isa.tensor_reduce(sb(8, 1), x, op="add"),
        A.sum(1, keepdims=True),
    ),
    "scalar_reduce": (
        lambda x, y, c: isa.tensor_scalar_reduce(
            sb(8, 20), sb(8, 1), x, c, op="add", reduce="max"
        ),
        (A + D, (A + D).max(1, keepdims=True)),
    ),
    "scan": (
        lambda x, y, c: isa.tensor_tensor_scan(
            sb(8, 20), x, y, c, op0="multiply", op1="add"
        ),
        running(A, B, D),
    ),
    "bn_stats": (lambda x, y, c: isa.bn_stats(sb(8, 6), x), statistics(A)),
    "bn_aggr": (
        lambda x, y, c: isa.bn_aggr(sb(8, 2), isa.bn_stats(sb(8, 6), x)),
        np.stack([A.mean(1), A.var(1)], 1),
    ),
    "exponential": (
        lambda x, y, c: isa.exponential(
            sb(8, 20), sb(8, 1), x, isa.tensor_reduce(sb(8, 1), x, op="max")
        ),
        by_rows(A),
    ),
    "range_select": (
        lambda x, y, c: isa.range_select(
            sb(8, 20),
            sb(8, 1),
            x,
            isa.memset(sb(8, 1), value=0.0),
            isa.memset(sb(8, 1), value=99.0),
            compare0="greater_equal",
            compare1="less",
        ),
        (A, A.max(1, keepdims=True)),
    ),
    "max8": (lambda x, y, c: isa.nc_max8(sb(8, 8), x), -np.sort(-A, 1)[:, :8]),
    "affine_select": (
        lambda x, y, c: isa.affine_select(sb(8, 20), x, 0, fill=-0.1),
        np.where(np.tri(8, 20, dtype=bool), A, -0.1),
    ),
    "iota": (
        lambda x, y, c: isa.iota(sb(8, 20), 3, steps=(2,)),
        np.tile(3.0 + 2 * np.arange(20), (8, 1)),
    ),
    "matmul": (
        lambda x, y, c: isa.nc_matmul(
            isa.nc_matmul(memory.psum(20, 20, dtype=BF16), x, y, 0), x, x, 1
        ),
        A.T @ B + A.T @ A,
    ),
    "tf32": (
        lambda x, y, c: isa.nc_matmul(memory.psum(20, 20), x, y, 0, tf32=True),
        A.T @ B,
    ),
    "double_row": (
        lambda x, y, c: isa.nc_matmul_double_row(
            memory.psum(10, 10),
            isa.tensor_copy(sb(8, 2, 10, dtype=E4M3), x.reshape(8, 2, 10)),
            isa.tensor_copy(sb(8, 2, 10, dtype=E4M3), y.reshape(8, 2, 10)),
            0,
        ),
        np.einsum("ktm,ktn->mn", A.reshape(8, 2, 10), B.reshape(8, 2, 10)),
    ),
    "transpose": (
        lambda x, y, c: isa.nc_transpose(memory.psum(20, 8, dtype=BF16), x),
        A.T,
    ),
    "integers": (
        lambda x, y, c: isa.tensor_tensor(
            sb(8, 20),
            isa.iota(sb(8, 20, dtype=I32), 2**24 + 1, steps=(0,)),
            x,
            op="add",
        ),
        A + (2**24 + 1),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_instructions(name):
    kernel, expected = CASES[name]
    jax.tree.map(near, computed(kernel, X, Y, C), expected)


def test_draws_are_those_of_float32():
    def kernel(x):
        half = isa.memset(sb(8, 1), value=0.5)
        return isa.rand2(sb(8, 20), 7, low=-1.0, high=2.0), isa.dropout(
            sb(8, 20), memory.dma_load(sb(8, 20, dtype=BF16), x), half, 7
        )

    program = single(kernel, 1)
    jax.tree.map(near, program.exact(X), jax.tree.map(wide, program.run(X)))


def test_a_sum_over_cores():
    def kernel(x):
        return all_reduce(memory.hbm(*x.shape, dtype=BF16), x, axis="core")

    x = draw(0, 3, 4, 5, dtype=BF16)
    near(
        Program(kernel, {"core": 3}, (("core",),)).exact(x),
        np.tile(wide(x).sum(0), (3, 1, 1)),
    )


def test_mx_is_refused():
    """A shared exponent is chosen by rounding: there is nothing to compute in its place."""

    def quantize(x):
        return isa.quantize_mx(sb(32, 2, 4, dtype=E4M3), sb(4, 2, dtype=U8), x)

    def multiply(x, scale):
        return isa.nc_matmul_mx(memory.psum(2, 2), x, x, scale, scale, 0)

    x, scale = draw(0, 32, 2, 4, dtype=BF16), np.full((4, 2), 127, np.uint8)
    with pytest.raises(
        EmulationError, match=r"trn.quantize_mx: .* no float64 .*test_exact.py"
    ):
        single(quantize, 1).exact(x)
    with pytest.raises(
        EmulationError, match=r"trn.nc_matmul_mx: .* no float64 .*test_exact.py"
    ):
        single(multiply, 2).exact(x.astype(E4M3), scale)
