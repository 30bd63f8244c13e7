"""How fast a model decodes on wafers: for one user, and for all that the pipeline takes."""

import dataclasses
import functools
import statistics
from collections.abc import Mapping, Sequence

from emu.datasheet import BANDS
from emu.wse.placement.regions import DoesNotFit
from experiments.decode_scaling.drafts import Drafted, drafted
from experiments.decode_scaling.published import PublishedSpeed
from experiments.decode_scaling.resident import Resident
from kernels.wse.decode.token import HOST, Stage
from models.serving.speed import Speed as UserSpeed
from models.serving.speed import user_speed
from models.serving.stage_times import regions_of


@dataclasses.dataclass(frozen=True, eq=False)
class Speed:
    """A model on wafers, or why it is not there.

    Attributes:
      model: that is decoded.
      stages: of a token's way, by band; empty where it does not fit.
      refusal: why not; empty if it does.
    """

    model: Resident
    stages: Mapping[str, Sequence[Stage]]
    refusal: str = ""

    @property
    def name(self) -> str:
        """What reports call it."""
        model = self.model
        users = f", {model.users:,} users" if model.users > 1 else ""
        return f"{model.config.name}, {model.context:,} tokens{users}"

    def cycles(self, band: str = "nominal") -> int:
        """Of a token through all stages."""
        return sum(stage.cycles for stage in self.stages[band])

    def seconds(self, band: str = "nominal") -> float:
        """The same in seconds."""
        return self.cycles(band) / self._hz(band)

    def bottleneck_s(self, band: str = "nominal") -> float:
        """Of the region that is longest at work for a token: embedding and head are one."""
        return self._served(band).bottleneck_cycles / self._hz(band)

    def tokens_per_s(self, band: str = "nominal") -> float:
        """Of each user: by the pipeline's depth, or where it is full by its slowest region."""
        return self._served(band).user_tokens_per_s(self._hz(band))

    def _served(self, band: str) -> UserSpeed:
        stages = self.stages[band]
        cycles = [stage.cycles for stage in stages]
        return user_speed(regions_of(stages), cycles, self.model.users)

    def drafted(self, band: str = "nominal") -> Drafted:
        """With draft tokens, for one user alone."""
        return drafted(self.seconds(band), self.bottleneck_s(band), band)

    @property
    def host_cycles(self) -> int:
        """Of them, those at the host."""
        (host,) = [x for x in self.stages["nominal"] if x.name == HOST]
        return host.cycles

    @functools.cached_property
    def crossings(self) -> int:
        """How often a token goes from wafer to wafer."""
        return sum(stage.crosses for stage in self.stages["nominal"])

    def _hz(self, band: str) -> float:
        return self.model.sheet.at(band).clock_hz


def speed(model: Resident) -> Speed:
    """Plans and times a model under all bands."""
    try:
        position = model.position
        stages = {band: model.clock.stages(position, band) for band in BANDS}
    except DoesNotFit as refused:
        return Speed(model, {}, str(refused))
    return Speed(model, stages)


@dataclasses.dataclass(frozen=True, eq=False)
class Compared:
    """A published speed beside what the clock says.

    Attributes:
      published: that.
      speed: this, of the same model.
    """

    published: PublishedSpeed
    speed: Speed

    @property
    def tokens_per_s(self) -> float | None:
        """As the published one was reached: without drafts where none were used, else with."""
        if self.speed.refusal:
            return None
        if self.published.drafts == "no":
            return self.speed.tokens_per_s()
        return self.speed.drafted().tokens_per_s

    @property
    def band(self) -> tuple[float, float]:
        """The same under the bands: the least tokens a second and the most."""
        if self.published.drafts == "no":
            each = [self.speed.tokens_per_s(band) for band in BANDS]
        else:
            each = [self.speed.drafted(band).tokens_per_s for band in BANDS]
        return min(each), max(each)

    @property
    def error(self) -> float | None:
        """Of these over the published: 0.1 is a tenth too fast."""
        ours = self.tokens_per_s
        return None if ours is None else ours / self.published.tokens_per_s - 1


def median_error(compared: Sequence[Compared], drafts: Sequence[str]) -> float | None:
    """The median size of the errors of those whose drafts are among some."""
    errors = [
        abs(each.error)
        for each in compared
        if each.published.drafts in drafts and each.error is not None
    ]
    return statistics.median(errors) if errors else None


__all__ = ["Compared", "Speed", "median_error", "speed"]
