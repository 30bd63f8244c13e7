"""From hidden states to queries, keys and values of grouped attention, with their biases."""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from emu.annotations import KnownInt
from emu.trainium.engines.memory import dma_load, dma_store, sbuf
from emu.trainium.isa import tensor_copy
from emu.trainium.spaces import Hbm, Sbuf
from kernels.trainium.gemm.operands import Weight
from kernels.trainium.layer.norm import head_norm
from kernels.trainium.layer.qkv import rope, store_transposed
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
    def width(self) -> int:
        """Columns of queries, keys and values of a core."""
        return (self.heads + 2 * self.kv_heads) * self.head_dim


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


class GroupedOperands(NamedTuple):
    """What attention takes, in HBM.

    Attributes:
      q: `[token tiles, heads, head_dim, rows]`.
      k: `[token tiles, kv_heads, head_dim, rows]`.
      v: `[token tiles, rows, kv_heads · head_dim]`.
    """

    q: Hbm
    k: Hbm
    v: Hbm


def grouped_projections(
    x: Hbm, cos: Hbm, sin: Hbm, weights: GroupedWeights, form: GroupedForm
) -> GroupedOperands:
    """Queries, keys and values of this core's heads, of a chip's tokens.

    Args:
      x: HBM `[blocks, tiles, rows, hidden padded]`, the same on every core.
      cos, sin: HBM float32 `[blocks, tiles, rows, turned / 2]`.
      weights: of this core.
      form: sizes.
    """
    tiling = form.tiling
    q_end = form.heads * form.head_dim
    k_end = q_end + form.kv_heads * form.head_dim

    def of_block(given: tuple[Hbm, Hbm, Hbm]) -> GroupedOperands:
        own, own_cos, own_sin = given
        h = normalised_hidden(own, weights.norm, tiling)
        fused = linear(
            h, weights.matrix, weights.bias, rows=tiling.rows, dtype=tiling.dtype
        )

        def of_tile(given: tuple[KnownInt, Hbm, Hbm]) -> GroupedOperands:
            number, own_cos, own_sin = given
            tile = index(fused, number, 1)

            def of_heads(start: int, end: int, norm: Hbm | None) -> Hbm:
                heads = lax.slice_in_dim(tile, start, end, axis=1)
                heads = heads.reshape(tiling.rows, -1, form.head_dim)
                if norm is not None:
                    heads = head_norm(heads, norm, eps=tiling.eps)
                return store_transposed(_turned(heads, own_cos, own_sin, form))

            v = lax.slice_in_dim(tile, k_end, form.width, axis=1)
            return GroupedOperands(
                of_heads(0, q_end, weights.q_norm),
                of_heads(q_end, k_end, weights.k_norm),
                dma_store(v),
            )

        numbers = jnp.arange(tiling.tiles, dtype=jnp.int32)
        return lax.map(of_tile, (numbers, own_cos, own_sin))

    by_block = lax.map(of_block, (x, cos, sin))

    def joined(stored: Hbm) -> Hbm:
        _, _, *rest = stored.shape
        return stored.reshape(tiling.token_tiles, *rest)

    return GroupedOperands(*map(joined, by_block))


def _turned(heads: Sbuf, cos: Hbm, sin: Hbm, form: GroupedForm) -> Sbuf:
    """RoPE of the first features of heads, SBUF `[rows, heads, head_dim]`; the others stay."""
    if not form.turned:
        return heads
    own_cos, own_sin = sbuf(*cos.shape), sbuf(*sin.shape)
    own_cos, own_sin = dma_load(own_cos, cos), dma_load(own_sin, sin)
    if form.turned == form.head_dim:
        return rope(heads, own_cos, own_sin)
    first = lax.slice_in_dim(heads, 0, form.turned, axis=2)
    rest = lax.slice_in_dim(heads, form.turned, form.head_dim, axis=2)
    out = sbuf(*heads.shape, dtype=heads.dtype)
    out = tensor_copy.at[..., : form.turned](out, rope(first, own_cos, own_sin))
    # By the Scalar Engine, as all else here is the Vector Engine's.
    return tensor_copy.at[..., form.turned :](out, rest, engine="scalar")


__all__ = ["GroupedForm", "GroupedOperands", "GroupedWeights", "grouped_projections"]
