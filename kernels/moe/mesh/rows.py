"""Rows on their way: gathered from tokens, to the chips of their experts, back, and summed up."""

import jax.numpy as jnp
from jax import lax

from emu.annotations import KnownInt
from emu.tracing.loop import loop
from emu.trainium.datasheets.sheet import LOAD_QUEUES
from emu.trainium.engines.dma_rows import dma_gather_rows
from emu.trainium.engines.memory import dma_load, dma_store, hbm, sbuf
from emu.trainium.isa import (
    scalar_tensor_tensor,
    tensor_copy,
    tensor_scalar,
    tensor_tensor,
)
from emu.trainium.links.row_exchange import chip_all_to_all_rows
from emu.trainium.spaces import Hbm, Sbuf
from kernels.moe.mesh.expert import LoadTile
from kernels.moe.mesh.form import MoeForm
from kernels.moe.mesh.places import Assigned, Slots
from kernels.moe.mesh.work import MoeWork
from kernels.trainium.tiles import PARTITIONS, KnownTable, index, part

Lists = tuple[Hbm, Hbm | None]
"""Tokens of this core's lists, and factors of their rows; see `places.listed`."""


def _fetched(h: Hbm, tokens: Hbm, factors: Hbm | None) -> Sbuf:
    """Rows of the tokens that a part of a list names.

    Args:
      h: HBM `[tokens, hidden padded]`.
      tokens: HBM int32 `[rows, 1]`.
      factors: HBM float32 `[rows, 1]`, what rows are multiplied by; None: nothing.
    """
    shape = tokens.shape[0], h.shape[1]
    which = sbuf(shape[0], 1, dtype=jnp.int32, buffers=2)
    which = dma_load(which, tokens)
    rows = sbuf(*shape, dtype=h.dtype, buffers=2)
    rows = dma_gather_rows(rows, h, which)
    if factors is None:
        return rows
    own = sbuf(shape[0], 1, buffers=2)
    own = dma_load(own, factors)
    scaled = sbuf(*shape, dtype=h.dtype, buffers=2)
    return tensor_scalar(scaled, rows, own, op="multiply")


def own_tiles(h: Hbm, lists: Lists, local: KnownInt, form: MoeForm) -> LoadTile:
    """Tiles of an expert whose tokens are all of this chip."""
    tokens, factors = lists
    flat = h.reshape(form.tokens, form.hidden_padded)

    def load(tile: KnownInt) -> Sbuf:
        def own(table: Hbm) -> Hbm:
            of_expert = index(table, local).reshape(form.sent_rows, 1)
            return part(of_expert, tile * form.tile_rows, form.tile_rows, axis=0)

        return _fetched(flat, own(tokens), None if factors is None else own(factors))

    return load


def come_tiles(come: Hbm, form: MoeForm) -> LoadTile:
    """Tiles of an expert's rows as they came, HBM `[expert rows, hidden padded]`."""

    def load(tile: KnownInt) -> Sbuf:
        rows = sbuf(form.tile_rows, form.hidden_padded, dtype=form.dtype, buffers=2)
        own = part(come, tile * form.tile_rows, form.tile_rows, axis=0)
        return dma_load(rows, own)

    return load


def gathered(h: Hbm, lists: Lists, work: MoeWork, form: MoeForm) -> Hbm:
    """This core's lists with the rows that they name: HBM `[local, sent rows, hidden padded]`."""
    tokens, factors = lists
    flat = h.reshape(form.tokens, form.hidden_padded)
    tiles = form.sent_rows // PARTITIONS

    def of_list(local: KnownInt) -> Hbm:
        own = index(tokens, local)
        own_factors = None if factors is None else index(factors, local)
        needed = index(work.gathers, local)
        out = hbm(tiles, PARTITIONS, form.hidden_padded, dtype=form.dtype)

        def tile(out: Hbm, number: KnownInt) -> Hbm:
            def fetch(out: Hbm) -> Hbm:
                factors = None if own_factors is None else index(own_factors, number)
                rows = _fetched(flat, index(own, number), factors)
                return dma_store.at[number](out, rows)

            def pass_by(out: Hbm) -> Hbm:
                return out

            return lax.cond(index(needed, number) != 0, fetch, pass_by, out)

        return loop(tile, out, tiles)

    stored = lax.map(of_list, jnp.arange(form.local, dtype=jnp.int32))
    return stored.reshape(form.local, form.sent_rows, form.hidden_padded)


def exchanged(lists: Hbm, rows: KnownTable, room: int, after: Hbm, axis: str) -> Hbm:
    """Each list to the chips it is for: HBM `[local, room, hidden padded]`.

    Args:
      lists: HBM `[local, most rows, hidden padded]`.
      rows: known int32 `[local, chips]`.
      room: rows that what comes may take.
      after: HBM, what must be there before.
      axis: mesh axis over chips.
    """
    _, _, width = lists.shape

    def of_list(given: tuple[Hbm, KnownInt]) -> Hbm:
        own, numbers = given
        room_for = hbm(room, width, dtype=lists.dtype)
        return chip_all_to_all_rows(room_for, own, numbers, after, axis=axis)

    return lax.map(of_list, (lists, rows))


def combined(
    rows: Hbm,
    slots: Slots,
    assigned: Assigned,
    of_shared: Hbm | None,
    form: MoeForm,
) -> Hbm:
    """The weighted sum of what experts made of each token, the best one's first.

    Args:
      rows: HBM `[all lists' rows, part]`: of every row this core's part of its features.
      slots: where each token's stand.
      assigned: what they count by.
      of_shared: HBM `[tiles, rows, part]`, added last; None: nothing.
      form: sizes.

    Returns:
      HBM `[tiles, rows, part]`; sums in float32, from the best expert to the last.
    """
    shape = form.rows, form.part

    def tile(number: KnownInt) -> Hbm:
        to = index(slots.everywhere, number, 1)
        taken = assigned.taken
        own_taken = None if taken is None else index(taken, number, 1)
        total = sbuf(*shape, buffers=2)
        for pick in range(form.routing.chosen):
            column = slice(pick, pick + 1)
            own = sbuf(*shape, dtype=form.dtype, buffers=2)
            # On two queues in turn: one starts a copy while the other still has descriptors.
            queue = LOAD_QUEUES[pick % len(LOAD_QUEUES)]
            own = dma_gather_rows(own, rows, to[:, column], queue=queue)
            weight = None if own_taken is None else own_taken[:, column]
            total = _added(total, own, weight, first=pick == 0)
        out = sbuf(*shape, dtype=form.dtype, buffers=2)
        if of_shared is None:
            return dma_store(tensor_copy(out, total, engine="scalar"))
        added = sbuf(*shape, dtype=form.dtype, buffers=2)
        added = dma_load(added, index(of_shared, number))
        if assigned.shared is None:
            return dma_store(tensor_tensor(out, total, added, op="add"))
        factor = part(assigned.shared, number, 1, axis=1)
        return dma_store(
            scalar_tensor_tensor(out, added, factor, total, op0="multiply", op1="add")
        )

    return lax.map(tile, jnp.arange(form.tiles, dtype=jnp.int32))


def _added(total: Sbuf, own: Sbuf, weight: Sbuf | None, *, first: bool) -> Sbuf:
    """The sum with one more expert's rows; no weight: they were weighed before."""
    if weight is None:
        if first:
            return tensor_copy(total, own)
        return tensor_tensor(total, total, own, op="add")
    if first:
        return tensor_scalar(total, own, weight, op="multiply")
    return scalar_tensor_tensor(total, own, weight, total, op0="multiply", op1="add")


__all__ = ["Lists", "combined", "come_tiles", "exchanged", "gathered", "own_tiles"]
