"""The command line of `experiments.calibration`."""

import argparse
import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence

from rich.console import Console

from emu.datasheet import BANDS, Device, Sheet
from emu.trainium.datasheets import EARLIER, GENERATIONS, as_measured
from emu.wse.datasheets.datasheet import WSE2, WSE3
from experiments.calibration import (
    kernels,
    kernels_table,
    predict_kernels,
    stepped,
    table,
    trainium,
    wafer,
)
from experiments.calibration.points import (
    POINTS,
    Point,
    fitted_ids,
    read_points,
    suspected_causes,
)
from experiments.calibration.table import Row
from experiments.calibration.trainium import UNITS, Metrics, Unsupported, predict
from experiments.shared import cli, durations
from experiments.shared.errors import UsageError
from experiments.shared.output import Output

DEVICES = {**GENERATIONS, "wse2": WSE2, "wse3": WSE3}
# Fabric programs that are stepped cycle by cycle: nine tenths of the time.
SLOW_CASES = ("mesh_gemm", "two_phase_reduce")
LEFT_OUT = f"every {' and '.join(SLOW_CASES)}, which are stepped cycle by cycle"
WIDTH = 160  # of a table that no terminal cuts


def csv_file(option: str) -> Callable[[str], pathlib.Path]:
    """An argparse type: the path that a word is."""

    def path(text: str) -> pathlib.Path:
        if not text:
            raise UsageError(f"{option} is empty; name a CSV file")
        return pathlib.Path(text)

    return path


def options(parser: cli.Parser) -> None:
    """Adds what this experiment takes."""
    parser.add_argument(
        "--points",
        type=csv_file("--points"),
        default=POINTS,
        help="CSV of measurements (those that come with the project)",
    )
    parser.add_argument(
        "--kernels",
        type=csv_file("--kernels"),
        metavar="FILE.csv",
        help="predicts whole NKI kernels instead, such as those of data/kernels.csv",
    )
    parser.add_argument(
        "--sources",
        type=pathlib.Path,
        metavar="DIR",
        help="folder with the repositories that --kernels names",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"the same question of fewer points; leaves out {LEFT_OUT}",
    )


def main(args: argparse.Namespace, output: Output) -> None:
    """Predicts every point and prints how far off each is."""
    if args.kernels is not None:
        of_kernels(args, output)
        return
    if args.sources is not None:
        raise UsageError("--sources: is for --kernels FILE.csv; give both")
    points = read_points(args.points)
    asked = len(points)
    told = None
    progress = Console(stderr=True)
    if args.quick:
        points = [point for point in points if point.case not in SLOW_CASES]
        if not points:
            raise UsageError(f"--quick: none of {asked} points is left; leave it out")
        told = f"{asked - len(points)} of {asked} points, {LEFT_OUT}"
    else:
        durations.tell("calibration", asked, progress)
    rows = predict_all(points, progress)
    console = output.console(WIDTH)
    table.show(rows, suspected_causes(), console)
    if told is not None:
        console.print(f"--quick left out: {told}", highlight=False, soft_wrap=True)
    output.table("calibration", table.COLUMNS, map(table.as_line, rows))
    output.figures("calibration", {"quick_leaves_out": told, **table.as_json(rows)})
    if output.folder is not None:
        # matplotlib takes a second to import.
        from experiments.calibration.picture import draw

        output.file("calibration.png", lambda path: draw(rows, path))


def of_kernels(args: argparse.Namespace, output: Output) -> None:
    """Predicts whole kernels from sources that the user fetched."""
    if args.sources is None or not args.sources.is_dir():
        raise UsageError(
            f"--kernels: needs --sources DIR, a folder with the kernels' repositories; "
            f"got {args.sources}"
        )
    measured = kernels.read_kernels(args.kernels)
    progress = Console(stderr=True)
    with progress.status("reading kernels") as status:

        def tell(line: str) -> None:
            if progress.is_terminal:
                status.update(line)
            else:
                progress.print(line, highlight=False)

        rows = predict_kernels.predict_all(measured, args.sources, tell)
    kernels_table.show(rows, output.console(WIDTH))
    output.table("kernels", kernels_table.COLUMNS, map(kernels_table.as_line, rows))
    output.figures("kernels", kernels_table.as_json(rows))


def predict_all(points: Sequence[Point], progress: Console) -> list[Row]:
    """Predicts each point under the three bands; points of one kernel share its readings."""
    fitted = fitted_ids([*DEVICES.values(), *EARLIER.values()])
    kept: dict[tuple[object, ...], Metrics] = {}
    rows = []
    status = progress.status("predicting")
    if progress.is_terminal:
        status.start()
    for number, point in enumerate(points, 1):
        told = f"{number} of {len(points)}: {point.id} {point.case}"
        if progress.is_terminal:
            status.update(told)
        else:
            progress.print(told, highlight=False)
        try:
            sheet = sheet_of(point)
            row = Row(
                point,
                {band: _value(point, sheet.at(band), kept) for band in BANDS},
                fitted=point.id in fitted,
            )
            if sheet is not DEVICES[point.device]:
                today = _value(point, DEVICES[point.device].at(), kept)
                row = dataclasses.replace(row, machine=sheet.name, today=today)
            rows.append(row)
        except Unsupported as error:
            rows.append(Row(point, why=str(error), fitted=point.id in fitted))
    status.stop()
    return rows


def cases_of(device: str) -> Mapping[str, Callable[..., Metrics]]:
    """The cases of a device's kind of machine."""
    if device.startswith("wse"):
        return {**wafer.CASES, **stepped.CASES}
    return trainium.CASES


def sheet_of(point: Point) -> Sheet:
    """The datasheet that a point was measured under: of its machine, at its source's release.

    Raises:
      Unsupported: there is none.
    """
    if point.device not in DEVICES:
        raise Unsupported(f"no datasheet of {point.device!r}, has {', '.join(DEVICES)}")
    return as_measured(DEVICES[point.device], point.source)


def _value(
    point: Point, device: Device, kept: dict[tuple[object, ...], Metrics]
) -> float:
    """The point's metric on a device.

    Raises:
      Unsupported: what `predict` cannot do, and metrics there are not.
    """
    params = json.dumps(point.params, sort_keys=True)
    key = (device.sheet.name, device.band, point.case, params)
    if key not in kept:
        kept[key] = predict(device, point.case, point.params, cases_of(point.device))
    if point.metric not in kept[key]:
        raise Unsupported(
            f"{point.case}: no metric {point.metric!r}, has {', '.join(kept[key])}"
        )
    if point.unit != UNITS[point.metric]:
        raise Unsupported(
            f"{point.metric} is in {point.unit!r}, must be in {UNITS[point.metric]}"
        )
    return kept[key][point.metric]


if __name__ == "__main__":
    cli.run("calibration", options, main)
