"""Sums on a line of PEs: by chains of chains to the first one, or to all through the middle."""

from jax import lax

from emu.annotations import DType, KnownInt, PyTree, Shape
from emu.wse import fill, multicast, reduce, sram_tile, trees
from emu.wse.spaces import Sram
from emu.wse.wavelets import words
from kernels.wse.decode.mapping import group_size, line_groups, meet_in_the_middle


def zeros(shape: Shape, dtype: DType = "float32") -> Sram:
    """A tile of zeros in SRAM."""
    tile = sram_tile(shape=shape, dtype=dtype)
    return fill(tile, value=0.0)


def unchanged(first: PyTree, *_: PyTree) -> PyTree:
    """The branch of a `lax.cond` that does nothing: the first operand, as it was."""
    return first


def reduce_to_first(
    x: Sram,
    axis: str,
    *,
    op: str = "add",
    group: int | None = None,
    elements: KnownInt | None = None,
) -> Sram:
    """Sum or max of `x` along `axis` into the first PE of each group, in the tile of `x`.

    The first phase runs in sub-groups of about the square root of the group, the second over their
    first PEs: about `2 sqrt(P)` dependent stages, not `P`. On 64 PEs these are 7 and 7, not 63.

    Args:
      x: any float tile.
      axis: mesh axis.
      op: `"add"` or `"max"`.
      group: PEs that are reduced together; None: the whole axis.
      elements: how many of `x` to send, a known integer; None: all.
    """
    size = group or lax.axis_size(axis)
    if size == 1:
        return x
    tree = trees.two_phase(size, group_size(size))
    return reduce(x, x, axis=axis, tree=tree, op=op, group=size, elements=elements)


def all_reduce(
    x: Sram,
    axis: str,
    *,
    op: str = "add",
    group: int | None = None,
    elements: KnownInt | None = None,
) -> Sram:
    """Sum or max of `x` along `axis` on every PE of each group, in the tile of `x`.

    Short vectors meet in the middle: chains run inward from both sides, so the sum is there after
    about `sqrt(P)` dependent stages, and half a line away from everybody. A root in the middle
    takes four streams and sends two, so long vectors go to the first PE, which takes two and sends
    one.

    Args:
      As for `reduce_to_first`.
    """
    size = group or lax.axis_size(axis)
    if size == 1:
        return x
    # The whole tile decides, not `elements`: that is known to the clock, but not as the program is
    # traced.
    wavelets = int(words(x.size, x.dtype))
    if meet_in_the_middle(size, wavelets):
        tree = trees.two_tree(size, line_groups(size))
    else:
        tree = trees.two_phase(size, group_size(size))
    x = reduce(x, x, axis=axis, tree=tree, op=op, group=size, elements=elements)
    # From the root on, within the call of the reduce: every PE has picked its role for both
    # already.
    return multicast(
        x,
        x,
        axis=axis,
        group=size,
        root=tree.root,
        elements=elements,
        call=False,
    )


__all__ = ["all_reduce", "reduce_to_first", "unchanged", "zeros"]
