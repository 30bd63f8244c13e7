"""How a stage of a layer is cut: the tokens of a chip into blocks, matrices into columns."""

import dataclasses
import math

from emu.annotations import DType
from emu.trainium.spaces import Sbuf
from kernels.refusal import refuse
from kernels.trainium.gemm.mx_pack import MxFormats, elements_of
from kernels.trainium.gemm.operands import (
    Operand,
    cut_of,
    fresh,
    hidden_cut,
    quarters,
    ready,
)
from kernels.trainium.layer.tiling import tile_tokens
from kernels.trainium.tiles import (
    BANK_COLUMNS,
    PARTITIONS,
    bank_columns,
    largest_divisor,
    split,
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
      tensor: chips that have the same tokens and share the weights, each part again by its cores.
      dtype: of activations and weights; sums are float32.
      mx: what products have their operands in, where they are in MX.
      experts_mx: likewise those of experts that a router chooses; here it counts for the padding of
        the hidden dimension, which all stages have alike.
    """

    hidden: int
    eps: float
    blocks: int
    tiles: int
    rows: int
    cores: int
    dtype: DType
    mx: MxFormats | None = None
    experts_mx: MxFormats | None = None
    tensor: int = 1

    @property
    def sharers(self) -> int:
        """Cores that share the weights."""
        return self.tensor * self.cores

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
        quads = self.mx is not None or self.experts_mx is not None
        return hidden_cut(self.hidden, self.cores, quads=quads)

    @property
    def hidden_padded(self) -> int:
        """The hidden dimension in whole tiles."""
        return math.prod(self.hidden_tiles)

    @property
    def hidden_columns(self) -> int:
        """Output columns of a PSUM tile where the hidden dimension is the output."""
        return bank_columns(self.hidden_tiles)

    def cut(self, features: int) -> tuple[int, int]:
        """Contraction tiles of features that are no part of the hidden dimension."""
        return cut_of(features, quads=self.mx is not None)

    def fresh(self, cut: tuple[int, int], tokens: int) -> Sbuf:
        """A tile for activations that a product contracts, see `operands.fresh`."""
        count, size = cut
        quads = self.mx is not None
        return fresh(size, count, tokens, dtype=self.dtype, quads=quads)

    def ready(self, x: Sbuf) -> Operand:
        """Such a tile, filled, as a product takes it."""
        return ready(x, elements_of(self.mx))


def stage_tiling(
    *,
    hidden: int,
    widest: int,
    eps: float,
    tokens: int,
    cores: int,
    dtype: DType,
    sbuf_partition_bytes: int,
    mx: MxFormats | None = None,
    experts_mx: MxFormats | None = None,
    tensor: int = 1,
) -> StageTiling:
    """The tiling of a chip's tokens; fewer a block where SBUF is short.

    Args:
      hidden, eps, cores, dtype, mx, experts_mx, tensor: see `StageTiling`.
      widest: the most features that a core makes of a token at once.
      tokens: of a chip.
      sbuf_partition_bytes: the datasheet's.
    """
    blocks, tiles, rows = tile_tokens(
        tokens,
        hidden,
        widest,
        dtype,
        sbuf_partition_bytes=sbuf_partition_bytes,
        quantised=mx is not None or experts_mx is not None,
    )
    return StageTiling(
        hidden, eps, blocks, tiles, rows, cores, dtype, mx, experts_mx, tensor
    )


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


def attended_cut(heads: int, features: int, tiling: StageTiling) -> tuple[int, int]:
    """Contraction tiles of attention's output, `(count, rows)`, which hold whole heads.

    Raises:
      LimitExceeded: tiles of MX whose padding is no whole head.
    """
    if tiling.mx is None:
        size = joined_heads(heads, features)
        return heads * features // size, size
    cut = quarters(heads * features)
    if math.prod(cut) % features:
        refuse(
            f"{heads} heads of {features} features in MX are padded to {math.prod(cut)}, must be "
            "whole heads"
        )
    return cut


__all__ = [
    "StageTiling",
    "attended_cut",
    "columns_of",
    "joined_heads",
    "padded",
    "stage_tiling",
]
