"""Blocks of tokens through a matrix: loaded, normalised, multiplied, stored; and added up."""

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import jax.numpy as jnp
from jax import lax

from emu.annotations import DType, KnownInt
from emu.boxes import ds
from emu.tracing.loop import loop
from emu.tracing.mesh_axis import axis_size
from emu.trainium.engines.memory import dma_load_tiles, dma_store, hbm, sbuf
from emu.trainium.isa import tensor_copy, tensor_tensor
from emu.trainium.links.chip_collectives import chip_all_reduce
from emu.trainium.links.collectives import all_reduce
from emu.trainium.links.hierarchy import all_reduce_both
from emu.trainium.spaces import Hbm, Psum, Sbuf
from kernels.trainium.gemm.matmul import project
from kernels.trainium.gemm.operands import Operand, Weight, sizes, token_count
from kernels.trainium.layer.norm import in_every_row, rms_norm, transposed_into
from kernels.trainium.stages.tiling import StageTiling
from kernels.trainium.tiles import index, part

_WithBias: TypeAlias = tuple[Sbuf, Sbuf]

Features: TypeAlias = Callable[[KnownInt, Hbm], Operand]
"""From a block's number and its hidden states to what a matrix contracts, features on
partitions."""


def loaded(x: Hbm, tiling: StageTiling) -> Sbuf:
    """A block of tokens, HBM `[tiles, rows, n]` to SBUF `[rows, tiles, n]`."""
    tiles, rows, features = x.shape
    tile = sbuf(rows, tiles, features, dtype=tiling.dtype)
    return dma_load_tiles(tile, x)


def stored(x: Sbuf) -> Hbm:
    """A block of tokens, SBUF `[rows, tiles, n]` to HBM `[tiles, rows, n]`."""

    def store(number: KnownInt) -> Hbm:
        return dma_store(index(x, number, 1))

    return lax.map(store, jnp.arange(x.shape[1], dtype=jnp.int32))


def normalised_hidden(x: Hbm, weight: Hbm, tiling: StageTiling) -> Operand:
    """`normalised` of a block of hidden states, HBM `[tiles, rows, hidden padded]`."""
    block = loaded(x, tiling)
    return normalised(block, weight, tiling.hidden, tiling.hidden_tiles, tiling)


def normalised(
    x: Sbuf, weight: Hbm, size: int, cut: tuple[int, int], tiling: StageTiling
) -> Operand:
    """RMSNorm of a block of tokens, with features on partitions as matmul wants them.

    Args:
      x: SBUF `[rows, tiles, n]`; what is behind `size` holds zeros.
      weight: HBM `[1, n]`.
      size: features without padding.
      cut: contraction tiles of `n`, `(count, features)`.
      tiling: sizes.

    Returns:
      SBUF `[contraction tile, contraction tiles, tokens of the block]`; or MX.
    """
    rows, tiles, _ = x.shape
    own_weight = in_every_row(weight, rows)
    out = tiling.fresh(cut, tiles * rows)

    def of_tile(out: Sbuf, number: KnownInt) -> Sbuf:
        own = index(x, number, 1)
        normed = rms_norm(own, own_weight, size=size, eps=tiling.eps)
        return transposed_into(out, normed, number * rows)

    return tiling.ready(loop(of_tile, out, tiles))


def linear(
    h: Operand, matrix: Weight, bias: Hbm | None, *, rows: int, dtype: DType
) -> Sbuf:
    """`h · matrix + bias`, tokens on partitions.

    Args:
      h: SBUF `[contraction tile, contraction tiles, tokens]`; or MX.
      matrix: HBM, packed `[blocks, chunks, contraction tile, depth, columns]`; or MX.
      bias: HBM float32 `[1, blocks · columns]`, or None.
      rows: tokens of a tile.
      dtype: of the result.

    Returns:
      SBUF `[rows, tiles, blocks · columns]`.
    """
    blocks, _, _, _, columns = sizes(matrix)
    out = sbuf(rows, token_count(h) // rows, blocks * columns, dtype=dtype)
    if bias is None:

        def copy(out: Sbuf, block: KnownInt, sums: Sequence[Psum]) -> Sbuf:
            for number, bank in enumerate(sums):
                at = ds(block * columns, columns)
                out = tensor_copy.at[:, number, at](out, bank)
            return out

        return project(h, matrix, out, copy, rows=rows)

    def add(both: _WithBias, block: KnownInt, sums: Sequence[Psum]) -> _WithBias:
        out, added = both
        for number, bank in enumerate(sums):
            # Added where the sums leave PSUM anyway, before they are rounded.
            own = part(added, block * columns, columns, axis=2)[:, 0]
            at = ds(block * columns, columns)
            out = tensor_tensor.at[:, number, at](out, bank, own, op="add")
        return out, added

    # Beside the result, so that each block of columns is given its own part of the bias.
    added = in_every_row(bias, rows)[:, None]
    out, _ = project(h, matrix, (out, added), add, rows=rows)
    return out


def plus_product(
    x: Hbm,
    features: Features,
    matrix: Weight,
    bias: Hbm | None,
    tiling: StageTiling,
    *,
    core_axis: str | None,
    chips: Sequence[str] = (),
) -> Hbm:
    """`x + features(x) · matrix + bias`, where cores have parts of the features.

    Every core adds the residual for itself, behind the sum over cores: within it, x would count as
    often as there are cores. A block's sum is wanted only in the second loop, so it crosses between
    the cores while other blocks are computed.

    Args:
      x: HBM `[blocks, tiles, rows, hidden padded]`, the same on every core.
      features: of this core.
      matrix: this core's rows of it, packed.
      bias: HBM float32 `[1, hidden padded]`, or None.
      tiling: sizes.
      core_axis: mesh axis over the cores; None where there is one.
      chips: where several chips have parts, all mesh axes over chips, theirs the last.

    Returns:
      HBM as `x`, the same on every core.

    Pseudocode:
      for block: sum[block] = all_reduce(features · matrix)
      for block: x[block] += sum[block] + bias
    """

    def product(given: tuple[KnownInt, Hbm]) -> Hbm:
        number, own = given
        h = features(number, own)
        made = stored(linear(h, matrix, None, rows=tiling.rows, dtype=tiling.dtype))
        return _summed(made, core_axis, tuple(chips))

    def residual(given: tuple[Hbm, Hbm]) -> Hbm:
        own, total = given
        y = loaded(own, tiling)
        y = tensor_tensor(y, y, loaded(total, tiling), op="add")
        if bias is not None:
            row = in_every_row(bias, tiling.rows)
            token, _, feature = range(3)
            # A view: the same for all token tiles, which one instruction goes over.
            wide = lax.broadcast_in_dim(row, y.shape, (token, feature))
            y = tensor_tensor(y, y, wide, op="add")
        return stored(y)

    numbers = jnp.arange(tiling.blocks, dtype=jnp.int32)
    sums = lax.map(product, (numbers, x))
    return lax.map(residual, (x, sums))


def _summed(made: Hbm, core_axis: str | None, chips: tuple[str, ...]) -> Hbm:
    """The sum of all that have a part of the features, see `plus_product`."""
    total = hbm(*made.shape, dtype=made.dtype)
    if not chips:
        return made if core_axis is None else all_reduce(total, made, axis=core_axis)
    if core_axis is None:
        return chip_all_reduce(total, made, axis=chips[-1], chips=chips)
    # Cores share the sum over chips evenly, whatever the number of tokens.
    *tokens, hidden = made.shape
    cores = axis_size("trn.cores", core_axis)
    even = math.prod(tokens) * cores, hidden // cores
    both = all_reduce_both(
        total.reshape(*even),
        made.reshape(*even),
        chip_axis=chips[-1],
        core_axis=core_axis,
        chips=chips,
    )
    return both.reshape(*made.shape)


__all__ = [
    "Features",
    "linear",
    "loaded",
    "normalised",
    "normalised_hidden",
    "plus_product",
    "stored",
]
