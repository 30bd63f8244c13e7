"""How a stage of a layer is cut: the tokens of a chip into blocks, matrices into columns."""

import dataclasses
import math

from emu.annotations import DType
from kernels.trainium.layer.tiling import tile_tokens
from kernels.trainium.tiles import (
    BANK_COLUMNS,
    PARTITIONS,
    bank_columns,
    largest_divisor,
    split,
    split_for,
)


@dataclasses.dataclass(frozen=True)
class StageTiling:
    """Sizes that all stages of a layer have in common.

    128 tokens of hidden size 7,168 are one block of one tile of 128; 1,024 tokens of 2,880 are two
    blocks of four tiles, and on 8 cores the hidden dimension is 24 contraction tiles of 120.

    Attributes:
      hidden: features of a token.
      eps: of RMSNorm.
      blocks, tiles, rows: the tokens of a chip, `blocks · tiles · rows`; a block shares each load
        of weights.
      cores: of a chip, which share the weights; each has all of the chip's tokens.
      dtype: of activations and weights; sums are float32.
    """

    hidden: int
    eps: float
    blocks: int
    tiles: int
    rows: int
    cores: int
    dtype: DType

    @property
    def tokens(self) -> int:
        """Of a chip, padding included."""
        return self.blocks * self.tiles * self.rows

    @property
    def block_tokens(self) -> int:
        """Tokens that share weight loads."""
        return self.tiles * self.rows

    @property
    def token_tiles(self) -> int:
        """Of a chip."""
        return self.blocks * self.tiles

    @property
    def hidden_tiles(self) -> tuple[int, int]:
        """Contraction tiles of the hidden dimension, `(count, rows)`."""
        # As a mixture of experts takes it, whose cores sum up equally many features each.
        return split_for(self.cores, self.hidden, PARTITIONS)

    @property
    def hidden_padded(self) -> int:
        """The hidden dimension in whole tiles."""
        return math.prod(self.hidden_tiles)

    @property
    def hidden_columns(self) -> int:
        """Output columns of a PSUM tile where the hidden dimension is the output."""
        return bank_columns(self.hidden_tiles)


def stage_tiling(
    *,
    hidden: int,
    widest: int,
    eps: float,
    tokens: int,
    cores: int,
    dtype: DType,
    sbuf_partition_bytes: int,
) -> StageTiling:
    """The tiling of a chip's tokens; fewer a block where SBUF is short.

    Args:
      hidden, eps, cores, dtype: see `StageTiling`.
      widest: the most features that a core makes of a token at once.
      tokens: of a chip.
      sbuf_partition_bytes: the datasheet's.
    """
    blocks, tiles, rows = tile_tokens(
        tokens, hidden, widest, dtype, sbuf_partition_bytes=sbuf_partition_bytes
    )
    return StageTiling(hidden, eps, blocks, tiles, rows, cores, dtype)


def columns_of(width: int) -> int:
    """Columns of a block of a matrix: the fewest equal blocks that fit a PSUM bank.

    Example: 264 columns are one block, 1,920 are four of 480.
    """
    _, columns = split(width, BANK_COLUMNS)
    return columns


def padded(width: int) -> int:
    """Columns of all blocks of a matrix: 1,022 are two of 511, 1,025 three of 342 (1,026)."""
    count, columns = split(width, BANK_COLUMNS)
    return count * columns


def joined_heads(heads: int, features: int) -> int:
    """Rows of a contraction tile of heads' features: as many whole heads as fit 128 partitions.

    Example: 8 heads of 64 features are tiles of 128, of 128 features likewise; 6 heads of 48 are
    tiles of 96.
    """
    return features * largest_divisor(heads, PARTITIONS // features)


__all__ = ["StageTiling", "columns_of", "joined_heads", "padded", "stage_tiling"]
