import jax.numpy as jnp

DOCUMENT = jnp.repeat(jnp.arange(16), 37)


def documents(s, b, h, q, k):
    same = DOCUMENT[q] == DOCUMENT[k]
    return jnp.where(same & (k <= q), s + 0.1 * jnp.log1p(q - k), -jnp.inf)
