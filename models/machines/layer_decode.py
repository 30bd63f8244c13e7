"""One decode step of a layer on a wafer that holds nothing else: region, bytes of its PEs, clock.

It is the layer's own program, told shapes in place of weights: a layer of any size takes seconds.
How long a token takes does not depend on its data, nor on the experts that it chooses.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping

import numpy as np

from emu.clock.reading import Reading
from emu.datasheet import BANDS
from emu.wse import WSE3, WaferSheet
from emu.wse.datasheets.datasheet import ENGINE
from kernels.attention.decode_spent import PRODUCTS, kinds
from kernels.wse.decode.demand import Demand, LayerKind
from kernels.wse.decode.layer_plan import LayerStep, plan_layer
from kernels.wse.decode.pe_bytes import PlacedKind
from kernels.wse.decode.search import Found, search_layer
from models.config import ModelConfig
from models.errors import ModelError
from models.machines.decode import held_of
from models.machines.decode_kinds import kind_of
from models.machines.layer_weights import check_forms
from models.precision import Precision, precision


@dataclasses.dataclass(frozen=True)
class DecodeTime:
    """The clock of one token's way through a layer.

    Attributes:
      machine: that it was read for.
      cycles, seconds: by band, until the last PE is done.
      work_cycles: of them, nominal, those in which the PE that works most does; in the others it
        waits for other PEs, or for wavelets on their way.
      flops: by the instructions of all PEs.
      product_flops: those of products with weights and with the cache, padding included.
    """

    machine: str
    cycles: Mapping[str, int]
    seconds: Mapping[str, float]
    work_cycles: int
    flops: int
    product_flops: int


@dataclasses.dataclass(frozen=True, eq=False)
class LayerDecode:
    """One layer of a model in decode.

    Attributes:
      config: of the model.
      layer: which of its layers.
      context: tokens that the cache has room for; the step is the last one's, which sees all.
      precision: what weights and cache are held in; activations are in its wide dtype.
      sheet: of the wafer.
      most: regions whose clock is read to choose one; 1: the first by estimate, unread.
      searches: a file of what was read before, see `search_layer`; None: none.
    """

    config: ModelConfig
    layer: int
    context: int
    precision: Precision = precision("bfloat16")
    sheet: WaferSheet = WSE3
    most: int = 1
    searches: pathlib.Path | None = None

    def __post_init__(self) -> None:
        layers = self.config.num_hidden_layers
        if not 0 <= self.layer < layers:
            raise ModelError(
                f"{self.config.name}: layer {self.layer}, must be 0 to {layers - 1}"
            )
        check_forms(self.config, "decode")

    @functools.cached_property
    def kind(self) -> LayerKind:
        """What the layer computes, as the wafer's programs take it."""
        return kind_of(self.config, self.layer)

    @functools.cached_property
    def placed(self) -> PlacedKind:
        """The layer on the region of the fewest cycles on which every PE's bytes fit.

        They are estimated, or of several regions read.

        Raises:
          DoesNotFit: no region of a wafer has room; it tells a context that would do, if one would.
        """
        if self.most > 1:
            return self.found.placed
        plan = self.precision
        return plan_layer(
            self.config,
            self.context,
            plan.wide,
            self.sheet.at(),
            self.kind,
            held_of(plan),
        )

    @functools.cached_property
    def found(self) -> Found:
        """The search for the region whose clock is least.

        Raises:
          DoesNotFit: as `placed`.
          LimitExceeded: the file of searches cannot be read or written.
        """
        plan, device = self.precision, self.sheet.at()
        demand = Demand(
            self.config,
            self.context,
            plan.wide,
            device,
            (self.kind,),
            (0,),
            held=held_of(plan),
        )
        return search_layer(demand, self.most, self.searches)

    def time(self) -> DecodeTime:
        """Reads the clock under every band of the wafer's datasheet.

        Raises:
          DoesNotFit: as `placed`.
        """
        step = LayerStep(self.placed, self.context - 1)
        readings = {band: step.read(self.sheet.at(band)) for band in BANDS}
        nominal = readings["nominal"]
        return DecodeTime(
            machine=nominal.machine,
            cycles={band: readings[band].end_ticks for band in BANDS},
            seconds={band: readings[band].seconds for band in BANDS},
            work_cycles=int(np.max(nominal.spent[ENGINE, "work"])),
            flops=nominal.tally.flops,
            product_flops=product_flops(nominal),
        )


def product_flops(reading: Reading) -> int:
    """Of multiply-adds with weights and with the cache, by all PEs."""
    by_instruction = reading.tally.by("flops").items()
    return sum(flops for name, flops in by_instruction if kinds()[name] == PRODUCTS)


__all__ = ["DecodeTime", "LayerDecode", "product_flops"]
