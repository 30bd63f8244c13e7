"""The experts of a core: each takes as many tiles of rows as counts say, and none if it has none.

An expert's rows come in tiles of `tile_rows`, `tiles_at_once` of which share each load of its
weights. How many tiles a block has is a known integer, and a branch has the program for each
number: of 300 rows in tiles of 128, three at once, there is one block of three tiles; the last one
has 84 rows that nobody reads.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from jax import lax

from emu.annotations import KnownInt
from emu.tracing.loop import loop
from emu.trainium.engines.memory import dma_load, dma_store, hbm, sbuf
from emu.trainium.spaces import Hbm, Sbuf
from kernels.moe.mesh.form import MoeForm
from kernels.trainium.gemm.mx_pack import MxFormats, elements_of
from kernels.trainium.gemm.operands import Weight, fresh, ready
from kernels.trainium.layer.mlp import UpWeights, gated
from kernels.trainium.layer.norm import transposed_into
from kernels.trainium.stages.linear import linear
from kernels.trainium.tiles import index, largest_divisor

LoadTile: TypeAlias = Callable[[KnownInt], Sbuf]
"""A tile of an expert's rows by its number: SBUF `[tile rows, hidden padded]`."""


class ExpertWeights(NamedTuple):
    """One expert's weights, or with a leading dimension those of all experts of a core.

    Attributes:
      up: of both up projections.
      down: packed `[column blocks, chunks, ffn tile, depth, columns]`; or MX.
      down_bias: `[1, hidden padded]`, or None.
    """

    up: UpWeights
    down: Weight
    down_bias: Hbm | None = None


def expert(
    load: LoadTile, weights: ExpertWeights, live: KnownInt, form: MoeForm
) -> Hbm:
    """What one expert makes of its rows.

    Args:
      load: brings a tile of them.
      weights: the expert's.
      live: known int32 `[blocks]`, tiles of each block.
      form: sizes.

    Returns:
      HBM `[tiles, tile rows, width]`; tiles that are not live hold what nobody wrote.
    """
    at_once = form.tiles_at_once
    tiles = form.expert_rows // form.tile_rows
    out = hbm(tiles, form.tile_rows, form.width, dtype=form.dtype)

    def none(out: Hbm, _: KnownInt) -> Hbm:
        return out

    def some(count: int) -> Callable[[Hbm, KnownInt], Hbm]:
        def of_count(out: Hbm, first: KnownInt) -> Hbm:
            return _block(load, weights, out, first, count, form)

        return of_count

    cases = [none, *(some(count) for count in range(1, at_once + 1))]

    def block(out: Hbm, number: KnownInt) -> Hbm:
        return lax.switch(index(live, number), cases, out, number * at_once)

    return loop(block, out, form.blocks)


def _block(
    load: LoadTile,
    weights: ExpertWeights,
    out: Hbm,
    first: KnownInt,
    count: int,
    form: MoeForm,
) -> Hbm:
    """`count` tiles from `first` on, which share each load of the weights."""
    hidden_tiles, size = form.hidden_tiles
    rows = form.tile_rows
    quads = form.mx is not None
    h = fresh(size, hidden_tiles, count * rows, dtype=form.dtype, quads=quads)

    def turned(h: Sbuf, tile: KnownInt) -> Sbuf:
        own = load(first + tile)
        return transposed_into(h, own, tile * rows)

    h = loop(turned, h, count)
    y = _mlp(h, weights, rows, form, form.mx)

    def store(out: Hbm, tile: KnownInt) -> Hbm:
        return _stored(out, first + tile, index(y, tile, 1))

    return loop(store, out, count)


def _mlp(
    h: Sbuf, weights: ExpertWeights, rows: int, form: MoeForm, mx: MxFormats | None
) -> Sbuf:
    """A gated MLP of a filled `fresh`, `rows` tokens a tile: SBUF `[rows, tiles, padded]`."""
    dtype, elements = form.dtype, elements_of(mx)
    gate = form.mixture.gate
    taken = ready(h, elements)
    features = gated(taken, weights.up, gate, dtype=dtype, elements=elements)
    return linear(features, weights.down, weights.down_bias, rows=rows, dtype=dtype)


def _stored(out: Hbm, place: KnownInt, y: Sbuf) -> Hbm:
    """A tile of rows in its place of HBM `[tiles, rows, width]`, which may be wider."""
    if out.shape[-1] == y.shape[-1]:
        return dma_store.at[place](out, y)
    return dma_store.at[place, :, : y.shape[-1]](out, y)


def shared(h: Hbm, weights: ExpertWeights, form: MoeForm) -> Hbm:
    """The MLP that every token goes through, from this core's part of its features.

    Args:
      h: HBM `[tiles, rows, hidden padded]`.
      weights: this core's part.
      form: sizes.

    Returns:
      HBM `[tiles, rows, width]`: on several cores to be summed over them.
    """
    at_once = _tiles_at_once(form)
    count, size = form.hidden_tiles

    def block(out: Hbm, number: KnownInt) -> Hbm:
        tokens, quads = at_once * form.rows, form.others_mx is not None
        turned = fresh(size, count, tokens, dtype=form.dtype, quads=quads)

        def load(turned: Sbuf, tile: KnownInt) -> Sbuf:
            own = sbuf(form.rows, form.hidden_padded, dtype=form.dtype, buffers=2)
            own = dma_load(own, index(h, number * at_once + tile))
            return transposed_into(turned, own, tile * form.rows)

        turned = loop(load, turned, at_once)
        y = _mlp(turned, weights, form.rows, form, form.others_mx)

        def store(out: Hbm, tile: KnownInt) -> Hbm:
            return _stored(out, number * at_once + tile, index(y, tile, 1))

        return loop(store, out, at_once)

    out = hbm(form.tiles, form.rows, form.width, dtype=form.dtype)
    return loop(block, out, form.tiles // at_once)


def _tiles_at_once(form: MoeForm) -> int:
    """Token tiles of a block: equal blocks, of as many rows as an expert's at most."""
    return largest_divisor(form.tiles, form.tiles_at_once)


__all__ = ["ExpertWeights", "LoadTile", "expert", "shared"]
