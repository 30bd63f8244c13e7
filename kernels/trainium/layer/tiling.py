"""How a Llama layer is cut into the tiles a NeuronCore takes: its sizes, and its tokens a block."""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp

from kernels.trainium.tiles import (
    BANK_COLUMNS,
    BANKS,
    CHUNK_BYTES,
    PARTITIONS,
    largest_divisor,
    split,
)

# Token tiles that share one load of a weight tile; two sets of their sums fill 8 banks.
TILES_A_BLOCK = 4
RINGS = 4  # weight chunks in SBUF at once: two buffers each of gate and up projection
# Bytes a partition of tiles that attention keeps through a layer.
ATTENTION_BYTES = 4 * 1024


@dataclasses.dataclass(frozen=True)
class LayerTiling:
    """Sizes of one decoder layer's prefill on one NeuronCore.

    Attributes:
      hidden, ffn: model dimensions without padding.
      heads, kv_heads, head_dim: attention dimensions; `head_dim` at most 128.
      eps: of RMSNorm.
      qk_norm: whether q and k are normalised per head (Qwen3).
      blocks, tiles, rows: this core's tokens, `blocks · tiles · rows`; a block shares weight loads.
      dtype: of weights, activations and the KV cache; accumulation is float32.
      chunks: runs of positions in which the tokens stand; a K/V tile is within one.
    """

    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    eps: float
    qk_norm: bool
    blocks: int
    tiles: int
    rows: int
    dtype: Any
    chunks: int = 1

    @property
    def hidden_tiles(self) -> tuple[int, int]:
        """Contraction tiles of the hidden dimension, `(count, rows)`."""
        return split(self.hidden, PARTITIONS)

    @property
    def ffn_tiles(self) -> tuple[int, int]:
        return split(self.ffn, PARTITIONS)

    @property
    def hidden_padded(self) -> int:
        return math.prod(self.hidden_tiles)

    @property
    def hidden_columns(self) -> int:
        """Output columns per PSUM tile where the hidden dimension is the output."""
        count, size = self.hidden_tiles
        return size * largest_divisor(count, BANK_COLUMNS // size)

    @property
    def qkv_columns(self) -> int:
        """Whole heads per PSUM tile of the fused q, k, v projection."""
        fused = self.heads + 2 * self.kv_heads
        return self.head_dim * largest_divisor(fused, BANK_COLUMNS // self.head_dim)

    @property
    def tokens(self) -> int:
        """Tokens on this core, padding included."""
        return self.blocks * self.tiles * self.rows

    @property
    def block_tokens(self) -> int:
        return self.tiles * self.rows

    @property
    def kv_tiles(self) -> int:
        """Token tiles that form one K/V tile: at most 512 columns, and a bank for each to turn."""
        limit = min(BANK_COLUMNS // self.rows, BANKS - 2)
        return largest_divisor(self.blocks * self.tiles // self.chunks, limit)


def tile_tokens(
    tokens: int,
    hidden: int,
    ffn: int,
    dtype: Any,
    chunks: int = 1,
    *,
    sbuf_partition_bytes: int,
) -> tuple[int, int, int]:
    """`(blocks, tiles, rows)` for one core's tokens; fewer tokens a block where SBUF is short.

    There are as many token tiles as make equal chunks. `sbuf_partition_bytes` is the datasheet's.
    """
    itemsize = jnp.dtype(dtype).itemsize
    columns = math.ceil(hidden / PARTITIONS) * 2 + math.ceil(ffn / PARTITIONS)
    taken = RINGS * CHUNK_BYTES + hidden * itemsize + ATTENTION_BYTES
    room = sbuf_partition_bytes - taken
    block = TILES_A_BLOCK * PARTITIONS

    def held(block: int) -> int:  # bytes a partition
        return (block * columns + math.ceil(block / PARTITIONS) * hidden) * itemsize

    while block > 1 and held(block) > room:
        block //= 2
    blocks = math.ceil(tokens / block)
    each = math.ceil(tokens / blocks)
    tiles, _ = split(each, PARTITIONS)
    while blocks * tiles % chunks:
        tiles += 1
    return blocks, tiles, math.ceil(each / tiles)


__all__ = ["LayerTiling", "tile_tokens"]
