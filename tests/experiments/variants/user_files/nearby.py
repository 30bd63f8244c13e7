import jax.numpy as jnp
import numpy as np

PENALTIES = jnp.asarray(np.geomspace(0.5, 0.01, 4))


def nearby(s, b, h, q, k):
    near = (k <= q) & (q - k < 96)
    return jnp.where(near, s - PENALTIES[h] * (q - k), -jnp.inf)
