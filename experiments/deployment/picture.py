"""Requests drawn: where the time to the first token goes, and how fast the others follow."""

import pathlib
from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402

from emu.datasheet import BANDS  # noqa: E402
from experiments.deployment.asked import Asked  # noqa: E402


def draw(each_asked: Sequence[Asked], path: pathlib.Path) -> None:
    """Writes a bar of TTFT and one of tokens a second for each request, as a PNG."""
    figure, (first, then) = plt.subplots(
        1,
        2,
        figsize=(12, 2 + 0.5 * len(each_asked)),
        sharey=True,
        constrained_layout=True,
    )
    for place, each in enumerate(each_asked):
        if each.request is None:
            first.annotate(
                "cannot be",
                (0, place),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
            continue
        _first_token(first, place, each)
        _others(then, place, each)
    first.set_yticks(range(len(each_asked)), [each.name for each in each_asked])
    first.invert_yaxis()
    first.set_xlim(left=0)
    then.set_xlim(left=0)
    first.set_xlabel("seconds to the first token")
    then.set_xlabel("tokens a second of one user")
    figure.suptitle(
        "Prefill on Trainium3, decode on WSE-3 (predicted, not measured); lines are the band",
        fontsize=10,
    )
    handles, labels = first.get_legend_handles_labels()
    if handles:
        figure.legend(handles[:2], labels[:2], loc="outside lower center", ncols=2)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _first_token(ax: Axes, place: int, each: Asked) -> None:
    request = each.request
    assert request is not None
    prefill = request.prefill.ttft_s["nominal"]
    exposed = request.handoffs["nominal"].exposed_s
    ax.barh(place, prefill, height=0.6, color="C0", label="prefill")
    ax.barh(
        place,
        exposed,
        left=prefill,
        height=0.6,
        color="C1",
        label="hand-off that it does not hide",
    )
    _band(ax, place, [request.ttft_s(band) for band in BANDS if band in request.first])


def _others(ax: Axes, place: int, each: Asked) -> None:
    request = each.request
    assert request is not None
    ax.barh(place, 1 / request.tpot_s(), height=0.6, color="C2")
    bands = [band for band in BANDS if band in request.first]
    _band(ax, place, [1 / request.tpot_s(band) for band in bands])


def _band(ax: Axes, place: int, values: Sequence[float]) -> None:
    middle = (min(values) + max(values)) / 2
    half = (max(values) - min(values)) / 2
    ax.errorbar(middle, place, xerr=half, fmt="none", color="black", capsize=3)


__all__ = ["draw"]
