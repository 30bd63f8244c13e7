"""How large published models are, drawn."""

import pathlib
from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

from experiments.models.sizes import Sizes  # noqa: E402


def draw(models: Sequence[Sizes], path: pathlib.Path) -> None:
    """Writes a bar of all and of active parameters for each model, smallest first, as a PNG."""
    ordered = sorted(models, key=lambda each: each.model.outline.parameters)
    height = 1.6 + 0.28 * len(ordered)
    figure, ax = plt.subplots(figsize=(9, height), constrained_layout=True)
    places = range(len(ordered))
    held = [each.model.outline for each in ordered]
    ax.barh(places, [x.parameters for x in held], color="lightsteelblue", label="all")
    ax.barh(places, [x.active for x in held], height=0.4, label="met by a token")
    for place, each in enumerate(ordered):
        chips, wafers = each.chips("fp8"), each.wafers("fp8")
        ax.annotate(
            f"{chips} chip{'s' * (chips > 1)}, {wafers} wafer{'s' * (wafers > 1)}",
            (each.model.outline.parameters, place),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    ax.set_xscale("log")
    ax.margins(x=0.25)
    ax.set_yticks(places, [each.model.name for each in ordered])
    ax.set_xlabel("parameters")
    ax.set_title(
        "Published models, and what holds them in FP8 beside a bfloat16 cache of "
        f"{ordered[0].context:,} tokens",
        fontsize=10,
    )
    ax.legend(loc="lower right")
    figure.savefig(path, dpi=110)
    plt.close(figure)


__all__ = ["draw"]
