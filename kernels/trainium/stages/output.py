"""What comes behind attention: its output's projection, and a gated MLP, each with its residual."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from emu.annotations import KnownInt
from emu.tracing.loop import loop
from emu.trainium.engines.memory import dma_load_tiles, sbuf
from emu.trainium.isa import memset
from emu.trainium.spaces import Hbm, Sbuf
from kernels.trainium.gemm.mx_pack import elements_of
from kernels.trainium.gemm.operands import Operand, Weight
from kernels.trainium.layer.gate import Gate
from kernels.trainium.layer.mlp import UpWeights, gated
from kernels.trainium.layer.norm import transposed_into
from kernels.trainium.stages.linear import normalised_hidden, plus_product
from kernels.trainium.stages.tiling import StageTiling, attended_cut
from kernels.trainium.tiles import index


class OutputWeights(NamedTuple):
    """The output projection of one core, in HBM.

    Attributes:
      matrix: packed, this core's heads to hidden.
      bias: float32 `[1, hidden padded]`, or None.
    """

    matrix: Weight
    bias: Hbm | None = None


class MlpWeights(NamedTuple):
    """A gated MLP's part on one core, in HBM.

    Attributes:
      norm: `[1, hidden padded]`.
      up: both up projections, packed, to this core's features.
      down: packed, from them.
    """

    norm: Hbm
    up: UpWeights
    down: Weight


def plus_attended(
    x: Hbm,
    attended: Hbm,
    weights: OutputWeights,
    tiling: StageTiling,
    *,
    core_axis: str | None = None,
    chips: Sequence[str] = (),
) -> Hbm:
    """`x + attended · matrix + bias`.

    Args:
      x: HBM `[blocks, tiles, rows, hidden padded]`, the same on every core.
      attended: HBM `[heads, token tiles, rows, value_dim]`, of this core's heads.
      weights: of this core.
      tiling: sizes.
      core_axis: mesh axis over the chip's cores; None where there is one.
      chips: see `plus_product`.

    Returns:
      HBM as `x`.
    """
    heads, _, rows, value_dim = attended.shape
    cut = attended_cut(heads, value_dim, tiling)
    places = math.prod(cut) // value_dim

    def features(block: KnownInt, _: Hbm) -> Operand:
        def of_tile(out: Sbuf, number: KnownInt) -> Sbuf:
            own = index(attended, block * tiling.tiles + number, 1)
            tile = sbuf(rows, places, value_dim, dtype=tiling.dtype, buffers=2)
            if places == heads:
                tile = dma_load_tiles(tile, own)
            else:
                # Weights of 0 multiply what no head fills, and NaN times 0 would be NaN.
                tile = memset(tile, value=0.0)
                tile = dma_load_tiles.at[:, :heads](tile, own)
            flat = tile.reshape(rows, places * value_dim)
            return transposed_into(out, flat, number * rows)

        out = tiling.fresh(cut, tiling.block_tokens)
        return tiling.ready(loop(of_tile, out, tiling.tiles))

    matrix, bias = weights
    return plus_product(
        x, features, matrix, bias, tiling, core_axis=core_axis, chips=chips
    )


def plus_mlp(
    x: Hbm,
    weights: MlpWeights,
    gate: Gate,
    tiling: StageTiling,
    *,
    core_axis: str | None = None,
    chips: Sequence[str] = (),
) -> Hbm:
    """`x + mlp(norm(x))`.

    Args:
      x: HBM `[blocks, tiles, rows, hidden padded]`, the same on every core.
      weights: of this core.
      gate: what is made of both up projections.
      tiling: sizes.
      core_axis: mesh axis over the chip's cores; None where there is one.
      chips: see `plus_product`.

    Returns:
      HBM as `x`.
    """

    def features(_: KnownInt, own: Hbm) -> Operand:
        h = normalised_hidden(own, weights.norm, tiling)
        elements = elements_of(tiling.mx)
        return gated(h, weights.up, gate, dtype=tiling.dtype, elements=elements)

    return plus_product(
        x, features, weights.down, None, tiling, core_axis=core_axis, chips=chips
    )


__all__ = ["MlpWeights", "OutputWeights", "plus_attended", "plus_mlp"]
