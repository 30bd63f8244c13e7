"""A published model's stages on wafers, and their cycles under every band, without weights."""

import dataclasses
from collections.abc import Mapping

from emu.datasheet import BANDS
from emu.wse import WSE3
from kernels.wse.decode.plan import WaferPlan, plan_wafer
from kernels.wse.decode.token import TokenClock
from models.config import ModelConfig
from models.machines.decode import held_of
from models.machines.decode_kinds import ends_of, kinds_of_forms
from models.precision import Precision
from models.serving.pipeline import Stage
from models.serving.stage_times import Cycles, every


@dataclasses.dataclass(frozen=True)
class Piped:
    """A model on wafers of its own.

    Attributes:
      config: its sizes.
      plan: which region does what.
      position: of the token that is timed: the last that a user's cache holds.
      stages: of a token's way.
      cycles: of each, by band.
      hz: of the wafer's clock, by band.
    """

    config: ModelConfig
    plan: WaferPlan
    position: int
    stages: tuple[Stage, ...]
    cycles: Mapping[str, Cycles]
    hz: Mapping[str, float]


def piped(
    config: ModelConfig,
    context: int,
    precision: Precision,
    users: int,
    wafers: int | None,
    through_host: bool,
) -> Piped:
    """Plans a model and reads its clock.

    Args:
      config: its sizes.
      context: tokens of each user's cache, full.
      precision: of weights and cache.
      users: whose caches there is SRAM for.
      wafers: that the model is cut over; None: the fewest.
      through_host: whether a token goes by the host.

    Raises:
      DoesNotFit: it has no room; the message says what would do.
    """
    device = WSE3.at()
    plan = plan_wafer(
        *(config, context, precision.wide, device),
        *kinds_of_forms(config),
        ends_of(config),
        held_of(precision),
        users=users,
        wafers=wafers,
    )
    clock = TokenClock(plan, device)
    times = {band: every(clock, band, through_host) for band in BANDS}
    return Piped(
        config,
        plan,
        context - 1,
        times["nominal"].stages,
        {band: own.at(context - 1) for band, own in times.items()},
        {band: float(WSE3.at(band).tick_hz) for band in BANDS},
    )


__all__ = ["Piped", "piped"]
