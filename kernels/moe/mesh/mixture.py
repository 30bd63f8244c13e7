"""A mixture of experts in the kernel of one core: route, dispatch, compute, return, sum up."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from emu.annotations import KnownInt
from emu.trainium.engines.memory import dma_load, dma_store, hbm, sbuf
from emu.trainium.isa import memset, tensor_tensor
from emu.trainium.links.chip_collectives import chip_all_gather
from emu.trainium.links.collectives import all_gather, reduce_scatter
from emu.trainium.links.row_exchange import all_to_all_rows
from emu.trainium.spaces import Hbm, Sbuf
from kernels.moe.mesh import places, rows
from kernels.moe.mesh.expert import ExpertWeights, LoadTile, expert, shared
from kernels.moe.mesh.form import MoeForm
from kernels.moe.mesh.places import Order
from kernels.moe.mesh.router import RouterWeights
from kernels.moe.mesh.work import MoeWork
from kernels.trainium.layer.norm import in_every_row, rms_norm
from kernels.trainium.tiles import index


class MoeWeights(NamedTuple):
    """A mixture's weights on one core, in HBM; `kernels.moe.mesh.weights` packs them.

    Attributes:
      router: of all experts.
      experts: of this core, with a leading dimension of them.
      shared: this core's part of the MLP that every token goes through, or None.
    """

    router: RouterWeights
    experts: ExpertWeights
    shared: ExpertWeights | None = None


class Mixed(NamedTuple):
    """What a mixture gives.

    Attributes:
      rows: HBM `[tiles, rows, hidden padded]`, on every core of the chip.
      counts: HBM int32 `[1, experts]`: how many of the chip's tokens chose each expert.
    """

    rows: Hbm
    counts: Hbm


def mixture(
    h: Hbm,
    weights: MoeWeights,
    order: Order,
    work: MoeWork,
    form: MoeForm,
    *,
    chip_axis: str | None = None,
    core_axis: str | None = None,
) -> Mixed:
    """Every token through the experts that it chooses, weighed and summed up.

    Dimensions:
      T: tokens of a chip, `tiles · rows`. E: experts, of which k are chosen. C, K: chips, cores.

    Args:
      h: HBM `[tiles, rows, hidden padded]`, normalised, the same on every core of a chip.
      weights: of this core.
      order: tables of the form, see `places.order`.
      work: known integers of this core, see `kernels.moe.mesh.work`.
      form: sizes.
      chip_axis: mesh axis over chips; None where there is one.
      core_axis: mesh axis over the cores of a chip; None where there is one.

    Returns:
      The sum, and what it was chosen by. Weighted sums are in float32, in the order in which a
      token's experts are chosen, whichever cores and chips computed them.

    Pseudocode:
      for tiles of tokens: route; count tokens before, by expert
      list[expert's rows] = token, for everything chosen
      gather rows by the lists; exchange them between chips
      for own experts, for tiles of their rows: gated MLP
      exchange results between chips; columns of them between cores
      for tiles of tokens: sum of weight · row, gathered; join columns of all cores
    """
    real = places.tokens_of(order)
    assigned, counted = places.assign(h, weights.router, real, form)
    counts = places.export(counted)
    slots = places.slots(assigned, counted, order, real, form)
    lists = places.listed(slots, assigned, form)
    come = None
    if form.crosses:
        assert chip_axis is not None
        announced = counts
        if form.capacity is None:
            # Of a chip's rows another knows only from its counts where they go.
            announced = hbm(form.chips, form.routing.experts, dtype=jnp.int32)
            announced = chip_all_gather(announced, counts, axis=chip_axis)
        sent = rows.gathered(h, lists, work, form)
        come = rows.exchanged(sent, work.sends, form.expert_rows, announced, chip_axis)
    # Between the exchange's start and the experts, who wait for it.
    of_shared = None
    if weights.shared is not None:
        of_shared = _summed_over_cores(shared(h, weights.shared, form), form, core_axis)

    def of_expert(given: tuple[KnownInt, ExpertWeights, KnownInt, Hbm | None]) -> Hbm:
        local, own, live, came = given
        load: LoadTile
        if came is None:
            load = rows.own_tiles(h, lists, local, form)
        else:
            load = rows.come_tiles(came, form)
        return expert(load, own, live, form)

    numbers = jnp.arange(form.local, dtype=jnp.int32)
    made = lax.map(of_expert, (numbers, weights.experts, work.live, come))
    made = made.reshape(form.local, -1, form.width)
    if form.crosses:
        assert chip_axis is not None
        made = rows.exchanged(made, work.comes, form.sent_rows, counts, chip_axis)
    columns = _columns(made, work, form, core_axis)
    if real is not None:
        columns = _with_zeros(columns, form)
    own = rows.combined(columns, slots, assigned, of_shared, form)
    if core_axis is None or form.cores == 1:
        return Mixed(own, counts)
    whole = hbm(form.tiles, form.rows, form.width, dtype=form.dtype)
    whole = all_gather(whole, own, axis=core_axis)
    return Mixed(whole[..., : form.hidden_padded], counts)


def _summed_over_cores(made: Hbm, form: MoeForm, axis: str | None) -> Hbm:
    """The cores' parts of the shared MLP, summed: this core's part of the features."""
    if axis is None or form.cores == 1:
        return made
    own = hbm(form.tiles, form.rows, form.part, dtype=form.dtype)
    return reduce_scatter(own, made, axis=axis)


def _columns(made: Hbm, work: MoeWork, form: MoeForm, axis: str | None) -> Hbm:
    """Of the rows of all cores' lists this core's columns: HBM `[rows, part]`."""
    if axis is None or form.cores == 1:
        return made.reshape(-1, form.part)
    shape = form.cores, form.local, form.sent_rows, form.part
    own = hbm(*shape, dtype=form.dtype)
    own = all_to_all_rows(own, made, work.lists, axis=axis)
    return own.reshape(-1, form.part)


def _with_zeros(columns: Hbm, form: MoeForm) -> Hbm:
    """The same with the row that padding reads."""
    zeros = sbuf(1, form.part, dtype=form.dtype)
    zeros = memset(zeros, value=0.0, engine="gpsimd")
    return dma_store.at[form.zeros : form.zeros + 1](columns, zeros)


# --- with its norm and its residual ---


def moe_layer(
    x: Hbm,
    norm: Hbm,
    weights: MoeWeights,
    order: Order,
    work: MoeWork,
    form: MoeForm,
    *,
    eps: float,
    chip_axis: str | None = None,
    core_axis: str | None = None,
) -> Mixed:
    """`x + mixture(norm(x))`, in place of a layer's second half.

    Args:
      x: HBM `[..., rows, hidden padded]` of `tiles · rows` tokens, such as a layer's hidden states
        after attention, `[blocks, tiles, rows, hidden padded]`.
      norm: HBM `[1, hidden padded]`.
      weights, order, work, form, chip_axis, core_axis: as for `mixture`.
      eps: of RMSNorm.

    Returns:
      The next hidden states, of the shape of `x`, and the counts.
    """
    flat = x.reshape(form.tiles, form.rows, form.hidden_padded)
    shape = form.rows, form.hidden_padded

    def loaded(tile: Hbm) -> Sbuf:
        own = sbuf(*shape, dtype=form.dtype, buffers=2)
        return dma_load(own, tile)

    weight = in_every_row(norm, form.rows)

    def normalised(tile: Hbm) -> Hbm:
        return dma_store(
            rms_norm(loaded(tile), weight, size=form.mixture.hidden, eps=eps, buffers=2)
        )

    h = lax.map(normalised, flat)
    mixed = mixture(
        h, weights, order, work, form, chip_axis=chip_axis, core_axis=core_axis
    )

    def residual(number: KnownInt) -> Hbm:
        y = loaded(index(flat, number))
        added = loaded(index(mixed.rows, number))
        return dma_store(tensor_tensor(y, y, added, op="add"))

    summed = lax.map(residual, jnp.arange(form.tiles, dtype=jnp.int32))
    return Mixed(summed.reshape(x.shape), mixed.counts)


__all__ = ["Mixed", "MoeWeights", "mixture", "moe_layer"]
