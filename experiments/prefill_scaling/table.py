"""Best plans as a table, and as rows of a file."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from emu.datasheet import BANDS
from experiments.prefill_scaling.measure import Planned
from experiments.shared.units import count, duration
from models.prefill_plans.explain import by_kind

HEADING = (
    "model",
    "tokens",
    "cached",
    "chips_a_rack",
    "racks",
    "plan",
    "ring",
    "chips_a_place",
    "stages",
    "chunks",
    *(f"{band}_ttft_s" for band in BANDS),
    *(f"{band}_tokens_per_s" for band in BANDS),
    "tokens_per_s_a_chip",
    "hbm_bytes",
    "weight_bytes",
    "cache_bytes",
    "working_bytes",
    "bound",
    "last_keys_s",
    "why",
)
LEGEND = """\
TTFT: to the first token's logits on the chips, low / nominal / high of the datasheet's numbers;
tokens/s: nominal, of such prompts one behind the other; HBM: of the fullest chip, of 144 GiB;
bound: the work that takes most of TTFT, and the engine that is busiest in it"""


def show(rows: Sequence[Planned], console: Console) -> None:
    """Prints all points, and below them why each has its plan."""
    table = Table(title="prefill", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("model", no_wrap=True)
    for name in ("tokens", "chips"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("plan")
    for name in ("TTFT", "tokens/s", "a chip", "HBM GiB"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("bound")
    for row in rows:
        table.add_row(*_cells(row))
    console.print(table)
    for row in rows:
        console.print(f"{row.point}:", highlight=False)
        for line in row.why:
            console.print(f"  {line}", highlight=False)


def _cells(row: Planned) -> Iterator[str]:
    point, best = row.point, row.best
    yield point.model
    yield f"{point.tokens:,}"
    yield f"{point.chips * point.racks}"
    if best is None:
        yield "none"
        return
    yield str(best.plan)
    yield " / ".join(duration(best.ttft_s[band]) for band in BANDS)
    rate = best.tokens_per_s["nominal"]
    yield count(rate)
    yield count(rate / best.plan.chips)
    yield f"{best.memory.total / 2**30:,.1f}"
    yield _bound(row)


def _bound(row: Planned) -> str:
    best = row.best
    assert best is not None
    parts = by_kind(best)
    longest = max(parts, key=lambda name: parts[name])
    engine = best.engines.get(longest)
    return f"{longest}, {engine}" if engine else longest


def lines(rows: Sequence[Planned]) -> Iterator[list[Any]]:
    """Rows of `prefill_scaling.csv`, in the order of `HEADING`."""
    for row in rows:
        point, best = row.point, row.best
        known = [point.model, point.tokens, point.cached, point.chips, point.racks]
        why = "; ".join(row.why)
        if best is None:
            yield [*known, *[None] * (len(HEADING) - len(known) - 1), why]
            continue
        plan, memory = best.plan, best.memory
        yield [
            *known,
            str(plan),
            plan.ring,
            plan.tensor,
            plan.stages,
            plan.chunks,
            *(best.ttft_s[band] for band in BANDS),
            *(best.tokens_per_s[band] for band in BANDS),
            best.tokens_per_s["nominal"] / plan.chips,
            memory.total,
            memory.weights + memory.ends,
            memory.cache,
            memory.working,
            _bound(row),
            best.layer_done_s["nominal"][-1],
            why,
        ]


__all__ = ["HEADING", "LEGEND", "lines", "show"]
