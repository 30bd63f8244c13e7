"""A fabric program's run for other programs: figures as JSON and CSV, a trace, values, maps."""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from emu.datasheet import BANDS
from emu.report import perfetto
from emu.wse.fabric.phases import Phase
from emu.wse.fabric.views import summary
from emu.wse.fabric.views.trace import trace
from experiments.fabric import picture
from experiments.fabric.run import Report
from experiments.shared import cli
from experiments.shared.files import write_csv


def write(title: str, report: Report, folder: pathlib.Path) -> list[pathlib.Path]:
    """Writes `fabric.json`, `phases.csv`, maps as PNG and NPZ, and what else there is."""
    run = report.run
    written = [cli.write_json(folder, "fabric.json", as_json(title, report))]
    fields = [f.name for f in dataclasses.fields(Phase)]
    path = folder / "phases.csv"
    write_csv(
        path, tuple(fields), [tuple(getattr(p, f) for f in fields) for p in run.phases]
    )
    written.append(path)
    written += picture.draw(run, title, folder)
    maps = {"ends": run.ends} | {
        name.replace(" ", "_"): x for name, x in run.profile.items()
    }
    maps |= {} if run.links is None else {"links": run.links}
    maps |= {f"stamp_{name}": x for name, x in run.stamps.items()}
    for name, arrays in (("maps.npz", maps), ("values.npz", run.values)):
        if arrays:
            written.append(folder / name)
            np.savez_compressed(written[-1], **arrays)  # type: ignore[arg-type]
    if report.log is not None:
        written.append(folder / "fabric.trace.json")
        perfetto.write(written[-1], trace(run.encoded, report.log))
    return written


def as_json(title: str, report: Report) -> dict[str, Any]:
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
