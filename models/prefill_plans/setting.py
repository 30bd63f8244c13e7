"""What a prefill is planned for: a model as it is held, chips in a system, a link of racks."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from emu.efa import EFA, LinkSheet
from emu.trainium import TRN3
from emu.trainium.datasheets import NeuronCoreSheet, System
from kernels.attention.latent import Form
from models.config import ModelConfig
from models.errors import ModelError
from models.machines.layer_stages import LayerStages
from models.precision import Precision
from models.prefill_plans.plan import Chunk, PrefillPlan


@dataclasses.dataclass(frozen=True, eq=False)
class Setting:
    """A model and the machine that prefills it.

    Attributes:
      config: of the model.
      precision: what weights and activations are held in.
      sheet: of the chip, in its system (`emu.trainium.datasheets.on_system`).
      between_racks: from a chip of one rack to a chip of another.
      latent_form: in which multi-head latent attention is computed.
      attention_options: of `kernels.attention.prefill.context_attention`, such as `scheme`.
    """

    config: ModelConfig
    precision: Precision
    sheet: NeuronCoreSheet = TRN3
    between_racks: LinkSheet = EFA
    latent_form: Form = "expanded"
    attention_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.sheet.system is None:
            raise ModelError(
                f"{self.sheet.name} stands in no system, whose links plans share; give one by "
                "`on_system`"
            )

    @property
    def system(self) -> System:
        """Of a rack."""
        assert self.sheet.system is not None
        return self.sheet.system

    @functools.cached_property
    def kinds(self) -> tuple[int, ...]:
        """The first layer of each form."""
        forms = self.config.forms
        return tuple(forms.index(form) for form in dict.fromkeys(forms))

    def first_alike(self, layer: int) -> int:
        """The first layer of the same form as a layer."""
        forms = self.config.forms
        return forms.index(forms[layer])

    def first_attending_alike(self, layer: int) -> int:
        """The first layer whose attention is of the same form."""
        forms = [form.attention for form in self.config.forms]
        return forms.index(forms[layer])

    def stages(self, plan: PrefillPlan, layer: int, chunk: Chunk) -> LayerStages:
        """A layer's programs for a chunk, the same objects for layers of one form.

        Raises:
          ModelError: there are none for this layer or precision.
        """
        first = self.first_alike(layer)
        key = first, plan.ring, plan.tensor, plan.cores, plan.placement, chunk
        if key not in self._made:
            self._made[key] = self._stages(plan, first, chunk)
        return self._made[key]

    @functools.cached_property
    def _made(self) -> dict[object, LayerStages]:
        return {}

    def release(self) -> None:
        """Forgets programs, which are large; those of a plan that is asked for again are remade."""
        self._made.clear()

    def _stages(self, plan: PrefillPlan, layer: int, chunk: Chunk) -> LayerStages:
        options = {"placement": plan.placement} | dict(self.attention_options)
        return LayerStages(
            self.config,
            layer,
            chunk.tokens,
            plan.ring,
            plan.cores,
            self.precision,
            latent_form=self.latent_form,
            sheet=self.sheet,
            attention_options=options,
            cached=chunk.cached,
            tensor=plan.tensor,
        )


__all__ = ["Setting"]
