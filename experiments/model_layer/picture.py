"""A layer's stages one after the other, drawn."""

import pathlib
from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.patches import Patch  # noqa: E402

from experiments.model_layer.measure import Measured  # noqa: E402


def draw(layers: Sequence[Measured], path: pathlib.Path) -> None:
    """Writes a bar for each layer, of its stages in order, with the layer's band, as a PNG."""
    height = 2 + 0.5 * len(layers)
    figure, ax = plt.subplots(figsize=(9, height), constrained_layout=True)
    names = dict.fromkeys(stage.name for layer in layers for stage in layer.time.stages)
    colors = {name: f"C{number}" for number, name in enumerate(names)}
    for place, layer in enumerate(layers):
        begin = 0.0
        for stage in layer.time.stages:
            lasts = stage.seconds["nominal"] * 1e3
            ax.barh(place, lasts, left=begin, color=colors[stage.name], height=0.6)
            begin += lasts
        low, high = (layer.time.seconds[band] * 1e3 for band in ("low", "high"))
        ax.errorbar(
            begin,
            place,
            xerr=[[begin - low], [high - begin]],
            color="black",
            linewidth=1,
            capsize=3,
        )
    ax.set_yticks(range(len(layers)), [told(layer) for layer in layers])
    ax.set_xlabel("milliseconds, nominal; lines are the band of the whole layer")
    stages = layers[0].stages
    ax.set_title(
        f"{stages.config.name}: {stages.tokens:,} tokens on {stages.chips} chips of "
        f"{stages.cores} cores (predicted, not measured)",
        fontsize=10,
    )
    handles = [Patch(color=color) for color in colors.values()]
    figure.legend(handles, list(colors), loc="outside lower center", ncols=len(colors))
    ax.invert_yaxis()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def told(layer: Measured) -> str:
    """A layer's name beside its bar."""
    counts = f"\n{layer.counts}" if layer.counts else ""
    return f"layer {layer.stages.layer}{counts}"


__all__ = ["draw"]
