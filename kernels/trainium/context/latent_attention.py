"""Multi-head latent attention (MLA) over a ring of chips, as a program."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from emu import Device, Program, Reading, numerics
from kernels.trainium.context import layout
from kernels.trainium.context.attention import ContextAttention
from kernels.trainium.context.latent import expand, heads_at_once
from kernels.trainium.context.ring import Ring, ring_attention
from kernels.trainium.context.schemes import RING
from kernels.trainium.context.sizes import ContextTiling
from kernels.trainium.tiles import PARTITIONS, split


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentAttention:
    """MLA whose latents travel the ring and are expanded anew at every hop.

    Attributes:
      attention: the mask, the ring and the sizes of expanded attention: as many KV heads as query
        heads, on one core a chip, in the `ring` scheme; a key's `parts` are its features without
        and with rotary position.
      latent: features of a token's latent; a multiple of as few parts of at most 128 as it takes.
    """

    attention: ContextAttention
    latent: int

    def __post_init__(self) -> None:
        a = self.attention
        if a.scheme != "ring" or a.cores != 1 or a.heads != a.kv_heads or a.mx:
            raise ValueError(
                "LatentAttention: wants the ring scheme on one core a chip, as many KV heads as "
                f"query heads and plain floats; has {a.scheme}, {a.cores} cores, {a.heads} and "
                f"{a.kv_heads} heads, {a.dtype}"
            )
        if len(a.parts or ()) != 2 or self.latent % self._parts[0]:
            raise ValueError(
                f"LatentAttention: parts are {a.parts} and the latent {self.latent}, must be two "
                f"and a multiple of {self._parts[0]}"
            )

    @property
    def _parts(self) -> tuple[int, int]:
        """`(count, features)` of the latent's parts."""
        return split(self.latent, PARTITIONS)

    @functools.cached_property
    def program(self) -> Program:
        """The kernel on its mesh."""
        a, hops = self.attention, self.attention.hops
        ring = Ring(RING, (RING,), len(hops), hops.roots, a.overlap, a.unroll)
        kernel = functools.partial(_kernel, s=a.sizes, ring=ring)
        by_rank = (RING,)
        return Program(kernel, {RING: a.ranks}, (*(by_rank,) * 3, (), by_rank, ()))

    # --- values ---

    def run(
        self, q: Any, latent: Any, rotary: Any, w_k: Any, w_v: Any
    ) -> tuple[Any, Any]:
        """Attention of `q · (w_k latent, rotary)` over `w_v latent`.

        Args:
          q: `[tokens, heads, nope + rope]`.
          latent: `[tokens, latent]`.
          rotary: `[tokens, rope]`, of all heads.
          w_k: `[latent, heads, nope]`.
          w_v: `[latent, heads, value_dim]`.

        Returns:
          `[tokens, heads, value_dim]`, and the log-sum-exp of the scores, `[tokens, heads]`.
        """
        given = self.arguments(q, latent, rotary, w_k, w_v)
        return self.attention.results(self.program.run(*given))

    def exact(
        self, q: Any, latent: Any, rotary: Any, w_k: Any, w_v: Any
    ) -> tuple[Any, Any]:
        """`run` with every tile in float64."""
        given = self.arguments(q, latent, rotary, w_k, w_v)
        return self.attention.results(self.program.exact(*given))

    def arguments(
        self, q: Any, latent: Any, rotary: Any, w_k: Any, w_v: Any
    ) -> tuple[Any, ...]:
        """The program's arguments, operands cast to their dtype."""
        a = self.attention
        s = self.attention.sizes
        sides = self.attention.sides
        arrays = (
            numerics.cast(jnp.asarray(x), a.element)
            for x in (q, latent, rotary, w_k, w_v)
        )
        q, latent, rotary, w_k, w_v = arrays
        queries = layout.tiled(q, sides.q, s.rows, s.heads)[:, :, :, 0].transpose(
            0, 1, 3, 4, 2
        )
        parts = queries[:, :, :, : s.parts[0]], queries[:, :, :, s.parts[0] :]
        tiles = sides.kv.spread(latent).reshape(
            a.ranks, s.key_tiles, s.columns, *self._parts
        )
        keys = layout.tiled(rotary[:, None], sides.kv, s.keys, 1)[:, :, :, 0]
        weights = tuple(self._by_group(w) for w in (w_k, w_v))
        known = a.built.known(True)
        biases = a.built.biases(jnp.bfloat16, a.masks)
        tiles = tiles.transpose(0, 1, 3, 4, 2)
        keys = keys.transpose(0, 1, 3, 4, 2)
        return parts, tiles, keys, weights, known, biases

    def _by_group(self, w: Any) -> Any:
        """`[latent, heads, n]` to `[heads / G, L, r, G · n]`."""
        together = heads_at_once(self.attention.sizes)
        groups = w.shape[1] // together
        return w.reshape(*self._parts, groups, -1).transpose(2, 0, 1, 3)

    # --- time ---

    def abstract(self) -> tuple[Any, ...]:
        """Shapes of the arguments, and the integers that the clock looks at."""
        a = self.attention
        s = self.attention.sizes
        struct = jax.ShapeDtypeStruct
        queries, *_ = layout.abstract((a.ranks,), s)
        tiles = struct((a.ranks, s.key_tiles, *self._parts, s.columns), s.dtype)
        keys = struct((a.ranks, s.key_tiles * s.span, 1, s.parts[1], s.keys), s.dtype)
        together = heads_at_once(s)
        weights = tuple(
            struct((s.heads // together, *self._parts, together * n), s.dtype)
            for n in (s.parts[0], s.value_dim)
        )
        *_, known, bias = a.abstract()
        return queries, tiles, keys, weights, known, bias

    def read(self, device: Device, **options: Any) -> Reading:
        """Reads the clock.

        Raises:
          EmulationError: what `Program.read` raises.
        """
        return self.program.read(device, *self.abstract(), **options)


def _kernel(
    q: Any,
    latent: Any,
    rotary: Any,
    weights: Any,
    work: Any,
    patterns: Any,
    *,
    s: ContextTiling,
    ring: Ring,
) -> Any:
    anew = functools.partial(expand, weights=weights, s=s)
    block = latent, rotary
    return ring_attention(
        q, block, work, patterns, s, ring, expand=anew, logsumexp=True
    )


__all__ = ["LatentAttention"]
