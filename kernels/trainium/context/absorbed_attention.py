"""Multi-head latent attention (MLA) over chips, absorbed, as a program."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from emu.annotations import PyTree
from emu.trainium.spaces import Hbm
from kernels.refusal import refuse
from kernels.trainium.context import layout
from kernels.trainium.context.absorbed import absorb, project, turn
from kernels.trainium.context.latent_program import (
    Features,
    LatentProgram,
    sharing_heads,
)
from kernels.trainium.context.projections import Projections
from kernels.trainium.tiles import PARTITIONS


@dataclasses.dataclass(frozen=True, kw_only=True)
class AbsorbedAttention(LatentProgram):
    """MLA whose queries meet latents as they are; see `kernels.trainium.context.absorbed`.

    Attributes:
      attention: the mask, the mesh and the sizes of attention to latents: a KV head for every
        `sharing_heads` query heads, values of as many features as a latent, a key's last part its
        rotary features.
      nope: features of a query that meet a latent, at most 128.
      value_dim: features of an output.
    """

    nope: int
    value_dim: int

    def __post_init__(self) -> None:
        a = self.attention
        kv_heads = a.heads // sharing_heads(a)
        if a.kv_heads != kv_heads or a.mx:
            refuse(
                f"AbsorbedAttention: wants {kv_heads} KV heads, as the latents of {a.batch} "
                f"sequences stand on the cores and ranks that share their heads, and plain floats; "
                f"has {a.kv_heads} KV heads, {a.dtype}"
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
    def features(self) -> Features:
        *latent, rope = self.attention.sizes.parts
        return Features(self.nope, rope, sum(latent), self.value_dim)

    @property
    def _parts(self) -> tuple[int, int]:
        """How many parts a latent has, and of how many features."""
        *latent, _ = self.attention.sizes.parts
        return len(latent), latent[0]

    def projections(self, weights: tuple[Hbm, Hbm]) -> Projections:
        of_keys, of_values = weights
        return Projections(
            queries=functools.partial(absorb, weights=of_keys, parts=self._parts),
            block=turn,
            output=functools.partial(project, weights=of_values),
        )

    def _block(self, latents: jax.Array, rotary: jax.Array) -> layout.ByPart:
        """Keys by part, `[.., pieces, latents of a core, part, keys]`."""
        tiling = self.attention.sizes
        keys = jnp.concatenate([latents, rotary], axis=-1)
        return layout.by_part(self._tiled(keys, tiling.keys), tiling.parts)

    def _weights(self, of_keys: jax.Array, of_values: jax.Array) -> PyTree:
        """`[*mesh, heads, nope, rank]` and `[*mesh, heads, L, r, value_dim]`."""
        *mesh, _, heads, value_dim = of_values.shape
        by_part = of_values.reshape(*mesh, *self._parts, heads, value_dim)
        # The rank comes before the heads, of keys' weights and, in two parts, of values'.
        rank, before_heads = -3, len(mesh)
        by_head = jnp.moveaxis(by_part, -2, before_heads)
        return jnp.moveaxis(of_keys, rank, -1), by_head


__all__ = ["AbsorbedAttention"]
