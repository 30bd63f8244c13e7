"""A model on wafers, as this experiment's table and picture take it."""

import dataclasses
import functools
from collections.abc import Mapping

from kernels.wse.decode import ledger
from kernels.wse.decode.plan import WaferPlan
from kernels.wse.decode.token import Stage


@dataclasses.dataclass(frozen=True)
class Placed:
    """A model's floor plan and its last token's time.

    Attributes:
      name: of the model.
      context: tokens that each user's cache has room for.
      held: the plan of what weights and cache are held in.
      plan: where its regions lie.
      sram_bytes: of a PE.
      stages: of the last token that the context has room for, nominal.
      seconds: of it by band, with its way to the host and back.
      wafer_seconds: without.
    """

    name: str
    context: int
    held: str
    plan: WaferPlan
    sram_bytes: int
    stages: tuple[Stage, ...]
    seconds: Mapping[str, float]
    wafer_seconds: Mapping[str, float]

    @functools.cached_property
    def regions(self) -> tuple[ledger.Entry, ...]:
        """Of the layers, in order, and of the head."""
        return ledger.entries(self.plan)

    @functools.cached_property
    def wafers(self) -> tuple[ledger.WaferUse, ...]:
        """Each with what it has in use."""
        return ledger.wafers(self.plan)

    @property
    def wafer_pes(self) -> int:
        """PEs of a wafer."""
        width, height = self.plan.grid
        return width * height


__all__ = ["Placed"]
