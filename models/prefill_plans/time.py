"""What a plan takes, by the clock of its programs: when each stage has each chunk, TTFT, tokens/s.

A stage takes a chunk through its layers one after the other and sends it on; programs of a chip
follow one another, so a stage's time is the sum of theirs (`models.machines.layer_time` says what
that leaves out), and what a stage sends shares the links with nothing that its own chips do.
"""

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np

from models.prefill_plans.clock import PlanClock, Seconds
from models.prefill_plans.memory import Memory, PlanMemory
from models.prefill_plans.pipeline import Schedule, schedule
from models.prefill_plans.plan import PrefillPlan


@dataclasses.dataclass(frozen=True, eq=False)
class PlanTime:
    """The clock of a plan.

    Attributes:
      plan: what was timed.
      schedules: of its stages, by band.
      parts: nominal seconds of one prompt by kind of work, all stages and chunks together:
        projections, attention, output, mlp, mixture, ends, sent.
      engines: of each kind of a layer's work the engine that is busiest in it.
      layer_done_s: nominal; when each layer's keys and values of the whole prompt stand in HBM.
      memory: of the fullest chip.
    """

    plan: PrefillPlan
    schedules: Mapping[str, Schedule]
    parts: Mapping[str, float]
    engines: Mapping[str, str]
    layer_done_s: Mapping[str, list[float]]
    memory: Memory

    @property
    def ttft_s(self) -> dict[str, float]:
        """To the first token's logits, by band."""
        return {band: each.end_s for band, each in self.schedules.items()}

    @property
    def tokens_per_s(self) -> dict[str, float]:
        """Of prompts that follow one another, by band; cached tokens do not count."""
        return {
            band: self.plan.new / each.period_s for band, each in self.schedules.items()
        }

    @functools.cached_property
    def longest_part(self) -> str:
        """The kind of work that takes most of the prompt's time."""
        return max(self.parts, key=lambda name: self.parts[name])

    @property
    def bound(self) -> str:
        """What bounds the plan: the longest kind of work and the engine that is busiest in it."""
        engine = self.engines.get(self.longest_part)
        return f"{self.longest_part}, {engine}" if engine else self.longest_part


def plan_time(plan: PrefillPlan, clock: PlanClock, memory: PlanMemory) -> PlanTime:
    """Times a plan.

    Args:
      plan: of the prefill.
      clock: keeps what was read.
      memory: of plans of the same setting.

    Raises:
      DoesNotFit: a chip has too little HBM.
      ModelError: the system has fewer chips, or a layer no programs.
    """
    setting = clock.setting
    plan.check_system(setting.system)
    fullest = memory.fullest(plan)
    groups = plan.layers(setting.config.num_hidden_layers)
    of_layers = {kind: _layer(clock, plan, kind) for kind in setting.kinds}
    embedding, logits = clock.ends(plan)
    sums: dict[str, float] = {}
    schedules, done = {}, {}
    for band in clock.bands:
        rows = []
        for number, layers in enumerate(groups):
            row = np.zeros(plan.chunks)
            for layer in layers:
                row += of_layers[setting.first_alike(layer)].total(band)
            row += clock.sent(plan, number)[band]
            if number == 0:
                row += embedding[band]
            if number == len(groups) - 1:
                row[-1] += logits[band]
            rows.append(row)
        schedules[band] = schedule(rows)
        done[band] = _done(plan, clock, of_layers, schedules[band], band)
    for layer in range(setting.config.num_hidden_layers):
        for name, seconds in of_layers[setting.first_alike(layer)].by_name():
            sums[name] = sums.get(name, 0.0) + seconds
    nominal = "nominal"
    sums["ends"] = embedding[nominal] * plan.chunks + logits[nominal]
    stages = range(plan.stages)
    sums["sent"] = plan.chunks * sum(clock.sent(plan, n)[nominal] for n in stages)
    engines: dict[str, str] = {}
    for layer in of_layers.values():
        engines |= layer.engines
    return PlanTime(plan, schedules, sums, engines, done, fullest)


def last_chunk_s(plan: PrefillPlan, clock: PlanClock) -> float:
    """Nominal seconds of the last chunk in all layers: no plan has its first token before."""
    setting, last = clock.setting, plan.chunks - 1
    total = 0.0
    for layer in range(setting.config.num_hidden_layers):
        total += clock.attention(plan, layer, last).seconds["nominal"]
        parts = (*clock.around(plan, layer), *clock.feed_forward(plan, layer))
        total += sum(part.seconds["nominal"] for part in parts)
    return total


@dataclasses.dataclass(frozen=True, eq=False)
class _LayerChunks:
    """One form's time: of what is equal in all chunks, and of attention in each."""

    before: Seconds
    after: tuple[tuple[str, Seconds], ...]
    attention: list[Seconds]
    engines: Mapping[str, str]

    def total(self, band: str) -> np.ndarray:
        """Of each chunk."""
        equal = self.before[band] + sum(seconds[band] for _, seconds in self.after)
        return equal + np.array([seconds[band] for seconds in self.attention])

    def by_name(self) -> list[tuple[str, float]]:
        """Nominal seconds of all chunks by kind of work."""
        count, nominal = len(self.attention), "nominal"
        attention_s = sum(seconds[nominal] for seconds in self.attention)
        return [
            ("projections", self.before[nominal] * count),
            ("attention", attention_s),
            *((name, seconds[nominal] * count) for name, seconds in self.after),
        ]


def _layer(clock: PlanClock, plan: PrefillPlan, layer: int) -> _LayerChunks:
    projections, output = clock.around(plan, layer)
    feed = clock.feed_forward(plan, layer)
    attention = clock.attention_seconds(plan, layer)
    last = clock.attention(plan, layer, plan.chunks - 1)
    return _LayerChunks(
        dict(projections.seconds),
        tuple((stage.name, dict(stage.seconds)) for stage in (output, *feed)),
        attention,
        {stage.name: stage.bound for stage in (projections, last, output, *feed)},
    )


def _done(
    plan: PrefillPlan,
    clock: PlanClock,
    of_layers: Mapping[int, _LayerChunks],
    times: Schedule,
    band: str,
) -> list[float]:
    """When each layer has made keys and values of the last chunk: behind its projections."""
    setting, found = clock.setting, []
    embedding, _ = clock.ends(plan)
    groups = plan.layers(setting.config.num_hidden_layers)
    for number, layers in enumerate(groups):
        now_s = float(times.starts[number, -1])
        if number == 0:
            now_s += embedding[band]
        for layer in layers:
            own = of_layers[setting.first_alike(layer)]
            found.append(now_s + own.before[band])
            now_s += float(own.total(band)[-1])
    return found


__all__ = ["PlanTime", "last_chunk_s", "plan_time"]
