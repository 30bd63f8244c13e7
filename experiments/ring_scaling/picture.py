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
    x: float,
    r: Row,
    width: float,
    scale: float,
    colour: str,
    label: str | None,
) -> None:
    ax.bar(x, r.free_s * scale, width, color=colour, label=label)
    if r.exposed_s > 0:
        ax.bar(x, r.exposed_s * scale, width, bottom=r.free_s * scale, **EXPOSED)


def _placements(ax: Axes, sweep: Sequence[Row]) -> None:
    """Every mask of the commonest ring, a bar for each placement."""
    rows = [r for r in sweep if r.point.machine == MACHINE and r.point.cores == 1]
    rings = [r.point.ranks for r in rows]
    ranks = max(set(rings), key=rings.count, default=0)
    rows = [
        r
        for r in rows
        if r.point.ranks == ranks and r.point.share == rows[0].point.share
    ]
    names = [*dict.fromkeys(_mask(r) for r in rows)]
    seen: set[str] = set()
    for x, name in enumerate(names):
        own = [r for r in rows if _mask(r) == name]
        for n, r in enumerate(own):
            at = x + 0.22 * (n - (len(own) - 1) / 2)
            _bar(
                ax,
                at,
                r,
                0.2,
                1e3,
                COLOURS[r.placed],
                None if r.placed in seen else r.placed,
            )
            seen.add(r.placed)
    ax.set_xticks(range(len(names)), names, rotation=20, ha="right", fontsize=8)
    ax.set(ylabel="ms", title=f"{MACHINE}, {ranks} chips: placements by mask")
    ax.margins(y=0.2)
    _legend(ax, columns=4)


def _mask(r: Row) -> str:
    return r.point.mask + ", static" * r.point.static


def _ranks(ax: Axes, sweep: Sequence[Row]) -> None:
    """Time against ranks at the same tokens of each, as chosen; dashed: over free links."""
    rows = [r for r in sweep if r.point.machine == MACHINE and not r.point.static]
    rows = [r for r in rows if r.point.cores == 1 and r.placed == r.auto]
    rows = [r for r in rows if r.point.share == rows[0].point.share]
    for n, mask in enumerate(PATTERNS):
        own = sorted(
            (r for r in rows if r.point.mask == mask), key=lambda r: r.point.ranks
        )
        if len({r.point.ranks for r in own}) > 1:
            x, colour = [r.point.ranks for r in own], f"C{n}"
            ax.plot(x, [r.time_s * 1e3 for r in own], "o-", color=colour, label=mask)
            ax.plot(x, [r.free_s * 1e3 for r in own], "--", color=colour, linewidth=1)
    rings = sorted({r.point.ranks for r in rows})
    ax.set(xscale="log", yscale="log", xlabel="chips", ylabel="ms")
    ax.set_xticks(rings, [str(n) for n in rings])
    ax.set_xticks([], minor=True)
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter("")
    share = f"{rows[0].point.share:,} tokens each" if rows else ""
    ax.set_title(f"{MACHINE}, {share}; dashed: over free links")
    ax.grid(alpha=0.3)
    _legend(ax)


def _machines(ax: Axes, sweep: Sequence[Row]) -> None:
    """Parts of the peak that causal rings reach on each machine."""
    rows = [r for r in sweep if r.point.mask == "causal" and not r.point.static]
    rows = [r for r in rows if r.point.cores == 1 and r.placed == r.auto]
    names = [f"{r.point.machine}\n{r.point.ranks} x {r.point.share:,}" for r in rows]
    ax.bar(range(len(rows)), [r.mfu * 100 for r in rows], 0.6, color="tab:purple")
    for x, r in enumerate(rows):
        told = f"{r.mfu:.0%}\n{r.exposed_s / r.time_s:.0%} exposed"
        ax.text(x, r.mfu * 100, told, ha="center", va="bottom", fontsize=8)
    ax.set_xticks(range(len(rows)), names, fontsize=8)
    ax.margins(y=0.18)
    ax.set(ylabel="% of the peak (MFU)", title="causal: what rings reach")


def _schemes(ax: Axes, groups: Sequence[list[Row]]) -> None:
    """Every group of schemes, relative to its fastest."""
    at, ticks = 0.0, []
    schemes = [*dict.fromkeys(r.point.scheme for g in groups for r in g)]
    seen: set[str] = set()
    for group in groups:
        best, begin = winner(group).time_s, at
        for r in group:
            colour = f"C{schemes.index(r.point.scheme)}"
            name = r.point.scheme
            _bar(ax, at, r, 0.9, 1 / best, colour, None if name in seen else name)
            seen.add(name)
            at += 1
        p = group[0].point
        asked = f"{p.queries:,} queries" if p.queries else p.mask
        told = f"{p.ranks} x {p.share:,}\n{asked}\n{p.heads} over {p.kv_heads} heads"
        ticks.append(((begin + at - 1) / 2, told))
        at += 1
    ax.set_xticks([x for x, _ in ticks], [name for _, name in ticks], fontsize=8)
    ax.set(ylabel="time over the fastest", title=f"schemes, {MACHINE}")
    ax.margins(y=0.16)
    _legend(ax, columns=6)


def _legend(ax: Axes, columns: int = 1) -> None:
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=8, ncols=columns, loc="upper left")
