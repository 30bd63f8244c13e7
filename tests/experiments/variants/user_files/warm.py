import jax.numpy as jnp

from kernels import attention, masks

TEMPERATURE = jnp.array([0.5, 0.8, 1.0, 1.6])


@attention(mask=masks.window(200))
def warm(s, b, h, q, k):
    return 20 * jnp.tanh(s / TEMPERATURE[h] / 20)
