"""Multi-head latent attention (MLA) over a ring of chips, as a program."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from emu import Device, Program, Reading, numerics
from emu.annotations import DType, PyTree
from emu.trainium.spaces import Hbm
from kernels.trainium.context import layout
from kernels.trainium.context.attend import RankOperands
from kernels.trainium.context.attention import ContextAttention, Results
from kernels.trainium.context.finish import Finished
from kernels.trainium.context.latent import expand, heads_at_once
from kernels.trainium.context.ring import ring_attention
from kernels.trainium.context.schemes import RING
from kernels.trainium.context.work import RingWork, SourceWork
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
        ring = self.attention.ring
        tiling = self.attention.sizes

        def kernel(
            q: tuple[Hbm, Hbm],
            latent: Hbm,
            rotary: Hbm,
            weights: tuple[Hbm, Hbm],
            work: RingWork,
            patterns: Hbm,
        ) -> Hbm | Finished:
            expanding = dataclasses.replace(
                ring, expand=functools.partial(expand, weights=weights, tiling=tiling)
            )
            operands = RankOperands(q, (latent, rotary), patterns)
            return ring_attention(operands, work, tiling, expanding, logsumexp=True)

        q = latent = rotary = work = (RING,)
        weights = patterns = ()
        specs = q, latent, rotary, weights, work, patterns
        return Program(kernel, {RING: self.attention.ranks}, specs)

    # --- values ---

    def run(
        self,
        q: ArrayLike,
        latent: ArrayLike,
        rotary: ArrayLike,
        w_k: ArrayLike,
        w_v: ArrayLike,
    ) -> Results:
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
        self,
        q: ArrayLike,
        latent: ArrayLike,
        rotary: ArrayLike,
        w_k: ArrayLike,
        w_v: ArrayLike,
    ) -> Results:
        """`run` with every tile in float64."""
        given = self.arguments(q, latent, rotary, w_k, w_v)
        return self.attention.results(self.program.exact(*given))

    def arguments(
        self,
        q: ArrayLike,
        latent: ArrayLike,
        rotary: ArrayLike,
        w_k: ArrayLike,
        w_v: ArrayLike,
    ) -> tuple[PyTree, jax.Array, jax.Array, PyTree, RingWork | SourceWork, np.ndarray]:
        """The program's arguments, operands cast to their dtype."""
        attention, tiling = self.attention, self.attention.sizes
        where_q, where_kv = attention.sides.q, attention.sides.kv
        cast = functools.partial(_cast, dtype=attention.element)
        only_core = 0
        # Features, or a latent's parts and features, go on partitions: rows come last.
        rank, tile, row, head, feature = range(5)
        features_first = rank, tile, head, feature, row
        queries = layout.tiled(cast(q), where_q, tiling.rows, tiling.heads)
        queries = queries[:, :, :, only_core].transpose(features_first)
        nope, _ = tiling.parts
        by_part = queries[:, :, :, :nope], queries[:, :, :, nope:]
        tiles = where_kv.spread(cast(latent)).reshape(
            attention.ranks, tiling.key_tiles, tiling.columns, *self._parts
        )
        keys = layout.tiled(cast(rotary)[:, None], where_kv, tiling.keys, heads=1)
        keys = keys[:, :, :, only_core].transpose(features_first)
        return (
            by_part,
            tiles.transpose(features_first),
            keys,
            (self._by_group(cast(w_k)), self._by_group(cast(w_v))),
            attention.built.known(True),
            attention.built.biases(jnp.bfloat16, attention.masks),
        )

    def _by_group(self, weights: jax.Array) -> jax.Array:
        """`[latent, heads, n]` to `[heads / G, L, r, G · n]`."""
        _, heads, _ = weights.shape
        groups = heads // heads_at_once(self.attention.sizes)
        by_part = weights.reshape(*self._parts, groups, -1)
        return by_part.transpose(2, 0, 1, 3)

    # --- time ---

    def abstract(self) -> tuple[PyTree, ...]:
        """Shapes of the arguments, and the integers that the clock looks at."""
        tiling, ranks = self.attention.sizes, self.attention.ranks
        nope, rope = tiling.parts
        together = heads_at_once(tiling)
        pieces = tiling.key_tiles * tiling.span

        def struct(*shape: int) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(shape, tiling.dtype)

        def weights(features: int) -> jax.ShapeDtypeStruct:
            groups = tiling.heads // together
            return struct(groups, *self._parts, together * features)

        queries, *_ = layout.abstract((ranks,), tiling)
        tiles = struct(ranks, tiling.key_tiles, *self._parts, tiling.columns)
        keys = struct(ranks, pieces, 1, rope, tiling.keys)
        *_, work, patterns = self.attention.abstract()
        both = weights(nope), weights(tiling.value_dim)
        return queries, tiles, keys, both, work, patterns

    def read(self, device: Device, **options: Any) -> Reading:
        """Reads the clock.

        Raises:
          EmulationError: what `Program.read` raises.
        """
        return self.program.read(device, *self.abstract(), **options)


def _cast(x: ArrayLike, dtype: DType) -> jax.Array:
    return numerics.cast(jnp.asarray(x), dtype)


__all__ = ["LatentAttention"]
