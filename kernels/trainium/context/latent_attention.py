"""Multi-head latent attention (MLA) over chips, expanded, as a program."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from emu.annotations import DType, PyTree
from emu.trainium.spaces import Hbm
from kernels.refusal import refuse
from kernels.trainium.context import layout
from kernels.trainium.context.latent import (
    expand,
    expansion_weights,
    heads_at_once,
)
from kernels.trainium.context.latent_program import (
    Features,
    LatentProgram,
    sharing_heads,
)
from kernels.trainium.context.projections import Projections
from kernels.trainium.gemm.mx_pack import MxFormats, elements_of
from kernels.trainium.tiles import PARTITIONS, split


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentAttention(LatentProgram):
    """MLA whose latents cross links and are expanded wherever they come to, on a ring at every hop.

    Attributes:
      attention: the mask, the mesh and the sizes of expanded attention: as many KV heads as query
        heads; a key's `parts` are its features without and with rotary position.
      latent: features of a token's latent; a multiple of as few parts of at most 128 as it takes.
      mx: what the products that make keys and values of latents have their operands in, where they
        are in MX; scores and weights are of plain floats all the same.
    """

    latent: int
    mx: MxFormats | None = None

    def __post_init__(self) -> None:
        a = self.attention
        # Expanded, every query head has keys and values of its own.
        if a.heads != a.kv_heads or a.mx:
            refuse(
                "LatentAttention: wants as many KV heads as query heads and plain floats; has "
                f"{a.heads} and {a.kv_heads} heads, {a.dtype}"
            )
        count, _ = self._parts
        parts_of_a_key = a.parts or ()
        if len(parts_of_a_key) != 2 or self.latent % count:
            refuse(
                f"LatentAttention: parts are {a.parts} and the latent {self.latent}, must be two "
                f"and a multiple of {count}"
            )
        sharing_heads(a)

    @property
    def features(self) -> Features:
        nope, rope = self.attention.sizes.parts
        return Features(nope, rope, self.latent, self.attention.sizes.value_dim)

    @property
    def _parts(self) -> tuple[int, int]:
        """`(count, features)` of the latent's parts."""
        return split(self.latent, PARTITIONS)

    def projections(self, weights: tuple[Hbm, Hbm]) -> Projections:
        elements = elements_of(self.mx)
        return Projections(
            block=functools.partial(expand, weights=weights, elements=elements)
        )

    @property
    def _weight_dtype(self) -> DType:
        # Codes are of the numbers as they were given.
        return super()._weight_dtype if self.mx is None else jnp.dtype(jnp.float32)

    def _block(
        self, latents: jax.Array, rotary: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Latents `[.., key tiles, latents of a core, L, r, columns]`, and the rotary keys
        `[.., pieces, latents of a core, rope, keys]`."""
        tiling = self.attention.sizes
        by_tile = self._tiled(latents, tiling.columns)
        *others, _ = by_tile.shape
        cut = by_tile.reshape(*others, *self._parts)
        rank, tile, row, core, head, part, feature = range(7)
        turned = cut.transpose(rank, core, tile, head, part, feature, row)
        # As a head of its own, which `load_kv` gives to all heads that share it: rotary keys are
        # never expanded.
        by_piece = self._tiled(rotary, tiling.keys)
        (keys,) = layout.by_part(by_piece, (self.features.rope,))
        return turned, keys

    def _weights(self, of_keys: jax.Array, of_values: jax.Array) -> PyTree:
        """`[*mesh, heads / G, L, r, G · n]` of both."""
        heads = sharing_heads(self.attention)
        together = heads_at_once(heads, self.features.value_dim)
        return (
            expansion_weights(of_keys, together, mx=self.mx),
            expansion_weights(of_values, together, mx=self.mx),
        )


__all__ = ["LatentAttention"]
