"""Several score maps of one head, over values that a PE holds once: their scores, and their sum.

A PE holds the keys of all maps one above the other, `[maps * dims, slots]`, and its queries map by
map; softmax and values are of all of them together, as of so many query heads more. Of 2 maps of 2
heads

    rows of queries     0 1  first map      2 3  second map
    their keys          0 to dims - 1       dims to 2 dims - 1
    outputs             0 = factor 0 * row 0 + factor 1 * row 2, and 1 likewise
"""

from collections.abc import Sequence

from jax import lax

from emu.annotations import KnownInt
from emu.wse import score_map, sram_tile, vector, vector_scale
from emu.wse.spaces import Sram
from kernels.wse.decode.cached import Scaled, add_scores


def add_scores_of_maps(
    scores: Sram, k: Sram | Scaled, q: Sram, live: KnownInt, maps: int
) -> Sram:
    """Adds every map's `q . k` to the first `live` slots.

    Dimensions: `scores` `[queries, slots]`, `k` `[maps * dims, slots]`, `q` `[queries, dims]`; the
    queries are those of all maps.
    """
    if maps == 1:
        return add_scores(scores, k, q, live)
    assert not isinstance(k, Scaled)  # a cache of codes is of one map
    count, dims = q.shape[0] // maps, q.shape[1]
    for place in range(maps):
        rows = slice(place * count, (place + 1) * count)
        own_k = lax.slice_in_dim(k, place * dims, (place + 1) * dims, axis=0)
        own_q = lax.slice_in_dim(q, rows.start, rows.stop, axis=0)
        scores = score_map.at[rows](scores, own_k, own_q, live)
    return scores


def mixed(out: Sram, factors: Sram, counts_as_is: Sequence[bool]) -> Sram:
    """The sum of all maps' outputs, with a factor each.

    Args:
      out: `[queries, value_dims]`, of all maps.
      factors: float32 `[queries]`.
      counts_as_is: of every map, whether its factor is 1; then nothing is multiplied.

    Returns:
      `[queries / maps, value_dims]`, in the dtype of `out`.
    """
    maps = len(counts_as_is)
    count, dims = out.shape[0] // maps, out.shape[1]
    total: Sram | None = None
    for place, as_is in enumerate(counts_as_is):
        rows = place * count, (place + 1) * count
        own = lax.slice_in_dim(out, *rows, axis=0)
        if not as_is:
            scaled = sram_tile(shape=(count, dims), dtype="float32")
            own = vector_scale(scaled, own, lax.slice_in_dim(factors, *rows))
        if total is None:
            total = own
            continue
        tile = sram_tile(shape=(count, dims), dtype=out.dtype.name)
        total = vector(tile, total, own, op="add")
    assert total is not None
    return total


__all__ = ["add_scores_of_maps", "mixed"]
