"""Collectives between chips: what every rank holds afterwards, sums in the order of the ring."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emu import Program
from emu.errors import LimitExceeded
from emu.trainium.datasheets import TRN2, TRN2_48XLARGE, on_system
from emu.trainium.engines.memory import hbm
from emu.trainium.links.chip_collectives import (
    chip_all_gather,
    chip_all_reduce,
    chip_all_to_all,
    chip_broadcast,
    chip_reduce_scatter,
)
from emu.trainium.links.hierarchy import (
    all_gather_both,
    all_reduce_both,
    reduce_scatter_both,
)
from tests.emu.trainium.operands import BF16, F32, draw

MB = 1_000_000
T2 = on_system(TRN2, TRN2_48XLARGE).at()


def gathered(x, ranks, axis, chips=None):
    dst = hbm(ranks * x.shape[0], *x.shape[1:], dtype=x.dtype)
    return chip_all_gather(dst, x, axis=axis, chips=chips)


def scattered(x, ranks, axis, chips=None):
    dst = hbm(x.shape[0] // ranks, *x.shape[1:], dtype=x.dtype)
    return chip_reduce_scatter(dst, x, axis=axis, chips=chips)


def on_like(collective):
    def kernel(x, ranks, axis, chips=None):
        return collective(hbm(*x.shape, dtype=x.dtype), x, axis=axis, chips=chips)

    return kernel


reduced, exchanged = on_like(chip_all_reduce), on_like(chip_all_to_all)


def spread(x, ranks, axis, chips=None, root=1):
    root = min(root, ranks - 1)
    return chip_broadcast(hbm(*x.shape, dtype=x.dtype), x, root, axis=axis, chips=chips)


KERNELS = {
    "gathered": gathered,
    "scattered": scattered,
    "reduced": reduced,
    "exchanged": exchanged,
    "spread": spread,
}


# --- values: on a mesh [4, 2], along either axis ---


def ring_sum(x):
    """`[ranks, chunks, ...] -> [chunks, ...]`, chunk c from rank c + 1 up, in float32 or wider."""
    n = len(x)
    wide = np.float64 if x.dtype == np.float64 else np.float32
    order = [[x[(c + 1 + r) % n, c].astype(wide) for r in range(n)] for c in range(n)]
    return np.stack([functools.reduce(np.add, parts) for parts in order])


def expected_of(name, x):
    """Over the first axis: `[ranks, ...]` in, `[ranks, ...]` out."""
    n = len(x)
    if name == "gathered":
        out = np.stack([np.concatenate(list(x))] * n)
    elif name == "spread":
        out = np.stack([x[1]] * n)
    elif name == "exchanged":
        out = np.stack(
            [np.concatenate([np.split(x[j], n)[i] for j in range(n)]) for i in range(n)]
        )
    elif name == "scattered":
        out = ring_sum(np.stack(np.split(x, n, 1), 1))
    else:
        flat = np.pad(x.reshape(n, -1), [(0, 0), (0, -x[0].size % n)])
        total = ring_sum(np.stack(np.split(flat, n, 1), 1)).ravel()
        out = np.stack([total[: x[0].size].reshape(x[0].shape)] * n)
    return out.astype(x.dtype)


def on_axis(name, at, dtype=F32):
    """A program over `[4, 2]` chips, its argument and the expected result."""
    axes, sizes = ("a", "b"), (4, 2)
    kernel = lambda x: KERNELS[name](x, sizes[at], axes[at], axes)  # noqa: E731
    x = draw(3, 4, 2, 8, 3, dtype=dtype)
    moved = np.moveaxis(x, at, 0)
    expected = np.stack(
        [expected_of(name, moved[:, i]) for i in range(moved.shape[1])], 1
    )
    return (
        Program(kernel, dict(zip(axes, sizes)), (axes,)),
        x,
        np.moveaxis(expected, 0, at),
    )


@pytest.mark.parametrize("dtype", [F32, BF16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize("name", KERNELS)
def test_values(name, at, dtype):
    p, x, expected = on_axis(name, at, dtype)
    np.testing.assert_array_equal(p.run(jnp.asarray(x)), expected)


@pytest.mark.parametrize("name", KERNELS)
def test_the_same_under_shard_map(name):
    p, x, expected = on_axis(name, 0)
    np.testing.assert_array_equal(p.sharded(check_vma=True)(jnp.asarray(x)), expected)


@pytest.mark.parametrize("name", ["scattered", "reduced"])
def test_float64_is_added_as_float64(name):
    with jax.enable_x64(True):
        p, x, expected = on_axis(name, 0, np.float64)
        actual = p.run(jnp.asarray(x))
        assert actual.dtype == np.float64
        np.testing.assert_array_equal(actual, expected)


def test_a_sum_that_does_not_divide():
    """7 elements over 4 ranks: chunks of 2, the last of 1."""
    x = draw(0, 4, 7)
    p = Program(lambda x: reduced(x, 4, "a"), {"a": 4}, (("a",),))
    np.testing.assert_array_equal(p.run(jnp.asarray(x)), expected_of("reduced", x))


def test_the_order_of_the_ring_shows():
    """Chunk 0 is (x1 + x2) + x0: 1 is lost beside 2**24 unless the large terms cancel first."""
    big = 2.0**24
    for terms, first in (([-big, big, 1], 0), ([1, big, -big], 1)):
        x = np.array(terms, np.float32).reshape(3, 1) * np.ones(3, np.float32)
        p = Program(lambda x: reduced(x, 3, "a"), {"a": 3}, (("a",),))
        assert np.asarray(p.run(jnp.asarray(x)))[0, 0] == first


def test_gradients():
    """Everybody's sum, weighted: the weights' sum comes back to everybody."""
    p, x, _ = on_axis("reduced", 0)
    weight = draw(1, *x.shape)
    loss = lambda x: (p.batched(x) * jnp.asarray(weight)).sum()  # noqa: E731
    grad = jax.jit(jax.grad(loss))(jnp.asarray(x))
    np.testing.assert_allclose(
        grad, np.broadcast_to(weight.sum(0), x.shape), rtol=1e-5, atol=1e-6
    )


# --- chips and their cores ---

BOTH: dict[str, Any] = {"chip_axis": "chip", "core_axis": "core"}
SMALL = {"chip": 4, "core": 2}


def on_both(name):
    def kernel(x):
        if name == "gather":
            return all_gather_both(
                hbm(8 * len(x), *x.shape[1:], dtype=x.dtype), x, **BOTH
            )
        if name == "scatter":
            return reduce_scatter_both(
                hbm(len(x) // 8, *x.shape[1:], dtype=x.dtype), x, **BOTH
            )
        return all_reduce_both(hbm(*x.shape, dtype=x.dtype), x, **BOTH)

    return Program(kernel, SMALL, (("chip", "core"),))


def test_values_over_chips_and_cores():
    """Small integers, which every order adds alike; the order shows in whose part is which."""
    x = np.random.default_rng(0).integers(-50, 50, (4, 2, 16, 3)).astype(np.float32)
    ranks = x.reshape(8, 16, 3)
    total = ranks.sum(0)
    for name, expected in (
        ("gather", np.stack([ranks.reshape(-1, 3)] * 8)),
        ("scatter", total.reshape(8, 2, 3)),
        ("reduce", np.stack([total] * 8)),
    ):
        actual = np.asarray(on_both(name).run(jnp.asarray(x)))
        np.testing.assert_array_equal(actual.reshape(expected.shape), expected)


# --- refused ---


def read(name, mesh, nbytes, device=T2, axis=None, chips=None, **options):
    """A collective of int8, one element a byte, of buffers of `nbytes` on each rank."""
    axis = axis or next(iter(mesh))
    kernel = lambda x: KERNELS[name](x, mesh[axis], axis, chips)  # noqa: E731
    x = jax.ShapeDtypeStruct((nbytes,), jnp.int8)
    return Program(kernel, mesh, ((),)).read(device, x, **options)


def test_refused():
    x = jax.ShapeDtypeStruct((8,), jnp.float32)
    wrong = {
        r"trn.chip_all_gather: destination is \[24\], must be the source's \[8\] with one": (
            lambda x: chip_all_gather(hbm(24), x, axis="r")
        ),
        r"trn.chip_reduce_scatter: source is \[8\], must be the destination's \[8\] with": (
            lambda x: chip_reduce_scatter(hbm(8), x, axis="r")
        ),
        r"trn.chip_all_to_all: destination is \[4\], must be \[8\]": (
            lambda x: chip_all_to_all(hbm(4), x, axis="r")
        ),
        r"trn.chip_broadcast: root is 2, must be 0 to 1": (
            lambda x: chip_broadcast(hbm(8), x, 2, axis="r")
        ),
        r"axis is 'r', must be one over chips: c": (
            lambda x: chip_all_reduce(hbm(8), x, axis="r", chips=("c",))
        ),
    }
    for message, kernel in wrong.items():
        with pytest.raises(LimitExceeded, match=message):
            Program(kernel, {"r": 2, "c": 2}, ((),)).read(T2, x)


@pytest.mark.parametrize("split, join", [(0, 2), (2, 0), (1, 1)])
def test_all_to_all_cuts_and_joins_any_dimensions(split, join):
    """Against NumPy, beside another axis over chips."""
    x = np.arange(2 * 3 * 6 * 3 * 6, dtype=np.float32).reshape(2, 3, 6, 3, 6)

    def kernel(x):
        shape = list(x.shape)
        shape[split] //= 3
        shape[join] *= 3
        return chip_all_to_all(
            hbm(*shape), x, axis="r", chips=("o", "r"), split=split, join=join
        )

    actual = Program(kernel, {"o": 2, "r": 3}, (("o", "r"),)).run(jnp.asarray(x))
    for o in range(2):
        cut = [np.split(x[o, j], 3, split) for j in range(3)]
        for i in range(3):
            expected = np.concatenate([cut[j][i] for j in range(3)], join)
            np.testing.assert_array_equal(actual[o, i], expected)


def test_parts_must_divide():
    message = (
        r"trn.chip_all_to_all: source is \[8\], its dimension 0 must be a multiple of 3"
    )
    with pytest.raises(LimitExceeded, match=message):
        read("exchanged", {"ring": 3}, 8)


def test_systems_have_so_many_chips():
    message = (
        r"trn2.48xlarge: 20 is 20 chips, at most 16 \(test_chip_collectives.py:\d+\)"
    )
    with pytest.raises(LimitExceeded, match=message):
        read("reduced", {"ring": 20}, 2 * MB)
