"""What a rank's kernel knows ahead: which tiles of each source it attends to, and how.

A *source* is what a rank's queries meet at once: on a ring, the keys and values that some rank set
out with. All ranks run one program, so whatever differs between them, dead tiles above all, is in
tables of known integers, which the clock can read. `tables` makes them from a mask, `hops` puts
them in the order of a ring.

Four ranks hold 4 tokens each of 16, as two query tiles and two key tiles of 2, under a window of 3
tokens (`masks.window(3)`). Rank 1 has queries 4-7 and meets its own keys at hop 0; at hop 1 those
of rank 0, of which only the last two are near enough. There are no more hops, because no rank
attends to anything farther back:

                      hop 0: keys 4-7      hop 1: keys 0-3
                       4 5     6 7          0 1     2 3
    needed                 1                    1
    block_needed  q 4 5    1                    1
                  q 6 7    1                    0
    status        q 4 5    1     0          0     1      0 dead, 1 partial, 2 full
                  q 6 7    1     1          0     0
    pattern       q 4 5    0     -          -     1
                  q 6 7    1     0          -     -
    shift                  1                    0        blocks go one rank on after hop 0
    sends                  1                    0        rank 2 needs this rank's

Two patterns serve all partial tiles of all ranks: pattern 0 is a tile on the diagonal, `[[1, 0],
[1, 1]]`, and pattern 1 the end of the window, `[[1, 1], [0, 1]]`: query 4 sees keys 2 and 3, and
query 5 only 3. They stand once in HBM, a byte a score.
"""

import dataclasses
from typing import TypeAlias, TypeVar

import jax

from emu import Known
from emu.annotations import KnownInt

Table: TypeAlias = Known | KnownInt
"""Known integers: of all ranks as a program's argument, of one rank in its kernel."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Positions:
    """Where the tiles of a source stand in the sequence, for a score function that wants to know.

    Attributes:
      q_first, k_first: int32 `[query tiles]` and `[key tiles]`, position of a tile's first token.
      q_tile, k_tile: likewise, which of all tiles of the sequence it is.
      pair: int32 `[query tiles, key tiles]`, which tile of a table of pairs.
    """

    q_first: Table
    k_first: Table
    q_tile: Table
    k_tile: Table
    pair: Table


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SourceWork:
    """How a rank attends to one source; with a leading dimension, to several.

    Attributes:
      needed: int8 `[]`, whether it attends to anything of it.
      pattern: int32 `[query tiles, key tiles]`, which mask a partial tile has.
      block_needed: int8 `[blocks]`, whether a block of query tiles has any live key tile.
      status: int8 `[blocks, key tiles]`: `DEAD`, `PARTIAL` (masked) or `FULL`.
      positions: where tiles stand; None unless a score function asks.

    Where the mask differs by head, query tiles and blocks are those of the first head or group of
    heads, then those of the next.
    """

    needed: Table
    pattern: Table
    block_needed: Table
    status: Table
    positions: Positions | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class HopWork:
    """What a rank does at one hop of a ring; with a leading dimension, at several.

    Attributes:
      source: how it attends to what it holds.
      shift: int32 `[]`, how many ranks on all blocks are sent.
      sends: int32 `[]`, whether what it holds is needed further on.
    """

    source: SourceWork
    shift: Table
    sends: Table


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RingWork:
    """What a rank does on a ring.

    Attributes:
      hops: of `[hops]`.
      replicated: of `[roots]`, key tiles that every rank is sent ahead of the ring.
    """

    hops: HopWork
    replicated: SourceWork


Work = TypeVar("Work", SourceWork, HopWork)

__all__ = ["HopWork", "Positions", "RingWork", "SourceWork", "Table", "Work"]
