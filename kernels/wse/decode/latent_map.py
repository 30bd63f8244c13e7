"""Which PE holds what of latent attention (DeepSeek-V2, arXiv:2405.04434), absorbed, in a layer.

Columns are groups of `parts`. A group has a copy of the cache, a latent and its turned key dealt
over its columns and positions over rows, and some of the query heads: all of a head's work is done
in one group, but for the output projection. Down-projections are repeated in every group, as a
sum along rows brings every group what it needs of them, at no more steps.

Up-projections are dealt over rows: a row has a few features of one of the group's heads, see
`kernels.wse.decode.share`. DeepSeek-V3's 128 heads in 22 groups of 32 columns on 1024 rows are six
heads a group. A row makes one of the 128 unturned features of one head from the queries' latent of
1536, 48 of it on each column, and absorbs it: `latent_rank / 32` elements on each column.
"""

import dataclasses
import functools
import math

import numpy as np

from emu.annotations import Shape
from kernels.latent_heads import LatentHeads
from kernels.refusal import refuse
from kernels.wse.decode import sizes
from kernels.wse.decode.held import MatrixTile
from kernels.wse.decode.region import Region
from kernels.wse.decode.share import Share


@dataclasses.dataclass(frozen=True)
class LatentMap:
    """Latent attention on a layer's region.

    Attributes:
      form: its sizes.
      region: the PEs.
      heads: of queries. Groups have equally many, the last ones zeros in place of some.
      groups: of columns; divides the region's.
    """

    form: LatentHeads
    region: Region
    heads: int
    groups: int

    def __post_init__(self) -> None:
        form = self.form
        sizes.check_whole(form, "rank", "plain", "turned", "value_dim")
        if form.query_rank is not None:
            sizes.check_whole(form, "query_rank")
        if form.turned % 2:
            refuse(f"turned is {form.turned}, must be even: pairs turn")

    @property
    def parts(self) -> int:
        """Columns of a group."""
        return self.region.cols // self.groups

    @property
    def queries(self) -> int:
        """Heads of a group."""
        return -(-self.heads // self.groups)

    @property
    def query_dims(self) -> int:
        """Elements of queries on one column that the residual stream is projected to.

        Of their latent, of which the last columns may have zeros; without one, of every head its
        unturned and its turned features.
        """
        if self.form.query_rank is not None:
            return -(-self.form.query_rank // self.parts)
        return self.queries * (self.plain_dims + self.turned_dims)

    @property
    def plain_dims(self) -> int:
        """Unturned elements of a query on one column, where it is projected at once."""
        return -(-self.form.plain // self.parts)

    @property
    def latent_dims(self) -> int:
        """Elements of a latent on one column."""
        return self.form.rank // self.parts

    @property
    def turned_dims(self) -> int:
        """Turned elements of a query or key on one column, whole pairs."""
        return self.form.turned // self.parts

    @property
    def out_dims(self) -> int:
        """Elements of a head's value on one column, as the output projection takes them."""
        return -(-self.form.value_dim // self.parts)

    @property
    def plain(self) -> Share:
        """Unturned features of a group's queries, which meet latents."""
        return Share(self.queries, self.form.plain, self.region.rows)

    @property
    def turned(self) -> Share:
        """Turned features of a group's queries, in the order in which columns hold them."""
        return Share(self.queries, self.form.turned, self.region.rows)

    @property
    def values(self) -> Share:
        """Features of a group's values."""
        return Share(self.queries, self.form.value_dim, self.region.rows)

    @property
    def turned_order(self) -> np.ndarray:
        """Turned features column by column, first elements of pairs first.

        Of 8 on two columns, with pairs `i` and `i + 4`: `0 1 4 5 | 2 3 6 7`.
        """
        half = self.form.turned // 2
        first = np.arange(half).reshape(self.parts, -1)
        return np.concatenate([first, first + half], axis=1).reshape(-1)

    @property
    def cached_dims(self) -> int:
        """Elements of a latent and of its turned key on one column."""
        return self.latent_dims + self.turned_dims

    @functools.cached_property
    def matrices(self) -> dict[str, MatrixTile]:
        """Those of one PE, by name."""
        form, depth, values = self.form, self.region.depth, self.values
        cut = self.region.cut
        pairs = self.turned_dims // 2
        tiles: dict[str, MatrixTile] = {}
        in_order = [self.latent_dims, pairs]
        if form.query_rank is None:
            in_order += [self.plain_dims, form.plain]
        else:
            in_order.append(self.query_dims)
            widths = self.plain.width, self.turned.width
            of_heads = math.gcd(*widths, pairs, form.plain, form.turned)
            made = self.plain.size + self.turned.size
            tiles["query_up"] = MatrixTile(
                self.query_dims, made, self.query_dims, of_heads
            )
        # Side by side, so that one GEMV and one all-reduce serve queries and keys.
        down = self.query_dims + self.cached_dims
        tiles["latent_down"] = MatrixTile(
            depth, down, depth, math.gcd(*in_order), rows_cut=cut
        )
        # A query's features are contracted, of a matrix that makes such of latents.
        absorb = MatrixTile(
            self.plain.width, self.latent_dims, 1, self.latent_dims, is_turned=True
        )
        tiles["absorb"] = absorb.below(self.plain.heads_a_row)
        of_values = math.gcd(values.width, form.plain, form.value_dim)
        values_up = MatrixTile(
            self.latent_dims, values.width, self.latent_dims, of_values
        )
        tiles["values_up"] = values_up.below(values.heads_a_row)
        of_out = math.gcd(self.out_dims, form.value_dim)
        outputs = self.queries * self.out_dims
        tiles["out"] = MatrixTile(outputs, depth, of_out, depth, columns_cut=cut)
        return tiles

    def norm_shapes(self) -> dict[str, Shape]:
        """Shapes of the norms in one PE, but for the layer's own."""
        shapes: dict[str, Shape] = {"latent_norm": (self.latent_dims,)}
        if self.form.query_rank is not None:
            shapes["query_norm"] = (self.query_dims,)
        return shapes

    def sums(self, live: int) -> tuple[list[int], list[int], list[int]]:
        """Elements of the all-reduces of a token: along rows, along a line of columns, in a group.

        Args:
          live: slots in use on a PE.
        """
        queries, cached = self.queries, self.cached_dims
        scores = queries * live
        along_rows = [
            1,  # mean square of the residual stream
            self.query_dims + cached,  # of queries and keys
            queries * cached,  # absorbed queries
            queries,  # maximum of the scores
            queries
            * (self.latent_dims + 1),  # mean of latents, and the sum of the softmax
            queries * self.out_dims,  # values
        ]
        of_queries = [self.plain.size]
        if self.form.query_rank is not None:
            # Mean square of the latent, then what it is projected to.
            of_queries = [1, self.plain.size + self.turned.size]
        in_group = [
            *of_queries,
            1,  # mean square of the latent
            scores,
            scores,  # their exponentials
            self.values.size,
        ]
        return along_rows, [self.region.depth], in_group

    def products(self, live: int) -> list[tuple[int, int]]:
        """Multiply-adds with the cache on a PE: inputs, each with a callback, and outputs of each.

        Args:
          live: slots in use on a PE.
        """
        return [
            (self.queries * self.cached_dims, live),
            (self.queries * live, self.latent_dims),
        ]


__all__ = ["LatentMap"]
