"""Vector operations of one PE: every operand is a tile in its SRAM, every result a destination.

Arithmetic is done in float32 and rounded once to the destination's dtype, which for one add or
multiply of 16-bit elements is the correctly rounded result.
"""

import jax.numpy as jnp
from jax import lax

from emu import given, numerics
from emu.annotations import DType, KnownInt, Shape
from emu.checks import tile
from emu.datasheet import Device
from emu.errors import LimitExceeded
from emu.instruction import Cost, Operand, instruction
from emu.tracing.jaxpr import caller
from emu.wse.pe.laws import (
    load_cycles,
    move_cycles,
    on_datapath,
    precision,
    vector_cycles,
)
from emu.wse.spaces import Sram

SPACE = "sram"
DTYPES = (
    *("float32", "float16", "bfloat16"),
    *("int32", "uint32", "int16", "uint16", "int8", "uint8", "float8_e4m3fn"),
    "float8_e8m0fnu",
)
# Of WaferLLM's kernel (arXiv 2502.04563), whose six vector operations share operands.
ROPE_LOADS = 11
ROPE_OPERATIONS = 6
_OPS = {"add": jnp.add, "sub": jnp.subtract, "mul": jnp.multiply, "max": jnp.maximum}


def single(x: Sram) -> Sram:
    """`x` as float32; exact for every float dtype a PE has."""
    return x.astype(jnp.float32)


def product(a: Sram, b: Sram) -> Sram:
    """`a * b` in float32, rounded before anything is added to it."""
    return numerics.rounded(single(a) * single(b))


def unset(dtype: DType) -> float:
    """What a tile holds that nobody has written: NaN, or the largest integer."""
    # What nobody wrote should show: NaN spreads through arithmetic. Integers have none; their
    # largest is the least likely to pass for data.
    if jnp.issubdtype(dtype, jnp.floating):
        return jnp.nan
    return jnp.iinfo(dtype).max


def _free(device: Device, *, shape: Shape, dtype: DType) -> Cost:
    return on_datapath(0)


@instruction("wse.sram_tile", cost=_free, reads=(), writes=SPACE, in_place=False)
def sram_tile(*, shape: Shape, dtype: DType) -> Sram:
    """Room for `dtype[shape]` in SRAM; holds NaN, or the largest integer, until written."""
    tile.check("wse.sram_tile", shape)
    held = tile.dtype("wse.sram_tile", dtype, DTYPES)
    return jnp.full(shape, unset(held), held)


def _fill_cost(device: Device, dst: Operand, *, value: float) -> Cost:
    return on_datapath(move_cycles(device, dst.nbytes, descriptors=1))


@instruction("wse.fill", cost=_fill_cost, reads=(), writes=SPACE)
def fill(dst: Sram, *, value: float) -> Sram:
    """Sets every element of `dst`."""
    return jnp.full_like(dst, value)


def _vector_cost(
    device: Device,
    dst: Operand,
    a: Operand,
    b: Operand,
    *,
    op: str,
) -> Cost:
    kind = precision(dst.dtype, a.dtype, b.dtype)
    return on_datapath(vector_cycles(device, dst.size, kind), dst.size)


@instruction("wse.vector", cost=_vector_cost, reads=(SPACE, SPACE), writes=SPACE)
def vector(dst: Sram, a: Sram, b: Sram, *, op: str) -> Sram:
    """`a op b` elementwise, all of `dst`'s shape; `op` is add, sub, mul or max."""
    if not dst.shape == a.shape == b.shape:
        shapes = f"{dst.shape}, {a.shape}, {b.shape}"
        raise LimitExceeded(f"wse.vector: shapes must be equal, are {shapes}", caller())
    given.one_of("wse.vector: op", op, _OPS)
    result = _OPS[op](single(a), single(b))
    return result.astype(dst.dtype)


def _scale_cost(device: Device, dst: Operand, x: Operand, scale: Operand) -> Cost:
    rows = scale.size
    kind = precision(dst.dtype, x.dtype)
    row_cycles = vector_cycles(device, x.size // rows, kind)
    return on_datapath(rows * row_cycles, x.size)


@instruction("wse.vector_scale", cost=_scale_cost, reads=(SPACE, SPACE), writes=SPACE)
def vector_scale(dst: Sram, x: Sram, scale: Sram) -> Sram:
    """Row `i` of `x` times scalar `scale[i]`: one vector operation a row.

    Args:
      dst: the shape of `x`.
      x: `[n]` with `scale` `[1]`, or `[rows, n]` with `scale` `[rows]`.
      scale: scalars in SRAM, any float dtype.
    """
    factor = scale if x.ndim == 1 else scale[:, None]
    factor = jnp.broadcast_to(single(factor), x.shape)
    scaled = single(x) * factor
    return scaled.astype(dst.dtype)


def _copy_cost(device: Device, dst: Operand, x: Operand) -> Cost:
    # A copy that widens or narrows goes at the pace of its wider side.
    return on_datapath(move_cycles(device, max(dst.nbytes, x.nbytes)))


@instruction("wse.copy", cost=_copy_cost, reads=(SPACE,), writes=SPACE)
def copy(dst: Sram, x: Sram) -> Sram:
    """Copies `x` to `dst` of the same shape, rounding to its dtype."""
    return x.astype(dst.dtype)


def _into_cost(
    device: Device,
    dst: Operand,
    x: Operand,
    start: Operand,
    *,
    axis: int,
) -> Cost:
    # The part that is written, not the whole tile that it lies in.
    nbytes = x.size * dst.dtype.itemsize
    moved = {"sram_read": x.nbytes, "sram_write": nbytes}
    return on_datapath(move_cycles(device, nbytes), moved_bytes=moved)


@instruction(
    "wse.copy_into",
    cost=_into_cost,
    reads=(SPACE, "register"),
    writes=SPACE,
    reads_destination=True,
)
def copy_into(dst: Sram, x: Sram, start: KnownInt, *, axis: int) -> Sram:
    """Overwrites the part of `dst` that begins at known index `start` of dimension `axis`.

    Args:
      dst: the tile that keeps its other elements, such as a KV cache.
      x: equal to `dst` in every other dimension; rounded to `dst`'s dtype.
      start: known integer; the part must lie inside `dst`.
      axis: dimension in which the part begins at `start`.
    """
    name = "wse.copy_into"
    given.whole(f"{name}: axis", axis, 0, dst.ndim - 1)
    extent, most = x.shape[axis], dst.shape[axis]
    if extent > most:
        given.refuse(f"{name}: extent of dimension {axis} is {extent}, at most {most}")
    rounded = x.astype(dst.dtype)
    return lax.dynamic_update_slice_in_dim(dst, rounded, start, axis)


def _rope_cost(
    device: Device,
    dst: Operand,
    x: Operand,
    cos: Operand,
    sin: Operand,
) -> Cost:
    """Four multiplies, a subtract and an add over half of the elements, operands kept loaded."""
    kind = precision(dst.dtype, x.dtype)
    pairs = x.shape[0] * cos.size
    one = vector_cycles(device, pairs, kind, descriptors=0)
    loads = load_cycles(device, ROPE_LOADS)
    # Of 6 x 3 operands, 7 need no load of their own: the kernel's operations share them.
    cycles = loads + ROPE_OPERATIONS * one
    return on_datapath(cycles, ROPE_OPERATIONS * pairs)


@instruction("wse.rope", cost=_rope_cost, reads=(SPACE, SPACE, SPACE), writes=SPACE)
def rope(dst: Sram, x: Sram, cos: Sram, sin: Sram) -> Sram:
    """Turns pairs `(x[i, j], x[i, m/2 + j])` by the angle with `cos[j]`, `sin[j]`.

    Args:
      dst: `[rows, m]`.
      x: `[rows, m]`, the first elements of all pairs, then the second ones. The last one of an odd
        m has no pair and stays as it is.
      cos, sin: `[m/2]`.
    """
    # An odd number of elements leaves one without a partner: of 5, pairs (0, 2) and (1, 3), and 4
    # stays.
    half = cos.size
    first, second, rest = jnp.split(single(x), [half, 2 * half], axis=1)
    cosines = jnp.broadcast_to(single(cos)[None], first.shape)
    sines = jnp.broadcast_to(single(sin)[None], first.shape)
    # Six operations, each of which writes its results.
    turned_first = product(first, cosines) - product(second, sines)
    turned_second = product(second, cosines) + product(first, sines)
    turned = [turned_first, turned_second, rest]
    return jnp.concatenate(turned, axis=1).astype(dst.dtype)


__all__ = [
    "SPACE",
    "copy",
    "copy_into",
    "fill",
    "product",
    "rope",
    "single",
    "sram_tile",
    "unset",
    "vector",
    "vector_scale",
]
