"""HBM of a plan's fullest chip: weights as kernels hold them, the prompt's cache, working buffers.

What all cores of a chip read alike, such as a router, is held once; what is a core's own, such as
its heads' columns or its copy of latents, as often as there are cores. Working buffers are those of
the layer's program that needs most, its arguments that are neither weights nor cache included, and
results once for every core, as `emu.Program.memory` finds them.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

from emu.errors import OutOfMemory
from emu.program import Program
from emu.trainium import with_cores
from models.errors import ModelError
from models.machines.layer_time import checked_counts
from models.prefill_plans.ends import Ends
from models.prefill_plans.plan import PrefillPlan
from models.prefill_plans.setting import Setting


class DoesNotFit(ModelError):
    """A plan that needs more HBM than a chip has."""


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes in the HBM of one chip of a stage, by what they are for.

    Attributes:
      weights: of the stage's layers.
      ends: embedding, norm and head where the stage has them.
      cache: keys and values, or latents, of the whole prompt.
      working: at the peak, of the program that needs most.
    """

    weights: int
    ends: int
    cache: int
    working: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.weights + self.ends + self.cache + self.working


@dataclasses.dataclass(frozen=True)
class LayerBytes:
    """Of one layer on one chip, see `Memory`."""

    weights: int
    cache: int
    working: int


@dataclasses.dataclass(frozen=True)
class Part:
    """A program of a layer, and which of its arguments are weights, and which of the cache."""

    program: Program
    arguments: tuple[Any, ...]
    weights: tuple[int, ...]
    cache: tuple[int, ...] = ()


def layer_bytes(setting: Setting, plan: PrefillPlan, layer: int) -> LayerBytes:
    """A layer's bytes on a chip, with the keys of the whole prompt."""
    device = with_cores(setting.sheet, plan.cores).at()
    weights = cache = working = 0
    for part in _parts(setting, plan, layer):
        of_chip, of_cores = _arguments(part, plan.cores)
        weights += sum(of_chip[number] for number in part.weights)
        cache += sum(of_chip[number] for number in part.cache)
        held = {*part.weights, *part.cache}
        others = sum(n for number, n in enumerate(of_chip) if number not in held)
        peak = part.program.memory(device, *part.arguments)["hbm"] * plan.cores
        working = max(working, others + max(0, peak - sum(of_cores)))
    return LayerBytes(weights, cache, working)


def _arguments(part: Part, cores: int) -> tuple[list[int], list[int]]:
    """Bytes of each argument on a chip, and as if each core had its own."""
    of_chip, of_cores = [], []
    for arrays in part.program.placed(*part.arguments):
        # All axes but that of cores are over chips.
        of_chip.append(sum(n * (cores if "core" in axes else 1) for n, axes in arrays))
        of_cores.append(sum(n * cores for n, _ in arrays))
    return of_chip, of_cores


def _parts(setting: Setting, plan: PrefillPlan, layer: int) -> Iterator[Part]:
    stages = setting.stages(plan, layer, plan.parts[-1])
    projections, output = stages.around_attention()
    yield Part(projections.program, projections.arguments, weights=(3,))
    yield Part(output.program, output.arguments, weights=(2,))
    # One program for all layers that attend alike, whatever else they have.
    alike = setting.first_attending_alike(layer)
    attention = setting.stages(plan, alike, plan.parts[-1]).attention
    given = attention.abstract()
    # Queries, then keys and values; of latents these are one argument, and weights follow.
    of_latents = stages.form.attention.latent is not None
    yield Part(
        attention.program,
        given,
        weights=(2,) if of_latents else (),
        cache=(1,) if of_latents else (1, 2),
    )
    feed, *joined = stages.feed_forward(checked_counts(stages, None))
    held = (1,) if stages.moe is None else (1, 2)
    yield Part(feed.program, feed.arguments, weights=held)
    for stage in joined:
        yield Part(stage.program, stage.arguments, weights=())


def ends_bytes(setting: Setting, plan: PrefillPlan) -> tuple[int, int]:
    """Of the embedding, and of the last norm and the head, on a chip."""
    ends = Ends(setting.config, setting.precision, setting.sheet, plan.each, plan.cores)
    first = Part(ends.embedding, ends.embedding_arguments, weights=(1,))
    last = Part(ends.logits, ends.logits_arguments, weights=(1, 2))
    of_first, _ = _arguments(first, plan.cores)
    of_last, _ = _arguments(last, plan.cores)
    return of_first[1], of_last[1] + of_last[2]


class PlanMemory:
    """Bytes of plans of one setting; each form's are found once for equal chunks.

    Attributes:
      setting: model and machine.
    """

    def __init__(self, setting: Setting):
        self.setting = setting
        self._kept: dict[object, LayerBytes] = {}

    def layer(self, plan: PrefillPlan, layer: int) -> LayerBytes:
        """Of a layer."""
        first = self.setting.first_alike(layer)
        mesh = plan.ring, plan.tensor, plan.cores
        key = first, *mesh, plan.placement, plan.parts[-1]
        if key not in self._kept:
            self._kept[key] = layer_bytes(self.setting, plan, first)
        return self._kept[key]

    def stages(self, plan: PrefillPlan) -> list[Memory]:
        """Of a chip of each stage."""
        embedding, logits = ends_bytes(self.setting, plan)
        found = []
        groups = plan.layers(self.setting.config.num_hidden_layers)
        for number, layers in enumerate(groups):
            each = [self.layer(plan, layer) for layer in layers]
            ends = embedding * (number == 0) + logits * (number == len(groups) - 1)
            found.append(
                Memory(
                    sum(layer.weights for layer in each),
                    ends,
                    sum(layer.cache for layer in each),
                    max(layer.working for layer in each),
                )
            )
        return found

    def fullest(self, plan: PrefillPlan) -> Memory:
        """Of the fullest chip.

        Raises:
          DoesNotFit: it has more than its HBM holds; says what is most, and what would do.
        """
        try:
            most = max(self.stages(plan), key=lambda memory: memory.total)
        except OutOfMemory as error:
            raise DoesNotFit(
                f"{self.setting.config.name} on {plan}: one program alone does not fit ({error}); "
                "take more chips a stage or more chunks"
            ) from None
        capacity = self.setting.sheet.hbm_bytes.value
        if most.total <= capacity:
            return most
        raise DoesNotFit(
            f"{self.setting.config.name} on {plan}: a chip has {_gib(most.total)} GiB of "
            f"{_gib(capacity)}, weights {_gib(most.weights + most.ends)}, cache "
            f"{_gib(most.cache)}, working buffers {_gib(most.working)}; {_remedy(most, plan)}"
        )


def _remedy(most: Memory, plan: PrefillPlan) -> str:
    largest = max(most.weights, most.cache, most.working)
    if largest == most.weights:
        return "take more stages, more chips a place, or weights in fewer bits"
    if largest == most.cache:
        return f"take more chips a stage than {plan.of_stage}, more stages or a shorter prompt"
    return f"take more chunks than {plan.chunks}, or more chips a stage than {plan.of_stage}"


def _gib(nbytes: int) -> str:
    return f"{nbytes / 2**30:,.1f}"


__all__ = ["DoesNotFit", "LayerBytes", "Memory", "PlanMemory", "layer_bytes"]
