"""The chosen experts of one token on a region: gate, up, activation, down and a weighted sum."""

import jax.numpy as jnp
from jax import lax

from emu.annotations import KnownInt
from emu.wse import (
    chosen_map,
    copy,
    copy_into,
    fill,
    fmac_map,
    lookup_live,
    row_live,
    sram_tile,
    vector,
    vector_scale,
    widen_chosen,
)
from emu.wse.spaces import Sram
from kernels.moe.wafer.placed import ExpertMap
from kernels.moe.wafer.router import Choice
from kernels.wse.decode.activation import Activation, activated
from kernels.wse.decode.blocks import Weights
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
    is_in_codes = "experts_down_scale" in weights
    if is_in_codes:
        scales = of_chosen(weights["experts_down_scale"], choice)
        hidden = vector_scale(hidden, hidden, scales)
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
    down = weights["experts_down"]
    if is_in_codes:
        down = widened(layout, down, choice)
        out = fmac_map(out, down.reshape(-1, region.depth), hidden.reshape(-1))
    else:
        out = chosen_map(out, down, hidden, choice.at)
    return all_reduce(out, "col")


def gate_up_part(
    layout: ExpertMap, normed: Sram, weights: Weights, choice: Choice
) -> Sram:
    """This PE's part of the chosen experts' gate and up, float32 `[active, 2 width]`."""
    part = zeros((layout.active, 2 * layout.width))
    gate_up = weights["experts_gate_up"]
    if "experts_gate_up_scale" not in weights:
        return chosen_map(part, gate_up, normed, choice.at)
    part = fmac_map(part, widened(layout, gate_up, choice), normed)
    # A PE's codes have a scale of their own, so it multiplies before anything is summed.
    scales = of_chosen(weights["experts_gate_up_scale"], choice)
    return vector_scale(part, part, scales)


def widened(layout: ExpertMap, codes: Sram, choice: Choice) -> Sram:
    """The chosen experts' slices of a matrix, `[active, k, n]`, of codes `[tiles, k, n]`."""
    shape = (layout.active, *codes.shape[1:])
    tile = sram_tile(shape=shape, dtype=layout.region.dtype)
    return widen_chosen(tile, codes, choice.at)


def of_chosen(table: Sram, choice: Choice) -> Sram:
    """The chosen experts' numbers of a table `[tiles]`, float32 `[active]`."""
    active = choice.at.shape[0]
    found = sram_tile(shape=(1, active), dtype="float32")
    index = choice.at.reshape(1, active)
    return lookup_live(found, table, index, jnp.int32(active), opens=True).reshape(-1)


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
