"""Where each token's row stands among those of its expert, computed on the machine by counting.

A matmul of ones below the diagonal by the mask of chosen experts counts, for each token, the tokens
before it that chose each expert; a second one, of ones, counts those of the whole tile. Example:
three tokens choose experts 1, 0 and 1, so the mask is `01 10 01`. Before them `00 01 11` tokens
chose experts 0 and 1: the third token's row is the second one of expert 1.

A core keeps a list of the rows that it sends on, or holds for its own experts: the experts of one
local number behind each other, in the order of chips, then those of the next. Its entries are
numbers of tokens. What of a list no token fills names token 0, a row that is computed and not read.
"""

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from emu.annotations import KnownInt
from emu.boxes import ds
from emu.tracing.loop import loop
from emu.trainium.datasheets.sheet import DMA_QUEUES, LOAD_QUEUES
from emu.trainium.engines.dma_rows import dma_scatter_rows
from emu.trainium.engines.memory import dma_load, dma_store, psum, sbuf
from emu.trainium.isa import (
    affine_select,
    iota,
    memset,
    nc_matmul,
    nc_n_gather,
    tensor_copy,
    tensor_immediate,
    tensor_scalar,
    tensor_tensor,
    tensor_tensor_scan_immediate,
)
from emu.trainium.spaces import Hbm, Sbuf
from kernels.moe.mesh.form import MoeForm
from kernels.moe.mesh.router import Chosen, RouterWeights, choose, hold
from kernels.refusal import refuse
from kernels.trainium.layer.norm import in_every_row
from kernels.trainium.streaming import fetch
from kernels.trainium.tiles import PARTITIONS, index, part

STORE_QUEUES = DMA_QUEUES[len(LOAD_QUEUES) :]

# Of no list: rows there are never written. Places are counted in float32, exact to 2**24.
NOWHERE = 2**23


class Order(NamedTuple):
    """Where each expert's rows begin, float32 `[1, experts]` each, in HBM.

    Attributes:
      continues: 1 where an expert's rows stand right behind those of the expert before, else 0.
      own: first place of an expert in the lists of this core, `NOWHERE` of another core's.
      everywhere: the same in the lists of all cores, one behind the other.
      real: float32 `[rows, tiles]`, 1 for a token and 0 for padding, which chooses nothing and is
        given zeros by experts; None: all are tokens.
    """

    continues: Hbm
    own: Hbm
    everywhere: Hbm
    real: Hbm | None = None


# Of which dimensions are mesh axes, for `Program`.
TABLE_SPECS: Any = Order((), ("core",), (), ("chip",))  # type: ignore[arg-type]


class Assigned(NamedTuple):
    """What all tokens of a chip chose, in SBUF.

    Attributes:
      experts: int32 `[rows, tiles, picks]`.
      factors: float32, likewise, what an expert's input is multiplied by; None: nothing.
      taken: float32, likewise, what an expert's output is multiplied by; 0 where the expert is
        full; None: nothing.
      places: float32, likewise: how many tokens before chose the expert.
      shared: float32 `[rows, tiles]`, factors of the shared MLP; None where it has no gate.
    """

    experts: Sbuf
    factors: Sbuf | None
    taken: Sbuf | None
    places: Sbuf
    shared: Sbuf | None


class Slots(NamedTuple):
    """Rows of lists, int32 `[rows, tiles, picks]`: of this core's own, and of all cores'."""

    own: Sbuf
    everywhere: Sbuf


def order(form: MoeForm, real: np.ndarray | None = None) -> Order:
    """The tables of a form; `own` leads with the cores, `[cores, 1, experts]`.

    Args:
      form: sizes.
      real: bool `[chips, tokens]`, which are tokens, where the form is `padded`. The table leads
        with the chips, `[chips, rows, tiles]`.
    """
    if form.padded != (real is not None):
        told = "none was given" if real is None else "one was given"
        refuse(f"padded is {form.padded}, but of a table of tokens {told}")
    numbers = np.arange(form.routing.experts)
    core, own = np.divmod(numbers, form.columns)
    local, chip = np.divmod(own, form.period)
    begins = local * form.sent_rows
    continues = chip > 0
    if form.capacity is not None:
        # Each expert has places of its own, filled or not.
        begins = begins + chip * form.capacity
        continues = np.zeros_like(continues)
    places = form.cores * form.local * form.sent_rows
    if places > NOWHERE:
        refuse(
            f"lists of {places} rows on the cores of a chip, at most {NOWHERE}: give a chip fewer "
            "tokens"
        )
    cores = np.arange(form.cores)[:, None]
    mine = np.where(core == cores, begins, NOWHERE)

    def table(values: np.ndarray) -> Any:
        return values.astype(np.float32)[..., None, :]

    everywhere = core * (form.local * form.sent_rows) + begins
    of_tokens: Any = None
    if real is not None:
        by_tile = real.reshape(-1, form.tiles, form.rows)
        of_tokens = by_tile.swapaxes(1, 2).astype(np.float32)
    return Order(table(continues), table(mine), table(everywhere), of_tokens)


@dataclasses.dataclass(frozen=True)
class _Counting:
    """Ones below the diagonal, and ones: SBUF `[rows, rows]` each."""

    before: Sbuf
    all: Sbuf


def _counting(form: MoeForm) -> _Counting:
    ones = sbuf(form.rows, form.rows, dtype=form.arithmetic)
    ones = memset(ones, value=1.0)
    before = sbuf(form.rows, form.rows, dtype=form.arithmetic)
    # Stationary, so the row is the token that is counted and the column who counts: 1 where the
    # column is greater, `column - row - 1 >= 0`.
    before = affine_select(
        before, ones, jnp.int32(-1), fill=0.0, steps=(1,), multiplier=-1
    )
    return _Counting(before, ones)


def assign(
    h: Hbm, weights: RouterWeights, real: Sbuf | None, form: MoeForm
) -> tuple[Assigned, Sbuf]:
    """Routes all tokens of the chip and counts them.

    Args:
      h: HBM `[tiles, rows, hidden padded]`, normalised.
      weights: the router's.
      real: SBUF `[rows, tiles]`, see `Order`; None: all are tokens.
      form: sizes.

    Returns:
      What they chose, and how many chose each expert: SBUF float32 `[rows, experts]`, the same in
      every row.
    """
    router = hold(weights, form)
    counting = _counting(form)
    shape = form.rows, form.tiles, form.picks
    shared = sbuf(form.rows, form.tiles) if form.mixture.shared_is_scaled else None
    on_input, capacity = form.routing.on_input, form.capacity
    kept = Assigned(
        sbuf(*shape, dtype=jnp.int32),
        sbuf(*shape) if on_input else None,
        None if on_input and capacity is None else sbuf(*shape),
        sbuf(*shape),
        shared,
    )
    experts = form.routing.experts
    counted = memset(sbuf(form.rows, experts), value=0.0)

    def tile(carry: tuple[Assigned, Sbuf], number: KnownInt) -> tuple[Assigned, Sbuf]:
        kept, counted = carry
        own = sbuf(form.rows, form.hidden_padded, dtype=form.dtype, buffers=2)
        own = dma_load(own, index(h, number))
        chosen = choose(own, router, form)
        mask = chosen.mask
        if real is not None:
            counts = sbuf(*mask.shape, dtype=mask.dtype)
            own_real = part(real, number, 1, axis=1)
            mask = tensor_scalar(counts, mask, own_real, op="multiply")
        overwrite = jnp.int32(0)
        before = psum(form.rows, experts)
        before = nc_matmul(before, counting.before, mask, overwrite)
        so_far = sbuf(form.rows, experts)
        so_far = tensor_tensor(so_far, before, counted, op="add")
        places = sbuf(form.rows, form.picks)
        places = nc_n_gather(places, so_far, chosen.experts)
        of_tile = psum(form.rows, experts)
        of_tile = nc_matmul(of_tile, counting.all, mask, overwrite)
        counted = tensor_tensor(counted, of_tile, counted, op="add")
        put = tensor_copy.at[:, number]
        shared = kept.shared
        if shared is not None and chosen.shared is not None:
            shared = tensor_copy.at[:, ds(number, 1)](shared, chosen.shared)
        kept = Assigned(
            put(kept.experts, chosen.experts),
            None if kept.factors is None else put(kept.factors, chosen.weights),
            None
            if kept.taken is None
            else _taken(kept.taken, chosen, places, number, form),
            put(kept.places, places),
            shared,
        )
        return kept, counted

    return loop(tile, (kept, counted), form.tiles)


def _taken(
    taken: Sbuf, chosen: Chosen, places: Sbuf, number: KnownInt, form: MoeForm
) -> Sbuf:
    """Puts what a tile's rows are multiplied by in the end to those of all tiles."""
    put = tensor_copy.at[:, number]
    if form.capacity is None:
        return put(taken, chosen.weights)
    fits = sbuf(*places.shape)
    fits = tensor_immediate(fits, places, op="less", value=float(form.capacity))
    if form.routing.on_input:
        return put(taken, fits)
    # 0 where the expert is full before the token's turn.
    return tensor_tensor.at[:, number](taken, chosen.weights, fits, op="multiply")


def export(counted: Sbuf) -> Hbm:
    """Counts as integers, HBM int32 `[1, experts]`."""
    whole = sbuf(1, counted.shape[1], dtype=jnp.int32)
    whole = tensor_copy(whole, counted[:1])
    return dma_store(whole)


def tokens_of(order: Order) -> Sbuf | None:
    """Which rows are tokens, in SBUF."""
    return None if order.real is None else fetch(order.real)


def slots(
    assigned: Assigned,
    counted: Sbuf,
    order: Order,
    real: Sbuf | None,
    form: MoeForm,
) -> Slots:
    """The row of a list for everything that was chosen."""
    rows = form.rows
    begins = None
    if form.crosses and form.capacity is None:
        continues = in_every_row(order.continues, rows)
        # `state = continues · state + count`: rows up to and with each expert, within its list.
        through = sbuf(*counted.shape)
        through = tensor_tensor_scan_immediate(
            through, continues, counted, initial=0.0, op0="multiply", op1="add"
        )
        begins = sbuf(*counted.shape)
        begins = tensor_tensor(begins, through, counted, op="subtract")
    places = assigned.places
    if form.capacity is not None:
        places = sbuf(*places.shape)
        # Who found an expert full reads some row of it, with a weight of 0.
        most = float(form.capacity - 1)
        places = tensor_immediate(places, assigned.places, op="min", value=most)
    found = _added(places, begins, order.everywhere, assigned, form)
    everywhere = _whole(found, real, form.zeros)
    if form.capacity is not None:
        places = _nowhere_if_full(assigned.places, form)
    elif form.cores == 1 and real is None:
        # One core's lists are all there are.
        return Slots(everywhere, everywhere)
    found = _added(places, begins, order.own, assigned, form)
    return Slots(_whole(found, real, NOWHERE), everywhere)


def _nowhere_if_full(places: Sbuf, form: MoeForm) -> Sbuf:
    assert form.capacity is not None
    full = sbuf(*places.shape)
    full = tensor_immediate(
        full,
        places,
        op="greater_equal",
        value=float(form.capacity),
        op1="multiply",
        value1=float(NOWHERE),
    )
    moved = sbuf(*places.shape)
    return tensor_tensor(moved, places, full, op="add")


def _added(
    places: Sbuf,
    begins: Sbuf | None,
    first: Hbm,
    assigned: Assigned,
    form: MoeForm,
) -> Sbuf:
    """Where each expert's rows begin, plus a token's place among them: float32, as `places`."""
    base = in_every_row(first, form.rows)
    if begins is not None:
        both = sbuf(*base.shape)
        base = tensor_tensor(both, base, begins, op="add")
    of_picks = sbuf(*places.shape)
    of_picks = nc_n_gather(of_picks, base, assigned.experts)
    return tensor_tensor(of_picks, of_picks, places, op="add")


def _whole(rows: Sbuf, real: Sbuf | None, elsewhere: int) -> Sbuf:
    """Rows as integers, `elsewhere` for what is no token."""
    whole = sbuf(*rows.shape, dtype=jnp.int32)
    if real is None:
        return tensor_copy(whole, rows)
    # Views: a token's number for all that it chose.
    wide = lax.broadcast_in_dim(real, rows.shape, (0, 1))
    kept = sbuf(*rows.shape)
    kept = tensor_tensor(kept, rows, wide, op="multiply")
    other = sbuf(*real.shape)
    # `elsewhere · (1 - real)`.
    value = float(elsewhere)
    other = tensor_immediate(
        other, real, op="multiply", value=-value, op1="add", value1=value
    )
    wide = lax.broadcast_in_dim(other, rows.shape, (0, 1))
    return tensor_tensor(whole, kept, wide, op="add")


def listed(slots: Slots, assigned: Assigned, form: MoeForm) -> tuple[Hbm, Hbm | None]:
    """This core's lists, by local number.

    Returns:
      Tokens, HBM int32 `[local, tiles, 128, 1]`; and what their rows are multiplied by, float32 of
      the same shape, where weights are on experts' inputs.
    """
    room = form.local * form.sent_rows
    tokens = _empty(room, jnp.int32)
    weights = _empty(room, jnp.float32) if form.routing.on_input else None

    def of_tile(
        lists: tuple[Hbm, Hbm | None], number: KnownInt
    ) -> tuple[Hbm, Hbm | None]:
        tokens, weights = lists
        own = sbuf(form.rows, 1, dtype=jnp.int32, buffers=2)
        own = iota(own, number * form.rows, steps=(1,), multiplier=1)
        to = index(slots.own, number, 1)
        of_input = assigned.factors
        factors = None if of_input is None else index(of_input, number, 1)
        for pick in range(form.routing.chosen):
            column = slice(pick, pick + 1)
            # Short copies, of which a queue starts one every 0.85 us: by two queues in turn.
            queue = STORE_QUEUES[pick % len(STORE_QUEUES)]
            tokens = dma_scatter_rows(tokens, own, to[:, column], queue=queue)
            if weights is not None and factors is not None:
                weights = dma_scatter_rows(
                    weights, factors[:, column], to[:, column], queue=queue
                )
        return tokens, weights

    tokens, weights = loop(of_tile, (tokens, weights), form.tiles)
    shape = form.local, form.sent_rows // PARTITIONS, PARTITIONS, 1
    if weights is not None:
        weights = weights.reshape(shape)
    return tokens.reshape(shape), weights


def _empty(room: int, dtype: type) -> Hbm:
    """A list of zeros, HBM `[room, 1]`."""
    zeros = sbuf(PARTITIONS, room // PARTITIONS, dtype=dtype)
    zeros = memset(zeros, value=0.0, engine="gpsimd")
    return dma_store(zeros).reshape(room, 1)


__all__ = [
    "TABLE_SPECS",
    "NOWHERE",
    "Assigned",
    "Order",
    "Slots",
    "assign",
    "export",
    "listed",
    "order",
    "slots",
    "tokens_of",
]
