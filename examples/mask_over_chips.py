"""A mask over chips: one function of positions, spread over a ring of Trainium3 chips."""

# --8<-- [start:mask]
import jax.numpy as jnp
import numpy as np

from emu.trainium import TRN3, TRN3_GEN2, on_system
from kernels import ContextAttention


def documents(b, h, q, k):
    """Causal within documents of 1,000 tokens, and the first four tokens for everybody."""
    same = q // 1000 == k // 1000
    return (k <= q) & (same | (k < 4))


# --8<-- [end:mask]
# --8<-- [start:times]
sizes = dict(mask=documents, heads=8, kv_heads=1, head_dim=128)
machine = on_system(TRN3, TRN3_GEN2)
for placement in ("contiguous", "zigzag", "striped", "tile-cyclic"):
    ring = ContextAttention(
        **sizes, tokens=16384, ranks=4, dtype=jnp.bfloat16, placement=placement
    )
    low, nominal, high = (ring.read(machine.at(band)) for band in ("low", "nominal", "high"))
    sent = nominal.tally.by("other").get("link_bytes", 0) / 1e6
    times = " / ".join(f"{clock.seconds * 1e6:,.0f}" for clock in (low, nominal, high))
    print(f"{placement:12} {times} us, {sent:5.1f} MB over links, hops {ring.hops.distances}")
# --8<-- [end:times]

# --8<-- [start:values]
small = ContextAttention(**sizes, tokens=1500, ranks=4, placement="zigzag")
random = np.random.default_rng(0)
q = random.standard_normal((1500, 8, 128))
k = random.standard_normal((1500, 1, 128))
v = random.standard_normal((1500, 1, 128))
out, lse = small.run(q, k, v)  # in the order of the sequence
exact, _ = small.exact(q, k, v)  # every tile in float64
print(f"largest error: {np.abs(out - exact).max() / np.abs(v).max():.1e} of the largest value")
# --8<-- [end:values]
