"""A model's layers, one of each form, timed with even and with the most uneven counts of tokens."""

import dataclasses
from collections.abc import Iterator, Sequence

from emu.datasheet import Device
from emu.trainium import with_cores
from models.config import ModelConfig
from models.machines.layer_stages import LayerStages
from models.machines.layer_time import (
    LayerTime,
    StageTime,
    attention_times,
    feed_forward_times,
    worst_counts,
)

EVEN = "even"
WORST = "all to the same experts"
NONE = ""


@dataclasses.dataclass(frozen=True)
class Measured:
    """One layer.

    Attributes:
      stages: that were timed.
      counts: how many tokens choose each expert, in words; empty for an MLP.
      time: what the clock says.
    """

    stages: LayerStages
    counts: str
    time: LayerTime

    @property
    def layers(self) -> int:
        """How many layers of the model are of its form."""
        return self.stages.config.forms.count(self.stages.form)

    @property
    def machine(self) -> Device:
        """The chips with their nominal rates."""
        return with_cores(self.stages.sheet, self.stages.cores).at()

    def peak_share(self, stage: StageTime | LayerTime) -> float:
        """Of the time that matrix products take at all cores' peaks, in bfloat16 and in MX."""
        cores, machine = self.stages.chips * self.stages.sharers, self.machine
        wide_flops = stage.matmul_flops - stage.mx_flops
        least = wide_flops / machine.bf16_flops_per_s
        least += stage.mx_flops / machine.fp8_flops_per_s
        return least / cores / stage.seconds["nominal"]


def layers_of(config: ModelConfig) -> list[int]:
    """The first layer of each form."""
    return [config.forms.index(form) for form in dict.fromkeys(config.forms)]


def measured(stages: LayerStages) -> Iterator[Measured]:
    """A layer with even counts and, where it has experts, with all tokens to the same ones."""
    before = attention_times(stages)

    def of(counts: str, last: Sequence[StageTime]) -> Measured:
        return Measured(stages, counts, LayerTime((*before, *last)))

    even = feed_forward_times(stages)
    if stages.moe is None:
        yield of(NONE, even)
        return
    yield of(EVEN, even)
    yield of(WORST, feed_forward_times(stages, worst_counts(stages)))


__all__ = ["Measured", "layers_of", "measured"]
