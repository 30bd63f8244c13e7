"""The kernels around one instruction compute what that instruction does."""

import functools

import jax.numpy as jnp
import numpy as np

from emu import Program
from emu.trainium.datasheets import TRN2
from kernels.trainium import microbench

RNG = np.random.default_rng(0)


def draw(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def run(kernel, *args, issued, **options):
    """Results on one core, once the clock has counted `issued` executions of an instruction."""
    program = Program(
        functools.partial(kernel, **options), {"core": 1}, ((),) * len(args)
    )
    name, count = issued
    assert program.read(TRN2.at(), *args).tally.by("count")[name] == count
    results = program.run(*args)
    return [
        np.asarray(x)[0]
        for x in (results if isinstance(results, tuple) else (results,))
    ]


def test_matmul_runs():
    a, b, shapes = draw(128, 128), draw(128, 512), [[128, 32, 512], [32, 128, 64]]
    found = run(
        microbench.matmul_runs,
        a,
        b,
        issued=("trn.nc_matmul", 10),
        shapes=shapes,
        count=5,
    )
    for (k, m, n), x in zip(shapes, found, strict=True):
        expected = a[:k, :m].astype(np.float64).T @ b[:k, :n]
        np.testing.assert_allclose(x, expected, atol=1e-5 * np.abs(expected).max())


def test_activations_and_their_chain():
    x = draw(128, 40)
    found = run(
        microbench.activations, x, issued=("trn.activation", 3), op="exp", count=3
    )
    for y in found:
        np.testing.assert_allclose(y, np.exp(x.astype(np.float64)), rtol=1e-6)
    (y,) = run(
        microbench.activation_chain,
        x,
        issued=("trn.activation_bias", 3),
        op="copy",
        count=3,
    )
    expected = ((x.astype(np.float64) / 2 + 1) / 2 + 1) / 2 + 1
    np.testing.assert_allclose(y, expected, atol=1e-6)


def test_tensor_tensors_and_copies():
    x, y = draw(64, 96), draw(64, 96)
    for z in run(
        microbench.tensor_tensors,
        x,
        y,
        issued=("trn.tensor_tensor", 2),
        op="add",
        count=2,
    ):
        np.testing.assert_array_equal(z, x + y)
    for src in ("sbuf", "psum"):
        copies = functools.partial(
            microbench.tensor_copies, src=src, dst="sbuf", count=2
        )
        for z in run(
            copies, x, np.eye(64, dtype=np.float32), issued=("trn.tensor_copy", 2)
        ):
            np.testing.assert_array_equal(z, x)


def test_dma_copies_reuse_their_tiles():
    x = RNG.integers(0, 255, (5, 128, 24)).astype(np.uint8)
    queues = ("load_queue", "load_queue2")
    found = run(
        microbench.dma_copies,
        jnp.asarray(x),
        issued=("trn.dma_store", 5),
        queues=queues,
        buffers=2,
    )
    np.testing.assert_array_equal(np.stack(found), x)
