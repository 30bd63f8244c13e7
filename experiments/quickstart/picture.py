"""One token's way through both machines, drawn: which engine was busy when."""

import pathlib

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402  (the backend must be chosen first)
import numpy as np  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402

from emu.clock.reading import Event, Reading  # noqa: E402
from emu.report.bands import busy_share
from emu.report.critical_path import instructions
from emu.trainium.datasheets import TRN3
from emu.wse.datasheets.datasheet import WSE3
from experiments.quickstart.run import Run  # noqa: E402
from kernels.wse.decode.token import Trace  # noqa: E402

BINS = 600
LINK = "EFA, in flight"


def draw(run: Run, path: pathlib.Path) -> None:
    """Writes the picture as a PNG.

    Three panels: the whole way of the first two tokens, one layer of the prefill on the last core
    of the last chip, and one layer of a decode step on the PE at the region's origin.
    """
    machine, clock = run.machine, run.clock
    last = tuple(size - 1 for size in machine.prefill.program.mesh.values())
    prefill = machine.prefill.read(machine.chip.at(), trace_core=last)
    step = machine.decoder.trace(machine.tokens, WSE3.at())
    figure, axes = plt.subplots(3, 1, figsize=(13, 11), constrained_layout=True)
    _whole(axes[0], run, prefill.clock, step)
    done = [seconds * TRN3.tick_hz for seconds in prefill.layer_done_s]  # type: ignore[operator]
    middle = len(done) // 2
    window = (done[middle - 1] if middle else 0.0, done[middle])
    _zoom(axes[1], prefill.clock.events, window, 1e6 / TRN3.at().tick_hz, "us")
    axes[1].set_title(
        f"chip {run.chips - 1} of {run.chips}: from layer {middle - 1}'s keys and values to layer "
        f"{middle}'s: attention, MLP, then the next projections"
    )
    first_layer = step.layer_window(0)
    _zoom(axes[2], step.events, first_layer, 1.0, "cycles")
    axes[2].set_title("one layer of a decode step, the PE at the origin of its region")
    model = run.model.config.name
    figure.suptitle(
        f"{model}, {len(run.prompt_ids)} prompt tokens, {run.dtype}: one token's way "
        f"(nominal; predicted, not measured)\n"
        f"on {run.machines}: "
        f"TTFT {clock.ttft_s('nominal') * 1e3:.3g} ms"
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _engines(events: list[Event]) -> list[str]:
    """Those that execute instructions; a trace also has the use of each memory and the throttle."""
    return sorted({event.engine for event in instructions(events)})


def _whole(ax: Axes, run: Run, prefill: Reading, step: Trace) -> None:
    """Shares of time busy, from the prompt's arrival to the end of the first decode step."""
    tick_s = 1 / TRN3.at().tick_hz
    cycle_s = 1 / WSE3.at().clock_hz
    begin = run.clock.ttft_s("nominal")
    handed = run.clock.handoff["nominal"]
    assert handed.transfer is not None
    end = begin + step.cycles * cycle_s
    edges = np.linspace(0, end, BINS + 1)
    shares: dict[str, np.ndarray] = {}
    ticks = edges / tick_s
    for engine in _engines(prefill.events):
        shares[f"trn {engine}"] = busy_share(prefill.events, engine, ticks)
    ends_after = edges[1:] > float(handed.transfer.started_s)
    begins_before = edges[:-1] < handed.finished_s
    shares[LINK] = (ends_after & begins_before).astype(float)
    cycles = (edges - begin) / cycle_s
    for engine in _engines(step.events):
        shares[f"wse {engine}"] = busy_share(step.events, engine, cycles)
    image = np.stack(list(shares.values()))
    shown = ax.imshow(
        image,
        aspect="auto",
        cmap="magma_r",
        vmin=0,
        vmax=1,
        interpolation="nearest",
        extent=(0, end * 1e3, len(shares) - 0.5, -0.5),
    )
    ax.set_yticks(range(len(shares)), list(shares))
    ax.set_xlabel("ms since the prompt arrived")
    ax.axvline(begin * 1e3, color="tab:blue", linewidth=1)
    ax.text(
        begin * 1e3, -0.6, "first token ", color="tab:blue", ha="right", va="bottom"
    )
    ax.figure.colorbar(shown, ax=ax, label="share of time busy", pad=0.01)
    ax.set_title("the whole way: prefill, hand-off, one decode step", loc="left")


def _zoom(
    ax: Axes, events: list[Event], window: tuple[float, float], scale: float, unit: str
) -> None:
    """Every instruction of one core inside a window of ticks, one row per engine."""
    start, end = window
    inside = [event for event in events if event.end > start and event.start < end]
    engines = _engines(inside)
    names = sorted({event.name for event in inside if event.engine in engines})
    palette = [*plt.get_cmap("tab20").colors, *plt.get_cmap("tab20b").colors]  # type: ignore
    least = (end - start) / 4000  # so that even the shortest is seen
    for number, name in enumerate(names):
        for row, engine in enumerate(engines):
            bars: list[tuple[float, float]] = []
            for event in inside:
                if event.name == name and event.engine == engine:
                    begin = (event.start - start) * scale
                    length = max(event.end - event.start, least) * scale
                    bars.append((begin, length))
            if bars:
                ax.broken_barh(
                    bars,
                    (row - 0.4, 0.8),
                    color=palette[number % len(palette)],
                    label=name,
                )
    ax.set_yticks(range(len(engines)), engines)
    ax.set_xlim(0, (end - start) * scale)
    ax.set_xlabel(unit)
    ax.invert_yaxis()
    handles, labels = ax.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    ax.legend(
        once.values(),
        once.keys(),
        loc="upper left",
        bbox_to_anchor=(1.0, 1.02),
        fontsize=7,
    )
