import jax.numpy as jnp


def branching(s, b, h, q, k):
    if k > q:
        return -jnp.inf
    if s > 5:
        return 5 + jnp.log(s - 4)
    return s
