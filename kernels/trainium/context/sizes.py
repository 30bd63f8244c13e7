"""How one rank's attention is cut: token tiles, key tiles of several, blocks of query tiles."""

import dataclasses
import math

import jax.numpy as jnp

from emu.annotations import DType
from emu.trainium.datasheets.limits import MX_QUAD, MX_ROWS
from kernels.refusal import refuse
from kernels.trainium.flash.step import FlashTiling
from kernels.trainium.tiles import BANK_COLUMNS, PARTITIONS, largest_divisor, split

RECIPES = ("fp32", "bf16-o")
MANY_LANES = 8
LEAST_COLUMNS = 64  # the least interval between instructions, in columns


@dataclasses.dataclass(frozen=True)
class ContextTiling:
    """Sizes of attention on one rank.

    16,384 tokens over 8 ranks, with 32 query heads over 8 KV heads of 128 features, are 2,048
    queries and keys a rank: 16 query tiles of 128 rows, in runs of 4, and 4 key tiles of 4 pieces
    of 128 keys. With 16 lanes a block is 4 query tiles (as many queries as a key tile has keys) of
    the 4 heads that share a KV head, so each key tile that is loaded serves 16 query tiles; there
    are 8 groups of heads with 4 blocks each.

    Attributes:
      heads, kv_heads: of queries, and of keys and values; the first a multiple of the second.
      parts: features of queries and keys, at most 128 in each part; often one part.
      value_dim: features of a value.
      tiles: query tiles of this rank.
      rows: queries of a tile, at most 128.
      run: query tiles that stand together: a block has no others.
      key_tiles: key tiles of one source.
      span: pieces of a key tile.
      keys: keys of a piece, at most 128; `span · keys` is at most 512.
      dtype: of queries, keys, values and weights.
      mx: whether they are microscaled: 8-bit floats with a scale for every 32.
      recipe: how output is carried from source to source: `fp32`, or `bf16-o`, each source's output
        apart and merged in bfloat16, as AWS's ring kernel does. Maxima and sums are float32.
      lanes: most query tiles that are worked on together.
      buffers: depth of the rings of tiles in SBUF.
      turned: dtype of transposed weights in PSUM; see `FlashTiling`.
      scalar_copies: of a key tile's transposes, those that the Scalar Engine takes out of PSUM;
        None: half.
      scale: factor of the scores; None: 1 / sqrt(features of a key).
      scored: whether a score function stands between scores and softmax; it scales them.
      maps: KV heads in a row that have one head of values between them; see `head_maps`.
      greatest: whether weights are relative to a row's greatest score, as a softmax's are.
      sums: of a row that are carried besides a softmax's maximum and sum.
    """

    heads: int
    kv_heads: int
    parts: tuple[int, ...]
    value_dim: int
    tiles: int
    rows: int
    run: int
    key_tiles: int
    span: int
    keys: int
    dtype: DType
    mx: bool = False
    recipe: str = "fp32"
    lanes: int = 16
    buffers: int = 2
    turned: DType = None
    scalar_copies: int | None = None
    scale: float | None = None
    scored: bool = False
    maps: int = 1
    greatest: bool = True
    sums: int = 0

    def __post_init__(self) -> None:
        if self.recipe not in RECIPES:
            refuse(f"recipe is {self.recipe!r}, must be one of {', '.join(RECIPES)}")
        if self.heads % self.kv_heads:
            refuse(
                f"{self.heads} query heads over {self.kv_heads} KV heads: the first must be a "
                "multiple of the second"
            )
        if self.kv_heads % self.maps:
            refuse(
                f"{self.kv_heads} KV heads in maps of {self.maps}: the first must be a multiple "
                "of the second"
            )

    @property
    def value_heads(self) -> int:
        """Heads of values."""
        return self.kv_heads // self.maps

    @property
    def slots(self) -> int:
        """Queries of this rank, padding included."""
        return self.tiles * self.rows

    @property
    def key_slots(self) -> int:
        """Keys of one source, padding included."""
        return self.key_tiles * self.columns

    @property
    def columns(self) -> int:
        """Keys of a key tile."""
        return self.span * self.keys

    @property
    def group(self) -> int:
        """Query heads of a KV head."""
        return self.heads // self.kv_heads

    @property
    def block_tiles(self) -> int:
        """Query tiles of each head in a block: no more queries than a key tile has keys."""
        return largest_divisor(
            self.run, min(self.lanes, max(1, self.columns // self.rows))
        )

    @property
    def block_heads(self) -> int:
        """Query heads in a block: they share a KV head, or are all of those of several."""
        most = max(1, self.lanes // self.block_tiles)
        return max(
            heads
            for heads in range(1, most + 1)
            if self.heads % heads == 0
            and (self.group % heads == 0 or heads % self.group == 0)
        )

    @property
    def block_kv_heads(self) -> int:
        """KV heads of a block's query heads."""
        return max(1, self.block_heads // self.group)

    @property
    def blocks(self) -> int:
        """Blocks of each head."""
        return self.tiles // self.block_tiles

    @property
    def groups(self) -> int:
        """Groups of heads that are worked on together."""
        return self.heads // self.block_heads

    @property
    def block_cost(self) -> int:
        """What a block and a key tile cost, relative to others: instructions take as long for few
        rows as for many, and for `LEAST_COLUMNS` keys as for fewer."""
        # Not by area: tiles of 8 rows would seem cheap, and cost what tiles of 128 do.
        return self.block_tiles * max(LEAST_COLUMNS, self.columns)

    @property
    def block_lanes(self) -> int:
        """Query tiles of a block, of all its heads."""
        return self.block_heads * self.block_tiles

    @property
    def units(self) -> int:
        """Blocks of all groups of heads."""
        return self.groups * self.blocks

    @property
    def items(self) -> int:
        """Query tiles of all heads."""
        return self.heads * self.tiles

    @property
    def statistics(self) -> int:
        """Numbers that are carried of a row: maximum, sum of weights, further sums."""
        return 2 * self.greatest + self.sums

    @property
    def carried(self) -> DType:
        """Dtype of the output carried from source to source."""
        # In bfloat16 it is rounded at every hop, the price of carrying half the bytes.
        return jnp.dtype(jnp.float32 if self.recipe == "fp32" else jnp.bfloat16)

    @property
    def output(self) -> DType:
        """Dtype of the attention output: the queries', or bfloat16 for 8-bit floats."""
        if jnp.dtype(self.dtype).itemsize > 1:
            return self.dtype
        return jnp.dtype(jnp.bfloat16)

    @property
    def depth(self) -> int:
        """Depth of the rings of a lane's tiles: with many lanes a tile's last use is long ago."""
        # Weights of 16 lanes for 512 keys in bfloat16 take 16 KiB of a partition, and 32 with a
        # second buffer each.
        return 1 if self.block_lanes >= MANY_LANES else self.buffers

    @property
    def factor(self) -> float:
        """Of the scores: queries times keys times this is what the softmax is of."""
        # Of the whole key: parts are only how its features are contracted.
        return 1 / math.sqrt(sum(self.parts)) if self.scale is None else self.scale

    @property
    def step(self) -> FlashTiling:
        """Sizes of one query tile's step."""
        narrow = jnp.dtype(self.dtype).itemsize == 1
        half = jnp.dtype(jnp.bfloat16)
        copies = self.span // 2 if self.scalar_copies is None else self.scalar_copies
        return FlashTiling(
            value_dim=self.value_dim,
            rows=self.rows,
            columns=self.columns,
            keys=self.keys,
            buffers=self.depth,
            dtype=half if self.mx else self.dtype,
            # A score function is of scaled scores, so it comes after the factor.
            scale=1.0 if self.scored else self.factor,
            scalar_copies=copies,
            # A transpose puts 8-bit floats out as 16 bits.
            turned=self.turned or (half if narrow else None),
        )


def key_tiling(
    tokens: int,
    ranks: int,
    *,
    even: bool = False,
    columns: int = BANK_COLUMNS,
    mx: bool = False,
    even_rows: bool = False,
) -> tuple[int, int, int]:
    """`(key tiles, pieces of each, keys of a piece)` of a rank's share of a sequence.

    The fewest key tiles of at most `columns` keys, all of one size; `even` asks for an even number.
    A microscaled key tile has four pieces of a multiple of 32 keys. 1,100 tokens a rank are 3 tiles
    of 3 pieces of 123 keys (1,107 slots), or, where the number must be even, 4 of 3 by 92 (1,104);
    where that of a piece's keys must be (`even_rows`), 3 of 3 by 124.
    """
    share = math.ceil(tokens / ranks)
    # First how many, then how large: 1,100 keys in tiles of at most 512 would leave a last one of
    # 76.
    count = math.ceil(share / columns)
    count += count % 2 if even else 0
    size = math.ceil(share / count)
    if mx:
        # 300 keys are 4 pieces of 96: each key of a piece takes a partition, and partitions come by
        # 32.
        return count, MX_QUAD, math.ceil(size / (MX_QUAD * MX_ROWS)) * MX_ROWS
    pieces, keys = split(size, PARTITIONS)
    return count, pieces, keys + keys % 2 if even_rows else keys


__all__ = ["RECIPES", "ContextTiling", "key_tiling"]
