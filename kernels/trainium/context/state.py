"""What queries have attended to so far: carried from source to source in HBM, a block at a time.

A block's lanes lie side by side, so its whole state is two DMAs each way: copies of one query tile
would be short, and a queue starts one every 0.85 us at most. The GpSimd Engine, which has little
else to do, takes the lanes apart and puts them together.

A block of 2 heads by 4 query tiles of 128 rows, with values of 128 features, has 8 lanes:

    output      [128, 8, 128]   output[:, 3] is lane 3: the last query tile of the first head
    statistics  [128, 8, 2]     statistics[:, 3, MAXIMUM] and statistics[:, 3, SUM] are its rows'

The second is so small that maximum and sum share a tile: 64 bytes a partition in one transfer.
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
from kernels.attention.fold import Fold
from kernels.trainium.context.sizes import ContextTiling
from kernels.trainium.flash.online_softmax import LOWEST, RunningSoftmax
from kernels.trainium.flash.step import Attended
from kernels.trainium.tiles import index

STORES = DMA_QUEUES[len(LOAD_QUEUES) :]

# What `statistics` holds of a row, and how many numbers that is.
MAXIMUM, SUM = 0, 1
STATISTICS = 2


def statistics_of(fold: Fold) -> dict[str, int]:
    """Where among a row's statistics each component of a fold stands, but for the values."""
    places = {x.name: SUM for x in fold.sums}
    return places if fold.greatest is None else {fold.greatest: MAXIMUM, **places}


class State(NamedTuple):
    """What all queries of a rank attended to, in HBM; a unit is a block of a group of heads.

    Attributes:
      output: weighted values, not divided by the sum yet, `[units, rows, lanes, value_dim]`.
      statistics: float32 row maximum and sum, `[units, rows, lanes, 2]`.
    """

    output: Hbm
    statistics: Hbm


class Unit(NamedTuple):
    """The state of one unit in SBUF: its lanes side by side.

    Attributes:
      output: `[rows, lanes, value_dim]`.
      statistics: `[rows, lanes, 2]`.
    """

    output: Sbuf
    statistics: Sbuf


class LaneState(NamedTuple):
    """The state of one query tile in SBUF.

    Attributes:
      output: `[rows, value_dim]`.
      maximum, total: of its rows' weights, `[rows, 1]`.
    """

    output: Sbuf
    maximum: Sbuf
    total: Sbuf


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
    statistics = hbm(*lanes, STATISTICS)
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
    statistics = sbuf(*lanes, STATISTICS, buffers=buffers)
    return Unit(output, statistics)


def load(tiles: Unit, state: State, unit: KnownInt) -> Unit:
    """One unit's state, from HBM."""
    loaded = []
    # Output and statistics on a queue each, and stores on two others: none stands behind another.
    for tile, whole, queue in zip(tiles, state, LOAD_QUEUES, strict=True):
        own = index(whole, unit)
        loaded.append(dma_load(tile, own, queue=queue))
    return Unit(*loaded)


def store(state: State, tiles: Unit, unit: KnownInt) -> State:
    """One unit's state, to HBM."""
    stored = []
    for whole, tile, queue in zip(state, tiles, STORES, strict=True):
        stored.append(dma_store.at[unit](whole, tile, queue=queue))
    return State(*stored)


def nothing(tiles: Unit, tiling: ContextTiling) -> Unit:
    """A unit whose queries have attended to nothing yet."""
    output = memset(tiles.output, value=0.0, engine="gpsimd")
    statistics = tiles.statistics
    # Merged with a part of maximum m this counts exp(scale · (−2¹⁰⁰ − m)) = 0.
    at_first = {MAXIMUM: LOWEST, SUM: 0.0}
    for place, value in at_first.items():
        column = sbuf(tiling.rows, 1)
        column = memset(column, value=value, engine="gpsimd")
        for lane in range(tiling.block_lanes):
            statistics = _put(statistics, column, lane, place)
    return Unit(output, statistics)


def views(tiles: Unit, lane: int) -> LaneState:
    """A lane of a unit, as part of its tiles."""
    statistics = tiles.statistics
    # Slices of one place, not the place itself: a column keeps its dimension, `[rows, 1]`.
    maximum = statistics[:, lane, MAXIMUM : MAXIMUM + 1]
    total = statistics[:, lane, SUM : SUM + 1]
    output = tiles.output[:, lane]
    return LaneState(output, maximum, total)


def opened(tiles: Unit, lane: int, tiling: ContextTiling) -> LaneState:
    """A lane of a unit in tiles of its own, which instructions can write."""
    copies = []
    for view in views(tiles, lane):
        copy = sbuf(*view.shape, dtype=view.dtype, buffers=tiling.buffers)
        # A step writes whole tiles, and a lane is a slice of one.
        copies.append(tensor_copy(copy, view, engine="gpsimd"))
    return LaneState(*copies)


def closed(tiles: Unit, lanes: Sequence[LaneState], *, last: bool) -> Unit:
    """The lanes of a unit back in its tiles; of the `last` nobody needs the maxima any more."""
    output, statistics = tiles
    first_feature = 0
    for lane, own in enumerate(lanes):
        output = _put(output, own.output, lane, first_feature)
        if not last:
            statistics = _put(statistics, own.maximum, lane, MAXIMUM)
        statistics = _put(statistics, own.total, lane, SUM)
    return Unit(output, statistics)


def _put(dst: Sbuf, src: Sbuf, lane: int, first: int) -> Sbuf:
    """Copies `[rows, n]` to a lane of `[rows, lanes, ...]`, from place `first` on."""
    places = slice(first, first + src.shape[1])
    return tensor_copy.at[:, lane, places](dst, src, engine="gpsimd")


def stepping(lane: LaneState, tiling: ContextTiling) -> Attended:
    """A lane as a step takes it: with a spare tile for the next maximum."""
    spare = sbuf(tiling.rows, 1, buffers=tiling.buffers)
    softmax = RunningSoftmax(lane.maximum, lane.total, spare)
    return Attended(lane.output, softmax)


def stepped(done: Attended) -> LaneState:
    """A lane after its steps."""
    softmax = done.softmax
    return LaneState(done.output, softmax.maximum, softmax.total)


def merge(old: LaneState, new: LaneState, tiling: ContextTiling) -> LaneState:
    """Two parts of what a query tile attends to as one, in the tiles of the first.

    The recipe `bf16-o`: the second output is rounded to bfloat16 before, the merged one after.

    Pseudocode:
      m = max(m0, m1); a, b = exp(scale (m0 - m)), exp(scale (m1 - m)); l = l0 a + l1 b
      o = o0 a + o1 b
    """

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
    raised = tensor_tensor(raised, old.maximum, new.maximum, op="max")
    old_decay = decay(old.maximum)
    new_decay = decay(new.maximum)
    kept_total = tensor_tensor(
        old.total,
        old.total,
        old_decay,
        op="multiply",
    )
    total = scalar_tensor_tensor(
        kept_total,
        new.total,
        new_decay,
        kept_total,
        op0="multiply",
        op1="add",
    )
    added = new.output
    carried = old.output.dtype
    # The Vector Engine could add it as it is; the recipe is AWS's, which stores each part in
    # bfloat16.
    if added.dtype != carried:
        rounded = sbuf(*added.shape, dtype=carried, buffers=tiling.buffers)
        added = tensor_copy(rounded, added)
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
    maximum = tensor_copy(old.maximum, raised, engine="gpsimd")
    return LaneState(output, maximum, total)


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
    "unit_tiles",
    "views",
]
