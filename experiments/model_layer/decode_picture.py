"""A layer's decode step for every length of its cache, drawn."""

import pathlib
from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402

from experiments.model_layer.decode import Decoded  # noqa: E402


def draw(layers: Sequence[Decoded], path: pathlib.Path) -> None:
    """Writes a bar for each layer and context, split into work and waits, as a PNG.

    What does not fit a wafer has no bar, and says so in its place.
    """
    figure, ax = plt.subplots(
        figsize=(9, 1.8 + 0.5 * len(layers)), constrained_layout=True
    )
    for place, each in enumerate(layers):
        if each.time is None:
            ax.annotate(
                "does not fit a wafer",
                (0, place),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
            continue
        _bar(ax, place, each)
    ax.set_yticks(range(len(layers)), [told(each) for each in layers])
    ax.set_xlim(left=0)
    ax.set_xlabel("microseconds, nominal; lines are the band of the whole step")
    ax.set_title(
        f"{layers[0].decode.config.name}: one token through one layer on a WSE-3 of its own "
        "(predicted, not measured)",
        fontsize=10,
    )
    handles, labels = ax.get_legend_handles_labels()
    if handles:
        figure.legend(handles[:2], labels[:2], loc="outside lower center", ncols=2)
    ax.invert_yaxis()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _bar(ax: Axes, place: int, each: Decoded) -> None:
    time = each.time
    assert time is not None
    whole = time.seconds["nominal"] * 1e6
    work = whole * time.work_cycles / time.cycles["nominal"]
    ax.barh(place, work, height=0.6, color="C0", label="work of the busiest PE")
    ax.barh(
        place,
        whole - work,
        left=work,
        height=0.6,
        color="lightsteelblue",
        label="its waits, for sums and wavelets on their way",
    )
    low, high = (time.seconds[band] * 1e6 for band in ("low", "high"))
    errors = [[whole - low], [high - whole]]
    ax.errorbar(whole, place, xerr=errors, color="black", linewidth=1, capsize=3)
    ax.annotate(
        f"{time.cycles['nominal']:,} cycles",
        (high, place),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
        fontsize=8,
    )
    ax.margins(x=0.2)


def told(each: Decoded) -> str:
    """A bar's name."""
    context = f"{each.decode.context:,} tokens in the cache"
    return f"layer {each.decode.layer} in {each.held}\n{context}"


__all__ = ["draw"]
