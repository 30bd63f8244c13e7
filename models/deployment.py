"""One request on both machines at any size, by shapes alone: prefill, hand-off and decode.

The plan of prefill is searched by the clock of its programs, each layer's cache leaves when that
plan has made it, and decode is timed on the regions of as many wafers as hold the model. What a
request on numbers does at toy size (`models.machines.disaggregated`) is timed here at a trillion
parameters.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from emu.trainium.datasheets import NeuronCoreSheet
from emu.wse import WSE3, WaferSheet
from kernels.tokens.placement import place
from kernels.wse.decode.plan import WaferPlan
from kernels.wse.decode.token import StepReading, TokenClock
from models.config import ModelConfig
from models.machines.handoff import Handoff, Source, Way, handoff, landings
from models.machines.handoff.fields import as_format
from models.machines.precisions import prefilled_as
from models.machines.wafer_shapes import clock_of, plan_of
from models.precision import Precision
from models.prefill_plans.plan import PrefillPlan
from models.prefill_plans.search import Found, plans, search
from models.prefill_plans.setting import Setting
from models.prefill_plans.time import PlanTime

NOMINAL = "nominal"


@dataclasses.dataclass(frozen=True, eq=False)
class Deployment:
    """A model on both machines, for prompts and answers of one length.

    Attributes:
      config: its sizes.
      tokens: of the prompt.
      new_tokens: most tokens of the answer.
      precision: what both machines hold it in; prefill has what there are kernels for, see
        `prefilled_as`.
      sheet: of a chip, in its system.
      chips: of each rack.
      racks: of chips.
      cores: of each chip.
      cached: tokens at the prompt's beginning whose cache is in the chips' HBM already.
      users: whose caches stand on the wafers.
      wafers: how many; None: the fewest that hold the model.
      wafer: of which datasheet.
      way: of the hand-off.
    """

    config: ModelConfig
    tokens: int
    new_tokens: int
    precision: Precision
    sheet: NeuronCoreSheet
    chips: int
    racks: int = 1
    cores: int = 8
    cached: int = 0
    users: int = 1
    wafers: int | None = None
    wafer: WaferSheet = WSE3
    way: Way = Way()

    @functools.cached_property
    def setting(self) -> Setting:
        """What prefill is planned for."""
        held = prefilled_as(self.precision, self.config, self.cores)
        return Setting(self.config, held, self.sheet)

    @functools.cached_property
    def regions(self) -> WaferPlan:
        """Where the model stands on the wafers.

        Raises:
          DoesNotFit: nowhere; it says what would.
        """
        return plan_of(
            self.config,
            self.tokens + self.new_tokens,
            self.precision,
            users=self.users,
            wafers=self.wafers,
            device=self.wafer.at(),
        )

    @functools.cached_property
    def clock(self) -> TokenClock:
        """Of a token's way through the regions."""
        return clock_of(self.regions, self.wafer.at())

    def prefill(
        self,
        bands: Sequence[str] = (NOMINAL,),
        *,
        most: int = 2,
        tell: Callable[[PrefillPlan], object] = lambda plan: None,
    ) -> Found:
        """The best plan of prefill for the time to the first token.

        Args:
          bands: that it is read under.
          most: plans whose clocks are read.
          tell: is called with each before.

        Raises:
          ModelError: none fits, or there are no kernels.
        """
        space = plans(
            tokens=self.tokens,
            chips=self.chips,
            layers=self.config.num_hidden_layers,
            racks=self.racks,
            cached=self.cached,
            cores=self.cores,
        )
        return search(self.setting, space, bands=bands, most=most, tell=tell)

    def request(self, prefill: PlanTime) -> "Request":
        """What a request takes whose prompt is prefilled so, under the bands of that reading."""
        bands = tuple(prefill.schedules)
        stages = prefill.plan.layers(self.config.num_hidden_layers)
        positions = self._positions(prefill.plan)
        places = landings(self.regions)
        of_stage = prefill.plan.of_stage

        def moved(band: str) -> Handoff:
            source = Source(
                positions=positions,
                tokens=self.tokens,
                stored=as_format(self.setting.precision.cache),
                layer_done_s=prefill.layer_done_s[band],
                prefill_s=prefill.ttft_s[band],
                cores=self.cores,
                first_chips=[
                    number * of_stage for number, own in enumerate(stages) for _ in own
                ],
                chip=self.sheet,
                tensor=prefill.plan.tensor,
            )
            return handoff(source, places, way=self.way, band=band, wafer=self.wafer)

        last = self.tokens + self.new_tokens - 1
        return Request(
            prefill=prefill,
            handoffs={band: moved(band) for band in bands},
            first={band: self.clock.read(self.tokens, band) for band in bands},
            last={band: self.clock.read(last, band) for band in bands},
        )

    def _positions(self, plan: PrefillPlan) -> np.ndarray:
        """The prompt's position of each slot of each place of a stage's ring."""
        layer = self.setting.stages(plan, 0, plan.parts[0])
        name = plan.placement
        if name == "auto":
            name = layer.placed
        slots = plan.keys // plan.ring
        return place(name, self.tokens, plan.ring, slots).positions()


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
    """The clock of one request, by band where nothing else is said.

    Attributes:
      prefill: its plan's clock.
      handoffs: of the prompt's cache.
      first, last: steps of decode: the one behind the prompt, and the answer's last.
    """

    prefill: PlanTime
    handoffs: Mapping[str, Handoff]
    first: Mapping[str, StepReading]
    last: Mapping[str, StepReading]

    def ttft_s(self, band: str = NOMINAL) -> float:
        """Until the first token is chosen and the wafers can go on from it."""
        return self.prefill.ttft_s[band] + self.handoffs[band].exposed_s

    def tpot_s(self, band: str = NOMINAL) -> float:
        """A token of decode: the mean of the first and the last, between which lies a line."""
        return (self.first[band].seconds + self.last[band].seconds) / 2


__all__ = ["Deployment", "Request"]
