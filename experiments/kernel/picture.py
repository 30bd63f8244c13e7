"""A kernel's timeline drawn: when each engine worked, what it waited for, how full memory was."""

import collections
import pathlib

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402  (the backend must be chosen first)
import numpy as np  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402

from emu.clock.reading import IN_USE, THROTTLE, Event
from emu.report.bands import busy_share
from emu.report.critical_path import instructions
from emu.report.explain import NAMES
from emu.trainium.timed import Timed

BINS = 800
ZOOMED = 60  # instructions of one engine in the last panel
PATH = "critical path"
WAITS = "waits for"
HATCHES = "/.\\x-+o*"

Bars = dict[str, dict[int, list[tuple[float, float]]]]
"""Label, then row, to `(start, length)` in us."""


def draw(run: Timed, path: pathlib.Path) -> None:
    """Writes the picture as a PNG: the whole run, then a stretch of its middle."""
    events = run.clock.events
    end = run.clock.end_ticks
    figure, axes = plt.subplots(
        3, 1, figsize=(13, 10), constrained_layout=True, height_ratios=[5, 2, 5]
    )
    _whole(axes[0], run)
    _memory(axes[1], run)
    window = _middle(events, end)
    if window != (0, end):
        begin_us, end_us = map(run.us, window)
        for ax in axes[:2]:
            ax.axvspan(begin_us, end_us, color="tab:cyan", alpha=0.3, linewidth=0)
    _zoom(axes[2], run, window)
    figure.suptitle(
        f"{run.title} on {run.machine}:\n{run.us(end):,.1f} us (nominal; predicted, not measured)"
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _tracks(events: list[Event]) -> list[str]:
    """The engines that did something, then the throttle if it did."""
    used = [*dict.fromkeys(event.engine for event in instructions(events))]
    if any(event.engine == THROTTLE for event in events):
        used.append(THROTTLE)
    return used


def _whole(ax: Axes, run: Timed) -> None:
    events = run.clock.events
    end = run.clock.end_ticks
    edges = np.linspace(0, max(1, end), BINS + 1)
    tracks = _tracks(events)
    image = np.stack([busy_share(events, track, edges) for track in tracks])
    shown = ax.imshow(
        image,
        aspect="auto",
        cmap="magma_r",
        vmin=0,
        vmax=1,
        interpolation="nearest",
        extent=(0, run.us(end), len(tracks) - 0.5, -0.5),
    )
    ax.set_yticks(range(len(tracks)), [NAMES.get(track, track) for track in tracks])
    ax.figure.colorbar(shown, ax=ax, label="share of time busy", pad=0.01)
    ax.set_title("the whole kernel; what is below is marked", loc="left")


def _memory(ax: Axes, run: Timed) -> None:
    """Bytes in use over time, as a share of each memory."""
    for space in ("sbuf", "psum"):
        changes = collections.Counter({0: 0, run.clock.end_ticks: 0})
        for event in run.clock.events:
            if event.engine == space + IN_USE:
                nbytes = int(event.name)
                changes[event.start] += nbytes
                changes[event.end] -= nbytes
        ticks = sorted(changes)
        used = np.cumsum([changes[tick] for tick in ticks])
        capacity = run.clock.device.capacity_bytes[space] or 1
        times = [run.us(tick) for tick in ticks]
        ax.step(times, used / capacity, where="post", label=space.upper())
    ax.set_xlim(0, run.us(run.clock.end_ticks))
    ax.set_ylim(0, max(1.0, ax.get_ylim()[1]))
    ax.set_ylabel("share in use")
    ax.set_xlabel("us")
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _middle(events: list[Event], end: int) -> tuple[int, int]:
    """When the engine with most instructions did those in the middle; a short run whole."""
    counts = collections.Counter(event.engine for event in instructions(events))
    if not counts or max(counts.values()) <= ZOOMED:
        return 0, end
    engine = max(counts, key=lambda name: counts[name])
    own = [event for event in instructions(events) if event.engine == engine]
    first = len(own) // 2 - ZOOMED // 2
    some = own[first : first + ZOOMED]
    return some[0].start, some[-1].end


def _zoom(ax: Axes, run: Timed, window: tuple[int, int]) -> None:
    """Every instruction in a window by name, and what engines waited for between them."""
    start, end = window
    tracks = _tracks(run.clock.events)
    palette = [*plt.get_cmap("tab20").colors]  # type: ignore[attr-defined]
    bars = _bars(run, tracks, window)
    # Instructions come first in the legend, then what was waited for.
    labels = sorted(bars, key=lambda label: label.startswith(WAITS))
    for number, label in enumerate(labels):
        waiting = label.startswith(WAITS)
        for place, (row, spans) in enumerate(sorted(bars[label].items())):
            ax.broken_barh(
                spans,
                (row - 0.4, 0.8),
                facecolor="white" if waiting else palette[number % len(palette)],
                hatch=2 * HATCHES[number % len(HATCHES)] if waiting else None,
                edgecolor="grey",
                linewidth=0.2,
                label=label if place == 0 else None,
            )
    names = [NAMES.get(track, track) for track in tracks]
    ax.set_yticks(range(len(tracks) + 1), [*names, PATH])
    ax.set_xlim(0, run.us(end - start))
    ax.invert_yaxis()
    ax.set_xlabel(f"us after {run.us(start):,.1f} us")
    ax.set_title("instructions, and what engines wait for in between", loc="left")
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.02), fontsize=7)


def _bars(run: Timed, tracks: list[str], window: tuple[int, int]) -> Bars:
    """What is drawn in a window: a row for each engine, then one for the critical path."""
    start, end = window
    bars: Bars = {}

    def bar(label: str, row: int, first: int, last: int) -> None:
        begin = max(first, start)
        stop = min(last, end)
        if begin < stop:
            span = (run.us(begin - start), run.us(stop - begin))
            of_label = bars.setdefault(label, {})
            of_label.setdefault(row, []).append(span)

    for row, track in enumerate(tracks):
        free = None
        for event in run.clock.events:
            if event.engine != track:
                continue
            if free is not None and track != THROTTLE:
                bar(f"{WAITS} {event.cause}", row, free, event.start)
            bar(event.name, row, event.start, event.end)
            free = event.end
    for stretch in run.path:
        bar(stretch.event.name, len(tracks), stretch.start, stretch.end)
    return bars
