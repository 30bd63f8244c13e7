"""What a variant comes to: its tiles, where its tokens stand, its arithmetic, its bounds."""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from emu.lower import Elementwise, Operation, Slot
from emu.trainium.lower import SCALAR, goes_into_function
from kernels.attention.clock import VariantTime
from kernels.attention.prefill import context_attention
from kernels.masks import catalogue
from kernels.masks.bisection import FULL, PARTIAL
from kernels.masks.tile_map import tile_map
from kernels.scores.form import Reading
from kernels.tokens.placement import place

TILE = 128
"""Tokens of a tile that is counted: the queries and keys that the Tensor Engine takes at a time."""
ELSEWHERE = ("chip", "wafer", "rows", "parts", "cache_dtype", "block")
"""Options of a time that are not the mesh's."""


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
      on_output: operations of a monoid's last step, on what was summed; none of a softmax's.
      clock: of both machines, with what each is busy with.
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
    on_output: tuple[tuple[str, str], ...]
    clock: VariantTime

    def __str__(self) -> str:
        share = self.live / self.tiles
        last_step = []
        if self.on_output:
            last_step = [f"  on what is summed, at the end: {_told(self.on_output)}"]
        return "\n".join(
            [
                f"{self.name}: attends {self.mask or 'all'}",
                f"  tiles of {TILE}: {self.live:,} of {self.tiles:,} live ({share:.1%}), "
                f"{self.full:,} full",
                f"  tokens stand {self._placement}",
                f"  on every score: {_told(self.on_score)}; on positions alone: "
                f"{self.on_positions} operations",
                *last_step,
                *(f"  {line}" for line in self.clock.lines),
            ]
        )

    @property
    def _placement(self) -> str:
        """Where, and why there."""
        if self.clock.prefill.chips == 1:
            return f"{self.placed}, there being one chip"
        tiles = ", ".join(f"{name} {score:,.0f}" for name, score in self.scores.items())
        is_least = self.scores[self.placed] == min(self.scores.values())
        why = "which is least" if is_least else "as was asked"
        return (
            f"{self.placed}, {why}: tiles of the busiest chip, hop by hop, are {tiles}"
        )


def _told(operations: tuple[tuple[str, str], ...]) -> str:
    """Operations by name, and how many each engine has."""
    engines = Counter(engine for _, engine in operations)
    counts = ", ".join(f"{count} on {engine}" for engine, count in engines.items())
    named = " ".join(name for name, _ in operations)
    return f"{named} ({counts})" if named else "nothing"


def explain(
    name: str,
    reading: Reading,
    clock: VariantTime,
    *,
    tokens: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    batch: int = 1,
    keys: int | None = None,
    chips: int = 1,
    **options: Any,
) -> Explanation:
    """Explains a variant at a size.

    Args:
      name: of the variant.
      reading: the variant.
      clock: of it, at that size.
      tokens: queries.
      heads, kv_heads, head_dim, batch: of attention.
      keys: None: as many as tokens.
      chips: that the sequence is spread over.
      options: as for `kernels.attention.clock.variant_time`.

    Raises:
      CannotLower: arithmetic that no engine has, with the user's line.
    """
    of_mesh = {key: x for key, x in options.items() if key not in ELSEWHERE}
    of_mesh["dtype"] = jnp.dtype(options.get("dtype", "bfloat16"))
    count = tokens if keys is None else keys
    attention = context_attention(
        reading,
        q=(batch, heads, tokens, head_dim),
        k=(batch, kv_heads, count, head_dim),
        chips=chips,
        **of_mesh,
    )
    whole = -(-attention.tokens // TILE) * TILE
    grids = place("contiguous", attention.tokens, 1, whole).grids(TILE)
    # Heads that have the same mask share its tiles.
    maps = [
        tile_map(x, attention.tokens, grids, grids) for x in set(attention.masks_of)
    ]
    live = sum(int(((x == PARTIAL) | (x == FULL)).sum()) for x in maps)
    plans = [] if attention.plan is None else [attention.plan]
    if attention.weigh is not None:
        # A monoid's factors are functions of the score as well.
        plans += attention.weigh.functions
    on_score = [
        (x.name, _engine(plan.function, x)) for plan in plans for x in plan.of_score
    ]
    every = [x for plan in plans for x in plan.function.operations]
    on_output = []
    if attention.finish is not None:
        function = attention.finish.fold.finish
        operations = attention.finish.operations
        on_output = [(x.name, _engine(function, x)) for x in operations]
    return Explanation(
        name=name,
        mask=None if reading.mask is None else catalogue.name(reading.mask),
        tiles=sum(x.size for x in maps),
        live=live,
        full=sum(int((x == FULL).sum()) for x in maps),
        placed=attention.placed,
        scores={key: x.score for key, x in attention.choice.scores.items()},
        on_score=tuple(on_score),
        on_output=tuple(on_output),
        on_positions=len(every) - len(on_score),
        clock=clock,
    )


def _engine(function: Elementwise, operation: Operation) -> str:
    """That carries an operation out; its first argument, a score, is scaled on the way."""
    on_the_way = goes_into_function(function, operation, Slot(0))
    by_scalar = operation.name in SCALAR or on_the_way
    return "Scalar Engine" if by_scalar else "Vector Engine"


__all__ = ["Explanation", "explain"]
