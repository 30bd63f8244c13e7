"""A variant's live tiles, drawn: over the sequence, and over chips and the hops of their ring."""

import dataclasses
import io
import pathlib
from typing import BinaryIO

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.colors import ListedColormap  # noqa: E402
from matplotlib.patches import Patch  # noqa: E402
from matplotlib.ticker import MaxNLocator  # noqa: E402

from kernels.attention.live_tiles import DEAD, FULL, PARTIAL, LiveTiles  # noqa: E402

# By lightness alone: they are as far apart in grey.
COLOURS = {DEAD: "#ffffff", PARTIAL: "#f2a65a", FULL: "#27508f"}
TOLD = {DEAD: "skipped", PARTIAL: "cut by the mask", FULL: "attended as a whole"}
ORDER = (DEAD, PARTIAL, FULL)
FEW_CHIPS = 16


@dataclasses.dataclass(frozen=True)
class TilesPicture:
    """The picture of one variant; a notebook shows it where it is a cell's last value.

    Attributes:
      name: of the variant.
      tiles: which are live.
    """

    name: str
    tiles: LiveTiles

    def __repr__(self) -> str:
        return f"live tiles of {self.name}"

    def _repr_png_(self) -> bytes:
        drawn = io.BytesIO()
        _draw(self.name, self.tiles, drawn)
        return drawn.getvalue()

    def save(self, path: pathlib.Path) -> None:
        """Writes it as a PNG."""
        path.write_bytes(self._repr_png_())


def _draw(name: str, tiles: LiveTiles, file: BinaryIO) -> None:
    figure = plt.figure(figsize=(11, 5.6), constrained_layout=True)
    grid = figure.add_gridspec(2, 2, width_ratios=(1.15, 1), height_ratios=(1, 1.2))
    _sequence(figure.add_subplot(grid[:, 0]), tiles)
    above = figure.add_subplot(grid[0, 1])
    below = figure.add_subplot(grid[1, 1], sharex=above)
    _chips(above, tiles)
    _hops(below, tiles)
    live = tiles.over_sequence != DEAD
    chips = tiles.whole.shape[1]
    figure.suptitle(
        f"{name}: {live.mean():.1%} of {tiles.tile}-token tiles are live; "
        f"{tiles.tokens:,} tokens on {chips} chips, {tiles.placed}",
        fontsize=11,
    )
    figure.savefig(file, format="png", dpi=110)
    plt.close(figure)


def _sequence(ax: Axes, tiles: LiveTiles) -> None:
    """Queries down, keys across, both in the order of the sequence."""
    place = {status: number for number, status in enumerate(ORDER)}
    shown = np.vectorize(place.__getitem__)(tiles.over_sequence)
    count, span = len(shown), len(shown) * tiles.tile
    ax.imshow(
        shown,
        cmap=ListedColormap([COLOURS[status] for status in ORDER]),
        vmin=0,
        vmax=len(ORDER) - 1,
        interpolation="nearest",
        extent=(0, span, span, 0),
    )
    # Beside each row, whose queries they are.
    width = span * 0.03
    ax.imshow(
        tiles.owner[:count, None],
        cmap="Greys_r",
        aspect="auto",
        interpolation="nearest",
        extent=(-1.5 * width, -0.5 * width, span, 0),
        vmin=-0.3 * max(1, tiles.owner.max()),
        vmax=1.3 * max(1, tiles.owner.max()),
    )
    ax.set_xlim(-1.6 * width, span)
    ticks = np.linspace(0, tiles.tokens, 5)
    told = [f"{tick / 1024:g}k" if tick >= 1024 else f"{tick:g}" for tick in ticks]
    ax.set_xticks(ticks, told)
    ax.set_yticks(ticks, told)
    ax.set_xlabel("key, position in the sequence")
    ax.set_ylabel("query; the strip is its chip, the first darkest")
    of_heads = "" if tiles.masks == 1 else f" (head 0; heads have {tiles.masks} masks)"
    ax.set_title(f"over the sequence{of_heads}", fontsize=10, loc="left")
    ax.legend(
        handles=[
            Patch(facecolor=COLOURS[status], edgecolor="black", label=TOLD[status])
            for status in ORDER
        ],
        loc="upper center",
        bbox_to_anchor=(0.5, -0.12),
        ncols=3,
        fontsize=8,
        frameon=False,
    )


def _chips(ax: Axes, tiles: LiveTiles) -> None:
    """Of each chip, the tiles that it works on in all."""
    whole, cut = tiles.whole.sum(0), tiles.cut.sum(0)
    chips = np.arange(len(whole))
    width = 0.85 if len(chips) <= FEW_CHIPS else 1.0
    ax.bar(chips, whole, color=COLOURS[FULL], width=width)
    ax.bar(chips, cut, bottom=whole, color=COLOURS[PARTIAL], width=width)
    busiest, mean = (whole + cut).max(), (whole + cut).mean()
    ax.axhline(mean, color="black", linewidth=0.8, linestyle="--")
    ax.set_ylabel("live tiles of the kernel")
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_title(
        f"over chips: the busiest has {busiest / max(1, mean):.2f} of the mean (dashed)",
        fontsize=10,
        loc="left",
    )


def _hops(ax: Axes, tiles: LiveTiles) -> None:
    """Of each chip at each hop."""
    live = tiles.whole + tiles.cut
    hops, chips = live.shape
    image = ax.imshow(
        np.where(live == 0, np.nan, live),
        cmap="Blues",
        aspect="auto",
        interpolation="nearest",
        vmin=0,
        extent=(-0.5, chips - 0.5, hops - 0.5, -0.5),
    )
    if chips <= FEW_CHIPS:
        ax.set_xticks(range(chips))
        ax.set_yticks(range(hops))
    ax.set_xlabel("chip")
    ax.set_ylabel("hop")
    skipped = int((live.sum(1) == 0).sum())
    ax.set_title(
        f"at hop d, with the keys of the chip d before: {skipped} of {hops} hops skipped",
        fontsize=10,
        loc="left",
    )
    scale = MaxNLocator(integer=True)
    label = "live tiles; white: nothing to do"
    ax.figure.colorbar(image, ax=ax, label=label, pad=0.01, ticks=scale)


__all__ = ["TilesPicture"]
