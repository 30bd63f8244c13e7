"""Multi-head latent attention (MLA), absorbed, over a ring of chips, as a program."""

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
from kernels.trainium.context.absorbed import absorb, project, turn
from kernels.trainium.context.attention import ContextAttention, Results
from kernels.trainium.context.finish import Finished
from kernels.trainium.context.latent_attention import FEATURES_FIRST, ONLY_CORE
from kernels.trainium.context.ring import ring_attention
from kernels.trainium.context.schemes import RING
from kernels.trainium.context.work import RingWork
from kernels.trainium.tiles import PARTITIONS


@dataclasses.dataclass(frozen=True, kw_only=True)
class AbsorbedAttention:
    """MLA whose queries meet latents as they are; see `kernels.trainium.context.absorbed`.

    Attributes:
      attention: the mask, the ring and the sizes of attention to latents: as many KV heads as
        sequences, values of as many features as a latent, a key's last part its rotary features;
        on one core a chip, in the `ring` scheme.
      nope: features of a query that meet a latent, at most 128.
      value_dim: features of an output.
    """

    attention: ContextAttention
    nope: int
    value_dim: int

    def __post_init__(self) -> None:
        a = self.attention
        on_a_ring = a.scheme == "ring" and a.cores == 1
        if not on_a_ring or a.kv_heads != a.batch or a.mx:
            refuse(
                "AbsorbedAttention: wants the ring scheme on one core a chip, a KV head for each "
                f"sequence and plain floats; has {a.scheme}, {a.cores} cores, {a.kv_heads} KV "
                f"heads of {a.batch} sequences, {a.dtype}"
            )
        *latent, _ = a.parts or (0, 0)
        alike = len(set(latent)) == 1 and sum(latent) == a.value_dim
        if not alike or not 1 <= self.nope <= PARTITIONS:
            refuse(
                f"AbsorbedAttention: parts are {a.parts}, values of {a.value_dim} and nope "
                f"{self.nope}, must be equal parts of the latent, which values are, the rotary "
                f"part, and at most {PARTITIONS}"
            )

    @property
    def _parts(self) -> tuple[int, int]:
        """How many parts a latent has, and of how many features."""
        *latent, _ = self.attention.sizes.parts
        return len(latent), latent[0]

    @functools.cached_property
    def program(self) -> Program:
        """The kernel on its mesh."""
        tiling = self.attention.sizes
        expand = functools.partial(turn, tiling=tiling)
        ring = dataclasses.replace(self.attention.ring, expand=expand)

        def kernel(
            q: tuple[Hbm, Hbm],
            block: tuple[Hbm, ...],
            weights: tuple[Hbm, Hbm],
            work: RingWork,
            *known: Any,
        ) -> Finished:
            nope, rope = q
            of_keys, of_values = weights
            absorbed = absorb(nope, of_keys, tiling, self._parts)
            queries = (*absorbed, rope)
            operands = self.attention.built.operands(queries, block, *known)
            out, lse = ring_attention(operands, work, tiling, ring, logsumexp=True)
            return project(out, of_values, tiling), lse

        by_rank = (RING,)
        everywhere = ()
        _, _, _, *known = self.attention.specs
        specs = (by_rank, by_rank, everywhere, *known)
        return Program(kernel, self.attention.mesh, specs)

    # --- values ---

    def run(
        self,
        q: ArrayLike,
        latent: ArrayLike,
        rotary: ArrayLike,
        w_k: ArrayLike,
        w_v: ArrayLike,
    ) -> Results:
        """As `LatentAttention.run`, to its rounding."""
        arguments = self.arguments(q, latent, rotary, w_k, w_v)
        return self.attention.results(self.program.run(*arguments))

    def exact(
        self,
        q: ArrayLike,
        latent: ArrayLike,
        rotary: ArrayLike,
        w_k: ArrayLike,
        w_v: ArrayLike,
    ) -> Results:
        """`run` with every tile in float64."""
        arguments = self.arguments(q, latent, rotary, w_k, w_v)
        return self.attention.results(self.program.exact(*arguments))

    def arguments(
        self,
        q: ArrayLike,
        latent: ArrayLike,
        rotary: ArrayLike,
        w_k: ArrayLike,
        w_v: ArrayLike,
    ) -> tuple[PyTree, ...]:
        """The program's arguments, operands cast to their dtype; as `LatentAttention.run` has
        them."""
        queries, latents, rotary_keys, key_weights, value_weights = (
            numerics.cast(jnp.asarray(x), self.attention.element)
            for x in (q, latent, rotary, w_k, w_v)
        )
        tiling, batch = self.attention.sizes, self.attention.batch
        by_tile = layout.tiled(
            queries, self.attention.sides.q, tiling.rows, tiling.heads
        )
        turned = by_tile[:, :, :, ONLY_CORE].transpose(FEATURES_FIRST)
        tokens = len(latents)
        of_sequences = (latents, rotary_keys)
        keys = jnp.concatenate(
            [x.reshape(tokens, batch, -1) for x in of_sequences], axis=-1
        )
        rank, heads, value_dim = value_weights.shape
        of_values = value_weights.reshape(*self._parts, heads, value_dim)
        return (
            (turned[:, :, :, : self.nope], turned[:, :, :, self.nope :]),
            self._keys(keys),
            (key_weights.transpose(1, 2, 0), of_values.transpose(2, 0, 1, 3)),
            *self.attention.known(),
        )

    def _keys(self, keys: jax.Array) -> tuple[jax.Array, ...]:
        """`[tokens, batch, rank + rope]` by part, `[ranks, pieces, batch, part, keys]`."""
        tiling, batch = self.attention.sizes, self.attention.batch
        by_piece = layout.tiled(keys, self.attention.sides.kv, tiling.keys, batch)
        turned = by_piece[:, :, :, ONLY_CORE].transpose(FEATURES_FIRST)
        found, first = [], 0
        for features in tiling.parts:
            found.append(turned[:, :, :, first : first + features])
            first += features
        return tuple(found)

    # --- time ---

    def abstract(self) -> tuple[PyTree, ...]:
        """Shapes of the arguments, and the integers that the clock looks at."""
        tiling, attention = self.attention.sizes, self.attention
        ranks, heads = attention.ranks, tiling.heads // attention.batch
        count, features = self._parts

        def struct(*shape: int) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(shape, tiling.dtype)

        def queries(part: int) -> jax.ShapeDtypeStruct:
            return struct(ranks, tiling.tiles, tiling.heads, part, tiling.rows)

        *_, rope = tiling.parts
        _, keys, _, *known = attention.abstract()
        weights = (
            struct(heads, self.nope, count * features),
            struct(heads, count, features, self.value_dim),
        )
        return (queries(self.nope), queries(rope)), keys, weights, *known

    def read(self, device: Device, **options: Any) -> Reading:
        """Reads the clock.

        Raises:
          EmulationError: what `Program.read` raises.
        """
        return self.program.read(device, *self.abstract(), **options)

    def read_bands(self, sheet: Sheet) -> dict[str, Reading]:
        """Reads the clock under every band of a datasheet, in one pass."""
        return self.program.read_bands(sheet, *self.abstract())


__all__ = ["AbsorbedAttention"]
