"""Every instruction that writes FP8 saturates, where a plain cast gives NaN or infinity."""

import jax.numpy as jnp
import numpy as np
import pytest

from emu import Program
from emu.trainium import (
    all_gather,
    all_reduce,
    chip_all_reduce,
    dma_load,
    dma_store,
    hbm,
    isa,
    psum,
    sbuf,
)

FP8 = jnp.float8_e4m3fn
LARGEST = 448.0
BIG = np.full((4, 32), 1000.0, np.float32)


def loaded(x):
    return dma_load(sbuf(*x.shape, dtype=x.dtype), x)


def fp8(*shape):
    return sbuf(*shape, dtype=FP8)


CASES = {
    "tensor_copy": lambda x: isa.tensor_copy(fp8(4, 32), loaded(x)),
    "tensor_tensor": lambda x: isa.tensor_tensor(
        fp8(4, 32), loaded(x), loaded(x), op="add"
    ),
    "activation": lambda x: isa.activation(fp8(4, 32), loaded(x), op="copy"),
    "memset": lambda x: isa.memset(fp8(4, 32), value=1000.0),
    "nc_max8": lambda x: isa.nc_max8(fp8(4, 8), loaded(x)),
    "iota": lambda x: isa.iota(fp8(4, 32), jnp.int32(1000), steps=(1,)),
    "tensor_reduce": lambda x: isa.tensor_reduce(fp8(4, 1), loaded(x), op="add"),
    "nc_transpose": lambda x: isa.tensor_copy(
        fp8(32, 4), isa.nc_transpose(psum(32, 4), loaded(x))
    ),
    "nc_matmul": lambda x: isa.tensor_copy(
        fp8(32, 32), isa.nc_matmul(psum(32, 32), loaded(x), loaded(x), 0)
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_instruction(name):
    program = Program(lambda x: dma_store(CASES[name](x)), {"core": 1}, ((),))
    assert np.unique(np.asarray(program.run(BIG), np.float32)) == [LARGEST]


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("reduce", [all_reduce, chip_all_reduce])
def test_sums_across_cores(reduce, sign):
    def kernel(x):
        return reduce(hbm(*x.shape, dtype=x.dtype), x, axis="core")

    program = Program(kernel, {"core": 4}, (("core",),))
    x = jnp.full((4, 4, 8), sign * 300.0, FP8)
    assert np.unique(np.asarray(program.run(x), np.float32)) == [sign * LARGEST]


def test_what_is_only_moved_stays():
    def kernel(x):
        return all_gather(hbm(2 * x.shape[0], 8, dtype=FP8), x, axis="core")

    x = jnp.full((2, 4, 8), 448.0, FP8)
    gathered = Program(kernel, {"core": 2}, (("core",),)).run(x)
    assert np.unique(np.asarray(gathered, np.float32)) == [LARGEST]
