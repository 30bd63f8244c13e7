"""A stepped fabric program over the wafer, drawn: what PEs did, and how much links carried."""

import functools
import math
import pathlib
from collections.abc import Callable

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402  (the backend must be chosen first)
import numpy as np  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.ticker import MaxNLocator  # noqa: E402

from emu.wse.fabric.directions import DIRECTIONS
from emu.wse.fabric.result import Run

LINES = 4  # rows or columns, up to which curves say more than colors
PIXELS = 400  # along a map, at most
WIDE, TALL = (
    3,
    0.4,
)  # width over height, beyond which maps stand below, or beside, one another
STATES = ("datapath", "waiting for wavelets", "queue full")
# Title to map, unit, top of its scale (0: own).
Panels = dict[str, tuple[np.ndarray, str, float]]


def pictures(run: Run, title: str) -> dict[str, Callable[[pathlib.Path], None]]:
    """`pes.png` and, if any wavelet moved, `links.png`: by name, what draws each."""
    cycles = max(1, run.cycles)
    pes: Panels = {}
    for state in STATES:
        if state in run.profile and run.profile[state].any():
            pes[state] = (100 * run.profile[state] / cycles, "% of the cycles", 0)
    pes["done at"] = (run.ends, "cycle", run.cycles)
    head = f"{title} on {run.encoded.device.name}: {run.cycles:,} cycles (predicted, not measured)"
    drawn = {"pes.png": functools.partial(_write, pes, f"{head}\nwhat PEs did")}
    if run.links is None or not run.links.any():
        return drawn
    use = 100 * run.links / cycles
    most = float(use.max())
    links: Panels = {}
    for direction, of in zip(DIRECTIONS, use, strict=True):
        if of.any():
            way = "into the PE (ramp)" if direction == "ramp" else f"to the {direction}"
            links[way] = (of, "% of the cycles", most)
    told = f"{head}\nwavelets on the links that leave each router"
    return {**drawn, "links.png": functools.partial(_write, links, told)}


def _write(panels: Panels, title: str, path: pathlib.Path) -> None:
    height, width = next(iter(panels.values()))[0].shape
    if min(height, width) <= LINES:
        figure = _curves(panels)
    else:
        figure = _maps(panels, height, width)
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _curves(panels: Panels) -> Figure:
    """One panel below the other, a curve per row (or column) of PEs."""
    figure, axes = plt.subplots(
        len(panels),
        1,
        figsize=(11, 0.9 + 1.7 * len(panels)),
        sharex=True,
        squeeze=False,
        constrained_layout=True,
    )
    for ax, (name, (values, unit, top)) in zip(axes[:, 0], panels.items(), strict=True):
        along_x = values.shape[1] >= values.shape[0]
        rows = values if along_x else values.T
        for at, row in enumerate(rows):
            edges = np.arange(len(row) + 1) - 0.5
            ax.stairs(
                row,
                edges,
                fill=len(rows) == 1,
                label=f"{'y' if along_x else 'x'} = {at}",
            )
        ax.set_title(name, loc="left", fontsize=10)
        ax.set_ylabel(unit)
        ax.set_ylim(0, 1.08 * (top or values.max() or 1))
        ax.set_xlim(-0.5, rows.shape[1] - 0.5)
        ax.grid(axis="y", alpha=0.3)
        ax.xaxis.set_major_locator(MaxNLocator(10, integer=True))
        if len(rows) > 1:
            ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8)
        last = "x (0 is west)" if along_x else "y (0 is north)"
    axes[-1, 0].set_xlabel(last)
    return figure


def _columns(count: int, ratio: float) -> int:
    """How many of `count` maps, each `ratio` times as wide as high, stand side by side."""
    if ratio > WIDE:
        return 1
    if ratio < TALL:
        return count
    return 2 if count in (2, 4) else min(count, 3)


def _maps(panels: Panels, height: int, width: int) -> Figure:
    """Maps with north up: below one another if they are wide, side by side if tall, else a grid."""
    count = len(panels)
    ratio = width / height
    columns = _columns(count, ratio)
    rows = math.ceil(count / columns)
    most = 9.5 if ratio > WIDE else 3.4
    tall = float(np.clip(most / ratio, 1.3, 5.0))
    wide = float(np.clip(tall * ratio, 1.2, most))
    size = (max(7, columns * (wide + 2.0)), 0.8 + rows * (tall + 0.9))
    figure, axes = plt.subplots(
        rows, columns, figsize=size, squeeze=False, constrained_layout=True
    )
    for ax, (name, (values, unit, top)) in zip(axes.flat, panels.items(), strict=False):
        _map(ax, name, values, unit, top)
    for ax in axes.flat[count:]:
        ax.axis("off")
    return figure


def _map(ax: Axes, name: str, values: np.ndarray, unit: str, top: float) -> None:
    height, width = values.shape
    even = 1 / 8 < width / height < 8
    # Where nothing happened.
    colors = plt.get_cmap("viridis").with_extremes(bad="#e8e8e8")
    block = math.ceil(max(height, width) / PIXELS)
    shown = ax.imshow(
        np.ma.masked_equal(_coarse(values, block), 0),
        cmap=colors,
        interpolation="nearest",
        vmin=0,
        vmax=top or float(values.max()) or 1,
        aspect="equal" if even else "auto",
        extent=(-0.5, width - 0.5, height - 0.5, -0.5),
    )
    ax.spines[:].set_visible(False)  # they would cover the outermost PEs of a large map
    told = f" (the most of {block} x {block} PEs)" if block > 1 else ""
    ax.set_title(name + told, loc="left", fontsize=10)
    ax.set_xlabel("x (0 is west)")
    ax.set_ylabel("y (0 is north)")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(6, integer=True))
    thickness = float(np.clip(0.04 * height / width, 0.02, 0.2))
    bar = ax.inset_axes((1.03, 0, thickness, 1))
    ax.figure.colorbar(shown, cax=bar, label=unit)


def _coarse(values: np.ndarray, block: int) -> np.ndarray:
    """The largest of each block, so that a single row of PEs does not vanish between pixels."""
    height, width = values.shape
    padded = np.pad(values, ((0, -height % block), (0, -width % block)), mode="edge")
    rows = padded.shape[0] // block
    columns = padded.shape[1] // block
    return padded.reshape(rows, block, columns, block).max(axis=(1, 3))
