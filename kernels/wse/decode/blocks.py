"""The parts of a layer between its collectives: GEMV on resident weights, RMSNorm, SwiGLU."""

import jax.numpy as jnp
from jax import lax

from emu.annotations import DType, KnownInt
from emu.wse import (
    copy,
    copy_into,
    fill,
    fmac_map,
    rsqrt_mean,
    square_sum,
    sram_tile,
    vector,
    vector_scale,
)
from emu.wse.spaces import Sram
from kernels.wse.decode.activation import SILU, Activation, activated
from kernels.wse.decode.coded import coded_gemv, turned_gemv
from kernels.wse.decode.held import scale_of
from kernels.wse.decode.mapping import LayerMap
from kernels.wse.decode.sums import all_reduce, unchanged, zeros

Weights = dict[str, Sram]
"""This PE's part of a layer's weights; see `LayerMap.weight_shapes`."""


def gemv(weight: Sram, x: Sram) -> Sram:
    """This PE's part of `x @ weight`, float32 `[n]`; the sum over PEs is still to be taken.

    Dimensions: `weight` `[k, n]` resident in SRAM, `x` `[k]`.
    """
    outputs = weight.shape[1]
    # Float32 whatever the weights are: what is added up over the PEs is rounded to their dtype
    # once, after all sums.
    sums = zeros((outputs,))
    return fmac_map(sums, weight, x)


def projected(layer: LayerMap, weights: Weights, name: str, x: Sram) -> Sram:
    """This PE's part of `x` times one of the layer's matrices, as `gemv` or `coded_gemv`."""
    held = layer.held.weights
    if held is None:
        return gemv(weights[name], x)
    return coded_gemv(layer.matrices[name], held, weights, name, x)


def projected_by_one(
    layer: LayerMap, weights: Weights, name: str, place: int, x: Sram
) -> Sram:
    """As `projected`, by one of several matrices that lie one below the other.

    Args:
      layer: the mapping.
      weights: of this PE.
      name: of the matrices.
      place: which of them, from the uppermost on.
      x: `[rows of one]`; float32 where the matrix is turned and in codes, see `turned_gemv`.
    """
    one, held = layer.matrices[name].one, layer.held.weights

    def part(whole: Sram, rows: int) -> Sram:
        return lax.slice_in_dim(whole, place * rows, (place + 1) * rows, axis=0)

    own = {name: part(weights[name], one.rows)}
    if held is None:
        return gemv(own[name], x)
    of_scales, _ = one.scales(held)
    own[scale_of(name)] = part(weights[scale_of(name)], of_scales)
    if one.is_turned:
        return turned_gemv(one, held, own, name, x, layer.dtype)
    return coded_gemv(one, held, own, name, x)


def rms_norm(
    x: Sram,
    weight: Sram,
    *,
    n: int,
    eps: float,
    dtype: DType,
    axis: str = "row",
    group: int | None = None,
) -> Sram:
    """RMSNorm of a vector that is split over one axis of the mesh and repeated along the other.

    Args:
      x: float32 `[n / PEs]`; padding is zero.
      weight: alike.
      n: elements of the whole vector, without padding.
      eps: added to the mean square.
      dtype: of the result.
      axis: over which it is split.
      group: PEs that hold it together; None: the whole axis.

    Pseudocode:
      y = x / sqrt(all_reduce(sum x^2) / n + eps) * weight
    """
    total = sram_tile(shape=(1,), dtype="float32")
    total = square_sum(total, x)
    total = all_reduce(total, axis, group=group)
    # Padding has added zeros to the sum, and must not count in the mean.
    scale = rsqrt_mean(total, total, n=n, eps=eps)
    scaled = sram_tile(shape=x.shape, dtype="float32")
    scaled = vector_scale(scaled, x, scale)
    normed = sram_tile(shape=x.shape, dtype=dtype)
    return vector(normed, scaled, weight, op="mul")


def swiglu(
    gate_up: Sram, share: int, dtype: DType, activation: Activation = SILU
) -> Sram:
    """`silu(gate) * up`, `[width]`, of a float32 `[2 width]`: gate, then up, on every row.

    SiLU, like other activations, is scalar code, about a hundred cycles an element, so each row
    does `share` elements and a sum over rows, in which all others are zero, puts them together.

    Dimensions: `gate_up` repeated along rows; `share` divides `width`.
    """
    width = gate_up.shape[0] // 2

    def of_share(out: Sram, gate_up: Sram, start: KnownInt) -> Sram:
        gate = lax.dynamic_slice_in_dim(gate_up, start, share)
        start_of_up = start + jnp.int32(width)
        up = lax.dynamic_slice_in_dim(gate_up, start_of_up, share)
        mine = activated(activation, gate, up)
        return copy_into(out, mine, start, axis=0)

    # A width of 6 in shares of 2 takes rows 0 to 2; a fourth row would start at 6 and do nothing.
    start = lax.axis_index("row") * jnp.int32(share)
    has_elements = start < width
    out = zeros((width,))
    out = lax.cond(has_elements, of_share, unchanged, out, gate_up, start)
    # Every element is a sum of one value and zeros, which is exact.
    out = all_reduce(out, "row")
    if dtype == "float32":
        return out
    rounded = sram_tile(shape=(width,), dtype=dtype)
    return copy(rounded, out)


def mlp(layer: LayerMap, residual: Sram, weights: Weights) -> tuple[Sram, Sram | None]:
    """Adds the MLP of the normalised residual stream to it, in place; also tells what it chose.

    Dimensions: `residual` float32 `[depth]`. Gate and up go from rows to columns, down goes back.
    """
    normed = rms_norm(
        residual,
        weights["mlp_norm"],
        n=layer.hidden,
        eps=layer.eps,
        dtype=layer.dtype,
    )
    chosen = None
    if layer.form.mlp is not None:
        out, chosen = layer.form.mlp.apply(layer.region, normed, weights)
    else:
        out = gated(layer, normed, weights)
    return added(layer, residual, out, weights, "mlp_output_norm"), chosen


def gated(layer: LayerMap, normed: Sram, weights: Weights) -> Sram:
    """The gated MLP's output, float32 `[depth]` on every column."""
    part = projected(layer, weights, "gate_up", normed)
    gate_up = all_reduce(part, "row")
    hidden = swiglu(gate_up, layer.width_share, layer.dtype, layer.form.activation)
    part = projected(layer, weights, "down", hidden)
    return all_reduce(part, "col")


def added(
    layer: LayerMap, residual: Sram, out: Sram, weights: Weights, norm: str
) -> Sram:
    """The residual stream plus an output, normalised and scaled where the layer's form has that.

    Args:
      layer: the mapping.
      residual: float32 `[depth]`.
      out: alike, summed over PEs.
      weights: of this PE.
      norm: the name of the output's norm.
    """
    if layer.form.output_norms:
        out = rms_norm(
            out, weights[norm], n=layer.hidden, eps=layer.eps, dtype="float32"
        )
    if layer.form.residual_scale != 1:
        factor = sram_tile(shape=(1,), dtype="float32")
        factor = fill(factor, value=layer.form.residual_scale)
        out = vector_scale(out, out, factor)
    return vector(residual, residual, out, op="add")


__all__ = [
    "Weights",
    "added",
    "gated",
    "gemv",
    "mlp",
    "projected",
    "projected_by_one",
    "rms_norm",
    "swiglu",
]
