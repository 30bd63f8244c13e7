"""What the clock says of a layer's prefill, stage by stage.

Stages are programs of their own, and one begins when the one before it has ended: the layer's time
is the sum of theirs. A program of the whole layer could load the weights of a stage while the one
before it computes, so the sum is an upper bound of what its kernels allow.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from emu.clock.reading import Reading
from emu.datasheet import BANDS
from emu.trainium import with_cores
from emu.trainium.datasheets import NeuronCoreSheet
from kernels.moe.mesh.work import dealt
from models.errors import ModelError
from models.machines.layer_stages import LayerStages, Stage


@dataclasses.dataclass(frozen=True)
class StageTime:
    """The clock of one stage.

    Attributes:
      name: of the stage.
      machine: that it was read for.
      seconds: by band that was read, of the slowest core.
      flops: by the instructions of all cores.
      matmul_flops: those of matrix products.
      mx_flops: of these, those of products in MX.
      hbm_bytes: read and written by all cores.
      link_bytes: sent between chips.
      busy: share of the nominal time that each engine is busy, on the core where it is most.
    """

    name: str
    machine: str
    seconds: Mapping[str, float]
    flops: int
    matmul_flops: int
    mx_flops: int
    hbm_bytes: int
    link_bytes: int
    busy: Mapping[str, float]

    @property
    def bound(self) -> str:
        """The engine that is busy for the largest share of the time."""
        return max(self.busy, key=lambda engine: self.busy[engine])


@dataclasses.dataclass(frozen=True)
class LayerTime:
    """The clock of a layer.

    Attributes:
      stages: in their order.
    """

    stages: tuple[StageTime, ...]

    @property
    def seconds(self) -> dict[str, float]:
        """By band, of all stages one after the other."""
        return {band: sum(x.seconds[band] for x in self.stages) for band in BANDS}

    @property
    def flops(self) -> int:
        """By the instructions of all cores."""
        return sum(stage.flops for stage in self.stages)

    @property
    def matmul_flops(self) -> int:
        """Those of matrix products."""
        return sum(stage.matmul_flops for stage in self.stages)

    @property
    def mx_flops(self) -> int:
        """Of these, those of products in MX."""
        return sum(stage.mx_flops for stage in self.stages)

    @property
    def hbm_bytes(self) -> int:
        """Read and written by all cores."""
        return sum(stage.hbm_bytes for stage in self.stages)

    @property
    def link_bytes(self) -> int:
        """Sent between chips."""
        return sum(stage.link_bytes for stage in self.stages)


def layer_time(stages: LayerStages, counts: np.ndarray | None = None) -> LayerTime:
    """Reads the clock of a layer under every band of its chip's datasheet, without data.

    Args:
      stages: the layer.
      counts: int `[chips, experts]`, how many tokens of each chip chose each expert, or totals
        `[experts]`, which every chip then has an equal part of; None: equally many each, see
        `even_counts`. Of a layer without experts None.

    Raises:
      ModelError: counts for a layer that has no experts.
      EmulationError: what does not fit the machine, or counts that no run could have.
    """
    # What cannot be is told before the clock is read.
    checked_counts(stages, counts)
    return LayerTime((*attention_times(stages), *feed_forward_times(stages, counts)))


def attention_times(stages: LayerStages) -> tuple[StageTime, StageTime, StageTime]:
    """Of projections, attention and output, which ask for no counts."""
    first, last = around_attention_times(stages)
    return first, attention_time(stages), last


def around_attention_times(
    stages: LayerStages, bands: Sequence[str] = BANDS
) -> tuple[StageTime, StageTime]:
    """Of projections and output, under bands of which nominal is one."""
    first, last = (_timed(stages, stage, bands) for stage in stages.around_attention())
    return first, last


def attention_time(stages: LayerStages, bands: Sequence[str] = BANDS) -> StageTime:
    """Of attention alone, under bands of which nominal is one."""
    return _of("attention", stages.attention.read_bands(_sheet(stages), bands))


def feed_forward_times(
    stages: LayerStages,
    counts: np.ndarray | None = None,
    bands: Sequence[str] = BANDS,
) -> tuple[StageTime, ...]:
    """Of the MLP, or of the mixture of experts and what joins it; see `layer_time`."""
    given = stages.feed_forward(checked_counts(stages, counts))
    return tuple(_timed(stages, stage, bands) for stage in given)


def _timed(stages: LayerStages, stage: Stage, bands: Sequence[str]) -> StageTime:
    read = stage.program.read_bands(_sheet(stages), *stage.arguments, bands=bands)
    return _of(stage.name, read)


def _sheet(stages: LayerStages) -> NeuronCoreSheet:
    # Cores that run share their chip's HBM and links.
    return with_cores(stages.sheet, stages.cores)


def checked_counts(stages: LayerStages, counts: np.ndarray | None) -> np.ndarray | None:
    """Counts of each chip, `[chips, experts]`; None of a layer without experts."""
    if stages.moe is not None:
        if counts is None:
            return even_counts(stages)
        return dealt(counts, stages.moe.chips) if np.ndim(counts) == 1 else counts
    if counts is not None:
        raise ModelError(
            f"{stages.config.name}: counts were given and layer {stages.layer} has no experts; "
            "leave them out"
        )
    return None


def even_counts(stages: LayerStages) -> np.ndarray:
    """Counts of a router that gives every expert as many tokens as any other, one more at most."""
    assert stages.moe is not None
    routing = stages.moe.mixture.routing
    chosen = stages.tokens * routing.chosen
    even, rest = divmod(chosen, routing.experts)
    totals = even + (np.arange(routing.experts) < rest)
    return dealt(totals, stages.moe.chips)


def worst_counts(stages: LayerStages) -> np.ndarray:
    """Counts of a router that sends every token to the same experts, the first ones.

    A router that chooses groups first may do so too: they are of one group.
    """
    assert stages.moe is not None
    routing = stages.moe.mixture.routing
    counts = np.zeros((stages.moe.chips, routing.experts), np.int64)
    counts[:, : routing.chosen] = stages.moe.tokens
    return counts


def _of(name: str, readings: Mapping[str, Reading]) -> StageTime:
    nominal = readings["nominal"]
    moved, flops = nominal.tally.by("bytes"), nominal.tally.by("flops")
    mx_flops = flops["trn.nc_matmul_mx"]
    ends = max(1, nominal.end_ticks)
    return StageTime(
        name=name,
        machine=nominal.machine,
        seconds={band: reading.seconds for band, reading in readings.items()},
        flops=nominal.tally.flops,
        matmul_flops=flops["trn.nc_matmul"] + mx_flops,
        mx_flops=mx_flops,
        hbm_bytes=moved["hbm_read"] + moved["hbm_write"],
        link_bytes=nominal.tally.by("other")["link_bytes"],
        busy={
            engine: ticks / ends for engine, ticks in nominal.most_busy_ticks.items()
        },
    )


__all__ = [
    "LayerTime",
    "StageTime",
    "around_attention_times",
    "attention_time",
    "attention_times",
    "checked_counts",
    "even_counts",
    "feed_forward_times",
    "layer_time",
    "worst_counts",
]
