"""Tokens a second of one user and of all against the number of users, drawn."""

import itertools
import pathlib
from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402

from experiments.serving.measure import Served  # noqa: E402
from experiments.serving.pipelines import Piped  # noqa: E402


def draw(target: Piped, rows: Sequence[Served], path: pathlib.Path) -> None:
    """Writes two charts side by side, a line for each way of drafting with its band, as a PNG."""
    figure, (left, right) = plt.subplots(
        ncols=2, figsize=(11, 4.6), constrained_layout=True
    )
    ways = itertools.groupby(rows, lambda row: (row.ahead, row.rate))
    for number, ((ahead, rate), group) in enumerate(ways):
        own = list(group)
        told = "no drafts" if rate is None else f"{ahead} drafts, {rate:.0%} right"
        color = f"C{number}"
        users = [row.users for row in own]
        for ax, of in (
            (left, Served.user_tokens_per_s),
            (right, Served.tokens_per_s),
        ):
            values = [of(row, "nominal") for row in own]
            ends = [[of(row, band) for row in own] for band in ("high", "low")]
            ax.plot(users, values, marker="o", markersize=4, color=color, label=told)
            ax.fill_between(users, *ends, color=color, alpha=0.12)
    _label(left, "tokens a second of one user")
    _label(right, "tokens a second of all users")
    left.legend(fontsize=8)
    plan = target.plan
    figure.suptitle(
        f"{target.config.name} on {plan.wafers} WSE-3, {target.position + 1:,} tokens in each "
        "user's cache; bands are the datasheet's (predicted, not measured)",
        fontsize=10,
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _label(ax: Axes, what: str) -> None:
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set_xlabel("users at once")
    ax.set_ylabel(what)
    ax.set_ylim(bottom=0)


__all__ = ["draw"]
