"""Which PE of a layer's region holds what: the sizes of every tile, from a model's sizes.

The residual stream is split over rows and repeated along columns. Columns are `kv_heads` groups of
`parts`: a group holds one key/value head and the query heads that share it, each of its columns a
slice of the head's rotation pairs. So attention stays inside a group but for sums.

Llama 3.1 8B, hidden 4096 with 8 key/value heads of 128 dimensions, on 128 rows and 8 parts is a
region of 128 x 64 PEs. A PE holds 32 elements of the residual stream, 16 dimensions of 4 query
heads and of one key and value head, 224 elements of the MLP's 14336, and of a context of 8192
tokens every 128th.
"""

import dataclasses
import functools
import math

import jax.numpy as jnp

from emu.annotations import DType, Shape
from emu.wse.pe.maps import MOST_STRIDE, strides_at_full_width
from kernels.formats.formats import POWER_OF_TWO, Format
from kernels.refusal import refuse
from kernels.wse.decode import sizes
from kernels.wse.decode.cache_format import (
    CACHED,
    Blocks,
    cache_dtypes,
    is_cached,
    power_shapes,
    scale_shapes,
)
from kernels.wse.decode.form import PLAIN, DecodeForm
from kernels.wse.decode.held import PIECE_CODES, WIDE, Held, MatrixTile, cut_of
from kernels.wse.decode.latent_map import LatentMap
from kernels.wse.decode.region import Region
from kernels.wse.decode.residual import residual_cut

PE = ("row", "col")  # mesh axes over which every PE has its own part
FLOAT32_BYTES = 4

# Shorter lines are summed in one phase: a second one costs more set-up than stages saved.
SHORTEST_TWO_PHASE = 12


def share_of(elements: int, pes: int) -> int:
    """Elements of each PE, of as few as hold them all: 10 on 4 PEs are 3 each, the last one 1."""
    return -(-elements // pes)


def stride_of(slots: int) -> int:
    """Slots of a cache whose values are read as part of their keys, at least so many.

    A value's elements are so many slots apart. Of two numbers in a row one is a stride that a PE
    reads by as fast as by none; beyond the most there is none, and a program refuses it.
    """
    while slots <= MOST_STRIDE and not strides_at_full_width(slots):
        slots += 1
    return slots


def line_groups(pes: int) -> int:
    """Groups in which a line of PEs is summed first: about its square root, one if it is short.

    Groups of `S` on a line of `P` take `S + P / S` dependent stages, which is least there: 100 PEs
    take 20 stages in groups of 10, 29 in groups of 4 or of 25.
    """
    return 1 if pes < SHORTEST_TWO_PHASE else math.isqrt(pes)


def group_size(pes: int) -> int:
    """PEs of such a group; the last one may be shorter. Twelve PEs are three groups of four."""
    return share_of(pes, line_groups(pes))


def meet_in_the_middle(pes: int, words: int) -> bool:
    """Whether an all-reduce of `words` wavelets is faster through the middle of the line.

    It saves half of the hops, about `2 pes` cycles of a WSE-3 there and back, and takes the vector
    three times more through a root.
    """
    return 3 * words <= 2 * pes


@dataclasses.dataclass(frozen=True)
class LayerMap:
    """One decoder layer on a region of `rows` x `kv_heads * parts` PEs.

    Attributes:
      hidden: width of the residual stream.
      ffn: width of the gated MLP, where the form has none in its place.
      heads, kv_heads, head_dim: attention's sizes; `kv_heads` divides `heads`.
      eps: added to the mean square in RMSNorm.
      qk_norm: whether q and k are RMS-normalised per head before RoPE.
      context: most tokens the cache holds.
      rows: PEs over which the residual stream and the positions are dealt.
      parts: columns per key/value head; divides `head_dim / 2`.
      dtype: of weights, cache and the inputs of multiply-adds; sums are float32.
      held: what of them is in codes, which a PE makes numbers of that dtype.
      spare_slots: of the cache in one PE, beyond those of the context: a view of it that begins
        late may end there.
      form: what it computes beside the plainest layer.
      piece_codes: the fewest of experts' codes that a PE makes wide at once.

    With latent attention, `kv_heads` are the groups of columns that have a copy of the cache and
    deal the heads between them, and `head_dim` is what a token leaves in the cache; see
    `kernels.wse.decode.latent_map`.
    """

    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    eps: float
    qk_norm: bool
    context: int
    rows: int
    parts: int
    dtype: str = "float32"
    spare_slots: int = 0
    form: DecodeForm = PLAIN
    held: Held = WIDE
    piece_codes: int = PIECE_CODES

    def __post_init__(self) -> None:
        sizes.check_whole(self, "hidden", "ffn", "heads", "kv_heads", "head_dim")
        sizes.check_whole(self, "context", "rows", "parts")
        sizes.check_dtype(self.dtype)
        if self.form.latent is not None:
            self._check_latent()
        elif self.heads % self.kv_heads or self.head_dim % (2 * self.parts):
            refuse(
                f"{self.heads} heads must be a multiple of {self.kv_heads} key/value heads, and "
                f"half of head_dim {self.head_dim} a multiple of {self.parts} parts"
            )
        if self.turned > self.head_dim or self.turned % (2 * self.parts):
            refuse(
                f"rotary_dim {self.turned} must be at most head_dim {self.head_dim}, and half of "
                f"it a multiple of {self.parts} parts"
            )
        if self.held.weights is not None:
            self._check_codes(self.held.weights)
        if self.held.cache is not None:
            self._check_cache(self.held.cache)
        apart = self.held.experts != self.held.weights
        if apart and self.form.mlp is not None and self.form.mlp.shared:
            refuse(
                f"experts are held as {told_format(self.held.experts, self.dtype)} and other "
                f"weights as {told_format(self.held.weights, self.dtype)} in a layer with shared "
                "experts, must be alike there: a PE holds shared experts among the others"
            )

    def _check_cache(self, held: Format) -> None:
        if not is_cached(held):
            refuse(
                f"a layer's cache is held as {held.name}, must be {self.dtype} or one of "
                f"{', '.join(CACHED)}, with a scale for each token and head"
            )
        if held.scale != POWER_OF_TWO:
            return
        if self.form.latent is not None or self.dtype == "float16":
            refuse(
                f"a cache is held as {held.name}, must be so with keys and values of heads, whose "
                "powers of two bfloat16 and float32 have; hold latents, or a cache beside float16, "
                "in fp8 or int8"
            )

    def _check_codes(self, held: Format) -> None:
        if self.form.latent is not None and self.dtype == "float16":
            refuse(
                f"weights are held as {held.name} in a layer with latent attention and float16, "
                "must be with bfloat16 or float32: a query's features times the scales of what "
                "they meet may be less than a float16 can be"
            )

    def _check_latent(self) -> None:
        form = self.form.latent
        assert form is not None
        if self.head_dim != form.cached_width:
            refuse(
                f"head_dim is {self.head_dim}, must be {form.cached_width}: a latent of "
                f"{form.rank} and {form.turned} turned features of a key"
            )
        if form.rank % self.parts or self.kv_heads > self.heads:
            refuse(
                f"{self.kv_heads} groups of {self.parts} columns must be at most {self.heads}, as "
                f"many as heads, and divide a latent of {form.rank}"
            )
        further = {
            "qk_norm": self.qk_norm,
            "qkv_bias": self.form.qkv_bias,
            "rotary_dim": self.form.rotary_dim is not None,
            "wide_qk_norm": self.form.wide_qk_norm,
            "unit_qk_norm": self.form.unit_qk_norm,
            "has_temperature": self.form.has_temperature,
        }
        told = [name for name, has in further.items() if has]
        if told:
            refuse(
                f"latent attention with {', '.join(told)}, must have none of {', '.join(further)}: "
                "its norms are of latents, and its form says what turns"
            )

    @functools.cached_property
    def latent(self) -> LatentMap:
        """Which PE holds what of latent attention, which the form must have."""
        assert self.form.latent is not None
        return LatentMap(self.form.latent, self.region, self.heads, self.kv_heads)

    @property
    def cols(self) -> int:
        return self.kv_heads * self.parts

    @property
    def mesh(self) -> dict[str, int]:
        return {"row": self.rows, "col": self.cols}

    @property
    def queries(self) -> int:
        """Query heads that share one key/value head."""
        return share_of(self.heads, self.kv_heads)

    @property
    def maps(self) -> int:
        """A layer's heads have one score map each."""
        return 1

    @property
    def values_are_keys(self) -> bool:
        """Whether a value is the first elements of its key: a latent is."""
        return self.form.latent is not None

    @property
    def depth(self) -> int:
        """Elements of the residual stream in one PE."""
        return share_of(self.hidden, self.rows)

    @property
    def cut(self) -> int | None:
        """Elements of a block, where rows' slices of it end with blocks; see `residual_cut`."""
        return residual_cut(self.held, self.hidden, self.depth, self.rows)

    @property
    def dims(self) -> int:
        """Elements of one head in one PE."""
        return self.head_dim // self.parts

    @property
    def value_dims(self) -> int:
        """Of a value, whose heads are as wide as the keys' unless it is part of its key."""
        return self.dims if self.form.latent is None else self.latent.latent_dims

    @property
    def turned(self) -> int:
        """Features of a head that RoPE turns, from the first on."""
        if self.form.latent is not None:
            return self.form.latent.turned
        rotary_dim = self.form.rotary_dim
        return self.head_dim if rotary_dim is None else rotary_dim

    @property
    def turned_pairs(self) -> int:
        """Pairs of them in one PE."""
        return self.turned // (2 * self.parts)

    @property
    def scale(self) -> float:
        """Factor of a score."""
        if self.form.score_scale is not None:
            return self.form.score_scale
        latent = self.form.latent
        return self.head_dim**-0.5 if latent is None else latent.key_width**-0.5

    @functools.cached_property
    def region(self) -> Region:
        """Its PEs, whatever the layer does."""
        return Region(
            self.hidden,
            self.rows,
            self.cols,
            self.eps,
            self.dtype,
            held=self.held.experts,
            cut=self.cut,
            piece_codes=self.piece_codes,
        )

    @property
    def width(self) -> int:
        """Elements of the MLP's hidden vector in one PE, a whole number of shares."""
        # Five elements in shares of 2 become 6, so that each row's share lies within the tile.
        return _whole(share_of(self.ffn, self.cols), self.width_share)

    @property
    def width_cut(self) -> int | None:
        """Elements of a block, where slices of that vector end with blocks; see `cut_of`."""
        return cut_of(self.held.weights, self.ffn, self.width, self.cols)

    @property
    def width_share(self) -> int:
        """Elements of that vector whose activation one row works out for its column."""
        return share_of(self.ffn, self.cols * self.rows)

    @property
    def slots(self) -> int:
        """Cached tokens in one PE: position p is in row `p % rows`, slot `p // rows`."""
        # As `width`: whole shares, so that each column's slots for the softmax lie within the tile.
        return _whole(share_of(self.context, self.rows), self.slot_share)

    @property
    def held_slots(self) -> int:
        """Slots of the cache in one PE."""
        held = self.slots + self.spare_slots
        return stride_of(held) if self.values_are_keys else held

    @property
    def slot_share(self) -> int:
        """Slots whose exponentials one column works out for its group."""
        return share_of(self.context, self.rows * self.parts)

    @functools.cached_property
    def matrices(self) -> dict[str, MatrixTile]:
        """Of attention and of a gated MLP, by name, those that the layer has."""
        tiles = {}
        heads = self.queries * self.dims
        # A head's features are dealt in pairs, see `kernels.wse.decode.layout`.
        in_order = math.gcd(self.turned_pairs, self.dims - 2 * self.turned_pairs)
        if self.form.latent is None:
            # Side by side, so that one GEMV and one all-reduce serve queries, key and value.
            columns = heads + 2 * self.dims
            tiles["qkv"] = MatrixTile(
                self.depth, columns, self.depth, in_order, rows_cut=self.cut
            )
            tiles["out"] = MatrixTile(
                heads, self.depth, in_order, self.depth, columns_cut=self.cut
            )
        else:
            tiles |= self.latent.matrices
        if self.form.mlp is None:
            width, cut = self.width, self.width_cut
            tiles["gate_up"] = MatrixTile(
                *(self.depth, 2 * width, self.depth, width),
                rows_cut=self.cut,
                columns_cut=cut,
            )
            tiles["down"] = MatrixTile(
                *(width, self.depth, width, self.depth),
                rows_cut=cut,
                columns_cut=self.cut,
            )
        return tiles

    def weight_shapes(self) -> dict[str, Shape]:
        """Shapes of a layer's weights in one PE."""
        return dict(self._weight_shapes)

    @functools.cached_property
    def _weight_shapes(self) -> dict[str, Shape]:
        # Planning asks thousands of maps, each several times.
        heads = self.queries * self.dims
        key_and_value = 2 * self.dims
        shapes: dict[str, Shape] = {
            "attn_norm": (self.depth,),
            "mlp_norm": (self.depth,),
        }
        if self.form.latent is not None:
            shapes |= self.latent.norm_shapes()
        if self.form.mlp is not None:
            shapes |= self.form.mlp.weight_shapes(self.region)
        for name, tile in self.matrices.items():
            shapes |= tile.shapes(name, self.held.weights)
        if self.qk_norm or self.form.wide_qk_norm:
            shapes["qk_norm"] = (self.queries + 1, self.dims)
        if self.form.qkv_bias:
            shapes["qkv_bias"] = (heads + key_and_value,)
        if self.form.out_bias:
            shapes["out_bias"] = (self.depth,)
        if self.form.output_norms:
            shapes["attn_output_norm"] = (self.depth,)
            shapes["mlp_output_norm"] = (self.depth,)
        return shapes

    def weight_dtypes(self) -> dict[str, DType]:
        """Dtype of each weight."""
        dtypes: dict[str, DType] = dict.fromkeys(self.weight_shapes(), self.dtype)
        if self.form.mlp is not None:
            dtypes |= self.form.mlp.weight_dtypes(self.region)
        if self.held.weights is not None:
            for name, tile in self.matrices.items():
                dtypes |= tile.dtypes(name, self.held.weights)
        return dtypes

    def weight_specs(self) -> dict[str, tuple[str, ...]]:
        """How each weight of one layer is split over the mesh."""
        # Norms and biases are the same along one axis of the mesh, so they are split over the other
        # alone.
        along = {
            "attn_norm": ("row",),
            "mlp_norm": ("row",),
            "qk_norm": ("col",),
            "query_norm": ("col",),
            "latent_norm": ("col",),
            "qkv_bias": ("col",),
            "out_bias": ("row",),
            "attn_output_norm": ("row",),
            "mlp_output_norm": ("row",),
        }
        if self.form.mlp is not None:
            along |= self.form.mlp.weight_specs(self.region)
        return {name: along.get(name, PE) for name in self.weight_shapes()}

    def cache_shapes(self) -> dict[str, Shape]:
        """Shapes of a layer's cache in one PE: keys by column, values by row.

        A latent is held once, as the first elements of its key.
        """
        shapes: dict[str, Shape] = {"k": (self.dims, self.held_slots)}
        if not self.values_are_keys:
            shapes["v"] = (self.held_slots, self.dims)
        held = self.held.cache
        if held is not None and held.scale == POWER_OF_TWO:
            shapes |= power_shapes(self.held_slots, self.cache_blocks)
        elif held is not None:
            shapes |= scale_shapes(self.held_slots, self.values_are_keys)
        return shapes

    @property
    def cache_blocks(self) -> Blocks:
        """Which blocks of a head a column's features are in, of a cache with powers of two."""
        assert self.held.cache is not None and self.held.cache.block is not None
        size, _ = self.held.cache.block
        assert size is not None
        pairs, others = self.turned_pairs, self.dims - 2 * self.turned_pairs
        ranges = [(0, pairs), (self.turned // 2, pairs), (self.turned, others)]
        starts, widths = zip(*[x for x in ranges if x[1]], strict=True)
        return Blocks(size, starts, widths)

    def cache_dtypes(self) -> dict[str, DType]:
        """Dtype of each."""
        names = self.cache_shapes()
        if self.held.cache is None:
            return dict.fromkeys(names, self.dtype)
        dtypes = cache_dtypes(self.held.cache)
        return {name: dtypes[name] for name in names}

    def weight_bytes(self) -> int:
        """Bytes of weights in one PE."""
        dtypes = self.weight_dtypes()
        return sum(
            jnp.dtype(dtypes[name]).itemsize * math.prod(shape)
            for name, shape in self.weight_shapes().items()
        )

    def cache_bytes(self) -> int:
        """Bytes of KV cache in one PE."""
        dtypes = self.cache_dtypes()
        return sum(
            jnp.dtype(dtypes[name]).itemsize * math.prod(shape)
            for name, shape in self.cache_shapes().items()
        )

    def least_buffer_bytes(self) -> int:
        """Bytes of buffers that are live at once for certain; the program's own peak is higher."""
        residual = FLOAT32_BYTES * self.depth
        # A float32 score and a weight of each slot; gate, up and their product.
        score_and_weight = FLOAT32_BYTES + self.itemsize
        softmax = score_and_weight * self.queries * self.slots
        mlp = 3 * FLOAT32_BYTES * self.width
        if self.form.mlp is not None:
            mlp = self.form.mlp.buffer_bytes(self.region)
        return residual + max(softmax, mlp)

    @property
    def itemsize(self) -> int:
        return jnp.dtype(self.dtype).itemsize


@dataclasses.dataclass(frozen=True)
class HeadMap:
    """The embedding and the output head on a region of `rows` x `cols` PEs.

    Attributes:
      hidden: width of the residual stream, split over rows as in the layers.
      vocab: number of tokens, split over columns.
      eps: of the final RMSNorm.
      rows, cols: the region.
      dtype: of the tables.
      embedding_scale: factor of an embedding.
      logit_soft_cap: logits become `cap * tanh(logit / cap)` (Gemma 2); None: they stay.
      cut: of the residual stream, as `LayerMap.cut`.
    """

    hidden: int
    vocab: int
    eps: float
    rows: int
    cols: int
    dtype: str = "float32"
    embedding_scale: float = 1.0
    logit_soft_cap: float | None = None
    cut: int | None = None

    def __post_init__(self) -> None:
        sizes.check_whole(self, "hidden", "vocab", "rows", "cols")
        sizes.check_dtype(self.dtype)
        if self.logit_soft_cap is not None and not self.logit_soft_cap > 0:
            refuse(f"logit_soft_cap is {self.logit_soft_cap}, must be more than 0")

    @property
    def mesh(self) -> dict[str, int]:
        return {"row": self.rows, "col": self.cols}

    @property
    def depth(self) -> int:
        """Elements of the residual stream in one PE."""
        return share_of(self.hidden, self.rows)

    @property
    def tokens(self) -> int:
        """Columns of the vocabulary in one PE."""
        tokens = share_of(self.vocab, self.cols)
        if self.logit_soft_cap is None:
            return tokens
        # As `LayerMap.width`: whole shares.
        return _whole(tokens, self.token_share)

    @property
    def token_share(self) -> int:
        """Tokens whose logits one row caps for its column."""
        return share_of(self.vocab, self.cols * self.rows)

    def table_bytes(self) -> int:
        """Bytes of one table in one PE."""
        return self.depth * self.tokens * self.itemsize

    @property
    def itemsize(self) -> int:
        return jnp.dtype(self.dtype).itemsize


def told_format(held: Format | None, dtype: str) -> str:
    """What something is held in, for an error."""
    return dtype if held is None else held.name


def _whole(elements: int, share: int) -> int:
    """The next multiple of a share."""
    return share_of(elements, share) * share


__all__ = [
    "PE",
    "HeadMap",
    "LayerMap",
    "line_groups",
    "meet_in_the_middle",
    "stride_of",
]
