"""How long prefill takes under plans of precision, and what keeps it from the chip's peak."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from emu.datasheet import BANDS, Device
from emu.report.attribution import Split, last_core, spent_by, split
from emu.report.explain import in_words
from emu.trainium import TRN3, with_cores
from kernels.formats.formats import POWER_OF_TWO
from kernels.trainium.gemm.operands import ROWS_AT_ONCE
from models.config import ModelConfig
from models.machines.prefill import Prefill
from models.plain.weights import weight_shapes
from models.precision import Precision


@dataclasses.dataclass(frozen=True)
class Time:
    """One prefill on the clock.

    Attributes:
      plan: of the precision.
      tokens: of the prompt.
      seconds: by band.
      useful_flops: what the model asks for.
      peak_share: of the Tensor Engines' peak in the products' format, in the nominal time.
      weight_bytes: of the layers' weights, on all cores, padding of tiles included.
      hbm_bytes: read and written by all cores.
      sbuf_bytes: at most in use, of one core.
      tensor: what the Tensor Engine of the last core spent the nominal time on.
    """

    plan: str
    tokens: int
    seconds: Mapping[str, float]
    useful_flops: int
    peak_share: float
    weight_bytes: int
    hbm_bytes: int
    sbuf_bytes: int
    tensor: Split

    @property
    def working(self) -> float:
        """Share of the time in which the Tensor Engine works at its rate."""
        return self.tensor.share(self.tensor.parts[0])

    @property
    def waits(self) -> tuple[str, float]:
        """What it otherwise spends most time on, in words, and which share."""
        longest = max(self.tensor.parts[1:], key=lambda part: part.ticks)
        told, _ = in_words(self.tensor.engine, longest)
        return told, self.tensor.share(longest)


def structs_of(config: ModelConfig) -> Any:
    """A model's weights as shapes: the clock needs no data."""
    return jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, np.float32),
        weight_shapes(config),
        is_leaf=lambda x: isinstance(x, tuple),
    )


def time_of(
    config: ModelConfig, plan: Precision, *, tokens: int, chips: int, cores: int
) -> Time:
    """The clock of one prefill under every band of Trainium3's datasheet."""
    machine = Prefill(
        config, structs_of(config), tokens=tokens, chips=chips, cores=cores, dtype=plan
    )
    sheet = with_cores(TRN3, cores)
    clocks = {
        band: reading.clock for band, reading in machine.read_bands(sheet).items()
    }
    nominal, device = clocks["nominal"], sheet.at()
    seconds = {band: clocks[band].seconds for band in BANDS}
    possible = chips * cores * _peak(device, plan) * seconds["nominal"]
    moved = nominal.tally.by("bytes")
    leaves = jax.tree.leaves(machine.weights["layers"])
    return Time(
        plan=plan.name,
        tokens=tokens,
        seconds=seconds,
        useful_flops=machine.useful_flops,
        peak_share=machine.useful_flops / possible,
        weight_bytes=sum(math.prod(x.shape) * x.dtype.itemsize for x in leaves),
        hbm_bytes=moved["hbm_read"] + moved["hbm_write"],
        sbuf_bytes=machine.memory(device)["sbuf"],
        tensor=split(spent_by(nominal, last_core(nominal)), "tensor"),
    )


def _peak(device: Device, plan: Precision) -> float:
    """FLOP/s of a Tensor Engine in what products have activations in."""
    taken = plan.activations
    if not taken.is_coded:
        return device.bf16_flops_per_s
    if taken.scale == POWER_OF_TWO:
        return device.fp8_flops_per_s
    # Double rows take as long as rows of bfloat16.
    return ROWS_AT_ONCE * device.bf16_flops_per_s


__all__ = ["Time", "structs_of", "time_of"]
