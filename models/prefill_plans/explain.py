"""Why a plan and not the next best one, in sentences made of what the clock said of both.

A plan's time is that of its work on every stage alike, and what stages wait: with all stages' work
of a kind divided by the number of stages, and their mean wait, the sum is the time to the first
token to the last bit. So two plans are compared kind by kind.
"""

from collections.abc import Iterator, Sequence

from models.prefill_plans.search import Found, Reason, Tried, told, value
from models.prefill_plans.time import PlanTime

NOMINAL = "nominal"
WAITING = "stages that wait"
TOLD = 3  # kinds of work that a sentence names


def by_kind(time: PlanTime) -> dict[str, float]:
    """Seconds to the first token by kind of work, and of stages that wait; they add up to it."""
    stages, times = time.plan.stages, time.schedules[NOMINAL]
    kinds = {name: seconds / stages for name, seconds in time.parts.items()}
    return kinds | {WAITING: times.idle_share * times.end_s}


def explain(found: Found) -> Iterator[str]:
    """Sentences: what bounds the best plan, why the next best is none, and why others were left."""
    _, *others = found.tried
    best = found.best
    parts = by_kind(best)
    longest = max(parts, key=lambda name: parts[name])
    share = parts[longest] / sum(parts.values())
    engine = best.engines.get(longest)
    by = f", busiest there the {engine} engine" if engine else ""
    yield (
        f"{best.plan}: first token after {told(sum(parts.values()))}, of which {share:.0%} "
        f"{longest}{by}"
    )
    timed = [one for one in others if one.time is not None]
    if timed:
        yield _compared(found, best, timed[0].done)
    yield from _left([one for one in others if one.time is None])


def _left(others: Sequence[Tried]) -> Iterator[str]:
    """Of plans left for one reason the one of the shortest bound, and how many more there are."""
    by_reason: dict[Reason | None, list[Tried]] = {}
    for one in others:
        by_reason.setdefault(one.reason, []).append(one)
    for alike in by_reason.values():
        first, more = alike[0], len(alike) - 1
        plans = "plan" if more == 1 else "plans"
        and_more = f" (and {more} more {plans} likewise)" if more else ""
        yield f"not {first.plan}: {first.why_not}{and_more}"


def _compared(found: Found, best: PlanTime, other: PlanTime) -> str:
    own, others = by_kind(best), by_kind(other)
    aims = value(found.aim, best), value(found.aim, other)
    changed = {
        name: others.get(name, 0.0) - own.get(name, 0.0) for name in {*own, *others}
    }
    # The largest first; of equals by name, as sets have no order.
    order = sorted(changed, key=lambda name: (-abs(changed[name]), name))[:TOLD]
    words = ", ".join(
        f"{name} {'+' if changed[name] >= 0 else '-'}{told(abs(changed[name]))}"
        for name in order
        if changed[name]
    )
    if found.aim == "ttft":
        return f"next best {other.plan}: {told(aims[1] - aims[0])} later ({words})"
    rates = (f"{1 / each:,.0f}" for each in reversed(aims))
    return f"next best {other.plan}: {' instead of '.join(rates)} tokens/s ({words})"


__all__ = ["WAITING", "by_kind", "explain"]
