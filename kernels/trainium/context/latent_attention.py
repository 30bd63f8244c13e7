"""Multi-head latent attention (MLA) over a ring of chips, as a program."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from emu import Device, Program, Reading, Sheet, numerics
from emu.annotations import PyTree
from emu.trainium.spaces import Hbm
from kernels.refusal import refuse
from kernels.trainium.context import layout
from kernels.trainium.context.attention import ContextAttention, Results
from kernels.trainium.context.finish import Finished
from kernels.trainium.context.latent import expand, heads_at_once
from kernels.trainium.context.ring import ring_attention
from kernels.trainium.context.schemes import RING
from kernels.trainium.context.work import RingWork
from kernels.trainium.tiles import PARTITIONS, split

# Features go on partitions, so rows come last: of `[ranks, tiles, rows, heads, features]`, or of a
# latent's `[ranks, tiles, rows, parts, features]`.
RANK, TILE, ROW, HEAD, FEATURE = range(5)
FEATURES_FIRST = RANK, TILE, HEAD, FEATURE, ROW
ONLY_CORE = 0


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
        on_a_ring = a.scheme == "ring" and a.cores == 1
        # Expanded, every query head has keys and values of its own.
        head_for_head = a.heads == a.kv_heads
        if not on_a_ring or not head_for_head or a.mx:
            refuse(
                "LatentAttention: wants the ring scheme on one core a chip, as many KV heads as "
                f"query heads and plain floats; has {a.scheme}, {a.cores} cores, {a.heads} and "
                f"{a.kv_heads} heads, {a.dtype}"
            )
        count, _ = self._parts
        parts_of_a_key = a.parts or ()
        if len(parts_of_a_key) != 2 or self.latent % count:
            refuse(
                f"LatentAttention: parts are {a.parts} and the latent {self.latent}, must be two "
                f"and a multiple of {count}"
            )

    @property
    def _parts(self) -> tuple[int, int]:
        """`(count, features)` of the latent's parts."""
        return split(self.latent, PARTITIONS)

    @property
    def _together(self) -> int:
        """Heads that are expanded together."""
        return heads_at_once(self.attention.sizes, self.attention.batch)

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
            *known: Any,
        ) -> Hbm | Finished:
            expands = functools.partial(expand, weights=weights, tiling=tiling)
            # The ring itself is that of keys and values; only what travels is not them yet.
            expanding = dataclasses.replace(ring, expand=expands)
            operands = self.attention.built.operands(q, (latent, rotary), *known)
            return ring_attention(
                operands,
                work,
                tiling,
                expanding,
                logsumexp=True,
            )

        by_rank = (RING,)
        everywhere = ()
        _, _, _, *known = self.attention.specs
        specs = (
            by_rank,  # q
            by_rank,  # latent
            by_rank,  # rotary
            everywhere,  # weights
            *known,
        )
        mesh = {RING: self.attention.ranks}
        return Program(kernel, mesh, specs)

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
          latent: `[tokens, latent]`, or `[tokens, batch, latent]`.
          rotary: `[tokens, rope]`, of all heads, or `[tokens, batch, rope]`.
          w_k: `[latent, heads, nope]`.
          w_v: `[latent, heads, value_dim]`.

        Returns:
          `[tokens, heads, value_dim]`, and the log-sum-exp of the scores, `[tokens, heads]`.
        """
        given = self.arguments(q, latent, rotary, w_k, w_v)
        results = self.program.run(*given)
        return self.attention.results(results)

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
        results = self.program.exact(*given)
        return self.attention.results(results)

    def arguments(
        self,
        q: ArrayLike,
        latent: ArrayLike,
        rotary: ArrayLike,
        w_k: ArrayLike,
        w_v: ArrayLike,
    ) -> tuple[PyTree, ...]:
        """The program's arguments, operands cast to their dtype."""
        attention = self.attention
        key_weights = self._by_group(self._cast(w_k))
        value_weights = self._by_group(self._cast(w_v))
        return (
            self._queries(self._cast(q)),
            self._latents(self._cast(latent)),
            self._rotary_keys(self._cast(rotary)),
            (key_weights, value_weights),
            *attention.known(),
        )

    def _cast(self, x: ArrayLike) -> jax.Array:
        return numerics.cast(jnp.asarray(x), self.attention.element)

    def _queries(self, q: jax.Array) -> tuple[jax.Array, jax.Array]:
        """`[tokens, heads, nope + rope]` to `[ranks, tiles, heads, part, rows]` of both parts."""
        tiling = self.attention.sizes
        where = self.attention.sides.q
        queries = layout.tiled(q, where, tiling.rows, tiling.heads)
        turned = queries[:, :, :, ONLY_CORE].transpose(FEATURES_FIRST)
        nope, _ = tiling.parts
        # Two contracted parts: rotary keys are the same for all heads, so they are never expanded.
        return turned[:, :, :, :nope], turned[:, :, :, nope:]

    def _latents(self, latent: jax.Array) -> jax.Array:
        """`[tokens, batch, latent]` to `[ranks, key tiles, batch, L, r, columns]`."""
        tiling = self.attention.sizes
        spread = self.attention.sides.kv.spread(layout.on_host(latent))
        by_tile = spread.reshape(
            self.attention.ranks,
            tiling.key_tiles,
            tiling.columns,
            self.attention.batch,
            *self._parts,
        )
        rank, tile, row, sequence, latent_part, feature = range(6)
        return by_tile.transpose(rank, tile, sequence, latent_part, feature, row)

    def _rotary_keys(self, rotary: jax.Array) -> jax.Array:
        """`[tokens, batch, rope]` to `[ranks, pieces, batch, rope, keys]`."""
        tiling = self.attention.sizes
        where = self.attention.sides.kv
        # As a head of its own, which `load_kv` gives to all heads of the sequence.
        batch = self.attention.batch
        by_sequence = rotary.reshape(len(rotary), batch, -1)
        keys = layout.tiled(by_sequence, where, tiling.keys, heads=batch)
        return keys[:, :, :, ONLY_CORE].transpose(FEATURES_FIRST)

    def _by_group(self, weights: jax.Array) -> jax.Array:
        """`[latent, heads, n]` to `[heads / G, L, r, G · n]`."""
        _, heads, _ = weights.shape
        groups = heads // self._together
        # Heads of a group are neighbours, so their columns stand side by side after this reshape
        # alone.
        by_part = weights.reshape(*self._parts, groups, -1)
        part, row, group, column = range(4)
        return by_part.transpose(group, part, row, column)

    # --- time ---

    def abstract(self) -> tuple[PyTree, ...]:
        """Shapes of the arguments, and the integers that the clock looks at."""
        tiling = self.attention.sizes
        ranks = self.attention.ranks
        nope, rope = tiling.parts
        together = self._together
        batch = self.attention.batch
        pieces = tiling.key_tiles * tiling.span

        def struct(*shape: int) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(shape, tiling.dtype)

        def weights(features: int) -> jax.ShapeDtypeStruct:
            groups = tiling.heads // batch // together
            columns = together * features
            return struct(groups, *self._parts, columns)

        queries, _, _ = layout.abstract((ranks,), tiling)
        latents = struct(
            ranks,
            tiling.key_tiles,
            batch,
            *self._parts,
            tiling.columns,
        )
        rotary = struct(ranks, pieces, batch, rope, tiling.keys)
        both = weights(nope), weights(tiling.value_dim)
        # What is masked does not depend on how keys are made.
        _, _, _, *known = self.attention.abstract()
        return queries, latents, rotary, both, *known

    def read(self, device: Device, **options: Any) -> Reading:
        """Reads the clock.

        Raises:
          EmulationError: what `Program.read` raises.
        """
        return self.program.read(device, *self.abstract(), **options)

    def read_bands(self, sheet: Sheet) -> dict[str, Reading]:
        """Reads the clock under every band of a datasheet, in one pass."""
        return self.program.read_bands(sheet, *self.abstract())


__all__ = ["LatentAttention"]
