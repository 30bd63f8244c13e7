"""A model's prefill as one kernel: embedding, every layer, the last token's logits, on one core."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
from jax import lax

from emu.annotations import KnownInt, PyTree
from emu.trainium.spaces import Hbm
from kernels.trainium.layer import head
from kernels.trainium.layer.form import Positions
from kernels.trainium.layer.layer import layer
from kernels.trainium.layer.qkv import qkv
from kernels.trainium.layer.ring import Attend, Given, LayerRing
from kernels.trainium.layer.tiling import LayerTiling
from kernels.trainium.tiles import index
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
    """

    tiling: LayerTiling
    rings: tuple[LayerRing, ...]
    runs: tuple[LayerRun, ...]
    core_axis: str | None
    owner: int
    last: int
    embedding_scale: float = 1.0
    logit_soft_cap: float | None = None


def prefill_kernel(
    weights: PyTree,
    ids: Hbm,
    positions: Positions,
    given: Sequence[Given],
    choices: Sequence[Choices],
    *,
    form: KernelForm,
) -> tuple[Pieces, Sequence[Hbm], Sequence[Hbm]]:
    """The whole prefill on one core: embedding, every layer, the last token's logits.

    Args:
      weights: as `models.machines.pack` packs them.
      ids: int32 `[blocks, tiles, rows]`, this chip's tokens.
      positions: of the tokens; RoPE's tables stacked, those of all rotations.
      given: what each of the form's rings is given.
      choices: known, of each of the form's runs.
      form: what the kernel is written for.

    Returns:
      `lm_head`'s pieces, and of each run k and v stacked over its layers.
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
    keys, values = [], []
    for run, of_layers, own in zip(form.runs, choices, weights["layers"], strict=True):
        one_layer = functools.partial(
            _layer_of_run,
            run=run,
            attends=[attends[ring] for ring in run.rings],
            positions=positions,
            form=form,
        )
        x, (k, v) = lax.scan(one_layer, x, (own, of_layers))
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
    return pieces, keys, values


def _layer_of_run(
    x: Hbm,
    one: tuple[PyTree, Choices],
    *,
    run: LayerRun,
    attends: Sequence[Attend],
    positions: Positions,
    form: KernelForm,
) -> tuple[Hbm, tuple[Hbm, Hbm]]:
    """One layer: the next hidden states, and its k and v."""
    layer_weights, choice = one
    own = _own_tables(positions, run.table if choice.table is None else choice.table)
    # Each distinct form and variant is in the program once, whatever the number of layers.
    projects = [
        functools.partial(qkv, positions=own, tiling=form.tiling, form=each)
        for each in run.forms
    ]
    x, k, v = layer(
        x,
        layer_weights,
        _chosen(choice.form, projects),
        _chosen(choice.ring, attends),
        form.tiling,
        # Of layers whose weights are alike, so is the MLP.
        gate=run.forms[0].gate,
        core_axis=form.core_axis,
    )
    return x, (k, v)


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
