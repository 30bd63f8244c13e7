"""A first kernel: relu(x·w) by blocks of columns, run for its numbers and read for its clock."""

# %% kernel
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from emu import Program
from emu.trainium import TRN2, dma_load, dma_store, isa, psum, sbuf

COLUMNS = 512  # of one PSUM bank, in float32


def relu_product(x, w):
    """relu(x·w) of HBM `x [128, 128]`, rows of the product last, and `w [blocks, 128, 512]`."""
    x_tile = dma_load(sbuf(128, 128, dtype=x.dtype), x)

    def block(_, w_block):
        w_tile = dma_load(sbuf(128, COLUMNS, dtype=w.dtype, buffers=2), w_block)
        sums = isa.nc_matmul(psum(128, COLUMNS, buffers=2), x_tile, w_tile, 0)
        out = isa.activation(sbuf(128, COLUMNS, buffers=2), sums, op="relu")
        return None, dma_store(out)

    return lax.scan(block, None, w)[1]


# %% program
program = Program(relu_product, mesh={"core": 1}, in_specs=((), ()))

# %% values
random = np.random.default_rng(0)
x = jnp.asarray(random.standard_normal((128, 128)), jnp.bfloat16)
w = jnp.asarray(random.standard_normal((8, 128, COLUMNS)), jnp.bfloat16)

out = program.run(x, w)[0]  # one core's result
exact = np.maximum(0, np.einsum("kr,bkc->brc", np.float64(x), np.float64(w)))
print("shape:", out.shape)
print(f"largest error: {np.abs(out - exact).max():.1e} of {exact.max():.1f}")

# %% clock
clock = program.read(TRN2.at(), x, w)
print(clock)

# %% abstract
shapes = (
    jax.ShapeDtypeStruct((128, 128), jnp.bfloat16),
    jax.ShapeDtypeStruct((4096, 128, COLUMNS), jnp.bfloat16),
)
large = program.read(TRN2.at(), *shapes)
print(f"4,096 blocks: {large.seconds * 1e6:,.0f} us, {large.stepped} of ", end="")
print(f"{large.issued:,} instructions walked one by one")
