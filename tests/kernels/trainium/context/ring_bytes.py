"""What attention on a ring reads and writes in HBM: closed forms of sizes and of live tiles.

Nothing here asks the kernels: which tiles are live is looked up pair by pair, and how often each
buffer is moved is written down as the sum that it is. The tests of small rings and those of whole
layers at full size hold the clock's bytes equal to these.
"""

import dataclasses
import math

import numpy as np

DEAD, MASKED, WHOLE = range(3)
STATISTIC_BYTES = 4  # a maximum and a sum of weights are float32
MASK_BYTES = 1  # a score counts or does not
BANK_COLUMNS = 512  # of PSUM, in float32


def statuses(mask, positions, tokens, rows, columns):
    """Whether pairs of tiles are dead, masked or whole, by looking at every pair of tokens.

    Args:
      mask: on positions in the sequence.
      positions: `[ranks, slots]`, from `tokens` on padding.
      tokens: of the sequence.
      rows, columns: tokens of a block of queries and of a key tile.

    Returns:
      int `[ranks, blocks, ranks, key tiles]`.
    """
    q, k = positions.reshape(-1, 1), positions.reshape(1, -1)
    pairs = np.asarray(mask(0, 0, *np.broadcast_arrays(q, k)))
    pairs = pairs & (q < tokens) & (k < tokens)
    ranks, slots = positions.shape
    of_tiles = pairs.reshape(ranks, -1, rows, ranks, slots // columns, columns)
    live, whole = of_tiles.any((2, 5)), of_tiles.all((2, 5))
    return live.astype(int) + whole


@dataclasses.dataclass(frozen=True)
class Latents:
    """Latents that travel in place of keys and values, and are expanded by every rank.

    Attributes:
      rank: features of a latent.
      plain: features of a key that are made of it; the others are the same for all heads.
      weight_bytes: of what makes a core's keys and values of it; None: elements as all others are.
    """

    rank: int
    plain: int
    weight_bytes: int | None = None


@dataclasses.dataclass(frozen=True)
class Core:
    """One core's part of attention on a ring.

    Attributes:
      heads, kv_heads: of the core.
      key_dim, value_dim: features of a key and of a value.
      block_heads: query heads that are worked on together.
      block_queries: queries of each of them.
      queries, keys: of a rank, padding included.
      columns: keys of a tile.
      element_bytes: of queries, keys, values and outputs.
      carried_bytes: of an element of the output between sources.
      tables: float32 numbers of each row of each head that the last step reads, such as a sink.
      latents: what is expanded; None: keys and values travel.
    """

    heads: int
    kv_heads: int
    key_dim: int
    value_dim: int
    block_heads: int
    block_queries: int
    queries: int
    keys: int
    columns: int
    element_bytes: int
    carried_bytes: int = 4
    tables: int = 0
    latents: Latents | None = None

    @classmethod
    def of(cls, tiling, **given):
        """From the sizes that `ContextAttention` chose."""
        return cls(
            heads=tiling.heads,
            kv_heads=tiling.kv_heads,
            key_dim=sum(tiling.parts),
            value_dim=tiling.value_dim,
            block_heads=tiling.block_heads,
            block_queries=tiling.block_tiles * tiling.rows,
            queries=tiling.slots,
            keys=tiling.key_slots,
            columns=tiling.columns,
            element_bytes=np.dtype(tiling.dtype).itemsize,
            **given,
        )

    @property
    def block_bytes(self):
        """What travels of a rank: keys and values of all KV heads, or latents and turned keys."""
        features = self.kv_heads * (self.key_dim + self.value_dim)
        if self.latents is not None:
            features = self.latents.rank + self.key_dim - self.latents.plain
        return self.keys * features * self.element_bytes

    def state_bytes(self, queries):
        """What is carried of so many queries of all heads: the output, a maximum and a sum."""
        of_row = self.value_dim * self.carried_bytes + 2 * STATISTIC_BYTES
        return queries * self.heads * of_row

    @property
    def expanded_heads(self):
        """Heads that latents are read for together: those whose values fill a bank of PSUM."""
        fit = max(1, BANK_COLUMNS // self.value_dim)
        return max(n for n in range(1, fit + 1) if self.heads % n == 0)

    def expanded_bytes(self):
        """To expand a source: weights and latents are read, keys and values are written."""
        if self.latents is None:
            return 0
        made = self.heads * (self.latents.plain + self.value_dim)
        latents = self.heads // self.expanded_heads * self.keys * self.latents.rank
        weights = self.latents.weight_bytes
        if weights is None:
            weights = self.latents.rank * made * self.element_bytes
        return weights + (latents + self.keys * made) * self.element_bytes


def ring_bytes(core, status, sent_blocks):
    """HBM bytes of one core of each rank, over all ranks.

    Args:
      core: sizes.
      status: int `[ranks, blocks, ranks, key tiles]`, see `statuses`.
      sent_blocks: how often any rank sends a block on.
    """
    ranks, blocks, *_ = status.shape
    live, own = status > DEAD, np.arange(ranks)
    # By rank, block and source: whether the block attends to any key tile.
    asked = live.any(-1)
    # A rank comes to its own keys first: nothing is carried yet.
    of_own = asked[own, :, own].sum()
    fetched = int(asked.sum())
    groups = core.heads // core.block_heads
    of_block = core.block_queries * core.heads * core.key_dim * core.element_bytes
    queries = fetched * of_block
    # Loaded for every source but the own, and stored; the own is stored in any case.
    loads = core.state_bytes((fetched - of_own) * core.block_queries)
    stores = core.state_bytes((fetched - of_own + ranks * blocks) * core.block_queries)
    # Keys and values of a tile come once for the heads of a block that share them.
    at_once = math.ceil(core.kv_heads / groups)
    of_tile = core.columns * (core.key_dim + core.value_dim) * core.element_bytes
    tiles = int(live.sum()) * groups * at_once * of_tile
    of_mask = core.block_queries * core.columns * MASK_BYTES
    masks = int((status == MASKED).sum()) * groups * of_mask
    # At the end the state is loaded; outputs and log-sum-exps are stored.
    rows = ranks * core.queries * core.heads
    finish = core.state_bytes(ranks * core.queries)
    finish += rows * core.value_dim * core.element_bytes
    finish += rows * STATISTIC_BYTES + rows * core.tables * STATISTIC_BYTES
    # A block that is sent is read by its sender and written where it goes.
    sends = 2 * sent_blocks * core.block_bytes
    met = live.any((1, 3))
    met[own, own] = True
    expanded = int(met.sum()) * core.expanded_bytes()
    return queries + loads + stores + tiles + masks + finish + sends + expanded


__all__ = ["DEAD", "MASKED", "WHOLE", "Core", "Latents", "ring_bytes", "statuses"]
