"""What a model takes: bytes by precision, and the fewest chips and wafers that hold it."""

import dataclasses
import math

from emu.trainium import TRN3
from emu.wse import WSE3
from kernels.formats.formats import FORMATS
from models.configurations import Published
from models.errors import ModelError
from models.machines.layer_weights import check_forms

# FP8 as DeepSeek-V3 stores it, with a scale for 128 x 128 weights.
_FORMATS = {"bf16": "bfloat16", "fp8": "fp8_block", "mxfp8": "mxfp8", "mxfp4": "mxfp4"}
BYTES_OF_A_WEIGHT = {
    name: FORMATS[held].bytes_a_number for name, held in _FORMATS.items()
}
CACHE_BYTES = FORMATS["bfloat16"].bytes_a_number  # of a value


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of one model.

    Attributes:
      model: that it is of.
      context: tokens of the sequence whose cache is held beside the weights.
    """

    model: Published
    context: int

    @property
    def error(self) -> float:
        """Of the parameters, over the published ones."""
        counted = self.model.outline.parameters
        return counted / self.model.published_parameters - 1

    def weight_bytes(self, precision: str) -> int:
        """Of all weights in one of `BYTES_OF_A_WEIGHT`."""
        return math.ceil(self.model.outline.parameters * BYTES_OF_A_WEIGHT[precision])

    @property
    def cache_bytes_a_token(self) -> float:
        """By which a sequence's cache grows."""
        return self.model.outline.cache_growing * CACHE_BYTES

    @property
    def cache_bytes(self) -> int:
        """Of a sequence of `context` tokens."""
        held = self.model.outline
        values = held.cache_growing * self.context + held.cache_most
        return math.ceil(values * CACHE_BYTES)

    def chips(self, precision: str) -> int:
        """The fewest Trainium3 chips whose HBM holds weights and one sequence."""
        return self._machines(precision, int(TRN3.hbm_bytes.value))

    def wafers(self, precision: str) -> int:
        """The fewest WSE-3 whose SRAM holds weights and one sequence, if every byte were free."""
        pes = int(WSE3.grid_width.value) * int(WSE3.grid_height.value)
        return self._machines(precision, pes * int(WSE3.sram_bytes.value))

    def _machines(self, precision: str, each_bytes: int) -> int:
        held = self.weight_bytes(precision) + self.cache_bytes
        return math.ceil(held / each_bytes)

    @property
    def computed(self) -> tuple[str, ...]:
        """What computes it on numbers: "oracle", "prefill", "decode"; none: its sizes are known."""
        config = self.model.outline.config
        if config is None:
            return ()
        found = ["oracle"]
        for machine in ("prefill", "decode"):
            try:
                check_forms(config, machine)
            except ModelError:
                continue
            found.append(machine)
        return tuple(found)


__all__ = ["BYTES_OF_A_WEIGHT", "Sizes"]
