"""All-reduce on a line of PEs: two chains of chains to the first PE, then a multicast back."""

from typing import Any

import jax
from jax import lax

from emu.wse import chain_reduce, fill, multicast, sram_tile
from kernels.wse.mapping import phase_stride


def zeros(shape: tuple[int, ...], dtype: Any = "float32") -> jax.Array:
    """A tile of zeros in SRAM."""
    return fill(sram_tile(shape=shape, dtype=dtype), value=0.0)


def reduce_to_first(
    x: jax.Array, axis: str, *, op: str = "add", group: int | None = None, elements: Any = None
) -> jax.Array:
    """Sum or max of `x` along `axis` into the first PE of each group, in the tile of `x`.

    Dimensions: `x` is any float tile. The first phase runs in sub-groups of about the square root
    of the group, the second over their roots: about `2 sqrt(P)` dependent stages instead of `P`.
    """
    group = group or lax.axis_size(axis)
    stride = phase_stride(group)
    if 1 < stride < group:
        x = chain_reduce(x, x, axis=axis, op=op, group=stride, elements=elements)
        return chain_reduce(x, x, axis=axis, op=op, group=group, stride=stride, elements=elements)
    return chain_reduce(x, x, axis=axis, op=op, group=group, elements=elements)


def all_reduce(
    x: jax.Array, axis: str, *, op: str = "add", group: int | None = None, elements: Any = None
) -> jax.Array:
    """Sum or max of `x` along `axis` on every PE of each group, in the tile of `x`."""
    x = reduce_to_first(x, axis, op=op, group=group, elements=elements)
    return multicast(x, x, axis=axis, group=group, elements=elements)


__all__ = ["all_reduce", "reduce_to_first", "zeros"]
