"""The clock depends on the program alone: not on data, wrapping, or how many cores run it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from emu import Program
from emu.trainium.datasheets import TRN2
from emu.trainium.engines.memory import dma_store
from kernels.trainium.gemm.ladder import gemm
from kernels.trainium.layer import norm
from tests.helpers import same_clock
from tests.kernels.trainium import reference as ref

DEVICE = TRN2.at()
SIZES = ((256, 256), (256, 1024))


def rms_norm(x, w):
    x, w = (ref.load(a) for a in (x, w))
    return dma_store(norm.rms_norm(x, w, size=256, eps=1e-5))


KERNELS = {
    "tiled": (functools.partial(gemm, variant="tiled"), SIZES),
    "row loads": (functools.partial(gemm, variant="block_bm2_bn2_row_loads"), SIZES),
    "all dims": (functools.partial(gemm, variant="block_all_dims"), SIZES),
    "RMSNorm": (rms_norm, ((128, 256), (128, 256))),
}


@pytest.mark.parametrize("name", KERNELS)
def test_ticks_are_the_programs_own(name):
    kernel, shapes = KERNELS[name]
    rng = np.random.default_rng(0)
    args = [jnp.asarray(rng.standard_normal(shape), jnp.bfloat16) for shape in shapes]
    structs = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in args]

    def read(kernel, args, mesh=None, specs=()):
        return Program(kernel, mesh or {"core": 1}, (specs,) * len(args)).read(
            DEVICE, *args
        )

    clock = read(kernel, structs)
    same_clock(clock, read(kernel, args))
    same_clock(clock, read(jax.jit(kernel), structs))
    same_clock(
        clock, read(lambda *xs: lax.stop_gradient(jax.jit(jax.jit(kernel))(*xs)), args)
    )
    stacked = [jax.ShapeDtypeStruct((3, *x.shape), x.dtype) for x in args]
    # What `run` launches as a vmap.
    launched = read(kernel, stacked, {"core": 3}, ("core",))
    assert launched.end_ticks == clock.end_ticks and launched.spent == clock.spent
    assert launched.tally.flops == 3 * clock.tally.flops
    both = read(kernel, stacked, {"row": 1, "core": 3}, ("core",))
    assert both.end_ticks == clock.end_ticks


@pytest.mark.parametrize("name", KERNELS)
def test_launched_values_are_those_of_one_core(name):
    kernel, shapes = KERNELS[name]
    rng = np.random.default_rng(1)
    args = [
        jnp.asarray(rng.standard_normal((2, *shape)), jnp.bfloat16) for shape in shapes
    ]
    together = Program(kernel, {"core": 2}, (("core",),) * len(args)).run(*args)
    for i in range(2):
        alone = Program(kernel, {"core": 1}, ((),) * len(args)).run(
            *(x[i] for x in args)
        )
        # One rounding of bfloat16: XLA may sum in another order when it batches.
        jax.tree.map(
            lambda t, a: np.testing.assert_allclose(
                np.asarray(t[i], np.float32),
                np.asarray(a[0], np.float32),
                rtol=1e-2,
                atol=1e-2,
            ),
            together,
            alone,
        )
