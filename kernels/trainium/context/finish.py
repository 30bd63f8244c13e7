"""From what queries have attended to, to attention's output and log-sum-exp."""

from collections.abc import Iterator
from typing import Literal, overload

import jax.numpy as jnp
import numpy as np
from jax import lax

from emu.annotations import KnownInt
from emu.boxes import ds
from emu.tracing import side_by_side
from emu.trainium.engines.memory import dma_store, hbm, psum, sbuf
from emu.trainium.isa import (
    activation,
    memset,
    nc_transpose,
    reciprocal,
    tensor_copy,
    tensor_copy_predicated,
    tensor_immediate,
    tensor_scalar,
    tensor_tensor,
)
from emu.trainium.spaces import Hbm, Sbuf
from kernels.trainium.context.finishing import Finishing
from kernels.trainium.context.sizes import ContextTiling
from kernels.trainium.context.state import (
    MAXIMUM,
    STORES,
    SUM,
    State,
    Unit,
    load,
    unit_tiles,
)
from kernels.trainium.flash.step import TileRing
from kernels.trainium.tiles import BANKS, PARTITIONS, divide, split

# Below any sum of weights, which is 1 at least, and above 0: its inverse squared is finite.
LEAST_SUM = 2.0**-40

Finished = tuple[Hbm, Hbm | None]  # output and log-sum-exp, which a monoid may not have


@overload
def finish(
    state: State,
    tiling: ContextTiling,
    *,
    transposed: bool,
    logsumexp: Literal[True],
    finishing: Finishing | None = None,
) -> Finished: ...


@overload
def finish(
    state: State,
    tiling: ContextTiling,
    *,
    transposed: bool,
    logsumexp: Literal[False],
    finishing: Finishing | None = None,
) -> Hbm: ...


def finish(
    state: State,
    tiling: ContextTiling,
    *,
    transposed: bool,
    logsumexp: bool,
    finishing: Finishing | None = None,
) -> Hbm | Finished:
    """Divides by the row sums, or does what a user makes of them; rows that attended to nothing
    become 0.

    Args:
      state: after every source.
      tiling: sizes.
      transposed: puts features on partitions, as a projection wants them.
      logsumexp: whether it is wanted.
      finishing: a user's last step; None: the division.

    Returns:
      HBM `[heads, tiles, rows, value_dim]`, transposed `[..., value_dim, rows]`, in the dtype of
      the queries (16 bits for 8-bit floats); and, if wanted, the log-sum-exp of the scores, float32
      `[groups, blocks, rows, lanes]`, -inf where a row attended to nothing, or None of a monoid
      that does not sum their exponentials.
    """
    rows = tiling.rows
    features = tiling.value_dim
    shape = (features, rows) if transposed else (rows, features)
    turned = tiling.turned or tiling.output
    # An array has 128 partitions: 256 features are turned in two parts.
    parts, part_size = split(features, PARTITIONS)
    bank_shape = (part_size, rows) if transposed else shape
    # A unit is a block of a group of heads: a part along both.
    by_unit = tiling.groups, tiling.block_heads, tiling.blocks, tiling.block_tiles
    out = hbm(*by_unit, *shape, dtype=tiling.output)
    lse = None
    if logsumexp and (finishing is None or finishing.tells_log_sum_exp):
        lse = hbm(tiling.groups, 1, tiling.blocks, rows, tiling.block_lanes)

    def own_number(unit: KnownInt) -> KnownInt:
        return unit

    def finish_unit(into: Finished, at: KnownInt, unit: KnownInt) -> Finished:
        out, lse = into
        group, block = divide(at, tiling.blocks)
        tiles = unit_tiles(tiling, buffers=tiling.buffers)
        own = load(tiles, state, unit)
        least = None
        if finishing is None or lse is not None:
            least = _least(own, tiling)
        if finishing is not None:
            lanes = finishing.lanes(own, unit, tiling)
        else:
            assert least is not None
            lanes = _divided(own, least, tiling)
        # Four banks, so that transposes and the copies out of them overlap.
        fresh = [psum(*bank_shape, dtype=turned) for _ in range(BANKS // 2)]
        banks = TileRing(*fresh)
        for lane, y in enumerate(lanes):
            # Lanes stand head by head.
            head, tile = divmod(lane, tiling.block_tiles)
            place = group, head, block, tile
            queue = STORES[lane % 2]
            if not transposed or parts == 1:
                stored = _transposed(y, banks, tiling) if transposed else y
                out = dma_store.at[place](out, stored, queue=queue)
                continue
            for number in range(parts):
                start = number * part_size
                own_part = lax.slice_in_dim(y, start, start + part_size, axis=1)
                stored = _transposed(own_part, banks, tiling)
                own_rows = ds(start, part_size)
                out = dma_store.at[*place, own_rows](out, stored, queue=queue)
        if lse is not None and least is not None:
            y = _logsumexp(own, least, tiling)
            lse = dma_store.at[group, 0, block](lse, y, queue=STORES[1])
        return out, lse

    units = jnp.arange(tiling.units, dtype=jnp.int32)
    out, lse = side_by_side.tiles(
        own_number, units, into=(out, lse), emit=finish_unit, axis=(0, 2)
    )
    out = out.reshape(tiling.heads, tiling.tiles, *shape)
    if not logsumexp:
        return out
    by_group = None
    if lse is not None:
        by_group = lse.reshape(
            tiling.groups,
            tiling.blocks,
            rows,
            tiling.block_lanes,
        )
    return out, by_group


def _columns(tiling: ContextTiling) -> Sbuf:
    return sbuf(tiling.rows, tiling.block_lanes, buffers=tiling.buffers)


def _least(own: Unit, tiling: ContextTiling) -> Sbuf:
    """The sums of weights, `[rows, lanes]`, that something may be divided by."""
    total = own.statistic(SUM)
    # A row that attended to nothing has sum 0 and output 0, which any divisor leaves. Without it a
    # padded row would be 0 · ∞ = NaN; a real row's sum has a weight exp(0) = 1, of its maximum, and
    # stays.
    least = _columns(tiling)
    return tensor_immediate(least, total, op="max", value=LEAST_SUM)


def _divided(own: Unit, least: Sbuf, tiling: ContextTiling) -> Iterator[Sbuf]:
    """The output of each lane over the sum of its weights, one after the other."""
    inverse = _columns(tiling)
    # Of all lanes at once: their sums stand side by side, where columns of one would each cost an
    # instruction.
    inverse = reciprocal(inverse, least)
    for lane in range(tiling.block_lanes):
        yield _normalised(own, lane, inverse, tiling)


def _normalised(own: Unit, lane: int, inverse: Sbuf, tiling: ContextTiling) -> Sbuf:
    """A lane's output over the sum of its weights, `[rows, value_dim]`."""
    y = sbuf(
        tiling.rows,
        tiling.value_dim,
        dtype=tiling.output,
        buffers=tiling.buffers,
    )
    output = own.output[:, lane]
    factor = inverse[:, lane : lane + 1]
    return tensor_scalar(y, output, factor, op="multiply")


def _transposed(y: Sbuf, banks: TileRing, tiling: ContextTiling) -> Sbuf:
    bank = banks.take()
    bank = nc_transpose(bank, y)
    turned = banks.give(bank)
    tile = sbuf(
        y.shape[1],
        tiling.rows,
        dtype=tiling.output,
        buffers=tiling.buffers,
    )
    return tensor_copy(tile, turned)


def _logsumexp(own: Unit, least: Sbuf, tiling: ContextTiling) -> Sbuf:
    """`scale · maximum + log(sum)`, and -inf by a predicated copy where the sum is 0.

    Args:
      own: a unit's state.
      least: its sums, or `LEAST_SUM` where they are 0: a logarithm of 0 is not asked for.
      tiling: sizes.
    """
    # Maxima are of scores before scaling, as the scale is applied in the exponent.
    maximum = own.statistic(MAXIMUM)
    total = own.statistic(SUM)
    log = _columns(tiling)
    log = activation(log, least, op="log")
    scaled = _columns(tiling)
    scaled = tensor_immediate(
        scaled,
        maximum,
        op="multiply",
        value=tiling.step.scale,
    )
    lse = _columns(tiling)
    lse = tensor_tensor(lse, scaled, log, op="add")
    empty = sbuf(
        tiling.rows,
        tiling.block_lanes,
        dtype=jnp.uint8,
        buffers=tiling.buffers,
    )
    # Exactly 0: of no weight was anything added, and of any the sum is 1 at least.
    empty = tensor_immediate(empty, total, op="equal", value=0.0)
    # Copied over the result, not computed: a product with the predicate would be 0 · −inf = NaN
    # elsewhere.
    lowest = _columns(tiling)
    lowest = memset(lowest, value=-np.inf, engine="gpsimd")
    return tensor_copy_predicated(lse, lowest, empty)


__all__ = ["Finished", "finish"]
