"""From hidden states to what multi-head latent attention takes: queries, latents, turned keys.

DeepSeek-V2 (arXiv:2405.04434, section 2.1): tokens are projected down to a latent of queries and to
one of keys and values, both are normalised, and each core makes its own heads' queries of the
first. Keys and values are made of the second by attention.

The down projections are of all heads, so cores divide their columns and gather the results: of
DeepSeek-V3's 1,536 + 512 + 64 columns each of 8 cores computes 264. Computed on every core, they
would be read 8 times.
"""

import dataclasses
import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from emu.annotations import KnownInt
from emu.boxes import ds
from emu.tracing.loop import loop
from emu.trainium.engines.memory import dma_load, dma_store, hbm, psum, sbuf
from emu.trainium.isa import nc_transpose, tensor_copy
from emu.trainium.links.collectives import all_gather
from emu.trainium.spaces import Hbm, Sbuf
from kernels.latent_heads import LatentHeads
from kernels.refusal import refuse
from kernels.trainium.gemm.mx_pack import MxFormats
from kernels.trainium.gemm.operands import Operand, Weight
from kernels.trainium.layer.form import Positions
from kernels.trainium.layer.heads import rope, store_transposed
from kernels.trainium.layer.norm import in_every_row, rms_norm
from kernels.trainium.layer.tiling import LayerTiling
from kernels.trainium.layer.weights import LayerWeights
from kernels.trainium.stages.linear import (
    linear,
    loaded,
    normalised,
    normalised_hidden,
    stored,
)
from kernels.trainium.stages.tiling import StageTiling
from kernels.trainium.tiles import PARTITIONS, divide, index, part, split


@dataclasses.dataclass(frozen=True)
class LatentForm:
    """Sizes of the projections before latent attention.

    Attributes:
      tiling: of the tokens.
      heads: of a core.
      latent: features of all heads.
      span: token tiles of a key tile, whose latents stand side by side.
    """

    tiling: StageTiling
    heads: int
    latent: LatentHeads
    span: int = 1

    def __post_init__(self) -> None:
        of_queries = None if self.tiling.mx is not None else self.latent.query_rank
        for name, width in (("query_rank", of_queries), ("rank", self.latent.rank)):
            if width is not None and width % split(width, PARTITIONS)[0]:
                refuse(
                    f"{name} is {width}, must be a multiple of {split(width, PARTITIONS)[0]}, the "
                    f"parts of at most {PARTITIONS} features that it takes"
                )

    @classmethod
    def of_layer(
        cls,
        tiling: LayerTiling,
        span: int,
        mx: MxFormats | None = None,
        experts_mx: MxFormats | None = None,
    ) -> "LatentForm":
        """That of a layer whose heads are of latents; its cores sum up equal parts of features.

        Args:
          tiling: of the layer.
          span: as the attribute.
          mx, experts_mx: see `StageTiling`.
        """
        latent = tiling.latent
        assert latent is not None
        tokens = tiling.blocks, tiling.tiles, tiling.rows
        own = *tokens, tiling.hidden_parts, tiling.dtype, mx, experts_mx
        stage = StageTiling(tiling.hidden, tiling.eps, *own)
        return cls(stage, tiling.heads, latent, span)

    @property
    def parts(self) -> tuple[int, int]:
        """`(count, features)` of the parts of a latent that are contracted at once."""
        return split(self.latent.rank, PARTITIONS)

    @property
    def query_cut(self) -> tuple[int, int]:
        """Contraction tiles of a latent of queries, `(count, rows)`; none: `(0, 0)`."""
        rank = self.latent.query_rank
        return (0, 0) if rank is None else self.tiling.cut(rank)

    @property
    def query_width(self) -> int:
        """Its features in whole tiles."""
        return math.prod(self.query_cut)

    @property
    def down(self) -> int:
        """Columns of both down projections and of the turned key."""
        return self.query_width + self.latent.cached_width

    @property
    def own_down(self) -> int:
        """Those of a core; the last core's may be padding: 100 on 8 cores are 13 each."""
        return -(-self.down // self.tiling.cores)


class LatentWeights(NamedTuple):
    """The weights of one core, in HBM.

    Attributes:
      norm: `[1, hidden padded]`.
      down: packed, hidden to this core's columns of both latents and the turned key.
      query_norm: `[1, query rank in whole tiles]`; None without a latent of queries.
      queries: packed, from that latent, or from hidden, to this core's heads: the plain features of
        all of them, then the turned ones.
      latent_norm: `[1, rank]`.
    """

    norm: Hbm
    down: Weight
    query_norm: Hbm | None
    queries: Weight
    latent_norm: Hbm


class LatentOperands(NamedTuple):
    """What attention takes, in HBM.

    Attributes:
      plain, turned: of queries, `[token tiles, heads, features, rows]`.
      latents: `[key tiles, parts, features of a part, span · rows]`.
      rotary: `[token tiles, 1, turned, rows]`.
    """

    plain: Hbm
    turned: Hbm
    latents: Hbm
    rotary: Hbm


def latent_projections(
    x: Hbm,
    cos: Hbm,
    sin: Hbm,
    weights: LatentWeights,
    form: LatentForm,
    *,
    core_axis: str | None = None,
) -> LatentOperands:
    """Queries, latents and turned keys of a chip's tokens.

    Args:
      x: HBM `[blocks, tiles, rows, hidden padded]`, the same on every core.
      cos, sin: HBM float32 `[blocks, tiles, rows, turned / 2]`.
      weights: of this core.
      form: sizes.
      core_axis: mesh axis over the chip's cores; None where there is one.

    Returns:
      Queries of this core's heads; latents and turned keys of all, the same on every core.

    Pseudocode:
      for block: down[block] = norm(x) · own columns
      gather columns over cores
      for block: latents, rotary = norm(down), rope(down); queries = rope(norm(down) · own heads)
    """
    tiling = form.tiling

    def project_down(given: tuple[Hbm, Hbm, Hbm]) -> tuple[Hbm, tuple[Hbm, Hbm] | None]:
        own, own_cos, own_sin = given
        h = normalised_hidden(own, weights.norm, tiling)
        made = linear(h, weights.down, None, rows=tiling.rows, dtype=tiling.dtype)
        # Without a latent of their own, queries contract what is here already.
        queries = None
        if form.latent.query_rank is None:
            queries = _queries(h, own_cos, own_sin, weights, form)
        return stored(made), queries

    down, queries = lax.map(project_down, (x, cos, sin))
    whole = down
    if core_axis is not None:
        *lead, own_columns = down.shape
        whole = hbm(*lead, own_columns * tiling.cores, dtype=tiling.dtype)
        whole = all_gather(whole, down, axis=core_axis)

    def of_latents(
        latents: Hbm, given: tuple[KnownInt, Hbm, Hbm, Hbm]
    ) -> tuple[Hbm, tuple[Hbm, tuple[Hbm, Hbm] | None]]:
        number, own, own_cos, own_sin = given
        block = loaded(own, tiling)
        first = number * tiling.tiles
        latents, rotary = _keys(latents, first, block, own_cos, own_sin, weights, form)
        if form.latent.query_rank is None:
            return latents, (rotary, None)
        assert weights.query_norm is not None
        of_queries = lax.slice_in_dim(block, 0, form.query_width, axis=2)
        rank, cut = form.latent.query_rank, form.query_cut
        h = normalised(of_queries, weights.query_norm, rank, cut, tiling)
        return latents, (rotary, _queries(h, own_cos, own_sin, weights, form))

    numbers = jnp.arange(tiling.blocks, dtype=jnp.int32)
    columns = form.span * tiling.rows
    latents = hbm(
        tiling.token_tiles // form.span, *form.parts, columns, dtype=tiling.dtype
    )
    given = numbers, whole, cos, sin
    latents, (rotary, made) = lax.scan(of_latents, latents, given)
    plain, turned = queries if made is None else made

    def joined(by_block: Hbm) -> Hbm:
        _, _, *rest = by_block.shape
        return by_block.reshape(tiling.token_tiles, *rest)

    return LatentOperands(joined(plain), joined(turned), latents, joined(rotary))


def latent_qkv(
    x: Hbm,
    weights: LayerWeights,
    positions: Positions,
    form: LatentForm,
    *,
    core_axis: str | None = None,
) -> tuple[tuple[Hbm, Hbm], Hbm, Hbm]:
    """`latent_projections` of a layer of a whole model, as `Project`.

    Args:
      x: HBM `[blocks, tiles, rows, hidden padded]`.
      weights: `attn_norm` and what there is of latents.
      positions: of the tokens.
      form: sizes.
      core_axis: mesh axis over the chip's cores; None where there is one.

    Returns:
      Plain and turned queries; turned keys `[token tiles, 1, turned, rows]`; and latents `[key
      tiles, 1, parts, features of a part, span · rows]`. The last two are what the cache keeps.
    """
    assert "latents_down" in weights and "queries_up" in weights
    assert "latent_norm" in weights
    assert positions.cos is not None and positions.sin is not None
    own = LatentWeights(
        weights["attn_norm"],
        weights["latents_down"],
        weights.get("query_norm"),
        weights["queries_up"],
        weights["latent_norm"],
    )
    turns = positions.cos, positions.sin
    made = latent_projections(x, *turns, own, form, core_axis=core_axis)
    return (made.plain, made.turned), made.rotary, made.latents[:, None]


def _queries(
    h: Operand, cos: Hbm, sin: Hbm, weights: LatentWeights, form: LatentForm
) -> tuple[Hbm, Hbm]:
    """A block's queries: HBM `[tiles, heads, features, rows]`, plain and turned."""
    tiling = form.tiling
    made = linear(h, weights.queries, None, rows=tiling.rows, dtype=tiling.dtype)
    middle = form.heads * form.latent.plain
    end = middle + form.heads * form.latent.turned

    def of_tile(given: tuple[KnownInt, Hbm, Hbm]) -> tuple[Hbm, Hbm]:
        number, own_cos, own_sin = given
        own = index(made, number, 1)
        plain = lax.slice_in_dim(own, 0, middle, axis=1)
        turned = lax.slice_in_dim(own, middle, end, axis=1)
        plain = plain.reshape(tiling.rows, form.heads, form.latent.plain)
        turned = turned.reshape(tiling.rows, form.heads, form.latent.turned)
        rotated = rope(turned, *_angles(own_cos, own_sin))
        return store_transposed(plain), store_transposed(rotated)

    numbers = jnp.arange(tiling.tiles, dtype=jnp.int32)
    return lax.map(of_tile, (numbers, cos, sin))


def _keys(
    latents: Hbm,
    first: KnownInt,
    block: Sbuf,
    cos: Hbm,
    sin: Hbm,
    weights: LatentWeights,
    form: LatentForm,
) -> tuple[Hbm, Hbm]:
    """All latents with those of a block, whose first token tile is `first`; its turned keys."""
    tiling = form.tiling
    weight = in_every_row(weights.latent_norm, tiling.rows)
    start = form.query_width
    middle = start + form.latent.rank
    end = middle + form.latent.turned

    def of_tile(latents: Hbm, given: tuple[KnownInt, Hbm, Hbm]) -> tuple[Hbm, Hbm]:
        number, own_cos, own_sin = given
        own = index(block, number, 1)
        latent = lax.slice_in_dim(own, start, middle, axis=1)
        normed = rms_norm(latent, weight, size=form.latent.rank, eps=tiling.eps)
        latents = _with_tile(latents, normed, first + number, form)
        key = lax.slice_in_dim(own, middle, end, axis=1)
        rotated = rope(key[:, None], *_angles(own_cos, own_sin))
        return latents, store_transposed(rotated)

    numbers = jnp.arange(tiling.tiles, dtype=jnp.int32)
    return lax.scan(of_tile, latents, (numbers, cos, sin))


def _with_tile(latents: Hbm, own: Sbuf, token_tile: KnownInt, form: LatentForm) -> Hbm:
    """All latents with those of a token tile, SBUF `[rows, rank]`, features on partitions."""
    rows = form.tiling.rows
    count, features = form.parts
    # Token tiles of a key tile stand side by side: up to 512 latents are expanded in one matmul.
    key_tile, piece = divide(token_tile, form.span)
    columns = ds(piece * rows, rows)

    def store_part(latents: Hbm, number: KnownInt) -> Hbm:
        bank = psum(features, rows, dtype=own.dtype)
        bank = nc_transpose(bank, part(own, number * features, features, axis=1))
        turned = sbuf(*bank.shape, dtype=own.dtype, buffers=2)
        turned = tensor_copy(turned, bank)
        return dma_store.at[key_tile, number, :, columns](latents, turned)

    return loop(store_part, latents, count)


def _angles(cos: Hbm, sin: Hbm) -> tuple[Sbuf, Sbuf]:
    own_cos, own_sin = sbuf(*cos.shape), sbuf(*sin.shape)
    return dma_load(own_cos, cos), dma_load(own_sin, sin)


__all__ = [
    "LatentForm",
    "LatentOperands",
    "LatentWeights",
    "latent_projections",
    "latent_qkv",
]
