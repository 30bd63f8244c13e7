"""Time against ranks, placements side by side, and schemes side by side, drawn."""

import pathlib
from collections.abc import Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402

from experiments.ring_scaling.cases import PATTERNS  # noqa: E402
from experiments.ring_scaling.measure import Row  # noqa: E402
from experiments.ring_scaling.schemes import winner  # noqa: E402

COLOURS = {
    "contiguous": "tab:blue",
    "zigzag": "tab:orange",
    "striped": "tab:green",
    "tile-cyclic": "tab:red",
}
EXPOSED: dict[str, Any] = dict(
    color="white", edgecolor="black", hatch="////", linewidth=0.6
)
MACHINE = "Trn3 Gen2"


def draw(sweep: Sequence[Row], groups: Sequence[list[Row]], path: pathlib.Path) -> None:
    """Writes the picture as a PNG."""
    figure, axes = plt.subplots(2, 2, figsize=(14, 9.4), constrained_layout=True)
    for ax, panel in zip(axes.flat, (_placements, _ranks, _machines), strict=False):
        if sweep:
            panel(ax, sweep)
    if groups:
        _schemes(axes[1, 1], groups)
    for ax in axes.flat:
        ax.set_visible(ax.has_data())
    figure.suptitle(
        "Context-parallel attention of one layer, by the clock; hatched: exposed links"
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _bar(
    ax: Axes,
    at: float,
    row: Row,
    width: float,
    scale: float,
    colour: str,
    label: str | None,
) -> None:
    ax.bar(at, row.free_s * scale, width, color=colour, label=label)
    if row.exposed_s > 0:
        ax.bar(at, row.exposed_s * scale, width, bottom=row.free_s * scale, **EXPOSED)


def _placements(ax: Axes, sweep: Sequence[Row]) -> None:
    """Every mask of the commonest ring, a bar for each placement."""
    rows = [
        row for row in sweep if row.point.machine == MACHINE and row.point.cores == 1
    ]
    rings = [row.point.ranks for row in rows]
    ranks = max(set(rings), key=rings.count, default=0)
    rows = [
        row
        for row in rows
        if row.point.ranks == ranks and row.point.share == rows[0].point.share
    ]
    names = [*dict.fromkeys(_mask(row) for row in rows)]
    seen: set[str] = set()
    for place, name in enumerate(names):
        own = [row for row in rows if _mask(row) == name]
        for number, row in enumerate(own):
            at = place + 0.22 * (number - (len(own) - 1) / 2)
            _bar(
                ax,
                at,
                row,
                0.2,
                1e3,
                COLOURS[row.placed],
                None if row.placed in seen else row.placed,
            )
            seen.add(row.placed)
    ax.set_xticks(range(len(names)), names, rotation=20, ha="right", fontsize=8)
    ax.set(ylabel="ms", title=f"{MACHINE}, {ranks} chips: placements by mask")
    ax.margins(y=0.2)
    _legend(ax, columns=4)


def _mask(row: Row) -> str:
    return row.point.mask + ", static" * row.point.static


def _ranks(ax: Axes, sweep: Sequence[Row]) -> None:
    """Time against ranks at the same tokens of each, as chosen; dashed: over free links."""
    rows = [
        row for row in sweep if row.point.machine == MACHINE and not row.point.static
    ]
    rows = [row for row in rows if row.point.cores == 1 and row.placed == row.auto]
    rows = [row for row in rows if row.point.share == rows[0].point.share]
    for number, mask in enumerate(PATTERNS):
        own = sorted(
            (row for row in rows if row.point.mask == mask),
            key=lambda row: row.point.ranks,
        )
        if len({row.point.ranks for row in own}) > 1:
            chips, colour = [row.point.ranks for row in own], f"C{number}"
            ax.plot(
                chips, [row.time_s * 1e3 for row in own], "o-", color=colour, label=mask
            )
            ax.plot(
                chips,
                [row.free_s * 1e3 for row in own],
                "--",
                color=colour,
                linewidth=1,
            )
    rings = sorted({row.point.ranks for row in rows})
    ax.set(xscale="log", yscale="log", xlabel="chips", ylabel="ms")
    ax.set_xticks(rings, [str(number) for number in rings])
    ax.set_xticks([], minor=True)
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter("")
    share = f"{rows[0].point.share:,} tokens each" if rows else ""
    ax.set_title(f"{MACHINE}, {share}; dashed: over free links")
    ax.grid(alpha=0.3)
    _legend(ax)


def _machines(ax: Axes, sweep: Sequence[Row]) -> None:
    """Parts of the peak that causal rings reach on each machine."""
    rows = [row for row in sweep if row.point.mask == "causal" and not row.point.static]
    rows = [row for row in rows if row.point.cores == 1 and row.placed == row.auto]
    names = [
        f"{row.point.machine}\n{row.point.ranks} x {row.point.share:,}" for row in rows
    ]
    ax.bar(range(len(rows)), [row.mfu * 100 for row in rows], 0.6, color="tab:purple")
    for place, row in enumerate(rows):
        told = f"{row.mfu:.0%}\n{row.exposed_s / row.time_s:.0%} exposed"
        ax.text(place, row.mfu * 100, told, ha="center", va="bottom", fontsize=8)
    ax.set_xticks(range(len(rows)), names, fontsize=8)
    ax.margins(y=0.18)
    ax.set(ylabel="% of the peak (MFU)", title="causal: what rings reach")


def _schemes(ax: Axes, groups: Sequence[list[Row]]) -> None:
    """Every group of schemes, relative to its fastest."""
    at, ticks = 0.0, []
    schemes = [*dict.fromkeys(row.point.scheme for group in groups for row in group)]
    seen: set[str] = set()
    for group in groups:
        best, begin = winner(group).time_s, at
        for row in group:
            colour = f"C{schemes.index(row.point.scheme)}"
            name = row.point.scheme
            _bar(ax, at, row, 0.9, 1 / best, colour, None if name in seen else name)
            seen.add(name)
            at += 1
        point = group[0].point
        asked = f"{point.queries:,} queries" if point.queries else point.mask
        heads = f"{point.heads} over {point.kv_heads} heads"
        told = f"{point.ranks} x {point.share:,}\n{asked}\n{heads}"
        ticks.append(((begin + at - 1) / 2, told))
        at += 1
    ax.set_xticks(
        [place for place, _ in ticks], [name for _, name in ticks], fontsize=8
    )
    ax.set(ylabel="time over the fastest", title=f"schemes, {MACHINE}")
    ax.margins(y=0.16)
    _legend(ax, columns=6)


def _legend(ax: Axes, columns: int = 1) -> None:
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=8, ncols=columns, loc="upper left")
