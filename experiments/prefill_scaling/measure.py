"""One point: the best plan of a model, a prompt and so many chips, or why there is none."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

from emu.datasheet import BANDS
from emu.errors import EmulationError
from emu.trainium.datasheets import NeuronCoreSheet
from models.configurations import published
from models.errors import ModelError
from models.precision import Precision
from models.prefill_plans.explain import explain
from models.prefill_plans.plan import PrefillPlan
from models.prefill_plans.search import Aim, Found, plans, search
from models.prefill_plans.setting import Setting
from models.prefill_plans.time import PlanTime


@dataclasses.dataclass(frozen=True)
class Point:
    """What is planned.

    Attributes:
      model: its name.
      tokens: of the prompt, cached ones included.
      chips: of each rack.
      racks: UltraServers.
      cached: tokens whose keys HBM has already.
      aim: what is to be short.
      cores: of each chip.
    """

    model: str
    tokens: int
    chips: int
    racks: int = 1
    cached: int = 0
    aim: Aim = "ttft"
    cores: int = 8

    def __str__(self) -> str:
        racks = f" of {self.racks} racks" if self.racks > 1 else ""
        return f"{self.model}, {self.tokens:,} tokens, {self.chips} chips{racks}"


@dataclasses.dataclass(frozen=True)
class Planned:
    """A point and its best plan.

    Attributes:
      point: what was planned.
      found: the search; None: no plan fits, or there are no kernels.
      refusal: why there is none; empty if there is.
    """

    point: Point
    found: Found | None
    refusal: str = ""

    @property
    def best(self) -> PlanTime | None:
        """Of the search."""
        return None if self.found is None else self.found.best

    @property
    def why(self) -> list[str]:
        """Sentences about the plan, or why there is none."""
        return [self.refusal] if self.found is None else list(explain(self.found))


def planned(
    point: Point,
    *,
    precision: Precision,
    sheet: NeuronCoreSheet,
    most: int,
    tell: Callable[[PrefillPlan], object] = lambda plan: None,
) -> Planned:
    """The best plan of a point.

    Args:
      point: what is planned.
      precision: of weights and activations.
      sheet: of the chip, in its system.
      most: plans whose clocks are read.
      tell: is called with each before.
    """
    try:
        setting = Setting(published(point.model).config, precision, sheet)
        space = plans(
            tokens=point.tokens,
            chips=point.chips,
            layers=setting.config.num_hidden_layers,
            racks=point.racks,
            cached=point.cached,
            cores=point.cores,
        )
        found = search(setting, space, point.aim, bands=BANDS, most=most, tell=tell)
    except (ModelError, EmulationError) as refused:
        return Planned(point, None, str(refused))
    return Planned(point, found)


def points(
    models: Sequence[str],
    tokens: Sequence[int],
    chips: Sequence[int],
    *,
    racks: int,
    cached: int,
    aim: Aim,
    cores: int,
) -> Iterator[Point]:
    """All combinations, model by model."""
    for model in models:
        for length in tokens:
            for count in chips:
                yield Point(model, length, count, racks, cached, aim, cores)


__all__ = ["Planned", "Point", "planned", "points"]
