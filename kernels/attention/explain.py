"""What a variant comes to on the mesh: its tiles, where its tokens stand, and its arithmetic."""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Any

from emu.trainium.lower import SCALAR
from kernels.attention.prefill import context_attention
from kernels.attention.reading import Reading
from kernels.masks import catalogue
from kernels.masks.bisection import FULL, PARTIAL
from kernels.masks.tile_map import tile_map
from kernels.tokens.placement import place

TILE = 128
"""Tokens of a tile that is counted: the queries and keys that the Tensor Engine takes at a time."""


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What follows from a variant's functions.

    Attributes:
      name: of the variant.
      mask: name of what is attended; None: all.
      tiles: pairs of tiles of `TILE` tokens, over all masks that its heads have.
      live: of these, how many have a pair that is attended; others are skipped.
      full: of these, how many are attended as a whole, and need no mask.
      placed: where tokens stand.
      scores: of every placement, the time of the ring in tiles; the least is chosen.
      on_score: operations on every score, with the engine that carries each out.
      on_positions: how many operations of the score are on positions alone, and so not repeated
        for every score.
    """

    name: str
    mask: str | None
    tiles: int
    live: int
    full: int
    placed: str
    scores: Mapping[str, float]
    on_score: tuple[tuple[str, str], ...]
    on_positions: int

    def __str__(self) -> str:
        share = self.live / self.tiles
        scores = ", ".join(
            f"{name} {score:,.0f}" for name, score in self.scores.items()
        )
        engines = Counter(engine for _, engine in self.on_score)
        counts = ", ".join(f"{count} on {engine}" for engine, count in engines.items())
        named = " ".join(name for name, _ in self.on_score)
        on_score = f"{named} ({counts})" if named else "nothing"
        return "\n".join(
            [
                f"{self.name}: attends {self.mask or 'all'}",
                f"  tiles of {TILE}: {self.live:,} of {self.tiles:,} live ({share:.1%}), "
                f"{self.full:,} full",
                f"  tokens stand {self.placed}; in tiles, {scores}",
                f"  on every score: {on_score}; on positions alone: {self.on_positions} operations",
            ]
        )


def explain(
    name: str,
    reading: Reading,
    *,
    tokens: int,
    heads: int = 1,
    kv_heads: int = 1,
    head_dim: int = 128,
    batch: int = 1,
    keys: int | None = None,
    chips: int = 1,
    **options: Any,
) -> Explanation:
    """Explains a variant at a size.

    Args:
      name: of the variant.
      reading: the variant.
      tokens: queries.
      heads, kv_heads, head_dim, batch: of attention.
      keys: None: as many as tokens.
      chips: that the sequence is spread over.
      options: as for `context_attention`.

    Raises:
      CannotLower: arithmetic that no engine has, with the user's line.
    """
    count = tokens if keys is None else keys
    attention = context_attention(
        reading,
        q=(batch, heads, tokens, head_dim),
        k=(batch, kv_heads, count, head_dim),
        chips=chips,
        **options,
    )
    whole = -(-attention.tokens // TILE) * TILE
    grids = place("contiguous", attention.tokens, 1, whole).grids(TILE)
    # Heads that have the same mask share its tiles.
    maps = [
        tile_map(x, attention.tokens, grids, grids) for x in set(attention.masks_of)
    ]
    live = sum(int(((x == PARTIAL) | (x == FULL)).sum()) for x in maps)
    plan = attention.plan
    operations = () if plan is None else plan.of_score
    every = () if reading.score is None else reading.score.operations
    return Explanation(
        name=name,
        mask=None if reading.mask is None else catalogue.name(reading.mask),
        tiles=sum(x.size for x in maps),
        live=live,
        full=sum(int((x == FULL).sum()) for x in maps),
        placed=attention.placed,
        scores={key: x.score for key, x in attention.choice.scores.items()},
        on_score=tuple(
            (x.name, "Scalar Engine" if x.name in SCALAR else "Vector Engine")
            for x in operations
        ),
        on_positions=len(every) - len(operations),
    )


__all__ = ["Explanation", "explain"]
