"""Kernels give one result in program order, as the clock reads them, and side by side."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from emu.tracing.side_by_side import in_order
from emu.trainium.engines.memory import sbuf
from emu.trainium.isa import nc_matmul
from kernels.trainium.gemm.ladder import gemm
from kernels.trainium.gemm.matmul import add_products
from kernels.trainium.layer import head, mlp, norm
from kernels.trainium.layer.gate import GATES
from kernels.trainium.tiles import pack
from tests.helpers import same_clock
from tests.kernels.trainium import reference as ref
from tests.kernels.trainium.reference import DEVICE, draw, load, single, stored
from tests.kernels.trainium.test_trn_blocks import project_case, project_kernel

# Sums are float32 in both readings, in another order; a bfloat16 result may round to a neighbour.
WITHIN = {"float32": 2e-6, "bfloat16": 2**-7}


def swiglu_case(dtype):
    """Five chunks of weights: 640 features in tiles of 128, one tile a chunk."""
    s = ref.tiling(hidden=640, ffn=96, rows=8, tiles=2, dtype=dtype)
    h = draw(0, 128, 5, s.block_tokens)
    gate, up = (pack(draw(n, 640, 96), 128, 48) for n in (1, 2))
    split = [w.transpose(0, 1, 3, 2, 4).reshape(2, 5, 128, 1, 48) for w in (gate, up)]
    return lambda h, g, u: stored(
        mlp.gated(load(h), mlp.UpWeights(g, u), GATES["silu"], dtype=s.dtype)
    ), (h, *split)


def project_of_blocks(dtype):
    args, _ = project_case(21, 7, 300, 96, 48)
    return functools.partial(project_kernel, rows=7), args


def norm_case(dtype):
    s = ref.tiling(dtype=dtype)
    x, weight = draw(0, s.rows, s.tiles, s.hidden_padded), draw(1, 1, s.hidden_padded)
    return lambda x, w: stored(norm.normalised_transposed(load(x), w, s)), (
        x,
        weight,
    )


def head_case(dtype):
    s = ref.tiling(dtype=dtype)
    x = draw(0, s.blocks, s.tiles, s.rows, s.hidden_padded)
    weight, heads = draw(1, 1, s.hidden_padded), pack(draw(2, s.hidden, 96), 72, 32)

    def kernel(x, weight, heads):
        mine = lax.axis_index("core") == 0
        return head.lm_head(x, weight, (heads,), s, row=5, mine=mine)

    return kernel, (x, weight, heads)


def gemm_case(variant, dtype):
    return functools.partial(gemm, variant=variant), (
        draw(0, 384, 512),
        draw(1, 384, 1024),
    )


CASES = {
    "project": project_of_blocks,
    "SwiGLU": swiglu_case,
    "norm": norm_case,
    "head": head_case,
    # Two k tiles a piece would divide 3 k tiles unequally; 3x1 does not divide 4 rows of tiles.
    **{
        v: functools.partial(gemm_case, v)
        for v in ("tiled", "block_bm2_bn2_row_loads", "block_mn_3x1", "block_all_dims")
    },
}


# The narrower one rounds more, and what is added in another order shows in it as well.
@pytest.mark.parametrize(
    "dtype",
    [
        pytest.param(d, marks=[] if d == "bfloat16" else [pytest.mark.slow])
        for d in WITHIN
    ],
)
@pytest.mark.parametrize("name", CASES)
def test_values_do_not_depend_on_the_reading(name, dtype):
    kernel, args = CASES[name](jnp.dtype(dtype))
    args = [jnp.asarray(x, dtype) for x in args]
    program = single(kernel, len(args))
    together = program.run(*args)
    one_by_one = program.run(*args, in_order=True)
    jax.tree.map(
        lambda a, b: ref.assert_near(a, ref.wide(b), WITHIN[dtype]),
        together,
        one_by_one,
    )
    same_clock(
        program.read(DEVICE, *args),
        single(jax.jit(kernel), len(args)).read(DEVICE, *args),
    )


@pytest.mark.parametrize("shared", ["stationary", "moving"])
@pytest.mark.parametrize("tiles", [1, 3])
@pytest.mark.parametrize("rows", [7, 8])
def test_bf16_products_of_several_cores_that_share_an_operand(shared, tiles, rows):
    """XLA on a CPU cannot run every batched bfloat16 product: `tensor._product` avoids those."""
    batched = {"stationary": (None, 0), "moving": (0, None)}[shared]
    sizes = (rows, tiles, 5), (rows, tiles, 9)
    pair = [
        jnp.asarray(draw(n, *((4,) if at == 0 else ()), *size), jnp.bfloat16)
        for n, (at, size) in enumerate(zip(batched, sizes, strict=True))
    ]

    def product(x, y):
        (total,) = add_products((jnp.zeros((5, 9)),), ((x, y),), jnp.int32(0))
        if tiles > 1:
            return total
        return nc_matmul(total, x[:, 0], y[:, 0], jnp.int32(1))

    out = jax.jit(jax.vmap(product, in_axes=batched))(*pair)
    x, y = (np.broadcast_to(ref.wide(t), (4, *t.shape[-3:])) for t in pair)
    expected = np.einsum("cktm,cktn->cmn", x, y) * (1 if tiles > 1 else 2)
    ref.assert_near(out, expected, WITHIN["float32"])


def test_products_add_to_what_a_bank_holds():
    x, y, old = draw(0, 6, 3, 4), draw(1, 6, 3, 5), draw(2, 4, 5)
    pairs = ((jnp.asarray(x), jnp.asarray(y)),)
    for done, start in ((0, 0 * old), (2, old)):
        expected = ref.wide(start) + np.einsum("ktm,ktn->mn", ref.wide(x), ref.wide(y))
        (out,) = add_products((jnp.asarray(old),), pairs, jnp.int32(done))
        ref.assert_near(out, expected, WITHIN["float32"])
        with in_order():
            (out,) = add_products((jnp.asarray(old),), pairs, jnp.int32(done))
        ref.assert_near(out, expected, WITHIN["float32"])


def test_a_poisoned_tile_shows_side_by_side():
    """A chunk that is not loaded: its NaN must not be lost where chunks are computed at once."""
    x, w = sbuf(4, 2, 3), jnp.ones((4, 2, 5))
    (out,) = add_products((jnp.zeros((3, 5)),), ((x, w),), jnp.int32(0))
    assert np.isnan(out).all()
