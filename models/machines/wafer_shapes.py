"""A whole model on wafers by its sizes alone: regions, bytes and clock of a model of any size."""

from emu import Device
from emu.wse import WSE3
from kernels.wse.decode.plan import WaferPlan, plan_wafer
from kernels.wse.decode.token import TokenClock
from models.config import ModelConfig
from models.machines.decode import held_of
from models.machines.decode_kinds import ends_of, kinds_of_forms
from models.machines.layer_weights import check_forms
from models.precision import Precision


def plan_of(
    config: ModelConfig,
    context: int,
    plan: Precision,
    *,
    users: int = 1,
    wafers: int | None = None,
    device: Device | None = None,
) -> WaferPlan:
    """Where a model stands that has no weights yet.

    Args:
      config: its sizes and its layers' forms.
      context: most tokens of a user.
      plan: what weights and cache are held in.
      users: whose caches stand in every layer's region.
      wafers: how many the model is cut over; None: the fewest that hold it.
      device: a wafer; a WSE-3 by default.

    Raises:
      DoesNotFit: no choice fits; it says how many wafers, which context and how many users would.
      ModelError: the model computes what the wafer's kernels do not.
    """
    check_forms(config, "decode")
    kinds, of_layers = kinds_of_forms(config)
    return plan_wafer(
        config,
        context,
        plan.wide,
        device or WSE3.at(),
        kinds,
        of_layers,
        ends_of(config),
        held_of(plan),
        users=users,
        wafers=wafers,
    )


def clock_of(plan: WaferPlan, device: Device | None = None) -> TokenClock:
    """The clock of a token's way through such a plan."""
    return TokenClock(plan, device or WSE3.at())


__all__ = ["clock_of", "plan_of"]
