"""Vector operations of one PE: every operand is a tile in its SRAM, every result a destination.

Arithmetic is done in float32 and rounded once to the destination's dtype, which for one add or
multiply of 16-bit elements is the correctly rounded result.
"""

from typing import Any

import jax.numpy as jnp
from jax import lax

from emu.datasheet import Device
from emu.errors import LimitExceeded
from emu.instruction import Cost, Operand, caller, instruction, limit
from emu.wse.pe.laws import move_cycles, on_datapath, precision, vector_cycles

SPACE = "sram"
ROPE_LOADS = (
    11  # descriptor loads of WaferLLM's kernel (arXiv 2502.04563): six operations share
)
_OPS = {"add": jnp.add, "sub": jnp.subtract, "mul": jnp.multiply, "max": jnp.maximum}


def single(x: Any) -> Any:
    """`x` as float32; exact for every float dtype a PE has."""
    return x.astype(jnp.float32)


def _free(device: Device, **params: Any) -> Cost:
    return on_datapath(0)


@instruction("wse.sram_tile", cost=_free, reads=(), writes=SPACE, in_place=False)
def sram_tile(*, shape: tuple[int, ...], dtype: Any) -> Any:
    """Room for `dtype[shape]` in SRAM; holds NaN, or the largest integer, until written."""
    if jnp.issubdtype(dtype, jnp.floating):
        return jnp.full(shape, jnp.nan, dtype)
    return jnp.full(shape, jnp.iinfo(dtype).max, dtype)


def _fill_cost(device: Device, dst: Operand, *, value: float) -> Cost:
    return on_datapath(move_cycles(device, dst.nbytes, descriptors=1))


@instruction("wse.fill", cost=_fill_cost, reads=(), writes=SPACE)
def fill(dst: Any, *, value: float) -> Any:
    """Sets every element of `dst`."""
    return jnp.full_like(dst, value)


def _vector_cost(
    device: Device, dst: Operand, a: Operand, b: Operand, *, op: str
) -> Cost:
    kind = precision(dst.dtype, a.dtype, b.dtype)
    return on_datapath(vector_cycles(device, dst.size, kind), dst.size)


@instruction("wse.vector", cost=_vector_cost, reads=(SPACE, SPACE), writes=SPACE)
def vector(dst: Any, a: Any, b: Any, *, op: str) -> Any:
    """`a op b` elementwise, all of `dst`'s shape; `op` is add, sub, mul or max."""
    if not dst.shape == a.shape == b.shape:
        shapes = f"{dst.shape}, {a.shape}, {b.shape}"
        raise LimitExceeded(f"wse.vector: shapes must be equal, are {shapes}", caller())
    return _OPS[op](single(a), single(b)).astype(dst.dtype)


def _scale_cost(device: Device, dst: Operand, x: Operand, scale: Operand) -> Cost:
    row = vector_cycles(device, x.size // scale.size, precision(dst.dtype, x.dtype))
    return on_datapath(scale.size * row, x.size)


@instruction("wse.vector_scale", cost=_scale_cost, reads=(SPACE, SPACE), writes=SPACE)
def vector_scale(dst: Any, x: Any, scale: Any) -> Any:
    """Row `i` of `x` times scalar `scale[i]`: one vector operation a row.

    Args:
      dst: the shape of `x`.
      x: `[n]` with `scale` `[1]`, or `[rows, n]` with `scale` `[rows]`.
      scale: scalars in SRAM, any float dtype.
    """
    factor = scale if x.ndim == 1 else scale[:, None]
    factor = jnp.broadcast_to(single(factor), x.shape)
    return (single(x) * factor).astype(dst.dtype)


def _copy_cost(device: Device, dst: Operand, x: Operand) -> Cost:
    return on_datapath(move_cycles(device, max(dst.nbytes, x.nbytes)))


@instruction("wse.copy", cost=_copy_cost, reads=(SPACE,), writes=SPACE)
def copy(dst: Any, x: Any) -> Any:
    """Copies `x` to `dst` of the same shape, rounding to its dtype."""
    return x.astype(dst.dtype)


def _into_cost(
    device: Device, dst: Operand, x: Operand, start: Operand, *, axis: int
) -> Cost:
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
def copy_into(dst: Any, x: Any, start: Any, *, axis: int) -> Any:
    """Overwrites the part of `dst` that begins at known index `start` of dimension `axis`.

    Args:
      dst: the tile that keeps its other elements, such as a KV cache.
      x: equal to `dst` in every other dimension; rounded to `dst`'s dtype.
      start: known integer; the part must lie inside `dst`.
      axis: dimension in which the part begins at `start`.
    """
    limit(
        "wse.copy_into", f"extent of dimension {axis}", x.shape[axis], dst.shape[axis]
    )
    return lax.dynamic_update_slice_in_dim(dst, x.astype(dst.dtype), start, axis)


def _rope_cost(
    device: Device, dst: Operand, x: Operand, cos: Operand, sin: Operand
) -> Cost:
    """Four multiplies, a subtract and an add over half of the elements, operands kept loaded."""
    kind = precision(dst.dtype, x.dtype)
    pairs = x.shape[0] * cos.size
    six = 6 * vector_cycles(device, pairs, kind, descriptors=0)
    return on_datapath(ROPE_LOADS * device.descriptor_load_cycles + six, 6 * pairs)


@instruction("wse.rope", cost=_rope_cost, reads=(SPACE, SPACE, SPACE), writes=SPACE)
def rope(dst: Any, x: Any, cos: Any, sin: Any) -> Any:
    """Turns pairs `(x[i, j], x[i, m/2 + j])` by the angle with `cos[j]`, `sin[j]`.

    Args:
      dst: `[rows, m]`.
      x: `[rows, m]`, the first elements of all pairs, then the second ones. The last one of an odd
        m has no pair and stays as it is.
      cos, sin: `[m/2]`.
    """
    half = cos.size
    first, second, rest = jnp.split(single(x), [half, 2 * half], axis=1)
    cos, sin = single(cos), single(sin)
    c = jnp.broadcast_to(cos[None], first.shape)
    s = jnp.broadcast_to(sin[None], first.shape)
    turned = [first * c - second * s, second * c + first * s, rest]
    return jnp.concatenate(turned, axis=1).astype(dst.dtype)


__all__ = [
    "SPACE",
    "copy",
    "copy_into",
    "fill",
    "rope",
    "sram_tile",
    "vector",
    "vector_scale",
]
