"""Multi-head latent attention (MLA) on a ring: the latent travels, each hop expands it anew.

A token's latent and its rotary key are shared by all heads, so what crosses links is `rank + rope`
elements a token instead of `heads · (head_dim + value_dim)`; 2 · rank · heads · (nope + value_dim)
FLOPs a token and hop buy that. Queries meet expanded keys: with many queries a rank that takes
fewer FLOPs than attending to latents themselves (the absorbed form, for decode).
"""

from typing import Any

import jax.numpy as jnp
from jax import lax

from emu.trainium.datasheets.sheet import LOAD_QUEUES
from emu.trainium.engines.memory import dma_load_tiles, dma_store_at, hbm, psum, sbuf
from emu.trainium.isa import nc_matmul, tensor_copy
from kernels.trainium.context.sizes import ContextTiling
from kernels.trainium.tiles import BANK_COLUMNS, index, largest_divisor, part

STORES = ("store_queue", "store_queue2")


def heads_at_once(s: ContextTiling) -> int:
    """Heads whose values fill one PSUM bank."""
    return largest_divisor(s.heads, max(1, BANK_COLUMNS // s.value_dim))


def expand(block: Any, weights: Any, s: ContextTiling) -> Any:
    """Keys and values of every head from the latents of a source.

    Dimensions:
      L parts of r ≤ 128 features make a latent. G = `heads_at_once`.

    Args:
      block: HBM latents `[key tiles, L, r, columns]` and rotary keys `[pieces, 1, rope, keys]`.
      weights: HBM, for keys `[heads / G, L, r, G · nope]`, for values `[heads / G, L, r, G ·
        value_dim]`.
      s: sizes; the first part of a query is its `nope` features, the second its rotary ones.

    Returns:
      HBM keys by part, `[pieces, heads, nope, keys]` and the rotary ones, and values `[pieces,
      heads / G, keys, G · value_dim]`.

    Pseudocode:
      for heads: load weights; for key tile: load latent
        for head: k = Σ_L wᵀ latent; for piece: v = Σ_L latentᵀ w
    """
    latent, rotary = block
    count, together = len(latent), heads_at_once(s)
    pieces = count * s.span
    k = hbm(pieces * s.heads, s.parts[0], s.keys, dtype=s.dtype)
    v = hbm(pieces * s.heads // together, s.keys, together * s.value_dim, dtype=s.dtype)

    def some(carry: Any, g: Any) -> tuple[Any, None]:
        own = [
            _load(index(w, g), queue, s)
            for w, queue in zip(weights, LOAD_QUEUES, strict=True)
        ]

        def tile(carry: Any, j: Any) -> tuple[Any, None]:
            k, v = carry
            x = _load(index(latent, j), LOAD_QUEUES[0], s)
            for h in range(together):
                columns = part(own[0], h * s.parts[0], s.parts[0], 2)
                keys = _product(columns, x, s)
                for n in range(s.span):
                    place = (j * s.span + n) * s.heads + g * together + h
                    k = dma_store_at(k, _piece(keys, n, s), place, queue=STORES[n % 2])
            for n in range(s.span):
                values = _product(_piece(x, n, s, axis=2), own[1], s)
                place = (j * s.span + n) * (s.heads // together) + g
                v = dma_store_at(v, values, place, queue=STORES[n % 2])
            return (k, v), None

        return lax.scan(tile, carry, jnp.arange(count, dtype=jnp.int32))[0], None

    groups = jnp.arange(s.heads // together, dtype=jnp.int32)
    k, v = lax.scan(some, (k, v), groups)[0]
    k = k.reshape(pieces, s.heads, *k.shape[1:])
    return (k, rotary), v.reshape(pieces, -1, *v.shape[1:])


def _load(x: Any, queue: str, s: ContextTiling) -> Any:
    """HBM `[L, r, n]` to SBUF `[r, L, n]`."""
    parts, r, n = x.shape
    return dma_load_tiles(
        sbuf(r, parts, n, dtype=x.dtype, buffers=s.buffers), x, queue=queue
    )


def _piece(x: Any, n: int, s: ContextTiling, axis: int = 1) -> Any:
    return part(x, n * s.keys, s.keys, axis)


def _product(left: Any, right: Any, s: ContextTiling) -> Any:
    """`leftᵀ right` over both leading dimensions: SBUF `[r, L, m]` and `[r, L, n]` to `[m, n]`."""
    bank = psum(left.shape[2], right.shape[2], buffers=2)
    for n in range(left.shape[1]):
        bank = nc_matmul(bank, left[:, n], right[:, n], jnp.int32(n > 0))
    return tensor_copy(sbuf(*bank.shape, dtype=s.dtype, buffers=s.buffers), bank)


__all__ = ["expand", "heads_at_once"]
