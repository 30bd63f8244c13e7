"""Projections of a query and of a mean of latents on the region that holds the latents.

Weights are dealt over rows, see `kernels.wse.decode.share`: what a row has of them meets its own
features, and a sum brings the results to all rows, or to all columns.
"""

from collections.abc import Callable
from typing import TypeAlias

import jax.numpy as jnp
from jax import lax

from emu.annotations import DType
from emu.wse import copy, copy_into, sram_tile
from emu.wse.spaces import Sram
from kernels.wse.decode.blocks import gemv
from kernels.wse.decode.share import Share
from kernels.wse.decode.sums import all_reduce, zeros

Product: TypeAlias = Callable[[int, Sram], Sram]
"""This PE's part of `x` times the matrix at one of a row's places for heads, float32."""


def products(weights: Sram, share: Share) -> Product:
    """With the matrices of a row's heads one below the other, as numbers."""
    rows = weights.shape[0] // share.heads_a_row

    def product(place: int, x: Sram) -> Sram:
        begin, end = place * rows, (place + 1) * rows
        return gemv(lax.slice_in_dim(weights, begin, end, axis=0), x)

    return product


def absorbed(q: Sram, product: Product, dims: int, share: Share) -> Sram:
    """A query as it meets latents, float32 `[heads, latent dims]`, of this row's features alone.

    The sum over rows is still to be taken: each row has its own heads, and zeros for the others.

    Args:
      q: `[share.size]`, this row's features.
      product: of one head's features `[share.width]`, `[dims]`.
      dims: latent dims.
      share: of the rows.
    """
    total = zeros((share.heads, dims))
    for place in range(share.heads_a_row):
        begin, end = place * share.width, (place + 1) * share.width
        own_q = lax.slice_in_dim(q, begin, end)
        own = product(place, own_q)
        total = copy_into(total, own.reshape(1, dims), share.head_at(place), axis=0)
    return total


def beside(latents: Sram, rotary: Sram) -> Sram:
    """Features that meet latents, then those that meet rotary keys, `[heads, dims]`, in one tile.

    Dimensions: `latents` `[heads, latent dims]` and `rotary` `[heads, rotary dims]`, of one dtype.
    """
    heads, dims = latents.shape
    shape = (heads, dims + rotary.shape[1])
    whole = sram_tile(shape=shape, dtype=latents.dtype.name)
    whole = copy_into(whole, latents, 0, axis=1)
    return copy_into(whole, rotary, dims, axis=1)


def as_dtype(x: Sram, dtype: DType) -> Sram:
    """`x` as a multiply-add takes it."""
    if dtype == x.dtype.name:
        return x
    rounded = sram_tile(shape=x.shape, dtype=dtype)
    return copy(rounded, x)


def values_of(mean: Sram, product: Product, share: Share, group: int) -> Sram:
    """Values of a mean of latents, float32 `[heads_a_row, width]`: every row those of its features.

    Args:
      mean: `[heads, latent dims]`, of the latents that this column has.
      product: of one head's mean `[latent dims]`, `[share.width]`.
      share: of the rows.
      group: columns that share a latent.

    Pseudocode:
      all_reduce_col(product(mean of its head))
    """
    dims = mean.shape[1]
    out = sram_tile(shape=(share.heads_a_row, share.width), dtype="float32")
    for place in range(share.heads_a_row):
        of_head = lax.dynamic_slice_in_dim(mean, share.head_at(place), 1, axis=0)
        own = product(place, of_head.reshape(dims))
        out = copy_into(out, own.reshape(1, share.width), place, axis=0)
    return all_reduce(out, "col", group=group)


def on_columns(own: Sram, share: Share, parts: int) -> Sram:
    """Features that rows have, on the columns of a group: float32 `[heads, features / parts]`.

    The sum over rows is still to be taken: a row puts its features where they belong among those of
    its head, and a column takes what is its own of them, mostly zeros. Of a head of 8 features, two
    on a row and four on each of two columns, row 1 has `0 0 a b | 0 0 0 0`.

    Args:
      own: float32 `[share.size]`, the same on every column of the group.
      share: of the rows.
      parts: columns of a group; the last ones may have zeros behind the features.
    """
    each = -(-share.features // parts)
    column = lax.rem(lax.axis_index("col"), jnp.int32(parts))
    found = zeros((share.heads, each))
    for place in range(share.heads_a_row):
        begin, end = place * share.width, (place + 1) * share.width
        mine = lax.slice_in_dim(own, begin, end)
        of_head = zeros((parts * each,))
        of_head = copy_into(of_head, mine, share.first_feature, axis=0)
        part = lax.dynamic_slice_in_dim(of_head, column * jnp.int32(each), each)
        found = copy_into(found, part.reshape(1, each), share.head_at(place), axis=0)
    return found


def on_rows(own: Sram, share: Share, parts: int) -> Sram:
    """Features that columns have, on the rows that share them: float32 `[share.size]`.

    The inverse of `on_columns`: a column puts what it has of a row's head where it belongs, a row
    takes what is its own, and a sum over the group's columns brings it to all of them.

    Args:
      own: float32 `[heads, features / parts]`, the same on every row.
      share: of the rows.
      parts: columns of a group.
    """
    each = own.shape[1]
    column = lax.rem(lax.axis_index("col"), jnp.int32(parts))
    found = sram_tile(shape=(share.size,), dtype="float32")
    for place in range(share.heads_a_row):
        mine = lax.dynamic_slice_in_dim(own, share.head_at(place), 1, axis=0)
        of_head = zeros((parts * each,))
        start = column * jnp.int32(each)
        of_head = copy_into(of_head, mine.reshape(each), start, axis=0)
        part = lax.dynamic_slice_in_dim(of_head, share.first_feature, share.width)
        found = copy_into(found, part, place * share.width, axis=0)
    return all_reduce(found, "col", group=parts)


__all__ = [
    "Product",
    "absorbed",
    "as_dtype",
    "beside",
    "on_columns",
    "on_rows",
    "products",
    "values_of",
]
