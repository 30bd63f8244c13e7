"""Hand-offs of a model's prompts: layer by layer and whole, under every band."""

import dataclasses
import functools
from collections.abc import Mapping

from emu.datasheet import BANDS
from emu.trainium import TRN3
from emu.wse import WSE3
from kernels.formats.formats import Format
from kernels.tokens.placement import place
from kernels.wse.decode.plan import WaferPlan
from models.config import ModelConfig
from models.machines.handoff import (
    Handoff,
    Landing,
    Source,
    Way,
    evenly,
    handoff,
    landings,
)
from models.machines.handoff.fields import as_format, fields_of
from models.machines.useful_flops import useful_flops
from models.machines.wafer_shapes import plan_of
from models.precision import Precision

PEAK_SHARE = 0.4
"""Of the chips' peak in bfloat16 that prefill is taken to reach, where no time is given."""


@dataclasses.dataclass(frozen=True)
class Prompt:
    """What is handed over.

    Attributes:
      config: of the model.
      tokens: of the prompt.
      plan: what the wafers hold weights and cache in; chips leave the cache in its format too, if
        they have kernels for that.
      chips, cores: of the prefill ring.
      placement: of the tokens on it.
      prefill_s: how long prefill takes, each layer as long as any; None: its FLOPs at `PEAK_SHARE`.
      reused: tokens at its beginning that the wafers have from before.
      is_kept_wide: whether chips leave the cache wide whatever they have kernels for.
    """

    config: ModelConfig
    tokens: int
    plan: Precision
    chips: int
    cores: int
    placement: str = "contiguous"
    prefill_s: float | None = None
    reused: int = 0
    is_kept_wide: bool = False

    def planned(self, wafers: int | None = None) -> WaferPlan:
        """The layers' regions, with room for an answer of an eighth of the prompt's tokens."""
        context = self.tokens + max(1, self.tokens // 8)
        return plan_of(self.config, context, self.plan, wafers=wafers)

    @property
    def stored(self) -> Format:
        """What chips leave the cache in: codes with a scale of their own, but of heads only."""
        is_made = self.plan.cache.name in ("fp8", "int8") and self.config.latent is None
        is_coded = is_made and not self.is_kept_wide
        return as_format(self.plan.cache if is_coded else self.plan.wide)

    @property
    def whole_prefill_s(self) -> float:
        """Of the prompt, whatever is reused."""
        if self.prefill_s is not None:
            return self.prefill_s
        peak = float(TRN3.chip_bf16_flops_per_s.value) * self.chips
        return useful_flops(self.config, self.tokens) / (PEAK_SHARE * peak)

    @functools.cached_property
    def source(self) -> Source:
        """The cache on its chips."""
        slots = -(-self.tokens // self.chips)
        slots += slots % 2  # two chunks of zigzag
        where = place(self.placement, self.tokens, self.chips, slots)
        end = self.whole_prefill_s
        return Source(
            positions=where.positions(),
            tokens=self.tokens,
            stored=self.stored,
            layer_done_s=evenly(end, self.config.num_hidden_layers),
            prefill_s=end,
            cores=self.cores,
            reused=self.reused,
        )


@dataclasses.dataclass(frozen=True)
class Moved:
    """One prompt's hand-off on one way.

    Attributes:
      prompt: that was handed over.
      name: of the way.
      way: on which.
      plan: of the wafers.
      sent: the format in which it went.
      layered: layer by layer, by band.
      bulk: as a whole, nominal.
    """

    prompt: Prompt
    name: str
    way: Way
    plan: WaferPlan
    sent: Format
    layered: Mapping[str, Handoff]
    bulk: Handoff

    @property
    def links(self) -> int:
        """Of each wafer."""
        return self.way.links or int(WSE3.io_links.value)

    @property
    def landings(self) -> list[Landing]:
        """Each layer's region."""
        return landings(self.plan)

    @property
    def message_bytes(self) -> float:
        """Of an operation, on average."""
        nominal = self.layered["nominal"]
        return nominal.nbytes / max(1, nominal.operations)

    @property
    def taken_bytes(self) -> int:
        """Bytes that PEs take, with every copy of a latent and of a scale, without padding."""
        total = 0
        for landing in self.landings:
            each = sum(
                len(field.takes) * field.itemsize
                for field in fields_of(landing.map, self.sent)
            )
            total += each * (self.prompt.tokens - self.prompt.reused)
        return total

    @property
    def pace(self) -> float:
        """What the slowest resource takes for all of it, over the prefill: from 1 on it is late."""
        nominal = self.layered["nominal"]
        if nominal.transfer is None:
            return 0.0
        longest = max(float(each) for each in nominal.transfer.alone_s.values())
        return longest / self.prompt.whole_prefill_s


def moved(
    prompt: Prompt,
    plan: WaferPlan,
    way: Way,
    name: str = "",
    sent: Format | None = None,
) -> Moved:
    """Hands a prompt over on one way."""
    given, regions = prompt.stored, landings(plan)
    if sent is not None:
        given = as_format(sent)

    def one(stream: str, band: str) -> Handoff:
        streamed = dataclasses.replace(way, stream=stream)
        return handoff(prompt.source, regions, sent=given, way=streamed, band=band)

    layered = {band: one("layer", band) for band in BANDS}
    return Moved(prompt, name, way, plan, given, layered, one("bulk", "nominal"))


__all__ = ["PEAK_SHARE", "Moved", "Prompt", "moved"]
