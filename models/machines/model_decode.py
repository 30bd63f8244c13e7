"""Decode of a whole model on shapes: its plan on wafers and a token's way, whatever its size.

What a token takes does not depend on weights or tokens, so nothing of them is needed: Kimi-K2 with a
trillion parameters is planned and timed in a few seconds.
"""

import dataclasses
import functools

from emu.wse import WSE3, WaferSheet
from kernels.wse.decode.demand import LayerKind
from kernels.wse.decode.plan import WaferPlan, plan_wafer
from kernels.wse.decode.token import StepReading, TokenClock
from models.config import ModelConfig
from models.machines.decode import held_of
from models.machines.decode_kinds import ends_of, kind_of
from models.machines.layer_weights import check_forms
from models.precision import Precision, precision


@dataclasses.dataclass(frozen=True, eq=False)
class ModelDecode:
    """A model in decode.

    Attributes:
      config: its sizes.
      context: tokens that each user's cache has room for.
      precision: what weights and cache are held in; activations are in its wide dtype.
      users: whose caches stand in every layer's region.
      wafers: how many it is cut over; None: the fewest that hold it.
      sheet: of the wafer.
    """

    config: ModelConfig
    context: int
    precision: Precision = precision("bfloat16")
    users: int = 1
    wafers: int | None = None
    sheet: WaferSheet = WSE3

    def __post_init__(self) -> None:
        check_forms(self.config, "decode")

    @functools.cached_property
    def plan(self) -> WaferPlan:
        """The regions of the fewest estimated cycles on which every PE's bytes fit.

        Raises:
          DoesNotFit: there are none; it says what would fit.
        """
        kinds, of_layers = _kinds(self.config)
        return plan_wafer(
            self.config,
            self.context,
            self.precision.wide,
            self.sheet.at(),
            kinds,
            of_layers,
            ends_of(self.config),
            held_of(self.precision),
            users=self.users,
            wafers=self.wafers,
        )

    @functools.cached_property
    def clock(self) -> TokenClock:
        """The programs of a token's way, and their readings."""
        return TokenClock(self.plan, self.sheet.at())

    def step(self, band: str = "nominal") -> StepReading:
        """The clock of the token that fills the cache: it sees all before it."""
        return self.clock.read(self.context - 1, band)

    def on(self, sheet: WaferSheet) -> StepReading:
        """The same token on the same regions of another wafer, nominal."""
        return TokenClock(self.plan, sheet.at()).read(self.context - 1)


def _kinds(config: ModelConfig) -> tuple[tuple[LayerKind, ...], tuple[int, ...]]:
    """The kinds of layers, each once, and which of them each layer is."""
    forms = tuple(dict.fromkeys(config.forms))
    kinds = [kind_of(config, config.forms.index(form)) for form in forms]
    # Layers whose RoPEs turn by other angles are alike to the clock.
    distinct = tuple(dict.fromkeys(kinds))
    of_forms = [distinct.index(kind) for kind in kinds]
    return distinct, tuple(of_forms[forms.index(form)] for form in config.forms)


__all__ = ["ModelDecode"]
