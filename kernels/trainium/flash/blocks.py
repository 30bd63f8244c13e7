"""Attention by blocks of query tiles that share K/V tiles: which tiles meet, and in which order."""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax.numpy as jnp
from jax import lax

from emu.trainium.engines.memory import dma_store_at, hbm
from kernels.trainium.flash.lanes import Lane
from kernels.trainium.flash.step import (
    FlashTiling,
    after_diagonal,
    attend,
    empty,
    load_tokens,
    load_values,
    normalised,
    step_banks,
)
from kernels.trainium.tiles import divide, index, largest_divisor

Run = Callable[[Iterable[Lane]], list[Any]]
Use = Callable[[Any, bool], Any]  # `(done, mask) -> done`: attends to a key tile


@dataclasses.dataclass(frozen=True)
class Block:
    """The query tiles that are worked on together: `tiles` of each of `heads` heads.

    Attributes:
      heads: they share a KV head, or are all the query heads of `kv_heads` KV heads.
      kv_heads: KV heads of the block.
      tiles: of a head; they hold no more queries than a K/V tile has keys.
      rows: queries of a tile.
    """

    heads: int
    kv_heads: int
    tiles: int
    rows: int

    @classmethod
    def of(cls, q: Any, k: Any, s: FlashTiling, lanes: int) -> "Block":
        """The largest block of at most `lanes` query tiles."""
        group = len(q) // len(k)
        tiles = largest_divisor(
            q.shape[2] // s.rows, min(lanes, max(1, s.columns // s.rows))
        )
        fit = [n for n in range(1, lanes // tiles + 1) if len(q) % n == 0]
        heads = max(n for n in fit if group % n == 0 or n % group == 0)
        return cls(heads, max(1, heads // group), tiles, s.rows)

    @property
    def span(self) -> int:
        """Queries of each head."""
        return self.tiles * self.rows

    @property
    def starts(self) -> range:
        """Where the tiles start in the block."""
        return range(0, self.span, self.rows)


def attention(
    q: Any, k: Any, v: Any, s: FlashTiling, *, visit: Any, run: Run, lanes: int = 1
) -> Any:
    """Attends every query tile to the key tiles that it visits, one block after another.

    Args:
      q: HBM `[heads, D, T]`.
      k: HBM `[kv_heads, D, T]`.
      v: HBM `[kv_heads, T, D]`.
      s: sizes of tiles.
      visit: which key tiles, and whether masked: `none_masked`, `all_masked`, `up_to_diagonal`.
      run: runs the lanes of a block: `lanes.in_turn` or `lanes.abreast`.
      lanes: most query tiles of a block.

    Returns:
      HBM `[heads, T, D]`.
    """
    (heads, _, tokens), block = q.shape, Block.of(q, k, s, lanes)

    def batch(out: Any, b: Any) -> tuple[Any, None]:
        kv_head, _ = divide(b * block.heads, heads // len(k))
        kv = [
            (index(k, kv_head + n), index(v, kv_head + n))
            for n in range(block.kv_heads)
        ]
        own = [b * block.heads + h for h in range(block.heads)]

        def some(out: Any, i: Any) -> tuple[Any, None]:
            loaded = [load_tokens(index(q, h), i, block.span, s) for h in own]
            queries = [_rows(x, a, s) for x in loaded for a in block.starts]
            done = _over_keys(queries, i * block.span, kv, s, block, visit, run)
            at = [
                (h * count + i) * block.tiles + n
                for h in own
                for n in range(block.tiles)
            ]
            for y, place in zip(normalised(done, s), at, strict=True):
                out = dma_store_at(out, y, place)
            return out, None

        count = tokens // block.span
        return lax.scan(some, out, jnp.arange(count))[0], None

    out = hbm(heads * tokens // s.rows, s.rows, s.value_dim, dtype=s.dtype)
    out, _ = lax.scan(batch, out, jnp.arange(heads // block.heads))
    return out.reshape(heads, tokens, s.value_dim)


def _rows(queries: Any, start: int, s: FlashTiling) -> Any:
    return lax.slice_in_dim(queries, start, start + s.rows, axis=1)


def _over_keys(
    queries: list[Any],
    first: Any,
    kv: Any,
    s: FlashTiling,
    block: Block,
    visit: Any,
    run: Run,
) -> list[Any]:
    """Attends the lanes of one block to the key tiles that it visits.

    Args:
      queries: SBUF `[D, rows]` of each lane, head by head.
      first: position of the block's first query.
      kv: HBM keys `[D, T]` and values `[T, D]` of each of the block's KV heads.
      s, block: sizes.
      visit, run: as for `attention`.

    Returns:
      What each lane attended to.
    """
    sharing = len(queries) // len(kv)  # lanes of one KV head

    def key(done: list[Any], j: Any) -> tuple[Any, None]:
        offset = first - j * s.columns

        def use(done: list[Any], mask: bool) -> list[Any]:
            tiles = [
                (load_tokens(k, j, s.columns, s), load_values(v, j, s)) for k, v in kv
            ]
            masks = [
                functools.partial(after_diagonal, offset=offset + a, s=s)
                if mask
                else None
                for _ in range(block.heads)
                for a in block.starts
            ]
            banks = step_banks(s)
            lanes = enumerate(zip(queries, done, masks, strict=True))
            return run(
                attend(q, *tiles[n // sharing], x, m, banks, s)
                for n, (q, x, m) in lanes
            )

        return visit(use, done, offset, block.span, s), None

    count = kv[0][0].shape[1] // s.columns
    return lax.scan(key, [empty(s) for _ in queries], jnp.arange(count))[0]


# --- which key tiles, and which of them masked ---


def none_masked(use: Use, done: Any, offset: Any, span: int, s: FlashTiling) -> Any:
    """Every key tile as it is. Arguments as for `up_to_diagonal`."""
    return use(done, False)


def all_masked(use: Use, done: Any, offset: Any, span: int, s: FlashTiling) -> Any:
    """Every key tile, masked. Arguments as for `up_to_diagonal`."""
    return use(done, True)


def up_to_diagonal(use: Use, done: Any, offset: Any, span: int, s: FlashTiling) -> Any:
    """No key tile that follows every query; those that follow some are masked.

    Args:
      use: attends to the tile.
      done: what was attended to so far.
      offset: first query's position minus first key's.
      span: queries, without a gap.
      s: sizes.
    """
    some, whole = offset > -span, offset >= s.columns - 1
    cases = (lambda x: x, lambda x: use(x, True), lambda x: use(x, False))
    return lax.switch(some.astype(jnp.int32) + whole.astype(jnp.int32), cases, done)
