"""TTFT and tokens/s of the best plans over chips, or over tokens where chips are one number."""

import pathlib
from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.ticker import LogLocator  # noqa: E402

from experiments.prefill_scaling.measure import Planned  # noqa: E402


def draw(rows: Sequence[Planned], path: pathlib.Path) -> None:
    """Writes two panels as a PNG; lines join points of one model and of the same other size."""
    over_chips = len({row.point.chips for row in rows}) > 1
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(11, 5.5), constrained_layout=True
    )
    lines: dict[str, list[Planned]] = {}
    for row in rows:
        lines.setdefault(_line(row, over_chips), []).append(row)
    for number, (name, own) in enumerate(lines.items()):
        _draw_line(left, right, f"C{number % 10}", name, own, over_chips)
    has_any = any(row.best is not None for row in rows)
    for ax, what in ((left, "time to first token, s"), (right, "tokens/s, nominal")):
        ax.set_xscale("log", base=2)
        if has_any:
            ax.set_yscale("log")
            # Of less than a decade powers of ten alone would leave no label.
            ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            ax.yaxis.set_major_formatter("{x:g}")
        at = sorted({_x(row, over_chips) for row in rows})
        ax.set_xticks(at, [f"{x:,}" for x in at], rotation=30)
        ax.minorticks_off()
        ax.set_xlabel("chips" if over_chips else "tokens of the prompt")
        ax.set_ylabel(what)
        ax.grid(alpha=0.3)
    left.set_title("lines from low to high of the datasheet", fontsize=9)
    right.set_title("prompts one behind the other", fontsize=9)
    figure.suptitle("Prefill by the best plan (predicted, not measured)", fontsize=11)
    handles, labels = left.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_line(
    left: Axes,
    right: Axes,
    color: str,
    name: str,
    rows: Sequence[Planned],
    over_chips: bool,
) -> None:
    timed = [(row, row.best) for row in rows if row.best is not None]
    at = [_x(row, over_chips) for row, _ in timed]
    ttft = [best.ttft_s["nominal"] for _, best in timed]
    low = [best.ttft_s["nominal"] - best.ttft_s["low"] for _, best in timed]
    high = [best.ttft_s["high"] - best.ttft_s["nominal"] for _, best in timed]
    if not timed:
        name = f"{name}: no plan"
    left.errorbar(
        at, ttft, yerr=[low, high], color=color, marker="o", capsize=3, label=name
    )
    rates = [best.tokens_per_s["nominal"] for _, best in timed]
    right.plot(at, rates, color=color, marker="o", label=name)


def _x(row: Planned, over_chips: bool) -> int:
    point = row.point
    return point.chips * point.racks if over_chips else point.tokens


def _line(row: Planned, over_chips: bool) -> str:
    point = row.point
    other = (
        f"{point.tokens:,} tokens"
        if over_chips
        else f"{point.chips * point.racks} chips"
    )
    return f"{point.model}, {other}"


__all__ = ["draw"]
