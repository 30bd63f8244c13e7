"""A mask over chips: one function of positions, spread over a ring of Trainium3 chips."""

# %% mask
import functools

import jax.numpy as jnp
import numpy as np

from emu.trainium import TRN3, TRN3_GEN2, on_system
from kernels import ContextAttention


def documents(b, h, q, k):
    """Causal within documents of 500 tokens, and the first four tokens for everybody."""
    same = q // 500 == k // 500
    return (k <= q) & (same | (k < 4))


# %% times
attention = functools.partial(
    ContextAttention, mask=documents, heads=4, kv_heads=1, head_dim=128, ranks=4
)
machine = on_system(TRN3, TRN3_GEN2)
rings = {}
for placement in ("contiguous", "zigzag", "striped"):
    ring = rings[placement] = attention(
        tokens=4096, dtype=jnp.bfloat16, placement=placement
    )
    clock = ring.read(machine.at("nominal"))
    sent = clock.tally.by("other").get("link_bytes", 0) / 1e6
    print(f"{placement:12}{clock.seconds * 1e6:6.0f} us, ", end="")
    print(f"{sent:.1f} MB over links, hops {ring.hops.distances}")

# %% band
for band, clock in rings["contiguous"].read_bands(machine).items():
    print(f"{band:8}{clock.seconds * 1e6:6.0f} us")

# %% values
small = attention(tokens=700, heads=2, placement="zigzag")
random = np.random.default_rng(0)
q = random.standard_normal((700, 2, 128))
k = random.standard_normal((700, 1, 128))
v = random.standard_normal((700, 1, 128))
out, lse = small.run(q, k, v)  # in the order of the sequence
exact, _ = small.exact(q, k, v)  # every tile in float64
print(
    f"largest error: {np.abs(out - exact).max() / np.abs(v).max():.1e} of the largest value"
)
