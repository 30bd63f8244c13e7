"""How a layer is cut into the tiles a NeuronCore takes: its sizes, and its tokens a block."""

import dataclasses
import math

import jax.numpy as jnp

from emu.annotations import DType
from kernels.formats.formats import Format
from kernels.latent_heads import LatentHeads
from kernels.trainium.gemm.operands import (
    double_row_blocks,
    double_row_tiles,
    hidden_cut,
    quarters,
    tile_rows,
)
from kernels.trainium.tiles import (
    BANK_COLUMNS,
    BANKS,
    CHUNK_BYTES,
    PARTITIONS,
    bank_columns,
    largest_divisor,
    split,
)

# Token tiles that share one load of a weight tile; two sets of their sums fill 8 banks.
TILES_A_BLOCK = 4
RINGS = 4  # weight chunks in SBUF at once: two buffers each of gate and up projection
# Of float32 and as wide as a PSUM tile: two of columns' scales, a product times them, and the
# gate's factor; and two for each token tile where blocks' sums are added up.
SCALE_ROWS = 4 + 2 * TILES_A_BLOCK
# Bytes a partition of tiles that attention keeps through a layer.
ATTENTION_BYTES = 4 * 1024


@dataclasses.dataclass(frozen=True)
class LayerTiling:
    """Sizes of one decoder layer's prefill on one NeuronCore.

    1,100 tokens of a model of hidden size 2,048 and FFN 8,192 in bfloat16 are 3 blocks of 3 tiles
    of 123 tokens (1,107): a block's tokens share each weight tile that is loaded. The hidden
    dimension is 16 contraction tiles of 128 features, and 4 output blocks of 512 columns.

    Attributes:
      hidden, ffn: model dimensions without padding.
      heads, kv_heads: of attention.
      head_dim: features of a query and of a key.
      eps: of RMSNorm.
      blocks, tiles, rows: this core's tokens, `blocks · tiles · rows`; a block shares weight loads.
      dtype: of weights, activations and the KV cache; accumulation is float32.
      chunks: runs of positions in which the tokens stand; a K/V tile is within one.
      hidden_parts: the padded hidden dimension divides by it: the cores of a chip, where each sums
        up its own part of the features, as mixtures of experts do, or makes its own part of a
        token's latents.
      latent: of heads whose keys and values are made of latents; None: they are projected.
      norm_widths: features of all queries and of all keys that a norm of kind "width" is over, on
        all cores together: a KV head counts as often as it stands on cores. 48 heads of 128 over
        8 KV heads are 6,144 and 1,024, on 16 cores 6,144 and 2,048.
      elements: dtype of the MX elements that products have activations in; None: products take
        activations, and weights, as they are. Tiles of features are then quarters of an MX tile.
      by_token: the format, of 8-bit floats with a scale for each token, in which products have
        activations; None: they have not. Tiles of features then come in twos, as double rows.
      expert_elements: likewise of the products of experts that a router chooses.
      together: so many neighbours among features that products contract stay in one tile, as those
        whose weights share a scale must.
      cache: format that keys and values are handed over in, if it is coded; else it is `dtype`.
    """

    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    eps: float
    blocks: int
    tiles: int
    rows: int
    dtype: DType
    chunks: int = 1
    hidden_parts: int = 1
    latent: LatentHeads | None = None
    norm_widths: tuple[int, int] | None = None
    elements: DType | None = None
    by_token: Format | None = None
    expert_elements: DType | None = None
    together: int = 1
    cache: Format | None = None

    @property
    def hidden_tiles(self) -> tuple[int, int]:
        """Contraction tiles of the hidden dimension, `(count, rows)`."""
        if self.by_token is not None:
            return _double_rows(self.hidden, self.by_token)
        if self.together > 1:
            return tile_rows(self.hidden, self.together)
        each = self.elements, self.expert_elements
        quads = any(elements is not None for elements in each)
        return hidden_cut(self.hidden, self.hidden_parts, quads=quads)

    @property
    def ffn_tiles(self) -> tuple[int, int]:
        """Tiles of the FFN's features, `(count, rows)`."""
        if self.elements is not None:
            return quarters(self.ffn)
        if self.by_token is not None:
            return _double_rows(self.ffn, self.by_token)
        return tile_rows(self.ffn, self.together)

    @property
    def key_parts(self) -> tuple[int, ...]:
        """Features of a query and a key that are contracted at once: of 256, 128 and 128."""
        if self.latent is not None:
            return self.latent.plain, self.latent.turned
        parts, features = split(self.head_dim, PARTITIONS)
        return (features,) * parts

    @property
    def value_dim(self) -> int:
        """Features of a value."""
        return self.head_dim if self.latent is None else self.latent.value_dim

    @property
    def value_tiles(self) -> tuple[int, int]:
        """Contraction tiles of a value's features, `(count, rows)`: of 256 features, 2 of 128."""
        return split(self.value_dim, PARTITIONS)

    @property
    def attended_tiles(self) -> tuple[int, int]:
        """Contraction tiles of attention's output, `(count, rows)`: those of each head.

        In codes they are of all heads together.
        """
        if self.elements is not None:
            return quarters(self.heads * self.value_dim)
        if self.by_token is not None:
            return _double_rows(self.heads * self.head_dim, self.by_token)
        parts, size = self.value_tiles
        return self.heads * parts, size

    @property
    def hidden_padded(self) -> int:
        """The hidden dimension in whole tiles."""
        return math.prod(self.hidden_tiles)

    @property
    def hidden_columns(self) -> int:
        """Output columns per PSUM tile where the hidden dimension is the output."""
        return bank_columns(self.hidden_tiles)

    @property
    def qkv_columns(self) -> int:
        """Whole heads per PSUM tile of the fused q, k, v projection."""
        fused = self.heads + 2 * self.kv_heads
        return self.head_dim * largest_divisor(fused, BANK_COLUMNS // self.head_dim)

    @property
    def gated_columns(self) -> int:
        """Columns of the gate, and as many of the other projection, of a PSUM tile of both."""
        count, size = self.ffn_tiles
        return size * largest_divisor(count, BANK_COLUMNS // 2 // size)

    @property
    def tokens(self) -> int:
        """Tokens on this core, padding included."""
        return self.blocks * self.tiles * self.rows

    @property
    def block_tokens(self) -> int:
        """Tokens that share weight loads."""
        return self.tiles * self.rows

    @property
    def kv_tiles(self) -> int:
        """Token tiles that form one K/V tile: at most 512 columns, and a bank for each to turn."""
        limit = min(BANK_COLUMNS // self.rows, BANKS - 2)
        return largest_divisor(self.blocks * self.tiles // self.chunks, limit)


def _double_rows(features: int, held: Format) -> tuple[int, int]:
    """Contraction tiles of features in codes: of those that share a scale, two."""
    assert held.block is not None
    together, _ = held.block
    if together is None:
        return double_row_tiles(features)
    return double_row_blocks(features, together)


def tile_tokens(
    tokens: int,
    hidden: int,
    ffn: int,
    dtype: DType,
    chunks: int = 1,
    *,
    sbuf_partition_bytes: int,
    streams: int = 1,
    quantised: bool = False,
    by_token: bool = False,
    widened_bytes: int = 0,
) -> tuple[int, int, int]:
    """`(blocks, tiles, rows)` for one core's tokens; fewer tokens a block where SBUF is short.

    Args:
      tokens: of one core.
      hidden, ffn: dimensions of the core's share of a layer.
      dtype: of its activations.
      chunks: the token tiles make so many equal chunks.
      sbuf_partition_bytes: the datasheet's.
      streams: tiles of a block's tokens as wide as the residual stream that are held at once: a
        second one where what is added to it is normalised before.
      quantised: whether products have MX elements, which stand beside what they are made of.
      by_token: whether they have bytes with a scale for each token, made of tiles with tokens on
        partitions.
      widened_bytes: of a partition that a chunk of weights in codes takes besides its wide form.
    """
    itemsize = jnp.dtype(dtype).itemsize
    hidden_tiles, ffn_tiles = (math.ceil(n / PARTITIONS) for n in (hidden, ffn))

    def held_bytes(block: int) -> int:
        """Bytes a partition of a block's hidden states, their norm and the FFN's features."""
        # With features on partitions a token is an element of each tile; with tokens on partitions,
        # as residuals are added, a tile of them is a whole row of the hidden dimension.
        if by_token:
            codes = block * (hidden_tiles + ffn_tiles)
            features = math.ceil(block / PARTITIONS) * (streams * hidden + ffn)
            return codes + features * itemsize
        features_on_partitions = block * (2 * hidden_tiles + ffn_tiles)
        tokens_on_partitions = streams * math.ceil(block / PARTITIONS) * hidden
        wide = (features_on_partitions + tokens_on_partitions) * itemsize
        if not quantised:
            return wide
        # Of a quad four bytes, and one of a scale.
        return wide + math.ceil(block * (hidden_tiles + ffn_tiles) * 5 / 4)

    # What does not grow with the block: weights on their way, a norm's weight for each stream,
    # attention's tiles.
    taken = RINGS * CHUNK_BYTES + streams * hidden * itemsize + ATTENTION_BYTES
    taken += RINGS * widened_bytes
    if by_token:
        # A tile's norm, and its codes, or those of the FFN's features, before they are turned; and
        # rows of scales of columns.
        taken += hidden * (itemsize + 1) + ffn + 4 * BANK_COLUMNS * SCALE_ROWS
    room = sbuf_partition_bytes - taken
    block = TILES_A_BLOCK * PARTITIONS
    # Halving costs time, not correctness: half the tokens share a weight load, so weights are
    # loaded twice as often.
    while block > 1 and held_bytes(block) > room:
        block //= 2
    blocks = math.ceil(tokens / block)
    block_tokens = math.ceil(tokens / blocks)
    tiles, _ = split(block_tokens, PARTITIONS)
    # Zigzag's two chunks must not share a token tile: 3 blocks of 3 tiles are 9, an odd number, so
    # each gets a fourth tile.
    while blocks * tiles % chunks:
        tiles += 1
    rows = math.ceil(block_tokens / tiles)
    if quantised:
        # A stationary operand of MX has an even number of columns.
        rows += rows % 2
    return blocks, tiles, rows


__all__ = ["LayerTiling", "tile_tokens"]
