"""From hidden states to queries, keys and values of grouped attention, with their biases."""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from emu.annotations import KnownInt
from emu.trainium.spaces import Hbm
from kernels.trainium.gemm.operands import Weight
from kernels.trainium.layer.form import Positions, PrefillForm
from kernels.trainium.layer.heads import (
    HeadNorms,
    HeadSizes,
    StoredHeads,
    joined_tiles,
    split_heads,
)
from kernels.trainium.stages.linear import linear, normalised_hidden
from kernels.trainium.stages.tiling import StageTiling
from kernels.trainium.tiles import index


@dataclasses.dataclass(frozen=True)
class GroupedForm:
    """Sizes of the projections before grouped attention.

    Attributes:
      tiling: of the tokens.
      heads, kv_heads: of a core.
      head_dim: features of a head.
      turned: how many of them RoPE turns, from the first on; 0: there is no RoPE.
    """

    tiling: StageTiling
    heads: int
    kv_heads: int
    head_dim: int
    turned: int

    @property
    def sizes(self) -> HeadSizes:
        """Of a core's heads."""
        rows, eps = self.tiling.rows, self.tiling.eps
        return HeadSizes(rows, self.heads, self.kv_heads, self.head_dim, eps)

    @property
    def width(self) -> int:
        """Columns of queries, keys and values of a core."""
        return self.sizes.width


class GroupedWeights(NamedTuple):
    """The weights of one core, in HBM.

    Attributes:
      norm: `[1, hidden padded]`.
      matrix: packed, hidden to this core's queries, keys and values side by side.
      bias: float32 `[1, columns]` of them, or None.
      q_norm, k_norm: `[1, head_dim]`, of each head before RoPE, or None.
    """

    norm: Hbm
    matrix: Weight
    bias: Hbm | None = None
    q_norm: Hbm | None = None
    k_norm: Hbm | None = None


def grouped_projections(
    x: Hbm, cos: Hbm, sin: Hbm, weights: GroupedWeights, form: GroupedForm
) -> StoredHeads:
    """Queries, keys and values of this core's heads, of a chip's tokens.

    Args:
      x: HBM `[blocks, tiles, rows, hidden padded]`, the same on every core.
      cos, sin: HBM float32 `[blocks, tiles, rows, turned / 2]`.
      weights: of this core.
      form: sizes.

    Returns:
      What attention takes, of all token tiles.
    """
    tiling, sizes = form.tiling, form.sizes
    norms = HeadNorms(weights.q_norm, weights.k_norm)
    qk_norm = None if weights.q_norm is None else "head"
    done = PrefillForm(turns=form.turned > 0, qk_norm=qk_norm)

    def of_block(given: tuple[Hbm, Hbm, Hbm]) -> StoredHeads:
        own, own_cos, own_sin = given
        h = normalised_hidden(own, weights.norm, tiling)
        fused = linear(
            h, weights.matrix, weights.bias, rows=tiling.rows, dtype=tiling.dtype
        )

        def of_tile(given: tuple[KnownInt, Hbm, Hbm]) -> StoredHeads:
            number, own_cos, own_sin = given
            tile = index(fused, number, 1)
            return split_heads(tile, Positions(own_cos, own_sin), norms, sizes, done)

        numbers = jnp.arange(tiling.tiles, dtype=jnp.int32)
        return lax.map(of_tile, (numbers, own_cos, own_sin))

    return joined_tiles(lax.map(of_block, (x, cos, sin)))


__all__ = ["GroupedForm", "GroupedWeights", "grouped_projections"]
