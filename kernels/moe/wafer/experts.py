"""The chosen experts of one token on a region: gate, up, activation, down and a weighted sum."""

import jax.numpy as jnp
from jax import lax

from emu.annotations import KnownInt
from emu.wse import (
    chosen_map,
    copy,
    copy_chosen,
    copy_into,
    fill,
    lookup,
    row_live,
    sram_tile,
    vector,
    vector_scale,
)
from emu.wse.spaces import Sram
from kernels.moe.wafer.placed import ExpertMap
from kernels.moe.wafer.router import Choice
from kernels.wse.decode.activation import Activation, activated
from kernels.wse.decode.blocks import Weights
from kernels.wse.decode.coded import coded_gemv
from kernels.wse.decode.held import scale_of
from kernels.wse.decode.sums import all_reduce, unchanged, zeros


def experts(
    layout: ExpertMap,
    activation: Activation,
    normed: Sram,
    weights: Weights,
    choice: Choice,
) -> Sram:
    """The weighted sum of the chosen experts' outputs, float32 `[depth]`, on every column.

    Dimensions: `normed` `[depth]`. Gate and up go from rows to columns, down goes back.

    Pseudocode:
      gate, up = all_reduce_row(normed @ gate_up[at]);  hidden = weight * activation(gate, up)
      out = all_reduce_col(sum over chosen of hidden @ down[at])
    """
    region = layout.region
    part = gate_up_part(layout, normed, weights, choice)
    gate_up = all_reduce(part, "row")
    hidden = hidden_of(layout, activation, gate_up, weights, choice)
    if region.dtype != "float32":
        rounded = sram_tile(shape=hidden.shape, dtype=region.dtype)
        hidden = copy(rounded, hidden)
    out = zeros((region.depth,))
    if "experts_down_bias" in weights:
        out = lax.cond(
            lax.axis_index("col") == 0,
            _with_down_bias,
            unchanged,
            out,
            weights["experts_down_bias"],
            choice.at,
            of_outputs(layout, choice),
        )
    # An expert's output counts by its weight, which its hidden vector carries already.
    if region.held is None:
        out = chosen_map(out, weights["experts_down"], hidden, choice.at)
    else:
        part = coded_part(layout, "experts_down", hidden.reshape(-1), weights, choice)
        # The last column may be there for the rows' whole words alone.
        part = lax.slice_in_dim(part, 0, region.depth)
        out = vector(out, out, part, op="add")
    return all_reduce(out, "col")


def gate_up_part(
    layout: ExpertMap, normed: Sram, weights: Weights, choice: Choice
) -> Sram:
    """This PE's part of the chosen experts' gate and up, float32 `[active, 2 width]`."""
    shape = layout.active, 2 * layout.width
    name = "experts_gate_up"
    if layout.region.held is not None:
        return coded_part(layout, name, normed, weights, choice).reshape(shape)
    return chosen_map(zeros(shape), weights[name], normed, choice.at)


def coded_part(
    layout: ExpertMap, name: str, x: Sram, weights: Weights, choice: Choice
) -> Sram:
    """This PE's part of `x` times the chosen experts' matrices in codes, as of a single matrix.

    Gate and up of all of them, side by side, meet one vector: float32 `[active * 2 width]` of `x`
    `[depth]`. Down, one below the other, adds up to one: `[outputs]` of `x` `[active * width]`.
    """
    held = layout.region.held
    assert held is not None
    tile, axis = layout.matrices[name], int(name == "experts_gate_up")
    whole = tile.beside(layout.active) if axis else tile.below(layout.active)
    copied: Weights = {}
    for part, shape in whole.shapes(name, held).items():
        codes = weights[part]
        if layout.deals_scales and part == scale_of("experts_down"):
            copied[part] = chosen_scales(layout, codes, choice)
            continue
        dst = sram_tile(shape=shape, dtype=codes.dtype.name)
        copied[part] = copy_chosen(dst, codes, choice.at, axis=axis)
    return coded_gemv(whole, held, copied, name, x)


def chosen_scales(layout: ExpertMap, scales: Sram, choice: Choice) -> Sram:
    """Of the chosen experts' outputs, float32 `[active, outputs]`, on every column of a block.

    A column looks up those that it holds, and has zeros for the others; a sum over the block brings
    each to all columns.

    Dimensions: `scales` `[outputs, scales_share]`, of this column's experts.
    """
    _, wide = layout.block
    outputs, share = scales.shape
    column = lax.rem(lax.axis_index("col"), jnp.int32(wide))
    first = column * jnp.int32(share)
    found = sram_tile(shape=(layout.active * outputs,), dtype="float32")
    for place in range(layout.active):
        begin, end = place * outputs, (place + 1) * outputs
        at = lax.slice_in_dim(choice.at, place, place + 1)
        found = lookup.at[begin:end](found, scales, at, first)
    # One column has a scale, the others 0: the sum is exact.
    found = all_reduce(found, "col", group=wide)
    return found.reshape(layout.active, outputs)


def of_outputs(layout: ExpertMap, choice: Choice) -> Sram:
    """What an expert's output is multiplied by: its weight, or 1 where that was its input's."""
    if not layout.routing.on_input:
        return choice.weights
    ones = sram_tile(shape=choice.weights.shape, dtype="float32")
    return fill(ones, value=1.0)


def _with_down_bias(out: Sram, bias: Sram, at: Sram, weights: Sram) -> Sram:
    """Biases `[tiles, 1, depth]` of the chosen experts, each times its weight, added to `out`."""
    return chosen_map(out, bias, weights.reshape(-1, 1), at)


def hidden_of(
    layout: ExpertMap,
    activation: Activation,
    gate_up: Sram,
    weights: Weights,
    choice: Choice,
) -> Sram:
    """Activated and weighted hidden vectors, float32 `[active, width]`, on every row.

    Activations are scalar code: each row of a band does one part of one expert's elements, and a
    sum over the band, in which all others are zero, puts them together. With 9 experts of 4
    elements in a column and a band of 64 rows, rows 0 to 35 do one element each.

    Dimensions: `gate_up` float32 `[active, 2 width]`, gate then up of each expert.
    """
    width, share = layout.width, layout.share
    parts = layout.active * layout.pieces
    flat = gate_up.reshape(-1)
    row = lax.rem(lax.axis_index("row"), jnp.int32(layout.band))

    def activate(out: Sram, flat: Sram, at: Sram, counts: Sram, part: KnownInt) -> Sram:
        which = lax.div(part, jnp.int32(layout.pieces))
        start = part * jnp.int32(share)
        # An expert's up lies behind its gate, so every expert before has taken twice its width.
        start_of_gate = start + which * jnp.int32(width)
        gate = lax.dynamic_slice_in_dim(flat, start_of_gate, share)
        start_of_up = start_of_gate + jnp.int32(width)
        up = lax.dynamic_slice_in_dim(flat, start_of_up, share)
        count = lax.dynamic_slice_in_dim(counts, which, 1)
        if layout.routing.on_input:
            gate, up = _scaled(gate, count), _scaled(up, count)
        if "experts_gate_up_bias" in weights:
            place = lax.dynamic_slice_in_dim(at, which, 1).reshape(1, 1)
            table = weights["experts_gate_up_bias"]
            both = sram_tile(shape=(1, 2 * share), dtype=table.dtype)
            whole = jnp.int32(2 * share)
            both = row_live(both, table, place, whole, entries=layout.tiles)
            gate = _added(gate, both.reshape(-1), 0)
            up = _added(up, both.reshape(-1), share)
        mine = activated(activation, gate, up)
        if not layout.routing.on_input:
            mine = vector_scale(mine, mine, count)
        return copy_into(out, mine, start, axis=0)

    out = zeros((layout.active * width,))
    for nth in range(layout.pieces_a_row):
        part = row * jnp.int32(layout.pieces_a_row) + jnp.int32(nth)
        operands = out, flat, choice.at, choice.weights, part
        out = lax.cond(part < parts, activate, unchanged, *operands)
    # Every element is a sum of one value and zeros, which is exact.
    out = all_reduce(out, "row", group=layout.band)
    return out.reshape(layout.active, width)


def _scaled(x: Sram, factor: Sram) -> Sram:
    tile = sram_tile(shape=x.shape, dtype="float32")
    return vector_scale(tile, x, factor)


def _added(x: Sram, biases: Sram, start: int) -> Sram:
    """`x` plus as many of the biases from `start` on."""
    bias = lax.slice_in_dim(biases, start, start + x.shape[0])
    tile = sram_tile(shape=x.shape, dtype="float32")
    return vector(tile, x, bias, op="add")


__all__ = ["experts", "hidden_of", "of_outputs"]
