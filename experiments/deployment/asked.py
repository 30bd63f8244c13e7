"""A model's request through both machines, or why there is none."""

import dataclasses
from collections.abc import Callable, Sequence

from emu.errors import EmulationError
from emu.wse.placement.regions import DoesNotFit
from models.deployment import Deployment, Request
from models.errors import ModelError
from models.prefill_plans.plan import PrefillPlan


@dataclasses.dataclass(frozen=True, eq=False)
class Asked:
    """A deployment and its request.

    Attributes:
      deployment: of the model.
      request: its clock; None: a machine does not hold it.
      refusal: why not; empty if it does.
    """

    deployment: Deployment
    request: Request | None
    refusal: str = ""

    @property
    def name(self) -> str:
        """What reports call it."""
        return f"{self.deployment.config.name}, {self.deployment.tokens:,} tokens"

    @property
    def hbm_bytes(self) -> int:
        """Of the fullest chip."""
        return 0 if self.request is None else self.request.prefill.memory.total

    @property
    def sram_bytes(self) -> int:
        """Of the fullest PE."""
        regions = self.deployment.regions
        each = regions.layer_bytes, regions.head_bytes
        return max(sum(own.values()) for own in each)


def asked(
    deployment: Deployment,
    *,
    bands: Sequence[str],
    most: int,
    tell: Callable[[PrefillPlan], object],
) -> Asked:
    """Plans both machines and times a request.

    Args:
      deployment: what is asked.
      bands: of all datasheets.
      most: plans of prefill whose clocks are read.
      tell: is called with each before.
    """
    try:
        # Regions first: a model that no wafers hold is refused in a second.
        _ = deployment.regions
        found = deployment.prefill(bands, most=most, tell=tell)
        return Asked(deployment, deployment.request(found.best))
    except (DoesNotFit, ModelError, EmulationError) as refused:
        return Asked(deployment, None, str(refused))


__all__ = ["Asked", "asked"]
