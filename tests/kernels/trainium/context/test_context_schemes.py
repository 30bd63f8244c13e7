"""Schemes beside the ring, caches longer than the queries, and narrow operands."""

import jax.numpy as jnp
import pytest

from kernels import masks
from kernels.trainium.context.attention import MXFP8
from tests.kernels.trainium.context.oracle import (
    BFLOAT16,
    FLOAT8,
    assert_attends,
    context,
    masks_of,
)

DOCUMENTS = masks_of(61)["documents"]
ONE = dict(heads=1, kv_heads=1, lanes=1)
PAIR = dict(heads=2, kv_heads=1, lanes=1)

SCHEMES = {
    "all-gather": dict(mask=DOCUMENTS, ranks=3, queries=40, **PAIR),
    "ulysses": dict(mask=masks.window(7), ranks=2, lanes=1),
    "ulysses-ring": dict(mask=DOCUMENTS, ranks=4, inner=2, lanes=1),
    "tiles": dict(mask=masks.sinks(3, 20), ranks=6, inner=3, **PAIR),
    "pass-q": dict(
        mask=masks.window(30), ranks=3, queries=7, placement="striped", **PAIR
    ),
}


@pytest.mark.parametrize("scheme", [name for name in SCHEMES if name != "ulysses"])
def test_scheme(scheme):
    """Ulysses alone is Ulysses on a ring of one; the slow test has it."""
    assert_attends(context(scheme=scheme, **SCHEMES[scheme]))


@pytest.mark.parametrize(
    "scheme",
    [
        "ring",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("all-gather", "ulysses-ring", "tiles", "pass-q")
        ),
    ],
)
def test_chips_of_a_rank_share_its_heads(scheme):
    """Two chips of two cores a rank, each with a fourth of the heads, and a ring of each."""
    sizes = dict(mask=DOCUMENTS, ranks=2, lanes=1) | SCHEMES.get(scheme, {})
    sizes |= dict(heads=8, kv_heads=8, tensor=2, cores=2, scheme=scheme)
    a = context(**sizes)
    assert list(a.mesh)[-2:] == ["tensor", "core"]
    assert a.sizes.heads == 2
    assert_attends(a)


NARROW = {
    "bfloat16, merged in it, on a cache": (
        dict(dtype=jnp.bfloat16, recipe="bf16-o", queries=50),
        BFLOAT16,
    ),
    "float8": (dict(dtype=jnp.float8_e4m3fn), FLOAT8),
    "mxfp8": (dict(dtype=MXFP8, head_dim=128, tokens=100, columns=512), FLOAT8),
}


@pytest.mark.parametrize("name", NARROW)
def test_narrow(name):
    sizes, within = NARROW[name]
    assert_attends(context(DOCUMENTS, ranks=2, **ONE, **sizes), within)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [3, 4])
def test_bfloat16_unmerged(ranks):
    assert_attends(context(DOCUMENTS, ranks=ranks, dtype=jnp.bfloat16), BFLOAT16)


@pytest.mark.slow
@pytest.mark.parametrize(
    "placement", ["contiguous", "zigzag", "striped", "tile-cyclic"]
)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_scheme_on_every_placement(scheme, placement):
    """In float64; of masks that leave rows and hops empty."""
    sizes = SCHEMES[scheme] | dict(mask=DOCUMENTS, placement=placement)
    assert_attends(context(scheme=scheme, **sizes), exact=True)
    sizes |= dict(mask=masks.window(5), tokens=45, queries=13)
    assert_attends(context(scheme=scheme, **sizes), exact=True)
