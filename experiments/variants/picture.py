"""Time of variants against full attention, drawn."""

import pathlib
import textwrap
from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

from experiments.variants.measure import Row  # noqa: E402


def draw(rows: Sequence[Row], base_s: float, title: str, path: pathlib.Path) -> None:
    """Writes a bar for each variant, shortest first, with its band, as a PNG."""
    ordered = sorted(rows, key=lambda row: row.clock.prefill.seconds["nominal"])
    height = 1.6 + 0.32 * len(ordered)
    figure, ax = plt.subplots(figsize=(9, height), constrained_layout=True)
    for place, row in enumerate(ordered):
        seconds = row.clock.prefill.seconds
        nominal = seconds["nominal"] / base_s
        low, high = seconds["low"] / base_s, seconds["high"] / base_s
        ax.barh(place, nominal, color="tab:blue", height=0.7)
        ax.errorbar(
            nominal,
            place,
            xerr=[[nominal - low], [high - nominal]],
            color="black",
            linewidth=1,
            capsize=3,
        )
        ax.annotate(
            f"{seconds['nominal'] * 1e3:.2f} ms",
            (high, place),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    ax.axvline(1, color="grey", linewidth=1, linestyle="--")
    ax.set_yticks(range(len(ordered)), [row.name for row in ordered])
    ax.set_xlabel("prefill over full attention; lines are the band")
    ax.set_title("\n".join(textwrap.wrap(title, 90)), fontsize=10)
    ax.margins(x=0.15)
    ax.set_xlim(left=0)
    ax.invert_yaxis()
    figure.savefig(path, dpi=110)
    plt.close(figure)


__all__ = ["draw"]
