"""Published speeds beside the clock's, and where a token's cycles go, drawn."""

import pathlib
from collections.abc import Mapping, Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402

from emu.datasheet import BANDS  # noqa: E402
from experiments.decode_scaling.speeds import Compared, Speed  # noqa: E402

COLOURS = {"no": "C0", "unsaid": "C1", "yes": "C2"}
WORDS = {
    "no": "without drafts, both",
    "unsaid": "published does not say; ours with drafts",
    "yes": "with drafts, both",
}


def draw_speeds(speeds: Sequence[Speed], path: pathlib.Path) -> None:
    """Writes tokens a second of each model that fits, one user token after token and drafted."""
    figure, ax = plt.subplots(
        figsize=(9, 1.8 + 0.5 * len(speeds)), constrained_layout=True
    )
    for place, each in enumerate(speeds):
        if each.refusal:
            ax.annotate(
                "does not fit",
                (0, place),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
            continue
        drafts = [each.drafted(band).tokens_per_s for band in BANDS]
        plain = [each.tokens_per_s(band) for band in BANDS]
        _speed_bar(ax, place - 0.2, plain, "C0", "token after token")
        _speed_bar(ax, place + 0.2, drafts, "lightsteelblue", "with draft tokens")
    ax.set_yticks(range(len(speeds)), [each.name for each in speeds])
    ax.invert_yaxis()
    ax.set_xlim(left=0)
    ax.set_xlabel("tokens a second of one user; lines are the band")
    ax.set_title("Decode on WSE-3 wafers (predicted, not measured)", fontsize=10)
    handles, labels = ax.get_legend_handles_labels()
    if handles:
        figure.legend(handles[:2], labels[:2], loc="outside lower center", ncols=2)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _speed_bar(
    ax: Axes, place: float, speeds: Sequence[float], colour: str, label: str
) -> None:
    nominal = speeds[BANDS.index("nominal")]
    errors = [[nominal - min(speeds)], [max(speeds) - nominal]]
    ax.barh(place, nominal, height=0.4, color=colour, label=label)
    ax.errorbar(nominal, place, xerr=errors, color="black", linewidth=1, capsize=3)


def draw_published(compared: Sequence[Compared], path: pathlib.Path) -> None:
    """Writes ours over published, on logarithmic axes, with the line where they are equal."""
    figure, ax = plt.subplots(figsize=(8, 6.5), constrained_layout=True)
    told: set[str] = set()
    for number, each in enumerate(compared):
        ours, published = each.tokens_per_s, each.published
        if ours is None:
            continue
        drafts = published.drafts
        label = None if drafts in told else WORDS[drafts]
        told.add(drafts)
        low, high = each.band
        ax.errorbar(
            published.tokens_per_s,
            ours,
            yerr=[[ours - low], [high - ours]],
            fmt="o",
            color=COLOURS[drafts],
            capsize=3,
            label=label,
        )
        ax.annotate(
            published.published_model,
            (published.tokens_per_s, ours),
            # Several figures of one model lie side by side.
            xytext=(6, 4 + 10 * (number % 3)),
            textcoords="offset points",
            fontsize=8,
        )
    ax.set_xscale("log")
    ax.set_yscale("log")
    ends = [*ax.get_xlim(), *ax.get_ylim()]
    line = min(ends), max(ends)
    ax.plot(line, line, color="grey", linewidth=1, zorder=0)
    ax.set_xlabel("tokens a second of one user, published")
    ax.set_ylabel("by the clock; lines are the band")
    ax.set_title("Decode on wafers: predicted, no number fitted to these", fontsize=10)
    if told:
        ax.legend(loc="upper left", fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_causes(causes: Mapping[str, Mapping[str, int]], path: pathlib.Path) -> None:
    """Writes a bar for each model, split by cause."""
    figure, ax = plt.subplots(
        figsize=(9, 2 + 0.6 * len(causes)), constrained_layout=True
    )
    names = list(dict.fromkeys(name for each in causes.values() for name in each))
    for place, each in enumerate(causes.values()):
        _bar(ax, place, each, names)
    ax.set_yticks(range(len(causes)), list(causes))
    ax.invert_yaxis()
    ax.set_xlabel("cycles of a token, nominal")
    handles, labels = ax.get_legend_handles_labels()
    count = len(names)
    figure.legend(
        handles[:count], labels[:count], loc="outside lower center", ncols=4, fontsize=8
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _bar(ax: Axes, place: int, causes: Mapping[str, int], names: Sequence[str]) -> None:
    left = 0
    for number, name in enumerate(names):
        cycles = causes.get(name, 0)
        ax.barh(
            place,
            cycles,
            left=left,
            height=0.6,
            color=f"C{number % 10}",
            label=name,
            hatch="//" if number >= 10 else None,
        )
        left += cycles


__all__ = ["draw_causes", "draw_published"]
