"""A fabric program's run for other programs: figures as JSON and CSV, a trace, values, maps."""

import dataclasses
import pathlib
from collections.abc import Mapping

import numpy as np

from emu.datasheet import BANDS
from emu.report import perfetto
from emu.wse.fabric.phases import Phase
from emu.wse.fabric.result import Run
from emu.wse.fabric.views import summary
from emu.wse.fabric.views.trace import trace
from experiments.fabric import picture
from experiments.fabric.run import Report
from experiments.shared.output import Figures, Output


def write(title: str, report: Report, output: Output) -> None:
    """Writes the figures, `phases.csv`, maps as PNG and NPZ, and what else there is."""
    run = report.run
    output.figures("fabric", as_json(title, report))
    heading = [field.name for field in dataclasses.fields(Phase)]
    phases = [dataclasses.astuple(phase) for phase in run.phases]
    output.table("phases", heading, phases)
    for name, draw in picture.pictures(run, title).items():
        output.file(name, draw)
    output.file("maps.npz", lambda path: _save(path, _maps(run)))
    if run.values:
        output.file("values.npz", lambda path: _save(path, run.values))
    log = report.log
    if log is not None:
        traced = trace(run.encoded, log)
        output.file("fabric.trace.json", lambda path: perfetto.write(path, traced))


def _maps(run: Run) -> dict[str, np.ndarray]:
    maps = {"ends": run.ends}
    for state, cycles in run.profile.items():
        maps[state.replace(" ", "_")] = cycles
    if run.links is not None:
        maps["links"] = run.links
    for name, cycles in run.stamps.items():
        maps[f"stamp_{name}"] = cycles
    return maps


def _save(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]


def as_json(title: str, report: Report) -> Figures:
    """Every figure of a run that is not a map."""
    run = report.run
    device = run.encoded.device
    time_s: dict[str, float] = {}
    for band in BANDS:
        time_s[band] = run.cycles / device.sheet.at(band).clock_hz
    return {
        "program": title,
        "device": device.name,
        "time_s": time_s,
        **summary.as_json(run),
        "path": "trains" if report.trains else "cycles",
        "why": report.why,
    }
