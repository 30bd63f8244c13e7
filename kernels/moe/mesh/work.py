"""What the clock is told of a routing: how many rows each core sends, takes and computes.

Counts are known integers: tokens of each chip that chose each expert, `[chips, experts]`, as a run
exports them. Where only totals are known, `[experts]`, `dealt` takes each chip to send an equal
part: 10 tokens of 4 chips are 3, 3, 2 and 2.

On 2 chips of one core with 4 experts, of which chip 0 has 0 and 2, let chip 0's 4 tokens choose
`[4, 1, 2, 1]` and chip 1's `[0, 3, 3, 2]`:

                       chip 0                        chip 1
    sent (expert 0, 2) to 0: 4, 2; to 1: 1, 1        to 0: 0, 3; to 1: 3, 2
    come               from 0: 4, 2; from 1: 0, 3    from 0: 1, 1; from 1: 3, 2
    rows of experts    4, 5                          4, 3
"""

import dataclasses
import math
from typing import Any

import jax
import numpy as np

from emu.program import Known
from kernels.moe.mesh.form import MixtureOfExperts, MoeForm
from kernels.moe.routing import Routing
from kernels.refusal import refuse
from kernels.trainium.tiles import PARTITIONS, KnownTable


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MoeWork:
    """Known integers of one core, or of all with leading dimensions of chips and cores.

    Attributes:
      sends: int32 `[local, chips]`, rows of each local expert's number that go to each chip; local
        expert i of all chips of a period stand in one list, in the order of chips.
      comes: int32 `[local, chips]`, rows that come from each chip.
      gathers: int32 `[local, tiles]`, 1 where a tile of 128 rows of such a list has any.
      lists: int32 `[local]`, rows of each list.
      live: int32 `[local, blocks]`, tiles that a block of an expert has.
    """

    sends: KnownTable
    comes: KnownTable
    gathers: KnownTable
    lists: KnownTable
    live: KnownTable


def dealt(totals: np.ndarray, chips: int) -> np.ndarray:
    """Totals `[..., experts]` as counts of each chip, `[..., chips, experts]`, as equal as can be.

    What is left over goes to other chips for each expert, so that all chips have equally many
    tokens to send where that is possible: 5 and 3 tokens of 2 chips are 3 + 1 and 2 + 2.
    """
    totals = np.asarray(totals, np.int64)
    even, rest = np.divmod(totals, chips)
    before = np.cumsum(rest, axis=-1) - rest
    turn = (np.arange(chips)[:, None] - before[..., None, :]) % chips
    return even[..., None, :] + (turn < rest[..., None, :])


def checked(
    counts: Any, routing: Routing, *, chips: int, tokens: int | np.ndarray
) -> np.ndarray:
    """Counts `[..., chips, experts]` as a form takes them.

    Args:
      counts: whole numbers.
      routing: whose.
      chips: of the mesh.
      tokens: of each chip, or int `[chips]`; padding is none.

    Raises:
      LimitExceeded: not whole numbers, another shape, an expert that more tokens chose than there
        are, or other sums than `tokens · chosen` a chip.
    """
    found = np.asarray(counts)
    wanted = chips, routing.experts
    if found.dtype.kind not in "iu" or found.shape[-2:] != wanted:
        refuse(
            f"counts are {found.dtype}{list(found.shape)}, must be integers {list(wanted)}: tokens "
            "of each chip that chose each expert; of totals `dealt(totals, chips)` makes such"
        )
    of_chip = np.broadcast_to(tokens, (chips,))
    expected = of_chip * routing.chosen
    sums = found.sum(-1)
    wrong = (sums != expected) | ((found < 0) | (found > of_chip[:, None])).any(-1)
    if wrong.any():
        *_, chip = np.argwhere(wrong)[0]
        own = found[wrong][0]
        refuse(
            f"counts of chip {chip} add up to {own.sum()} and are {own.min()} to {own.max()}, must "
            f"add up to {of_chip[chip]} tokens · {routing.chosen} chosen = {expected[chip]} and be "
            f"0 to {of_chip[chip]}"
        )
    return found.astype(np.int64)


def sized(
    mixture: MixtureOfExperts,
    counts: np.ndarray,
    *,
    cores: int,
    tiles: int,
    rows: int,
    dtype: Any,
    capacity: int | None = None,
    padded: bool = False,
    **options: Any,
) -> MoeForm:
    """The form whose buffers have room for all of `[..., chips, experts]` counts."""
    chips = counts.shape[-2]
    # Room is known only when it is known what is sent, which does not depend on the room.
    small = MoeForm(
        mixture,
        chips,
        cores,
        tiles,
        rows,
        PARTITIONS,
        PARTITIONS,
        dtype,
        capacity=capacity,
        padded=padded,
        **options,
    )
    sends, comes = _pairs(small, _taken(small, counts))

    def room(rows: np.ndarray) -> int:
        return PARTITIONS * max(1, math.ceil(int(rows.max()) / PARTITIONS))

    taken = comes.sum(-1)
    # A row of zeros, which padding reads, stands behind the rows of the first list.
    lists = sends.sum(-1) + padded
    expert_rows = room(taken + padded)
    sent_rows = room(lists) if small.crosses else expert_rows
    return dataclasses.replace(small, sent_rows=sent_rows, expert_rows=expert_rows)


def _taken(form: MoeForm, counts: np.ndarray) -> np.ndarray:
    """Rows that experts are sent: all, or places for as many as they take."""
    if form.capacity is None:
        return counts
    return np.full_like(counts, form.capacity)


def _pairs(form: MoeForm, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows that each core sends and takes: `[..., chips, cores, local, chips]` each."""
    *lead, chips, _ = counts.shape
    period = form.period
    by_expert = counts.reshape(*lead, chips, form.cores, form.local, period)
    sends = np.zeros((*lead, chips, form.cores, form.local, chips), np.int64)
    for chip in range(chips):
        # The chips of its own group.
        first = chip // period * period
        group = slice(first, first + period)
        sends[..., chip, :, :, group] = by_expert[..., chip, :, :, :]
    # Of `[from, core, local, to]`, what comes to a chip is its column.
    comes = np.moveaxis(sends, -1, len(lead))
    comes = np.moveaxis(comes, len(lead) + 1, -1)
    return sends, comes


def work(form: MoeForm, counts: np.ndarray) -> MoeWork:
    """Known integers of all cores, `[..., chips, cores, ...]` each.

    Args:
      form: which has room for them.
      counts: int `[..., chips, experts]`, see `checked`.

    Raises:
      LimitExceeded: a form with less room.
    """
    sends, comes = _pairs(form, _taken(form, counts))
    lists = sends.sum(-1)
    taken = comes.sum(-1)
    if lists.max() + form.padded > form.sent_rows or taken.max() > form.expert_rows:
        refuse(
            f"a core sends up to {lists.max()} rows and an expert takes up to {taken.max()}, the "
            f"form has room for {form.sent_rows} and {form.expert_rows}: size it by these counts"
        )

    def live(rows: np.ndarray, size: int, blocks: int, most: int) -> np.ndarray:
        """Tiles of each block: 5 tiles in blocks of 4 are 4 and 1."""
        tiles = -(-rows // size)
        return np.clip(tiles[..., None] - most * np.arange(blocks), 0, most)

    def known(table: np.ndarray) -> Known:
        return Known(table.astype(np.int32))

    return MoeWork(
        sends=known(sends),
        comes=known(comes),
        gathers=known(live(lists, PARTITIONS, form.sent_rows // PARTITIONS, 1)),
        lists=known(lists),
        live=known(live(taken, form.tile_rows, form.blocks, form.tiles_at_once)),
    )


__all__ = ["MoeWork", "checked", "dealt", "sized", "work"]
