"""The best plan of a space, by the clock: what does not fit or cannot win is not read.

Plans come in the order of their bounds (`models.prefill_plans.bounds`). Each is first asked
whether it fits a chip's HBM, then timed, until the bound of the next is longer than the best time
so far: from there on none can be better. A plan whose last chunk alone, which goes through all
stages, would take longer than the best is left after that one reading. Readings take seconds, so
a search reads at most so many plans, those of the least bounds; what became of every plan is kept,
and by it one sees whether the best is proven or only the best of those that were read.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, TypeAlias

from emu.errors import EmulationError
from models.errors import ModelError
from models.prefill_plans.bounds import bound
from models.prefill_plans.clock import PlanClock
from models.prefill_plans.memory import DoesNotFit, PlanMemory
from models.prefill_plans.pipeline import Schedule
from models.prefill_plans.plan import PrefillPlan
from models.prefill_plans.setting import Setting
from models.prefill_plans.time import PlanTime, last_chunk_s, plan_time

Aim: TypeAlias = Literal["ttft", "tokens"]
"""What is to be short: the time to the first token, or the time of a token in a stream of prompts
that follow one another."""

Reason: TypeAlias = Literal[
    "bound", "memory", "unread", "last chunk", "chunks", "kernels"
]
"""Why a plan was not timed: it cannot win, does not fit, is one too many to read, its last chunk
alone takes longer than the best, the same stage fits the prompt in fewer chunks, or kernels refuse
its sizes."""

NOMINAL = "nominal"
STAGES = (1, 2, 3, 4, 6, 8, 9, 12, 16, 18, 24, 36)
CHUNKS_A_STAGE = (1, 2, 4)
TENSOR = (1, 2, 4, 8)


@dataclasses.dataclass(frozen=True, eq=False)
class Tried:
    """A plan of a search and what became of it.

    Attributes:
      plan: of the prefill.
      bound_s: that its aim cannot fall below.
      time: what the clock says; None: it was not read to the end.
      reason: why it was not; None if it was.
      why_not: in words.
    """

    plan: PrefillPlan
    bound_s: float
    time: PlanTime | None
    reason: Reason | None = None
    why_not: str = ""

    @property
    def done(self) -> PlanTime:
        """The clock of a plan that was timed."""
        assert self.time is not None
        return self.time


@dataclasses.dataclass(frozen=True, eq=False)
class Found:
    """A search's result.

    Attributes:
      aim: what was to be short.
      tried: all plans, those that were timed first, the best of them in front.
    """

    aim: Aim
    tried: tuple[Tried, ...]

    @property
    def best(self) -> PlanTime:
        """The best plan's clock."""
        return self.tried[0].done


def plans(
    *,
    tokens: int,
    chips: int,
    layers: int,
    racks: int = 1,
    cached: int = 0,
    cores: int = 8,
) -> Iterator[PrefillPlan]:
    """The space of a search: so many chips of each rack in stages that share them evenly.

    A prompt goes through one stage as a whole or, where its buffers do not fit so, in up to 16
    chunks; through several in one, two or four chunks for each stage. A place is of up to 8 chips.

    Args:
      tokens, cached, cores: see `PrefillPlan`.
      chips: of each rack.
      layers: of the model.
      racks: that are used.
    """
    for of_rack, tensor in itertools.product(STAGES, TENSOR):
        stages = of_rack * racks
        if chips % (of_rack * tensor) or stages > layers:
            continue
        ring = chips // of_rack // tensor
        counts = [stages * each for each in CHUNKS_A_STAGE]
        for chunks in (1, 4, 16) if stages == 1 else counts:
            if tokens - cached >= ring * tensor * chunks:
                yield PrefillPlan(
                    tokens, ring, stages, racks, chunks, cached, cores, tensor
                )


def in_order(
    setting: Setting, space: Iterable[PrefillPlan], aim: Aim
) -> list[tuple[float, PrefillPlan]]:
    """Plans with the bounds of their aim, the least first; of equal ones the first stays in front.

    Bounds of a prompt in one chunk and in several are sums of the same work in other orders, so
    what differs in the tenth digit counts as equal.
    """
    bounded = [(_of(aim, plan, bound(setting, plan)), plan) for plan in space]
    return sorted(bounded, key=lambda each: float(f"{each[0]:.9e}"))


def search(
    setting: Setting,
    space: Iterable[PrefillPlan],
    aim: Aim = "ttft",
    *,
    bands: Sequence[str] = (NOMINAL,),
    most: int = 4,
    tell: Callable[[PrefillPlan], object] = lambda plan: None,
) -> Found:
    """The best plan of a space.

    Args:
      setting: model and machine.
      space: plans, such as `plans` gives; of equals the first is best.
      aim: what is to be short.
      bands: that the best is read under, nominal among them; plans are compared by nominal times.
      most: plans that fit and whose clocks are read, wholly or in part.
      tell: is called with each plan before it is timed.

    Raises:
      ModelError: none of them fits or has kernels, and why the first has not; or there is none.
    """
    clock, memory = PlanClock(setting), PlanMemory(setting)
    bounded = in_order(setting, space, aim)
    if not bounded:
        raise ModelError(
            f"{setting.config.name}: no plan to try; give one chip or more and as many tokens"
        )
    timed: list[Tried] = []
    left: list[Tried] = []
    trial = _Trial(clock, memory, aim, tell, most)
    for bound_s, plan in bounded:
        best_s = min((value(aim, one.done) for one in timed), default=float("inf"))
        one = trial.of(plan, bound_s, best_s)
        (timed if one.time else left).append(one)
    if not timed:
        raise ModelError(left[0].why_not)
    timed.sort(key=lambda each: value(aim, each.done))
    if tuple(bands) != clock.bands:
        first = timed[0]
        all_bands = plan_time(first.plan, PlanClock(setting, bands), memory)
        timed[0] = dataclasses.replace(first, time=all_bands)
    setting.release()
    return Found(aim, (*timed, *left))


@dataclasses.dataclass(eq=False)
class _Trial:
    """Takes plans one by one; see `search` for its attributes, of which `most` counts down."""

    clock: PlanClock
    memory: PlanMemory
    aim: Aim
    tell: Callable[[PrefillPlan], object]
    most: int

    def of(self, plan: PrefillPlan, bound_s: float, best_s: float) -> Tried:
        """A plan timed, or why it was not."""
        leave = functools.partial(Tried, plan, bound_s, None)
        if bound_s >= best_s:
            words = (
                f"cannot take less than {told(bound_s)}, at the peak of cores and HBM"
            )
            return leave("bound", words)
        if plan.stages == 1 and plan.chunks > 1 and best_s < float("inf"):
            return leave("chunks", "fits in fewer chunks, which overlap with nothing")
        if not self.most:
            return leave("unread", f"not read, its bound is {told(bound_s)}")
        try:
            self.memory.fullest(plan)
            self.tell(plan)
            tried = self._timed(plan, bound_s, best_s)
        except DoesNotFit as refused:
            return leave("memory", str(refused))
        except EmulationError as refused:
            return leave("kernels", str(refused))
        self.most -= 1
        return tried

    def _timed(self, plan: PrefillPlan, bound_s: float, best_s: float) -> Tried:
        if self.aim == "ttft" and plan.chunks > 1 and best_s < float("inf"):
            last_s = last_chunk_s(plan, self.clock)
            if last_s >= best_s:
                words = f"its last chunk alone takes {told(last_s)}"
                return Tried(plan, bound_s, None, "last chunk", words)
        return Tried(plan, bound_s, plan_time(plan, self.clock, self.memory))


def value(aim: Aim, time: PlanTime) -> float:
    """What is to be short, in nominal seconds."""
    return _of(aim, time.plan, time.schedules[NOMINAL])


def _of(aim: Aim, plan: PrefillPlan, times: Schedule) -> float:
    return times.end_s if aim == "ttft" else times.period_s / plan.new


def told(seconds: float) -> str:
    """Seconds as sentences have them."""
    return f"{seconds * 1e3:,.1f} ms"


__all__ = [
    "in_order",
    "STAGES",
    "Aim",
    "Found",
    "Reason",
    "Tried",
    "plans",
    "search",
    "told",
    "value",
]
