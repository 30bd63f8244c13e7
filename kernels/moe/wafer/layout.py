"""Weights of experts and routers from a model's arrays to every PE's tiles.

A PE has a slice of every expert, behind one another: its rows' part of the residual stream by its
columns' part of the hidden vector. Of 9 experts of 22 x 10 numbers on 4 x 5 PEs a PE holds 9 slices
of 6 x 2 of gate, as many of up, and 9 of 2 x 6 of down; of 24 = 4 x 6 rows the last two are zeros.
"""

import functools
from collections.abc import Collection, Mapping

import numpy as np

from kernels.moe.wafer.placed import ExpertMap
from kernels.wse.decode.coded_layout import coded_tiles
from kernels.wse.decode.dealing import Array, Tiles, deal, in_blocks
from kernels.wse.decode.held import scale_of
from kernels.wse.decode.residual import residual_in_blocks

MATRICES = tuple(
    f"{whose}_{name}"
    for whose in ("expert", "shared")
    for name in ("gate", "up", "down")
)
"""Of a model, those that a mixture holds in codes."""


def expert_tiles(
    layers: Mapping[str, Array], layout: ExpertMap, names: Collection[str]
) -> dict[str, Tiles]:
    """All layers' weights of experts as `[layers, rows, cols, ...]`; biases lack an axis of PEs.

    Args:
      layers: stacked weights with `y = x @ W`: `router` `[layers, hidden, experts]`; `expert_gate`,
        `expert_up` `[layers, experts, hidden, ffn]` and `expert_down` `[layers, experts, ffn,
        hidden]`; with shared experts `shared_gate`, `shared_up` `[layers, hidden, shared * ffn]`
        and `shared_down` `[layers, shared * ffn, hidden]`; and where the mixture has them
        `router_bias`, `selection_bias` `[layers, experts]`, `expert_gate_bias`, `expert_up_bias`
        `[layers, experts, ffn]`, `expert_down_bias` `[layers, experts, hidden]`.
      layout: the mapping.
      names: of the tiles that the mixture has.
    """
    region = layout.region
    rows = (region.rows, region.depth)
    names_of_stream = ("router", "expert_down_bias")
    of_stream = residual_in_blocks(layers, names_of_stream, region.cut, region.depth)
    tiles = {"router": _router(of_stream["router"], layout)}
    if region.held is None:
        tiles |= expert_matrices(layers, layout)
    else:
        coded = [name for name in MATRICES if name in layers]
        dealt = functools.partial(expert_matrices, layout=layout)
        tiles |= coded_tiles(layers, coded, layout.matrices, region.held, dealt)
    if layout.deals_scales:
        name = scale_of("experts_down")
        tiles[name] = _scales_by_column(tiles[name], layout)
    for name in ("router_bias", "selection_bias"):
        if name in names:
            tiles[name] = _by_column(layers[name], layout)
    if "experts_down_bias" in names:
        tiles["experts_gate_up_bias"] = _gate_up_bias(layers, layout)
        by_row = deal(_padded(of_stream["expert_down_bias"], layout), 2, *rows)
        # layers, rows, tiles, 1, depth
        tiles["experts_down_bias"] = np.swapaxes(by_row, 1, 2)[:, :, :, None]
    return tiles


def expert_matrices(layers: Mapping[str, Array], layout: ExpertMap) -> dict[str, Tiles]:
    """The tiles of `layout.matrices`, of elements of any dtype, `[layers, rows, cols, tiles, ...]`.

    Args:
      layers: those of `MATRICES` that the mixture has.
      layout: the mapping.
    """
    region = layout.region
    rows = (region.rows, region.depth)
    cols = (region.cols, layout.width)
    layers = residual_in_blocks(layers, MATRICES, region.cut, region.depth)
    of_width, of_depth = _shared_as_experts(layers, layout)
    halves = []
    for name in ("gate", "up"):
        cut = in_blocks(of_width[name], 3, layout.cut, layout.width)
        by_pe = deal(deal(cut, 3, *cols), 2, *rows)
        layer, tile, row, depth, col, width = range(6)
        halves.append(np.transpose(by_pe, (layer, row, col, tile, depth, width)))
    cut = in_blocks(of_depth, 2, layout.cut, layout.width)
    by_pe = deal(deal(cut, 3, *rows), 2, *cols)
    layer, tile, col, width, row, depth = range(6)
    down = np.transpose(by_pe, (layer, row, col, tile, width, depth))
    filled = layout.matrices["experts_down"].columns - region.depth
    if filled:
        down = np.pad(down, [(0, 0)] * 5 + [(0, filled)])
    return {"experts_gate_up": np.concatenate(halves, axis=-1), "experts_down": down}


def _shared_as_experts(
    layers: Mapping[str, Array], layout: ExpertMap
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Gate and up, and down, of all experts and behind them the shared ones."""
    of_width = {x: np.asarray(layers[f"expert_{x}"]) for x in ("gate", "up")}
    of_depth = np.asarray(layers["expert_down"])
    if not layout.shared:
        return of_width, of_depth
    for name, old in of_width.items():
        by_expert = deal(layers[f"shared_{name}"], 2, layout.shared, layout.ffn)
        # layers, shared, hidden, ffn
        shared = np.swapaxes(by_expert, 1, 2)
        of_width[name] = np.concatenate([old, shared], axis=1)
    shared = deal(layers["shared_down"], 1, layout.shared, layout.ffn)
    return of_width, np.concatenate([of_depth, shared], axis=1)


def _scales_by_column(scales: Tiles, layout: ExpertMap) -> Tiles:
    """`[layers, rows, cols, tiles, 1, outputs]`, the same on all columns, dealt over a block's.

    `[layers, rows, cols, outputs, share]`, each block alike.
    """
    _, wide = layout.block
    by_col = deal(scales[:, :, 0, :, 0], 2, wide, layout.scales_share)
    # layers, rows, cols of a block, outputs, share
    of_block = np.swapaxes(by_col, 3, 4)
    return np.tile(of_block, (1, 1, layout.region.cols // wide, 1, 1))


def _router(router: Array, layout: ExpertMap) -> Tiles:
    """`[layers, hidden, experts]` as `[layers, rows, cols, depth, own]`, each block alike."""
    _, wide = layout.block
    region = layout.region
    by_col = deal(router, 2, wide, layout.own)
    by_pe = deal(by_col, 1, region.rows, region.depth)
    # layers, rows, cols of a block, depth, own
    of_block = np.swapaxes(by_pe, 2, 3)
    return np.tile(of_block, (1, 1, region.cols // wide, 1, 1))


def _by_column(bias: Array, layout: ExpertMap) -> Tiles:
    """`[layers, experts]` as `[layers, cols, own]`."""
    _, wide = layout.block
    of_block = deal(bias, 1, wide, layout.own)
    return np.tile(of_block, (1, layout.region.cols // wide, 1))


def _padded(bias: Array, layout: ExpertMap) -> np.ndarray:
    """Biases `[layers, experts, n]` with zeros for the shared experts, which have none."""
    missing = ((0, 0), (0, layout.shared), (0, 0))
    return np.pad(np.asarray(bias), missing)


def _gate_up_bias(layers: Mapping[str, Array], layout: ExpertMap) -> Tiles:
    """`[layers, rows, cols, tiles, 2 share]`: of the part that a row activates, gate then up."""
    region = layout.region
    halves = []
    for name in ("gate", "up"):
        bias = _padded(layers[f"expert_{name}_bias"], layout)
        cut = in_blocks(bias, 2, layout.cut, layout.width)
        by_col = deal(cut, 2, region.cols, layout.width)
        parts = deal(by_col, 3, layout.pieces, layout.share)
        layer, tile, col, piece, share = range(5)
        halves.append(np.transpose(parts, (layer, piece, col, tile, share)))
    by_piece = np.concatenate(halves, axis=-1)
    # Row r of a band does part r, which is piece r % pieces of an expert.
    piece = np.arange(region.rows) % layout.band % layout.pieces
    return by_piece[:, piece]


__all__ = ["expert_tiles"]
