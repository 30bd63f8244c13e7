"""What queries have attended to so far: carried from source to source in HBM, a block at a time.

A block's lanes lie side by side, so its whole state is two DMAs each way: copies of one query tile
would be short, and a queue starts one every 0.85 us at most. The GpSimd Engine, which has little
else to do, takes the lanes apart and puts them together.

A block of 2 heads by 4 query tiles of 128 rows, with values of 128 features, has 8 lanes:

    output      [128, 8, 128]   output[:, 3] is lane 3: the last query tile of the first head
    statistics  [128, 8, 2]     statistics[:, 3, MAXIMUM] and statistics[:, 3, SUM] are its rows'

The second is so small that maximum and sum share a tile: 64 bytes a partition in one transfer. A
monoid may have further sums, which stand behind these, or no greatest: then it has no maximum and
no sum of plain weights, and its sums stand alone; without any there is no such tile.
"""

from collections.abc import Sequence
from typing import NamedTuple

from emu.annotations import KnownInt
from emu.trainium.datasheets.sheet import DMA_QUEUES, LOAD_QUEUES
from emu.trainium.engines.memory import dma_load, dma_store, hbm, sbuf
from emu.trainium.isa import (
    activation,
    memset,
    scalar_tensor_tensor,
    tensor_copy,
    tensor_scalar,
    tensor_tensor,
)
from emu.trainium.spaces import Hbm, Sbuf
from kernels.scores.fold import Fold
from kernels.trainium.context.sizes import ContextTiling
from kernels.trainium.flash.fold_step import Summed
from kernels.trainium.flash.online_softmax import LOWEST, RunningSoftmax
from kernels.trainium.flash.step import Attended
from kernels.trainium.tiles import index

STORES = DMA_QUEUES[len(LOAD_QUEUES) :]

# What `statistics` holds of a row, and how many numbers that is.
MAXIMUM, SUM = 0, 1
STATISTICS = 2


def statistics_of(fold: Fold) -> dict[str, int]:
    """Where among a row's statistics each component of a fold stands, but for the values."""
    if fold.greatest is None:
        return {x.name: place for place, x in enumerate(fold.sums)}
    places = {fold.greatest: MAXIMUM}
    further = STATISTICS
    for own in fold.sums:
        # The sum of plain weights is there in any case: it costs nothing.
        if own.coefficient is None:
            places[own.name] = SUM
        else:
            places[own.name] = further
            further += 1
    return places


class State(NamedTuple):
    """What all queries of a rank attended to, in HBM; a unit is a block of a group of heads.

    Attributes:
      output: weighted values, not divided by the sum yet, `[units, rows, lanes, value_dim]`.
      statistics: float32 row maximum and sum, `[units, rows, lanes, 2]`; see `statistics_of`.
    """

    output: Hbm
    statistics: Hbm | None


class Unit(NamedTuple):
    """The state of one unit in SBUF: its lanes side by side.

    Attributes:
      output: `[rows, lanes, value_dim]`.
      statistics: `[rows, lanes, 2]`, None where there are none.
    """

    output: Sbuf
    statistics: Sbuf | None

    def statistic(self, place: int) -> Sbuf:
        """One of the statistics, `[rows, lanes]`."""
        assert self.statistics is not None
        return self.statistics[:, :, place]


class LaneState(NamedTuple):
    """The state of one query tile in SBUF.

    Attributes:
      output: `[rows, value_dim]`.
      statistics: of its rows, `[rows, 1]` each.
    """

    output: Sbuf
    statistics: tuple[Sbuf, ...]


def empty_state(tiling: ContextTiling, parts: int = 1) -> State:
    """HBM buffers for the state of every query tile.

    Args:
      tiling: sizes.
      parts: how many states, one after another.
    """
    lanes = parts * tiling.units, tiling.rows, tiling.block_lanes
    # Rows on partitions and lanes within them, as in SBUF: a partition's part is one contiguous
    # run.
    output = hbm(*lanes, tiling.value_dim, dtype=tiling.carried)
    statistics = hbm(*lanes, tiling.statistics) if tiling.statistics else None
    return State(output, statistics)


def unit_tiles(tiling: ContextTiling, *, buffers: int = 1) -> Unit:
    """SBUF for one unit's state."""
    lanes = tiling.rows, tiling.block_lanes
    output = sbuf(
        *lanes,
        tiling.value_dim,
        dtype=tiling.carried,
        buffers=buffers,
    )
    statistics = None
    if tiling.statistics:
        statistics = sbuf(*lanes, tiling.statistics, buffers=buffers)
    return Unit(output, statistics)


def load(tiles: Unit, state: State, unit: KnownInt) -> Unit:
    """One unit's state, from HBM."""
    # Output and statistics on a queue each, and stores on two others: none stands behind another.
    first, second = LOAD_QUEUES
    output = dma_load(tiles.output, index(state.output, unit), queue=first)
    statistics = None
    if tiles.statistics is not None and state.statistics is not None:
        own = index(state.statistics, unit)
        statistics = dma_load(tiles.statistics, own, queue=second)
    return Unit(output, statistics)


def store(state: State, tiles: Unit, unit: KnownInt) -> State:
    """One unit's state, to HBM."""
    first, second = STORES
    output = dma_store.at[unit](state.output, tiles.output, queue=first)
    statistics = None
    if tiles.statistics is not None and state.statistics is not None:
        put = dma_store.at[unit]
        statistics = put(state.statistics, tiles.statistics, queue=second)
    return State(output, statistics)


def nothing(tiles: Unit, tiling: ContextTiling) -> Unit:
    """A unit whose queries have attended to nothing yet."""
    output = memset(tiles.output, value=0.0, engine="gpsimd")
    statistics = tiles.statistics
    for place in range(tiling.statistics):
        # Merged with a part of maximum m this counts exp(scale · (−2¹⁰⁰ − m)) = 0.
        value = LOWEST if tiling.greatest and place == MAXIMUM else 0.0
        column = sbuf(tiling.rows, 1)
        column = memset(column, value=value, engine="gpsimd")
        for lane in range(tiling.block_lanes):
            assert statistics is not None
            statistics = _put(statistics, column, lane, place)
    return Unit(output, statistics)


def views(tiles: Unit, lane: int, tiling: ContextTiling) -> LaneState:
    """A lane of a unit, as part of its tiles."""
    columns = []
    for place in range(tiling.statistics):
        assert tiles.statistics is not None
        # Slices of one place, not the place itself: a column keeps its dimension, `[rows, 1]`.
        columns.append(tiles.statistics[:, lane, place : place + 1])
    return LaneState(tiles.output[:, lane], tuple(columns))


def opened(tiles: Unit, lane: int, tiling: ContextTiling) -> LaneState:
    """A lane of a unit in tiles of its own, which instructions can write."""
    output, statistics = views(tiles, lane, tiling)
    copies = []
    for view in (output, *statistics):
        copy = sbuf(*view.shape, dtype=view.dtype, buffers=tiling.buffers)
        # A step writes whole tiles, and a lane is a slice of one.
        copies.append(tensor_copy(copy, view, engine="gpsimd"))
    own, *columns = copies
    return LaneState(own, tuple(columns))


def closed(
    tiles: Unit, lanes: Sequence[LaneState], tiling: ContextTiling, *, last: bool
) -> Unit:
    """The lanes of a unit back in its tiles; of the `last` nobody needs the maxima any more."""
    output, statistics = tiles
    first_feature = 0
    for lane, own in enumerate(lanes):
        output = _put(output, own.output, lane, first_feature)
        for place, column in enumerate(own.statistics):
            if last and tiling.greatest and place == MAXIMUM:
                continue
            assert statistics is not None
            statistics = _put(statistics, column, lane, place)
    return Unit(output, statistics)


def _put(dst: Sbuf, src: Sbuf, lane: int, first: int) -> Sbuf:
    """Copies `[rows, n]` to a lane of `[rows, lanes, ...]`, from place `first` on."""
    places = slice(first, first + src.shape[1])
    return tensor_copy.at[:, lane, places](dst, src, engine="gpsimd")


def stepping(lane: LaneState, tiling: ContextTiling) -> Attended:
    """A lane as a softmax's step takes it: with a spare tile for the next maximum."""
    maximum, total = lane.statistics
    return Attended(lane.output, _running(maximum, total, tiling))


def stepped(done: Attended) -> LaneState:
    """A lane after its steps."""
    softmax = done.softmax
    return LaneState(done.output, (softmax.maximum, softmax.total))


def summing(lane: LaneState, tiling: ContextTiling) -> Summed:
    """A lane as the step of other weights takes it."""
    if not tiling.greatest:
        return Summed(lane.output, None, lane.statistics)
    maximum, total, *sums = lane.statistics
    return Summed(lane.output, _running(maximum, total, tiling), tuple(sums))


def summed(done: Summed) -> LaneState:
    """A lane after those steps."""
    softmax = done.softmax
    of_all = () if softmax is None else (softmax.maximum, softmax.total)
    return LaneState(done.output, (*of_all, *done.sums))


def _running(maximum: Sbuf, total: Sbuf, tiling: ContextTiling) -> RunningSoftmax:
    spare = sbuf(tiling.rows, 1, buffers=tiling.buffers)
    return RunningSoftmax(maximum, total, spare)


def merge(old: LaneState, new: LaneState, tiling: ContextTiling) -> LaneState:
    """Two parts of what a query tile attends to as one, in the tiles of the first.

    The recipe `bf16-o`: the second output is rounded to bfloat16 before, the merged one after.

    Pseudocode:
      m = max(m0, m1); a, b = exp(scale (m0 - m)), exp(scale (m1 - m)); l = l0 a + l1 b
      o = o0 a + o1 b
    Without a greatest a and b are 1.
    """
    if not tiling.greatest:
        return _added(old, new, tiling)

    def column() -> Sbuf:
        return sbuf(tiling.rows, 1, buffers=tiling.buffers)

    def decay(maximum: Sbuf) -> Sbuf:
        fallen = column()
        fallen = tensor_tensor(
            fallen,
            maximum,
            raised,
            op="subtract",
            engine="gpsimd",
        )
        return activation(
            column(),
            fallen,
            op="exp",
            scale=tiling.step.scale,
        )

    # Maxima 3 and 5, sums 10 and 4, at scale 1: relative to 5 they are 10 · e⁻² + 4 = 5.35. Two
    # parts that saw nothing have exp(0) = 1 of sums 0: still 0, where −inf would have given NaN.
    raised = column()
    old_maximum, *old_sums = old.statistics
    new_maximum, *new_sums = new.statistics
    raised = tensor_tensor(raised, old_maximum, new_maximum, op="max")
    old_decay = decay(old_maximum)
    new_decay = decay(new_maximum)
    sums = []
    for old_sum, new_sum in zip(old_sums, new_sums, strict=True):
        kept_sum = tensor_tensor(
            old_sum,
            old_sum,
            old_decay,
            op="multiply",
        )
        both = scalar_tensor_tensor(
            kept_sum,
            new_sum,
            new_decay,
            kept_sum,
            op0="multiply",
            op1="add",
        )
        sums.append(both)
    added = _carried(new.output, old.output, tiling)
    # In float32: only the sum of both parts is rounded.
    kept = sbuf(*old.output.shape, buffers=tiling.buffers)
    kept = tensor_scalar(kept, old.output, old_decay, op="multiply")
    output = scalar_tensor_tensor(
        old.output,
        added,
        new_decay,
        kept,
        op0="multiply",
        op1="add",
    )
    # A lane stays in its own tiles, through a loop over parts as well.
    maximum = tensor_copy(old_maximum, raised, engine="gpsimd")
    return LaneState(output, (maximum, *sums))


def _added(old: LaneState, new: LaneState, tiling: ContextTiling) -> LaneState:
    """Two parts of sums that are relative to no greatest."""
    added = _carried(new.output, old.output, tiling)
    output = tensor_tensor(old.output, old.output, added, op="add")
    sums = [
        tensor_tensor(old_sum, old_sum, new_sum, op="add", engine="gpsimd")
        for old_sum, new_sum in zip(old.statistics, new.statistics, strict=True)
    ]
    return LaneState(output, tuple(sums))


def _carried(added: Sbuf, old: Sbuf, tiling: ContextTiling) -> Sbuf:
    """A part's output in the dtype in which the other is carried."""
    if added.dtype == old.dtype:
        return added
    # The Vector Engine could add it as it is; the recipe is AWS's, which stores each part in
    # bfloat16.
    rounded = sbuf(*added.shape, dtype=old.dtype, buffers=tiling.buffers)
    return tensor_copy(rounded, added)


__all__ = [
    "MAXIMUM",
    "STORES",
    "SUM",
    "LaneState",
    "State",
    "Unit",
    "closed",
    "empty_state",
    "load",
    "merge",
    "nothing",
    "opened",
    "stepped",
    "statistics_of",
    "stepping",
    "store",
    "summed",
    "summing",
    "unit_tiles",
    "views",
]
