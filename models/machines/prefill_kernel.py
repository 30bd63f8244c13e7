"""A model's prefill as one kernel: embedding, every layer, the last token's logits, on one core."""

import dataclasses
from collections.abc import Sequence
from typing import TypeAlias

import jax
from jax import lax

from emu.annotations import KnownInt, PyTree
from emu.trainium.spaces import Hbm
from kernels.trainium.layer import head
from kernels.trainium.layer.layer import layer
from kernels.trainium.layer.ring import Given, LayerRing
from kernels.trainium.layer.tiling import LayerTiling

CHIP, CORE = "ring", "core"  # mesh axes

Pieces: TypeAlias = Sequence[tuple[jax.Array, jax.Array]]
"""Logits and places of the largest, for each width of column block; see `head.lm_head`."""


@dataclasses.dataclass(frozen=True)
class KernelForm:
    """What the prefill kernel is written for.

    Attributes:
      tiling: one core's sizes.
      rings: of the chips, one for each distinct variant of attention.
      core_axis: mesh axis of the cores that share a chip's work; None where one does it all.
      owner: the chip that holds the prompt's last token.
      last: its slot there.
    """

    tiling: LayerTiling
    rings: tuple[LayerRing, ...]
    core_axis: str | None
    owner: int
    last: int


def prefill_kernel(
    weights: PyTree,
    ids: Hbm,
    cos: Hbm,
    sin: Hbm,
    given: Sequence[Given],
    kinds: KnownInt | None,
    *,
    form: KernelForm,
) -> tuple[Pieces, Hbm, Hbm]:
    """The whole prefill on one core: embedding, every layer, the last token's logits.

    Args:
      weights: as `models.machines.pack` packs them.
      ids: int32 `[blocks, tiles, rows]`, this chip's tokens.
      cos, sin: float32 `[blocks, tiles, rows, head_dim / 2]`.
      given: what each of the form's rings is given.
      kinds: known, which of them each layer has, int32 `[layers]`; None: there is one.
      form: what the kernel is written for.

    Returns:
      `lm_head`'s pieces, and k and v stacked over layers.
    """
    tiling = form.tiling
    first_head: KnownInt = 0
    # Asked only where heads differ: cores that ask for their index are followed one by one.
    if form.core_axis and any(ring.scores.heads_differ for ring in form.rings):
        first_head = lax.axis_index(form.core_axis) * tiling.heads
    cases = [
        ring.attend(*own, first_head=first_head)
        for ring, own in zip(form.rings, given, strict=True)
    ]

    def one_layer(
        x: Hbm, one: tuple[PyTree, KnownInt | None]
    ) -> tuple[Hbm, tuple[Hbm, Hbm]]:
        layer_weights, kind = one

        def attend(q: Hbm, k: Hbm, v: Hbm) -> Hbm:
            # Each distinct variant is in the program once, whatever the number of layers.
            if kind is None:
                return cases[0](q, k, v)
            return lax.switch(kind, cases, q, k, v)

        x, k, v = layer(
            x,
            cos,
            sin,
            layer_weights,
            attend,
            tiling,
            core_axis=form.core_axis,
        )
        return x, (k, v)

    x = head.embed(ids, weights["embed"], tiling)
    x, (k, v) = lax.scan(one_layer, x, (weights["layers"], kinds))
    # A known integer: the clock sees that the other chips pass the head by, though all run one
    # program.
    mine = lax.axis_index(CHIP) == form.owner
    pieces = head.lm_head(
        x, weights["norm"], weights["heads"], tiling, row=form.last, mine=mine
    )
    return pieces, k, v


__all__ = ["CHIP", "CORE", "KernelForm", "Pieces", "prefill_kernel"]
