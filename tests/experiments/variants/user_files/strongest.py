import jax.numpy as jnp


def strongest(s, b, h, q, k):
    s = jnp.where(k <= q, s, -jnp.inf)
    return jnp.where(s > 0.5, s, -jnp.inf)
