"""Weights and cache of latent attention from a model's arrays to every PE's tiles.

As in `kernels.wse.decode.layout`, every array is brought to its PEs by splitting dimensions in two
and putting those that count PEs in front; dimensions are named before they are transposed. What
groups of columns share is repeated for each of them, and heads that the last group lacks are zeros.

Example: a projection `[layers, rank, heads * features]` of 6 heads for 2 groups of 2 columns is
split into `[layers, rank, groups, queries, features]` with 3 queries a group, its rank of 12 into
`[parts, dims]` of 2 x 6, and 3 heads of 8 features over 12 rows into 2 features of one head a row.
"""

from collections.abc import Mapping

import numpy as np

from kernels.formats.coding import coded
from kernels.formats.formats import Format
from kernels.wse.decode.cache_format import SCALES
from kernels.wse.decode.dealing import Array, Tiles, arranged, deal, rows_to_cols
from kernels.wse.decode.latent_map import LatentMap
from kernels.wse.decode.share import Share

MATRICES = ("wq", "wq_down", "wq_up", "wkv_down", "wkv_up", "wo")
"""Of a model, those that latent attention may have."""


def latent_matrices(layers: Mapping[str, Array], layout: LatentMap) -> dict[str, Tiles]:
    """The tiles of `layout.matrices`, of elements of any dtype, `[layers, rows, cols, ...]`.

    Without a latent of queries, wq `[layers, hidden, heads * (plain + turned)]` stands in place of
    wq_down and wq_up.

    Args:
      layers: stacked weights with `y = x @ W`: wq_down `[layers, hidden, query_rank]`, wq_up
        `[layers, query_rank, heads * (plain + turned)]`, wkv_down `[layers, hidden, rank +
        turned]`, wkv_up `[layers, rank, heads * (plain + value_dim)]` and wo `[layers, heads *
        value_dim, hidden]`.
      layout: the mapping.
    """
    tiles: dict[str, Tiles] = {}
    if layout.form.query_rank is None:
        queries_down = query_tiles(layers["wq"], layout)
    else:
        queries_down = repeated(layers["wq_down"], layout.query_dims, layout)
        tiles["query_up"] = up_tiles(layers["wq_up"], layout)
    keys_down = key_tiles(layers["wkv_down"], layout)
    tiles["latent_down"] = np.concatenate([queries_down, keys_down], axis=-1)

    # layers, rank, groups, queries, features
    by_head = by_group(layers["wkv_up"], 2, layout)
    # layers, parts, latent dims, groups, queries, features
    by_part = deal(by_head, 1, layout.parts, layout.latent_dims)
    of_keys, of_values = np.split(by_part, [layout.form.plain], axis=-1)
    keys_up = on_rows(of_keys, layout.plain)
    # A query's features are contracted, to become those of a latent.
    tiles["absorb"] = np.swapaxes(keys_up, -2, -1)
    tiles["values_up"] = values_tiles(on_rows(of_values, layout.values), layout)
    tiles["out"] = out_tiles(layers["wo"], layout)
    return tiles


def latent_norms(layers: Mapping[str, Array], layout: LatentMap) -> dict[str, Tiles]:
    """Norms of latents, of keys and of queries that have one, as `[layers, cols, dims]`."""
    of_keys = by_column(layers["latent_norm"], layout.latent_dims, layout)
    tiles = {"latent_norm": of_keys}
    if layout.form.query_rank is not None:
        of_queries = by_column(layers["query_norm"], layout.query_dims, layout)
        tiles["query_norm"] = of_queries
    return tiles


def by_group(x: Array, axis: int, layout: LatentMap) -> np.ndarray:
    """Heads and their features along `axis` as `groups, queries, features`."""
    array = np.asarray(x)
    features = array.shape[axis] // layout.heads
    before, behind = array.shape[:axis], array.shape[axis + 1 :]
    by_head = array.reshape(*before, layout.heads, features, *behind)
    return deal(by_head, axis, layout.groups, layout.queries)


def on_rows(x: np.ndarray, share: Share) -> Tiles:
    """`[layers, parts, dims, groups, queries, features]` to `[layers, rows, cols, dims, size]`."""
    by_head = arranged(
        x, "layer part dim group query feature", "query feature layer part dim group"
    )
    by_row = share.dealt(by_head)
    return arranged(
        by_row, "row own layer part dim group", "layer row (group part) dim own"
    )


def turned_apart(queries: Array, layout: LatentMap) -> tuple[np.ndarray, np.ndarray]:
    """A projection to queries in two, `[layers, inputs, groups, queries, features]` each.

    Features that stay as they are, and those that turn, in the order in which columns hold them.
    """
    by_head = by_group(queries, 2, layout)
    plain, turned = np.split(by_head, [layout.form.plain], axis=-1)
    return plain, turned[..., layout.turned_order]


def up_tiles(queries: Array, layout: LatentMap) -> Tiles:
    """Queries' up-projection as `[layers, rows, cols, query_dims, plain size + turned size]`."""
    shares = layout.plain, layout.turned
    tiles = []
    for own, share in zip(turned_apart(queries, layout), shares, strict=True):
        # layers, parts, query dims, groups, queries, features
        by_part = deal(own, 1, layout.parts, layout.query_dims)
        tiles.append(on_rows(by_part, share))
    return np.concatenate(tiles, axis=-1)


def query_tiles(queries: Array, layout: LatentMap) -> Tiles:
    """Queries' only projection as `[layers, rows, cols, depth, query_dims]`."""
    region = layout.region
    widths = layout.plain_dims, layout.turned_dims
    tiles = []
    for own, width in zip(turned_apart(queries, layout), widths, strict=True):
        tiles.append(deal(own, 4, layout.parts, width))
    by_part = np.concatenate(tiles, axis=-1)
    by_row = deal(by_part, 1, region.rows, region.depth)
    return arranged(
        by_row,
        "layer row depth group query part dim",
        "layer row (group part) depth (query dim)",
    )


def key_tiles(keys: Array, layout: LatentMap) -> Tiles:
    """Keys' down-projection as `[layers, rows, cols, depth, latent_dims + turned_dims]`."""
    latents, turned = np.split(np.asarray(keys), [layout.form.rank], axis=-1)
    tiles = [
        repeated(latents, layout.latent_dims, layout),
        repeated(turned[..., layout.turned_order], layout.turned_dims, layout),
    ]
    return np.concatenate(tiles, axis=-1)


def repeated(x: Array, width: int, layout: LatentMap) -> Tiles:
    """`[layers, hidden, parts * width]` as `[layers, rows, cols, depth, width]`, in every group."""
    region = layout.region
    tiles = rows_to_cols(x, region.rows, region.depth, layout.parts, width)
    return np.tile(tiles, (1, 1, layout.groups, 1, 1))


def by_column(norm: Array, width: int, layout: LatentMap) -> Tiles:
    """A norm of latents `[layers, n]` as `[layers, cols, width]`."""
    return np.tile(deal(norm, 1, layout.parts, width), (1, layout.groups, 1))


def values_tiles(by_pe: Tiles, layout: LatentMap) -> Tiles:
    """`[layers, rows, cols, latent dims, size]` with a row's heads one above the other."""
    share = layout.values
    by_head = deal(by_pe, 4, share.heads_a_row, share.width)
    return arranged(
        by_head,
        "layer row col dim head feature",
        "layer row col (head dim) feature",
    )


def out_tiles(output: Array, layout: LatentMap) -> Tiles:
    """The output projection as `[layers, rows, cols, queries * out_dims, depth]`."""
    region = layout.region
    # layers, groups, queries, value_dim, hidden
    by_head = by_group(output, 1, layout)
    by_col = deal(by_head, 3, layout.parts, layout.out_dims)
    by_row = deal(by_col, 5, region.rows, region.depth)
    return arranged(
        by_row,
        "layer group query part dim row depth",
        "layer row (group part) (query dim) depth",
    )


def latent_cache(
    latent: Array, turned: Array, layout: LatentMap, slots: int
) -> dict[str, Tiles]:
    """Prefilled latents, after their norm, and turned keys, after RoPE, on their PEs.

    Args:
      latent: `[layers, n, rank]`.
      turned: `[layers, n, turned]`, of all heads.
      layout: the mapping.
      slots: of one PE.

    Returns:
      `k` `[layers, rows, cols, latent dims + turned dims, slots]`; slots beyond the `n` tokens are
      zero.
    """
    in_order = np.asarray(turned)[..., layout.turned_order]
    of_latents = deal(latent, 2, layout.parts, layout.latent_dims)
    of_turned = deal(in_order, 2, layout.parts, layout.turned_dims)
    by_part = np.concatenate([of_latents, of_turned], axis=3)
    # Position p is in slot p // rows of row p % rows.
    by_row = deal(by_part, 1, slots, layout.region.rows)
    keys = arranged(by_row, "layer slot row part dim", "layer row part dim slot")
    return {"k": np.tile(keys, (1, 1, layout.groups, 1, 1))}


def coded_latent_cache(
    latent: Array, turned: Array, layout: LatentMap, slots: int, held: Format
) -> dict[str, Tiles]:
    """As `latent_cache`, in codes, with a scale for each token's latent and for its turned key."""
    codes, scales = [], []
    for given in (latent, turned):
        # A column of a matrix for each token.
        found = coded(np.asarray(given)[..., None], held)
        assert found.scales is not None
        codes.append(np.asarray(found.elements)[..., 0])
        scales.append(np.asarray(found.scales)[..., 0])
    of_latents, of_turned = codes
    tiles = latent_cache(of_latents, of_turned, layout, slots)
    together = np.concatenate(scales, axis=2)
    by_row = deal(together, 1, slots, layout.region.rows)
    of_rows = arranged(by_row, "layer slot row which", "layer row which slot")
    # Every column has all of a token's.
    tiles[SCALES["k"]] = np.repeat(of_rows[:, :, None], layout.region.cols, axis=2)
    return tiles


__all__ = [
    "MATRICES",
    "coded_latent_cache",
    "latent_cache",
    "latent_matrices",
    "latent_norms",
]
