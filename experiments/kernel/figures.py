"""A kernel run's figures for programs: everything as JSON, every time as CSV."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from emu import Sheet
from emu.trainium.timed import Timed
from experiments.kernel.run import Run
from experiments.kernel.search import Search
from experiments.shared.output import Figures
from kernels.trainium.catalogue import Entry

BOUNDS = (
    "memory_bound",
    "memory_bound_ideal",
    "memory_bound_no_reloads",
    "compute_bound",
    "compute_bound_ideal",
    "compute_bound_useful",
    "perfect_pipeline",
)


def catalogue(entries: Mapping[str, Entry]) -> Figures:
    """The kernels there are: what each does, its sizes and what may be tuned."""
    return {
        name: {"summary": entry.summary, "sizes": entry.sizes, "tunable": entry.tunable}
        for name, entry in entries.items()
    }


def of_search(
    entry: Entry, given: Mapping[str, Any], found: Search, sheet: Sheet
) -> Figures:
    """Every setting that was tried, fastest first."""
    return {
        "kernel": entry.name,
        "sizes": {**entry.sizes, **given},
        "device": sheet.name,
        "deployed": sheet.deployed,
        "tick_hz": sheet.at().tick_hz,
        "exhaustive": found.exhaustive,
        "settings": [dataclasses.asdict(tried) for tried in found.ranked()],
    }


def as_json(run: Run) -> Figures:
    """A kernel, its sizes, and every figure of its run."""
    return {
        "kernel": run.entry.name,
        "sizes": {**run.entry.sizes, **run.given},
        **of_timed(run),
    }


def of_timed(run: Timed) -> Figures:
    """Every figure of a timed program; times in seconds, ticks as integers."""
    clock = run.clock
    return {
        "device": run.sheet.name,
        "cores": run.cores,
        "deployed": run.sheet.deployed,
        "time_s": run.time_s,
        "as_written_s": run.as_written_s,
        "end_ticks": clock.end_ticks,
        "tick_hz": clock.device.tick_hz,
        "utilisation": dataclasses.asdict(run.utilisation),
        "bounds_s": {name: getattr(run.bounds, name) for name in BOUNDS},
        "bottleneck_engine": run.bounds.bottleneck_engine,
        "speedup_cap": dict(run.bounds.speedup_cap),
        "gaps_s": run.bounds.gaps(),
        "quantities": dataclasses.asdict(run.quantities),
        "peak_bytes": run.peak_bytes,
        "engines_ticks": run.spent,
        "split": {
            "engine": run.split.engine,
            "end_ticks": run.split.end_ticks,
            "parts": [dataclasses.asdict(part) for part in run.split.parts],
        },
        "reasons": [reason.sentence for reason in run.reasons],
        "critical_path": [dataclasses.asdict(line) for line in run.path_lines],
        "counts": clock.tally.by("count"),
    }


CSV = ("section", "name", "detail", "us", "share")


Row = tuple[str, str, str, float, float]


def rows(run: Timed) -> list[Row]:
    """`(section, name, detail, microseconds, share of the time)` of every figure that is a time."""
    total = run.clock.end_ticks or 1

    def tick(section: str, name: str, detail: str, ticks: int) -> Row:
        return section, name, detail, run.us(ticks), ticks / total

    out = [tick("time", "nominal", "", run.clock.end_ticks)]
    for name in BOUNDS:
        seconds = getattr(run.bounds, name)
        out.append(("bound", name, "", seconds * 1e6, seconds / run.bounds.total_time))
    for engine, spent in run.spent.items():
        out += [tick("engine", engine, what, ticks) for what, ticks in spent.items()]
    out += [
        tick("split", run.split.engine, f"{part.kind}: {part.what}", part.ticks)
        for part in run.split.parts
    ]
    out += [
        tick("critical path", line.where, f"{line.engine} {line.name}", line.ticks)
        for line in run.path_lines
    ]
    return out
