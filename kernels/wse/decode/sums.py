"""Sums on a line of PEs: by chains of chains to the first one, or to all through the middle."""

from typing import Any

import jax
from jax import lax

from emu.wse import fill, multicast, reduce, sram_tile, trees
from emu.wse.wavelets import words
from kernels.wse.decode.mapping import line_groups, meet_in_the_middle


def zeros(shape: tuple[int, ...], dtype: Any = "float32") -> jax.Array:
    """A tile of zeros in SRAM."""
    return fill(sram_tile(shape=shape, dtype=dtype), value=0.0)


def reduce_to_first(
    x: jax.Array,
    axis: str,
    *,
    op: str = "add",
    group: int | None = None,
    elements: Any = None,
) -> jax.Array:
    """Sum or max of `x` along `axis` into the first PE of each group, in the tile of `x`.

    Dimensions: `x` is any float tile. The first phase runs in sub-groups of about the square root
    of the group, the second over their first PEs: about `2 sqrt(P)` dependent stages, not `P`.
    """
    size = group or lax.axis_size(axis)
    if size == 1:
        return x
    tree = trees.two_phase(size, -(-size // line_groups(size)))
    return reduce(x, x, axis=axis, tree=tree, op=op, group=size, elements=elements)


def all_reduce(
    x: jax.Array,
    axis: str,
    *,
    op: str = "add",
    group: int | None = None,
    elements: Any = None,
) -> jax.Array:
    """Sum or max of `x` along `axis` on every PE of each group, in the tile of `x`.

    Short vectors meet in the middle: chains run inward from both sides, so the sum is there after
    about `sqrt(P)` dependent stages, and half a line away from everybody. A root in the middle
    takes four streams and sends two, so long vectors go to the first PE, which takes two and sends
    one.
    """
    size = group or lax.axis_size(axis)
    if size == 1:
        return x
    groups = line_groups(size)
    if meet_in_the_middle(size, int(words(x.size, x.dtype))):
        tree = trees.two_tree(size, groups)
    else:
        tree = trees.two_phase(size, -(-size // groups))
    x = reduce(x, x, axis=axis, tree=tree, op=op, group=size, elements=elements)
    return multicast(
        x, x, axis=axis, group=size, root=tree.root, elements=elements, call=False
    )


__all__ = ["all_reduce", "reduce_to_first", "zeros"]
