"""A wrong shape is named by the kernel's own tiles and line, never by shapes within a meaning."""

import jax.numpy as jnp
import pytest

from emu import Program
from emu.errors import EmulationError
from emu.trainium import dma_load, psum, sbuf
from emu.trainium.isa import (
    activation_bias,
    nc_matmul,
    nc_matmul_double_row,
    scalar_tensor_tensor,
    tensor_scalar,
)

E4M3 = jnp.float8_e4m3fn


def tile(*shape, dtype=jnp.float32):
    return dma_load(sbuf(*shape, dtype=dtype), jnp.ones(shape, dtype))


# name: (a kernel, what its refusal says)
WRONG = {
    "contraction": (
        lambda: nc_matmul(psum(128, 512), tile(64, 128), tile(128, 512), 0),
        "contraction of stationary [64, 128] and moving [128, 512] differ",
    ),
    "contraction of double rows": (
        lambda: nc_matmul_double_row(
            psum(128, 512),
            tile(64, 2, 128, dtype=E4M3),
            tile(64, 1, 512, dtype=E4M3),
            0,
        ),
        "contraction of stationary [64, 2, 128] and moving [64, 1, 512] differ",
    ),
    "scalar": (
        lambda: tensor_scalar(sbuf(128, 512), tile(128, 512), tile(128, 3), op="add"),
        "[128, 3] is not one value for each of 128 partitions",
    ),
    "bias": (
        lambda: activation_bias(sbuf(64, 9), tile(64, 9), tile(64, 9), op="exp"),
        "[64, 9] is not one value for each of 64 partitions",
    ),
    "scalar between tiles": (
        lambda: scalar_tensor_tensor(
            sbuf(32, 4), tile(32, 4), tile(1, 1), tile(32, 4), op0="add", op1="add"
        ),
        "[1, 1] is not one value for each of 32 partitions: must be [32, 1]",
    ),
    "dtype of the destination": (
        lambda: dma_load(sbuf(8, 8, dtype=jnp.bfloat16), jnp.ones((8, 8))),
        "give a tile of the result's shape and dtype",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_shape_is_named_by_the_kernels_own(name):
    kernel, said = WRONG[name]
    with pytest.raises(EmulationError) as caught:
        Program(kernel, {"core": 1}, ()).run()
    assert said in str(caught.value)
    assert "(test_shape_messages.py:" in str(caught.value)
