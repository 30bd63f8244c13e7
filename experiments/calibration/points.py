"""Published measurements, checked as they are read, and which of them were fitted to."""

import csv
import dataclasses
import io
import json
import math
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

from emu.datasheet import Sheet
from experiments.shared.errors import UsageError
from models.errors import ModelError
from models.loading.untrusted import read_bytes

DATA = pathlib.Path(__file__).parent / "data"
POINTS = DATA / "points.csv"
CAUSES = DATA / "causes.csv"
COLUMNS = (
    "id",
    "device",
    "case",
    "params",
    "metric",
    "value",
    "unit",
    "quality",
    "source",
)


@dataclasses.dataclass(frozen=True)
class Point:
    """A measured value of a calibration case.

    Attributes:
      id, device: such as `T2-TE-1` and `trn2`.
      case: what was timed, a key of `calibration_cases.CASES`.
      params: its parameters.
      metric, value, unit: such as `latency_us`, 608.0 and `us`.
      quality: kind of measurement.
      source: where it was published.
    """

    id: str
    device: str
    case: str
    params: dict[str, Any]
    metric: str
    value: float
    unit: str
    quality: str
    source: str


def read_points(path: pathlib.Path) -> list[Point]:
    """The points of a CSV file with the columns `COLUMNS`; others are passed over.

    Raises:
      UsageError: the file cannot be read, or a row breaks the schema.
    """
    remedy = "name a CSV file"
    try:
        # Spreadsheets put a byte order mark in front, and end lines their own way.
        text = read_bytes(path, remedy).decode("utf-8-sig")
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        _check_columns(path, reader.fieldnames or ())
        points = [_point(row, f"{path}, line {reader.line_num}") for row in reader]
    except ModelError as error:
        raise UsageError(f"--points {error}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(
            f"--points {path}: cannot be read ({error}); {remedy}"
        ) from None
    if not points:
        raise UsageError(f"{path}: no points, must have at least one row")
    return points


def _check_columns(path: pathlib.Path, columns: Sequence[str]) -> None:
    """Raises `UsageError` where a column is missing, or there twice so that one would count."""
    must = f"must have {','.join(COLUMNS)}"
    if missing := [column for column in COLUMNS if column not in columns]:
        raise UsageError(f"{path}: no column {', '.join(missing)}, {must}")
    if twice := [column for column in COLUMNS if columns.count(column) > 1]:
        raise UsageError(f"{path}: column {', '.join(twice)} is there twice, {must}")


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number")


def _point(row: dict[str, Any], where: str) -> Point:
    """One row; raises `UsageError` with the line where it breaks the schema."""
    if None in row:  # where DictReader puts them
        raise UsageError(
            f"{where}: more cells than columns; put a cell with commas into quotes"
        )
    if lacking := [column for column in COLUMNS if not row[column]]:
        raise UsageError(
            f"{where}: no {', '.join(lacking)}, must have {','.join(COLUMNS)}"
        )
    try:
        params = json.loads(row["params"], parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"{where}: params is no JSON ({error}), must be an object"
        ) from None
    if not isinstance(params, dict):
        raise UsageError(f"{where}: params is {row['params']}, must be a JSON object")
    try:
        value = float(row["value"])
    except ValueError:
        value = math.nan
    # Errors are relative to the measured value, so none may be 0; NaN fails the comparison too.
    if not 0 < value < math.inf:
        raise UsageError(
            f"{where}: value is {row['value']!r}, must be a number above 0"
        )
    fields = {column: row[column] for column in COLUMNS}
    return Point(**fields | {"params": params, "value": value})


def fitted_ids(sheets: Iterable[Sheet]) -> set[str]:
    """Ids of the points to which some number of these datasheets was fitted."""
    sources = [
        quantity.source
        for sheet in sheets
        for quantity in sheet.quantities().values()
        if quantity.kind == "fitted"
    ]
    # A fitted quantity's source names its points: `T2-F32MM-2a T2-DMA-1`. Words that are no id
    # match no point.
    return {word for source in sources for word in re.findall(r"[\w-]+", source)}


def suspected_causes() -> dict[str, str]:
    """Point id to why its prediction is thought to miss."""
    with CAUSES.open(newline="", encoding="utf-8") as file:
        return {row["id"]: row["cause"] for row in csv.DictReader(file)}
