"""The clock of a chunk in one layer: every distinct program is read once, and kept.

Layers of equal forms take equally long, chunks of equal sizes differ in attention alone, and layers
of equal attention share that whatever MLP or mixture they have: of Kimi-K2's 61 layers in 16 chunks
six programs are read for the rest and a few for attention.

Attention of chunks is read for the first, the second, the middle and the last one. A later chunk
meets more keys and does the same with each, so between two readings its time lies on a straight
line, but for how tiles fall on queues: of small chunks, 50 us, single ones lie 2 % off it, their
sum 0.1 %. Where the middle reading lies off the line of its neighbours by more than `BENT`, every
chunk is read.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

from models.machines.layer_time import (
    StageTime,
    around_attention_times,
    attention_time,
    feed_forward_times,
)
from models.prefill_plans.ends import Ends
from models.prefill_plans.plan import PrefillPlan
from models.prefill_plans.setting import Setting
from models.prefill_plans.transfer import between_chips, between_racks

BENT = 0.005
FEW = 4  # chunks that are all read

T = TypeVar("T")

Seconds: TypeAlias = Mapping[str, float]
"""By band."""


class PlanClock:
    """Readings for plans of one setting, kept for the next plan that asks for the same.

    Attributes:
      setting: model and machine.
      bands: that are read; nominal is one of them.
      readings: how many programs were read.
    """

    def __init__(self, setting: Setting, bands: Sequence[str] = ("nominal",)):
        self.setting = setting
        self.bands = tuple(bands)
        self.readings = 0
        self._kept: dict[object, Any] = {}

    # --- a layer ---

    def around(self, plan: PrefillPlan, layer: int) -> tuple[StageTime, StageTime]:
        """Projections and output of a chunk."""
        form = self.setting.config.forms[layer]
        has_mlp = form.experts is None
        key = "around", form.attention, has_mlp, *_of_mesh(plan), plan.each
        stages = self.setting.stages(plan, layer, plan.parts[0])
        return self._once(key, lambda: around_attention_times(stages, self.bands))

    def feed_forward(self, plan: PrefillPlan, layer: int) -> tuple[StageTime, ...]:
        """MLP or mixture of a chunk; every expert is chosen equally often."""
        form = self.setting.config.forms[layer]
        key = "feed", form.experts, form.activation, *_of_mesh(plan), plan.each
        stages = self.setting.stages(plan, layer, plan.parts[0])
        return self._once(
            key, lambda: feed_forward_times(stages, None, bands=self.bands)
        )

    def attention(self, plan: PrefillPlan, layer: int, number: int) -> StageTime:
        """Attention of one chunk, read."""
        form, chunk = self.setting.config.forms[layer], plan.parts[number]
        key = (
            "attention",
            form.attention,
            *_of_mesh(plan),
            plan.placement,
            chunk,
        )
        stages = self.setting.stages(
            plan, self.setting.first_attending_alike(layer), chunk
        )
        return self._once(key, lambda: attention_time(stages, self.bands))

    def attention_seconds(self, plan: PrefillPlan, layer: int) -> list[Seconds]:
        """Attention of every chunk, see the module's text."""
        count = plan.chunks
        if count <= FEW:
            numbers = range(count)
            return [self.attention(plan, layer, n).seconds for n in numbers]
        read = sorted({0, 1, (count + 1) // 2, count - 1})
        known = {n: self.attention(plan, layer, n).seconds for n in read}
        _, second, middle, last = read
        for band in self.bands:
            ends = known[second][band], known[last][band]
            found = known[middle][band]
            expected = _on_line(middle, second, last, *ends)
            if abs(found - expected) > BENT * expected:
                numbers = range(count)
                return [self.attention(plan, layer, n).seconds for n in numbers]
        return [
            {band: _between(known, n, band) for band in self.bands}
            for n in range(count)
        ]

    # --- what is not of a layer ---

    def ends(self, plan: PrefillPlan) -> tuple[Seconds, Seconds]:
        """Embedding of a chunk, and the last token's logits."""
        setting = self.setting
        ends = Ends(
            setting.config, setting.precision, setting.sheet, plan.each, plan.cores
        )
        key = "ends", plan.each, plan.cores
        return self._once(key, lambda: ends.seconds(self.bands))

    def sent(self, plan: PrefillPlan, stage: int) -> Seconds:
        """A chunk's hidden states from a stage to the next; the last stage sends none."""
        none = dict.fromkeys(self.bands, 0.0)
        if stage == plan.stages - 1:
            return none
        nbytes = self.sent_bytes(plan)
        if plan.leaves_rack(stage):
            link = self.setting.between_racks
            return self._once(
                ("racks", nbytes), lambda: between_racks(link, nbytes, self.bands)
            )
        stages = plan.stages // plan.racks
        key = "chips", nbytes, plan.of_stage, stages, plan.cores
        return self._once(
            key,
            lambda: between_chips(
                self.setting.sheet,
                nbytes,
                ring=plan.of_stage,
                stages=stages,
                cores=plan.cores,
                bands=self.bands,
            ),
        )

    def sent_bytes(self, plan: PrefillPlan) -> int:
        """Of a chip's hidden states of a chunk; each chip of a place has all of them."""
        tiling = self.setting.stages(plan, 0, plan.parts[0]).tiling
        return tiling.tokens * tiling.hidden_padded * tiling.dtype.itemsize

    def _once(self, key: object, read: Callable[[], T]) -> T:
        if key not in self._kept:
            self._kept[key] = read()
            self.readings += 1
        return self._kept[key]


def _of_mesh(plan: PrefillPlan) -> tuple[int, int, int]:
    return plan.ring, plan.tensor, plan.cores


def _between(known: dict[int, Seconds], number: int, band: str) -> float:
    """On the line between the readings before and behind a chunk."""
    if number in known:
        return known[number][band]
    before = max(n for n in known if n < number)
    behind = min(n for n in known if n > number)
    return _on_line(number, before, behind, known[before][band], known[behind][band])


def _on_line(at: int, first: int, last: int, of_first: float, of_last: float) -> float:
    return of_first + (of_last - of_first) * (at - first) / (last - first)


__all__ = ["BENT", "PlanClock", "Seconds"]
