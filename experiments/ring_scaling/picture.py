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
        "Context-parallel attention of one layer, by the clock, all cores of every chip running; "
        "hatched: exposed links"
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
    rows = _one_core_a_chip(sweep)
    rings = [row.point.ranks for row in rows]
    ranks = max(set(rings), key=rings.count, default=0)
    rows = [row for row in _of_first_share(rows) if row.point.ranks == ranks]
    names = [*dict.fromkeys(_mask(row) for row in rows)]
    seen: set[str] = set()
    for place, name in enumerate(names):
        own = [row for row in rows if _mask(row) == name]
        for number, row in enumerate(own):
            from_middle = number - (len(own) - 1) / 2
            at = place + 0.22 * from_middle
            label = None if row.placed in seen else row.placed
            _bar(ax, at, row, 0.2, 1e3, COLOURS[row.placed], label)
            seen.add(row.placed)
    ax.set_xticks(range(len(names)), names, rotation=20, ha="right", fontsize=8)
    ax.set(ylabel="ms", title=f"{_machine(sweep)}, {ranks} chips: placements by mask")
    ax.margins(y=0.2)
    _legend(ax, columns=4)


def _machine(rows: Sequence[Row]) -> str:
    return rows[0].point.machine


def _one_core_a_chip(sweep: Sequence[Row]) -> list[Row]:
    """The rings of the first machine whose ranks are whole chips."""
    machine = _machine(sweep)
    of_machine = [row for row in sweep if row.point.machine == machine]
    return [row for row in of_machine if row.point.cores == 1]


def _of_first_share(rows: list[Row]) -> list[Row]:
    """Those with as many tokens a rank as the first has."""
    return [row for row in rows if row.point.share == rows[0].point.share]


def _as_chosen(rows: Sequence[Row]) -> list[Row]:
    """Those with the placement that is chosen where none is named."""
    dynamic = [row for row in rows if not row.point.static]
    return [row for row in dynamic if row.placed == row.auto]


def _mask(row: Row) -> str:
    return row.point.mask + ", static" * row.point.static


def _ranks(ax: Axes, sweep: Sequence[Row]) -> None:
    """Time against ranks at the same tokens of each, as chosen; dashed: over free links."""
    rows = _of_first_share(_as_chosen(_one_core_a_chip(sweep)))
    for number, mask in enumerate(PATTERNS):
        own = [row for row in rows if row.point.mask == mask]
        own.sort(key=lambda row: row.point.ranks)
        chips = [row.point.ranks for row in own]
        if len(set(chips)) > 1:
            colour = f"C{number}"
            time_ms = [row.time_s * 1e3 for row in own]
            free_ms = [row.free_s * 1e3 for row in own]
            ax.plot(chips, time_ms, "o-", color=colour, label=mask)
            ax.plot(chips, free_ms, "--", color=colour, linewidth=1)
    rings = sorted({row.point.ranks for row in rows})
    ax.set(xscale="log", yscale="log", xlabel="chips", ylabel="ms")
    ax.set_xticks(rings, [str(number) for number in rings])
    ax.set_xticks([], minor=True)
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter("")
    share = f"{rows[0].point.share:,} tokens each" if rows else ""
    ax.set_title(f"{_machine(sweep)}, {share}; dashed: over free links")
    ax.grid(alpha=0.3)
    _legend(ax)


def _machines(ax: Axes, sweep: Sequence[Row]) -> None:
    """Parts of the peak that causal rings reach on each machine."""
    causal = [row for row in sweep if row.point.mask == "causal"]
    rows = [row for row in _as_chosen(causal) if row.point.cores == 1]
    points = [row.point for row in rows]
    names = [f"{point.machine}\n{point.ranks} x {point.share:,}" for point in points]
    ax.bar(range(len(rows)), [row.mfu * 100 for row in rows], 0.6, color="tab:purple")
    for place, row in enumerate(rows):
        told = f"{row.mfu:.0%}\n{row.exposed_s / row.time_s:.0%} exposed"
        ax.text(place, row.mfu * 100, told, ha="center", va="bottom", fontsize=8)
    ax.set_xticks(range(len(rows)), names, fontsize=8)
    ax.margins(y=0.18)
    ax.set(ylabel="% of the peak (MFU)", title="causal: what rings reach")


def _schemes(ax: Axes, groups: Sequence[list[Row]]) -> None:
    """Every group of schemes, relative to its fastest."""
    at = 0.0
    places: list[float] = []
    names: list[str] = []
    schemes = [*dict.fromkeys(row.point.scheme for group in groups for row in group)]
    seen: set[str] = set()
    for group in groups:
        best = winner(group).time_s
        begin = at
        for row in group:
            scheme = row.point.scheme
            colour = f"C{schemes.index(scheme)}"
            label = None if scheme in seen else scheme
            _bar(ax, at, row, 0.9, 1 / best, colour, label)
            seen.add(scheme)
            at += 1
        point = group[0].point
        asked = f"{point.queries:,} queries" if point.queries else point.mask
        heads = f"{point.heads} over {point.kv_heads} heads"
        names.append(f"{point.ranks} x {point.share:,}\n{asked}\n{heads}")
        places.append((begin + at - 1) / 2)
        at += 1
    ax.set_xticks(places, names, fontsize=8)
    ax.set(ylabel="time over the fastest", title=f"schemes, {_machine(groups[0])}")
    ax.margins(y=0.16)
    _legend(ax, columns=6)


def _legend(ax: Axes, columns: int = 1) -> None:
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=8, ncols=columns, loc="upper left")
