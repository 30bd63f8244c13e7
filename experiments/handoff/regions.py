"""Regions of a model's layers on wafers, from sizes alone."""

from emu.datasheet import Device
from kernels.wse.decode.demand import LayerKind
from kernels.wse.decode.plan import WaferPlan, plan_wafer
from models.config import ModelConfig
from models.machines.decode import held_of
from models.machines.decode_kinds import decode_form, ends_of
from models.precision import Precision


def planned(
    config: ModelConfig,
    context: int,
    plan: Precision,
    device: Device,
    wafers: int | None = None,
) -> WaferPlan:
    """Decode's own plan, but for variants of attention, which change nothing of what is cached.

    Args:
      config: the model's sizes.
      context: tokens that the cache must hold.
      plan: what weights and cache are held in.
      device: a wafer.
      wafers: how many; None: as few as will do.

    Raises:
      DoesNotFit: so many do not hold it, or no number does.
    """
    each = [LayerKind(decode_form(form)) for form in config.forms]
    kinds = tuple(dict.fromkeys(each))
    return plan_wafer(
        config,
        context,
        plan.wide,
        device,
        kinds,
        [kinds.index(kind) for kind in each],
        ends_of(config),
        held_of(plan),
        wafers=wafers,
    )


__all__ = ["planned"]
