"""Error against the size of the ring, drawn: one line for each dtype and recipe."""

import pathlib
from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402

from experiments.ring_precision.measure import Row  # noqa: E402

COLOURS = {
    "float32": "tab:blue",
    "bfloat16": "tab:orange",
    "float8_e4m3fn": "tab:green",
    "mxfp8": "tab:red",
}
MARKERS = {"float32": "o", "bfloat16": "s", "float8_e4m3fn": "^", "mxfp8": "D"}
STYLES = {"fp32": "-", "bf16-o": "--"}
PANELS = (
    ("sums", "the sums of the last hop\n(recipe and weights)"),
    ("output", "the kernel's result\n(and the output's dtype)"),
    ("drawn", "against operands as drawn\n(and their rounding)"),
)


def draw(rows: Sequence[Row], tokens: int, mask: str, path: pathlib.Path) -> None:
    """Writes the picture as a PNG: rms errors above, largest errors below."""
    figure, axes = plt.subplots(
        2,
        len(PANELS),
        figsize=(14, 8.4),
        sharex=True,
        sharey="row",
        constrained_layout=True,
    )
    for ax, (gap, title) in zip(axes[0], PANELS, strict=True):
        _panel(ax, rows, gap, "of_rms")
        ax.set_title(title, fontsize=11)
    for ax, (gap, _) in zip(axes[1], PANELS, strict=True):
        _panel(ax, rows, gap, "of_largest")
        ax.set_xlabel("ranks of the ring")
    axes[0, 0].set_ylabel("rms error / rms of the output")
    axes[1, 0].set_ylabel("largest error / largest output")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", title="dtype, recipe")
    figure.suptitle(f"Ring attention against float64: {tokens:,} tokens, {mask} mask")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _panel(ax: Axes, rows: Sequence[Row], gap: str, figure: str) -> None:
    lines: dict[tuple[str, str], list[Row]] = {}
    for row in sorted(rows, key=_ranks):
        lines.setdefault((row.dtype, row.recipe), []).append(row)
    for dtype, recipe in dict.fromkeys((row.dtype, row.recipe) for row in rows):
        own = lines[dtype, recipe]
        ranks = [row.ranks for row in own]
        errors = [getattr(getattr(row, gap), figure) for row in own]
        colour = COLOURS[dtype]
        ax.plot(
            ranks,
            errors,
            STYLES[recipe],
            marker=MARKERS[dtype],
            markersize=5,
            color=colour,
            linewidth=1.2,
            markerfacecolor=colour if recipe == "fp32" else "white",
            label=f"{dtype}, {recipe}",
        )
    rings = sorted({row.ranks for row in rows})
    ax.set(xscale="log", yscale="log")
    ax.set_xticks(rings, [str(number) for number in rings])
    ax.set_xticks([], minor=True)
    ax.grid(alpha=0.3)


def _ranks(row: Row) -> int:
    return row.ranks
