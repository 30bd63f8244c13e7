"""A fabric program's run for other programs: figures as JSON and CSV, a trace, values, maps."""

import dataclasses
import pathlib
from collections.abc import Mapping

import numpy as np

from emu.datasheet import BANDS
from emu.report import perfetto
from emu.wse.fabric.phases import Phase
from emu.wse.fabric.views import summary
from emu.wse.fabric.views.trace import trace
from experiments.fabric import picture
from experiments.fabric.run import Report
from experiments.shared.output import Figures, Output


def write(title: str, report: Report, output: Output) -> None:
    """Writes the figures, `phases.csv`, maps as PNG and NPZ, and what else there is."""
    run = report.run
    output.figures("fabric", as_json(title, report))
    fields = [field.name for field in dataclasses.fields(Phase)]
    phases = [tuple(getattr(phase, name) for name in fields) for phase in run.phases]
    output.table("phases", fields, phases)
    for name, draw in picture.pictures(run, title).items():
        output.file(name, draw)
    maps = {"ends": run.ends} | {
        name.replace(" ", "_"): shares for name, shares in run.profile.items()
    }
    if run.links is not None:
        maps["links"] = run.links
    maps |= {f"stamp_{name}": cycles for name, cycles in run.stamps.items()}
    output.file("maps.npz", lambda path: _save(path, maps))
    if run.values:
        output.file("values.npz", lambda path: _save(path, run.values))
    log = report.log
    if log is not None:
        traced = trace(run.encoded, log)
        output.file("fabric.trace.json", lambda path: perfetto.write(path, traced))


def _save(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]


def as_json(title: str, report: Report) -> Figures:
    """Every figure of a run that is not a map."""
    run, device = report.run, report.run.encoded.device
    return {
        "program": title,
        "device": device.name,
        "time_s": {band: run.cycles / device.sheet.at(band).clock_hz for band in BANDS},
        **summary.as_json(run),
        "path": "trains" if report.trains else "cycles",
        "why": report.why,
    }
