"""A model's prefill as one kernel: embedding, every layer, the last token's logits, on one core."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
from jax import lax

from emu.annotations import KnownInt, PyTree
from emu.trainium.spaces import Hbm
from kernels.moe.mesh.form import MoeForm
from kernels.moe.mesh.mixture import moe_layer
from kernels.moe.mesh.places import Order
from kernels.moe.mesh.work import MoeWork
from kernels.trainium.layer import head
from kernels.trainium.layer.form import Positions, PrefillForm
from kernels.trainium.layer.layer import Cached, attention_half, layer
from kernels.trainium.layer.qkv import Project, qkv
from kernels.trainium.layer.ring import Attend, Given, LayerRing
from kernels.trainium.layer.tiling import LayerTiling
from kernels.trainium.stages.latent import LatentForm, latent_qkv
from kernels.trainium.tiles import index
from models.machines.prefill_experts import Mixtures
from models.machines.prefill_forms import Choices, LayerRun

CHIP, CORE = "ring", "core"  # mesh axes

Pieces: TypeAlias = Sequence[tuple[jax.Array, jax.Array]]
"""Logits and places of the largest, for each width of column block; see `head.lm_head`."""


@dataclasses.dataclass(frozen=True)
class KernelForm:
    """What the prefill kernel is written for.

    Attributes:
      tiling: one core's sizes.
      rings: of the chips, one for each distinct variant of attention.
      runs: of its layers.
      core_axis: mesh axis of the cores that share a chip's work; None where one does it all.
      owner: the chip that holds the prompt's last token.
      last: its slot there.
      embedding_scale: what the embedding is multiplied by.
      logit_soft_cap: of logits; None: they have none.
      mixture: of its layers with experts; None: none has.
      latent: of the projections before latent attention; None: no layer has it.
    """

    tiling: LayerTiling
    rings: tuple[LayerRing, ...]
    runs: tuple[LayerRun, ...]
    core_axis: str | None
    owner: int
    last: int
    embedding_scale: float = 1.0
    logit_soft_cap: float | None = None
    mixture: MoeForm | None = None
    latent: LatentForm | None = None


def prefill_kernel(
    weights: PyTree,
    ids: Hbm,
    positions: Positions,
    given: Sequence[Given],
    choices: Sequence[Choices],
    mixtures: Mixtures | None,
    *,
    form: KernelForm,
) -> tuple[Pieces, Sequence[Hbm], Sequence[Cached], Sequence[Cached]]:
    """The whole prefill on one core: embedding, every layer, the last token's logits.

    Args:
      weights: as `models.machines.pack` packs them.
      ids: int32 `[blocks, tiles, rows]`, this chip's tokens.
      positions: of the tokens; RoPE's tables stacked, those of all rotations.
      given: what each of the form's rings is given.
      choices: known, of each of the form's runs.
      mixtures: of the form's layers with experts; None: none has.
      form: what the kernel is written for.

    Returns:
      `lm_head`'s pieces; of each run with experts its layers' counts, int32 `[layers, 1, experts]`;
      and of each run k and v stacked over its layers.
    """
    tiling = form.tiling
    first_head: KnownInt = 0
    # Asked only where heads differ: cores that ask for their index are followed one by one.
    if form.core_axis and any(ring.scores.heads_differ for ring in form.rings):
        first_head = lax.axis_index(form.core_axis) * tiling.heads
    attends = [
        ring.attend(*own, first_head=first_head)
        for ring, own in zip(form.rings, given, strict=True)
    ]
    x = head.embed(ids, weights["embed"], tiling, scale=form.embedding_scale)
    keys, values, counts = [], [], []
    works = (None,) * len(form.runs) if mixtures is None else mixtures.works
    each = zip(form.runs, choices, weights["layers"], works, strict=True)
    for run, of_layers, own, work in each:
        one_layer = functools.partial(
            _layer_of_run,
            run=run,
            attends=[attends[ring] for ring in run.rings],
            positions=positions,
            form=form,
            tables=None if mixtures is None else mixtures.tables,
        )
        x, (k, v, counted) = lax.scan(one_layer, x, (own, of_layers, work))
        if counted is not None:
            counts.append(counted)
        keys.append(k)
        values.append(v)
    # A known integer: the clock sees that the other chips pass the head by, though all run one
    # program.
    mine = lax.axis_index(CHIP) == form.owner
    pieces = head.lm_head(
        x,
        weights["norm"],
        weights["heads"],
        tiling,
        row=form.last,
        mine=mine,
        soft_cap=form.logit_soft_cap,
    )
    return pieces, counts, keys, values


def _layer_of_run(
    x: Hbm,
    one: tuple[PyTree, Choices, MoeWork | None],
    *,
    run: LayerRun,
    attends: Sequence[Attend],
    positions: Positions,
    form: KernelForm,
    tables: Order | None,
) -> tuple[Hbm, tuple[Cached, Cached, Hbm | None]]:
    """One layer: the next hidden states, its k and v, and what its tokens chose, if anything."""
    layer_weights, choice, work = one
    own = _own_tables(positions, run.table if choice.table is None else choice.table)
    # Each distinct form and variant is in the program once, whatever the number of layers.
    projects = [_projecting(each, own, form) for each in run.forms]
    project, attend = _chosen(choice.form, projects), _chosen(choice.ring, attends)
    given = x, layer_weights, project, attend, form.tiling
    if work is None:
        # Of layers whose weights are alike, so is the MLP.
        gate = run.forms[0].gate
        x, k, v = layer(*given, gate=gate, core_axis=form.core_axis)
        return x, (k, v, None)
    assert tables is not None and form.mixture is not None
    x, k, v = attention_half(*given, core_axis=form.core_axis)
    mixed = moe_layer(
        x,
        layer_weights["mlp_norm"],
        layer_weights["mixture"],
        tables,
        work,
        form.mixture,
        eps=form.tiling.eps,
        chip_axis=CHIP,
        core_axis=form.core_axis,
    )
    return mixed.rows, (k, v, mixed.counts)


def _projecting(of_layer: PrefillForm, own: Positions, form: KernelForm) -> Project:
    """A layer's projections to what its attention takes."""
    axis = form.core_axis
    if form.latent is not None:
        return functools.partial(
            latent_qkv, positions=own, form=form.latent, core_axis=axis
        )
    sizes = form.tiling
    return functools.partial(
        qkv, positions=own, tiling=sizes, form=of_layer, core_axis=axis
    )


def _own_tables(positions: Positions, number: KnownInt) -> Positions:
    """The tables of one rotation."""
    if positions.cos is None or positions.sin is None:
        return positions
    cos, sin = index(positions.cos, number), index(positions.sin, number)
    return positions._replace(cos=cos, sin=sin)


def _chosen(
    number: KnownInt | None, cases: Sequence[Callable[..., Any]]
) -> Callable[..., Any]:
    """The case of a known number; None: the only one."""
    if number is None:
        return cases[0]
    return functools.partial(lax.switch, number, cases)


__all__ = ["CHIP", "CORE", "KernelForm", "Pieces", "prefill_kernel"]
