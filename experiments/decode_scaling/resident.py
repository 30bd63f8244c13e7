"""A model that is to be decoded on wafers: its plan and the clock of its tokens."""

import dataclasses
import functools

from emu.wse import WSE3, WaferSheet
from kernels.wse.decode.plan import WaferPlan
from kernels.wse.decode.token import TokenClock
from models.config import ModelConfig
from models.machines.wafer_shapes import plan_of
from models.precision import Precision


@dataclasses.dataclass(frozen=True, eq=False)
class Resident:
    """A model for some users, each with a context that is full.

    Attributes:
      config: its sizes.
      context: tokens of each user's cache.
      precision: what weights and cache are held in.
      users: whose caches stand in every layer's region.
      wafers: how many it is cut over; None: the fewest that hold it.
      sheet: of the wafer.
    """

    config: ModelConfig
    context: int
    precision: Precision
    users: int = 1
    wafers: int | None = None
    sheet: WaferSheet = WSE3

    @property
    def position(self) -> int:
        """Of the token that fills the cache: it sees all before it."""
        return self.context - 1

    @functools.cached_property
    def plan(self) -> WaferPlan:
        """Its regions.

        Raises:
          DoesNotFit: there are none; it says what would fit.
        """
        return plan_of(
            self.config,
            self.context,
            self.precision,
            users=self.users,
            wafers=self.wafers,
            device=self.sheet.at(),
        )

    @functools.cached_property
    def clock(self) -> TokenClock:
        """Of a token's way through them."""
        return TokenClock(self.plan, self.sheet.at())


__all__ = ["Resident"]
