"""Predicted against measured values, one panel each for times, rates and cycles."""

import pathlib
from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.ticker import LogLocator  # noqa: E402

from emu.trainium.datasheets import GENERATIONS  # noqa: E402
from experiments.calibration.table import MISS_PERCENT, Row  # noqa: E402

MICROSECONDS = {"us": 1.0, "ns": 1e-3}
UNITS = {"time": "us", "rate": "GB/s or TFLOPS", "cycles": "cycles"}
PALETTE = ("tab:orange", "tab:blue", "tab:green", "tab:red", "tab:purple", "tab:brown")
COLOURS = dict(zip((*GENERATIONS, "wse2", "wse3"), PALETTE, strict=False))


def draw(rows: Sequence[Row], path: pathlib.Path) -> None:
    """Draws the rows that have a prediction into a PNG file."""
    panels: dict[str, list[Row]] = {name: [] for name in UNITS}
    for row in rows:
        if row.predicted:
            panels[_panel_of(row.point.unit)].append(row)
    used = {name: group for name, group in panels.items() if group}
    columns = max(1, len(used))
    size = (7 * columns, 6.4)
    figure, axes = plt.subplots(1, columns, figsize=size, squeeze=False)
    for ax, (name, group) in zip(axes[0], used.items(), strict=False):
        _panel(ax, group, UNITS[name])
    figure.suptitle(
        f"Predicted against measured; dashed ±{MISS_PERCENT} %, bars: the band"
    )
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _panel_of(unit: str) -> str:
    """Which of `UNITS` a measurement's unit belongs to."""
    if unit == "cycles":
        return "cycles"
    return "time" if unit in MICROSECONDS else "rate"


def _panel(ax: Axes, rows: list[Row], unit: str) -> None:
    values: list[float] = []
    for row in rows:
        scale = MICROSECONDS.get(row.point.unit, 1.0)
        measured = row.point.value * scale
        nominal = row.predicted["nominal"] * scale
        band = [value * scale for value in row.predicted.values()]
        low, high = min(band), max(band)
        values += [measured, low, high]
        device = row.point.device
        colour = COLOURS.get(device, "tab:gray")
        ax.plot(
            [measured, measured], [low, high], color=colour, alpha=0.35, linewidth=3
        )
        face = "none" if row.fitted else colour
        label = f"{device}, {'fitted' if row.fitted else 'predicted'}"
        ax.plot(measured, nominal, "o", color=colour, markerfacecolor=face, label=label)
        if abs(row.error_percent) > MISS_PERCENT:
            at = (measured, nominal)
            ax.annotate(row.point.id, at, (6, -4), "data", "offset points", fontsize=8)
    ends = [min(values) / 1.3, max(values) * 1.3]
    miss = MISS_PERCENT / 100
    for factor, style in ((1, "-"), (1 + miss, "--"), (1 - miss, "--")):
        line = [end * factor for end in ends]
        ax.plot(ends, line, style, color="0.6", linewidth=1, zorder=0)
    ax.set(
        xscale="log",
        yscale="log",
        xlabel=f"measured, {unit}",
        ylabel=f"predicted, {unit}",
    )
    ax.set(xlim=ends, ylim=ends)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("" if ends[1] > 100 * ends[0] else "{x:g}")
        axis.set_minor_locator(LogLocator(subs=(2, 5)))
    handles, labels = ax.get_legend_handles_labels()
    seen = dict(zip(labels, handles, strict=True))
    ax.legend(seen.values(), seen.keys(), loc="upper left")
