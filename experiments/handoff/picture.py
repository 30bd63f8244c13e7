"""How long users wait for hand-offs, drawn."""

import pathlib
from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

from experiments.handoff.measure import Moved  # noqa: E402
from experiments.handoff.table import CLAIM_S  # noqa: E402

LEAST_US = 1.0  # the axis begins there; what is nothing has no bar


def draw(moves: Sequence[Moved], path: pathlib.Path) -> None:
    """Writes two bars for each hand-off, layer by layer with its band and whole, as a PNG."""
    height = 1.8 + 0.42 * len(moves)
    figure, ax = plt.subplots(figsize=(9, height), constrained_layout=True)
    for place, each in enumerate(moves):
        low, nominal, high = (
            1e6 * each.layered[band].exposed_s for band in ("low", "nominal", "high")
        )
        bulk = 1e6 * each.bulk.exposed_s
        whole = ax.barh(place + 0.2, bulk, height=0.36, color="lightsteelblue")
        layered = ax.barh(place - 0.2, nominal, height=0.36, color="C0")
        if place == 0:
            whole.set_label("sent as a whole, after prefill")
            layered.set_label("layer by layer; lines: its band")
        ax.plot(
            [max(low, LEAST_US), max(high, LEAST_US)], [place - 0.2] * 2, "k-", lw=1
        )
        ax.annotate(
            each.layered["nominal"].bound,
            (max(bulk, high, LEAST_US), place),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
        )
    ax.axvline(1e6 * CLAIM_S, color="C3", linewidth=1, label="a millisecond")
    ax.set_xscale("log")
    longest = max(ax.get_xlim()[1], 1e6 * CLAIM_S)
    # Room for the last bound's name.
    ax.set_xlim(LEAST_US, 20 * longest)
    ax.set_yticks(range(len(moves)), [told(each) for each in moves], fontsize=7)
    ax.set_xlabel("microseconds that the user waits after prefill, nominal")
    prompt = moves[0].prompt
    ax.set_title(
        f"Hand-off of a cache from {prompt.chips} Trainium3 chips to WSE-3 wafers "
        "(predicted, not measured)",
        fontsize=10,
    )
    figure.legend(loc="outside lower center", ncols=3, fontsize=8)
    ax.invert_yaxis()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def told(each: Moved) -> str:
    """A hand-off's name beside its bars."""
    name = f"{each.prompt.config.name}, {each.prompt.tokens:,} tokens, {each.sent.name}"
    return f"{name}\n{each.plan.wafers} wafer(s) x {each.links} links"


__all__ = ["draw"]
