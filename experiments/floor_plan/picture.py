"""A floor plan, drawn: every wafer with its regions, coloured by how full their PEs are."""

import math
import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.cm import ScalarMappable  # noqa: E402
from matplotlib.colors import Normalize  # noqa: E402
from matplotlib.patches import Rectangle  # noqa: E402

from experiments.floor_plan.placed import Placed  # noqa: E402

MOST_COLUMNS = 10  # of wafers in the picture
COLORS = plt.get_cmap("viridis")


def draw(placed: Placed, path: pathlib.Path) -> None:
    """Writes the wafers side by side as a PNG, the layers' numbers in their regions."""
    count = placed.plan.wafers
    columns = min(count, MOST_COLUMNS, max(1, math.ceil(math.sqrt(count * 1.6))))
    lines = math.ceil(count / columns)
    width, height = placed.plan.grid
    # Inches of a wafer; the fewer there are, the larger each is.
    size = 5.0 if count == 1 else max(1.3, 9.0 / columns)
    figure, axes = plt.subplots(
        lines,
        columns,
        figsize=(
            columns * size + 1.6,
            lines * (size * height / width + 0.25) + 0.9,
        ),
        squeeze=False,
        constrained_layout=True,
    )
    for wafer, ax in enumerate(axes.flat):
        if wafer < count:
            _wafer(ax, placed, wafer, size)
        else:
            ax.set_axis_off()
    share = ScalarMappable(Normalize(0, 100), COLORS)
    bar = figure.colorbar(share, ax=axes, fraction=0.03, pad=0.02)
    bar.set_label(f"% of a PE's {placed.sram_bytes:,} bytes in use")
    users = f", {placed.plan.users:,} users" if placed.plan.users > 1 else ""
    figure.suptitle(
        f"{placed.name} in {placed.held} on {count} WSE-3:\n"
        f"{placed.context:,} tokens of context{users}; numbers are layers, H embedding and head",
        fontsize=9,
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _wafer(ax: Axes, placed: Placed, wafer: int, size: float) -> None:
    width, height = placed.plan.grid
    ax.add_patch(Rectangle((0, 0), width, height, facecolor="whitesmoke", zorder=0))
    for entry in placed.regions:
        if entry.wafer != wafer:
            continue
        region, is_head = entry.region, entry.name == "head"
        share = entry.peak_bytes / placed.sram_bytes
        ax.add_patch(
            Rectangle(
                (region.x, region.y),
                region.width,
                region.height,
                facecolor=COLORS(share),
                edgecolor="white",
                linewidth=0.6,
                hatch="//" if is_head else None,
            )
        )
        told = "H" if is_head else entry.name.removeprefix("layer ")
        # As large as the rectangle has room for, from 4 to 9 points.
        room = 72 * size * min(region.width / len(told) * 1.4, region.height) / width
        ax.text(
            region.x + region.width / 2,
            region.y + region.height / 2,
            told,
            ha="center",
            va="center",
            fontsize=min(9, max(4, 0.7 * room)),
            color="black" if share > 0.6 or is_head else "white",
            # A hatched region's letter is read on a ground of its own.
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5}
            if is_head
            else None,
        )
    ax.set_xlim(0, width)
    ax.set_ylim(height, 0)
    ax.set_aspect("equal")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_title(f"wafer {wafer}", fontsize=7, pad=2)


__all__ = ["draw"]
