"""Kernels in float64 equal their float64 references: what is wrong in float32 is rounding alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emu import EmulationError
from emu.checks import precision
from emu.numerics import errors
from kernels.trainium.catalogue import TRAINIUM_KERNELS
from kernels.trainium.gemm.ladder import untile
from tests.kernels.trainium import reference as ref
from tests.kernels.trainium.reference import draw, wide
from tests.kernels.trainium.test_flash import expected_of as flash_expected
from tests.kernels.trainium.test_ladder import softmax
from tests.kernels.trainium.test_trn_layer import SIZES, case

WITHIN = 1e-12  # of the Euclidean norm; float64 itself rounds at 1e-16
FP8_LARGEST = 448.0  # of E4M3, which rows are scaled to
SIZES_OF = {
    "gemm": dict(m=256, k=256, n=512),
    "gemm_transposing": dict(m=128, k=256, n=512),
    "rope_rows": dict(rows=96, heads=3, head_dim=16),
    "swiglu_rows": dict(rows=96, n=64),
} | {
    f"flash_{name}": dict(heads=4, kv_heads=2, tokens=192, head_dim=16)
    for name in ("full", "masked", "causal", "grouped", "pipelined")
}
ROWS = dict(rows=96, n=64)
TUNED = {
    name: dict(piece=32)
    for name in ("softmax_three_pass", "softmax_online", "swiglu_rows")
}
TUNED |= {f"flash_{name}": dict(columns=48) for name in ("full", "masked", "causal")}
TUNED |= {
    f"flash_{name}": dict(columns=48, lanes=4) for name in ("grouped", "pipelined")
}


def rms_norm(x, weight):
    return ref.rms_norm(x, weight, 1e-6)


def scaled_norm(x, weight):
    """Elements and the scale of each row."""
    y = rms_norm(x, weight)
    scale = np.maximum(np.abs(y).max(-1, keepdims=True), 1e-12) / FP8_LARGEST
    return y / scale, scale


def in_pieces(x):
    """A result `[96, 64]` as kernels with pieces of 32 store it."""
    return x.reshape(1, 96, 2, 32).swapaxes(1, 2)


REFERENCE = {
    "gemm": lambda a, b: wide(a).T @ wide(b),
    "gemm_transposing": lambda a, b: wide(a) @ wide(b),
    "softmax_three_pass": lambda x: in_pieces(softmax(x)),
    "softmax_online": lambda x: in_pieces(softmax(x)),
    "softmax_fused": softmax,
    "rms_norm_rows": rms_norm,
    "rope_rows": ref.rotate,
    "swiglu_rows": lambda gate, up: ref.silu(wide(gate)) * wide(up),
    "rms_norm_fp8": scaled_norm,
} | {
    f"flash_{name}": functools.partial(flash_expected, name)
    for name in ("full", "masked", "causal", "grouped", "pipelined")
}


def same(actual, expected):
    assert actual.dtype == np.float64 and actual.shape == np.shape(expected)
    assert errors(actual, expected).norm < WITHIN


def narrow(program, args):
    """Float types narrower than float64 in what XLA is given."""
    with precision.exact():
        text = program.compiled.lower(*map(precision.widen, args)).as_text()
    return [t for t in ("f32>", "bf16>", "f16>", "f8E4M3FN>") if t in text]


@pytest.mark.parametrize("name", [n for n in TRAINIUM_KERNELS if not n.endswith("_mx")])
def test_the_catalogue(name):
    """Arguments are bfloat16, and so would be the kernel's tiles."""
    sizes = {"dtype": "bfloat16", **SIZES_OF.get(name, ROWS)}
    program, structs = TRAINIUM_KERNELS[name].build(**sizes, **TUNED.get(name, {}))
    args = [draw(i, *x.shape).astype(x.dtype) for i, x in enumerate(structs)]
    results = jax.tree.map(lambda y: y[0], program.exact(*args))
    if name.startswith("gemm"):
        results = untile(results)
    jax.tree.map(same, results, REFERENCE[name](*args))
    assert not narrow(program, args)


@pytest.mark.parametrize("name", [n for n in TRAINIUM_KERNELS if n.endswith("_mx")])
def test_mx_is_refused(name):
    small = dict(m=128, k=512, n=512, rows=32)
    sizes = {k: v for k, v in small.items() if k in TRAINIUM_KERNELS[name].sizes}
    program, structs = TRAINIUM_KERNELS[name].build(**sizes)
    with pytest.raises(EmulationError, match="no float64 counterpart"):
        program.exact(*(np.ones(x.shape, x.dtype) for x in structs))


# --- several chips ---


def test_layer():
    """Norms, projections, RoPE, ring attention and MLP, with sums over the cores of a chip."""
    c = case(SIZES, 2)
    y, *_ = c.program.exact(*c.args)
    same(y, np.broadcast_to(c.y[:, None], y.shape))


# --- gradients ---


def test_gradients_of_both_readings():
    """In float32 the gradient is as near to that in float64 as the values are."""
    program, structs = TRAINIUM_KERNELS["softmax_online"].build(
        dtype="float32", **ROWS, piece=32
    )
    x, weights = draw(0, *structs[0].shape), draw(1, 1, 1, 2, 96, 32)

    def slope(x, weights):
        return jax.jit(jax.grad(lambda x: jnp.sum(program.batched(x) * weights)))(x)

    ordinary = slope(*map(jnp.asarray, (x, weights)))
    with precision.exact():
        exact = np.asarray(slope(*map(precision.widen, (x, weights))))
    assert (ordinary.dtype, exact.dtype) == (np.float32, np.float64)
    assert 1e-9 < errors(ordinary, exact).norm < 2e-6


@pytest.mark.parametrize("name", ["softmax_online", "rms_norm_rows"])
def test_gradient_of_one_core(name):
    """Against a central difference along one direction, which float64 makes good to 1e-8."""
    sizes = {"dtype": "float32", **SIZES_OF.get(name, ROWS)}
    program, structs = TRAINIUM_KERNELS[name].build(**sizes, **TUNED.get(name, {}))
    args = [draw(i, *x.shape).astype(np.float64) for i, x in enumerate(structs)]
    along = [draw(9 + i, *x.shape).astype(np.float64) for i, x in enumerate(structs)]
    weights = draw(8, *jax.eval_shape(program.batched, *structs).shape)

    def loss(h):
        given = [
            a + h * d for a, d in zip(map(precision.widen, args), along, strict=True)
        ]
        return jnp.sum(program.batched(*given) * precision.widen(weights))

    with precision.exact():
        slope = float(jax.jit(jax.grad(loss))(jnp.float64(0)))
        up, down = (float(jax.jit(loss)(jnp.float64(h))) for h in (1e-5, -1e-5))
    np.testing.assert_allclose(slope, (up - down) / 2e-5, rtol=1e-7)
