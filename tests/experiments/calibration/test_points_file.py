"""A CSV of points as spreadsheets write it, and what in one is refused with its line."""

import csv
import io
import pathlib

import pytest

from experiments.calibration.points import COLUMNS, POINTS, read_points
from experiments.shared.errors import UsageError

FIRST = 3  # points are enough


def written(
    path: pathlib.Path, columns: tuple[str, ...], ends: str, mark: str = ""
) -> pathlib.Path:
    """The first of the project's points, by the columns given."""
    with POINTS.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[:FIRST]
    text = io.StringIO()
    table = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator=ends)
    table.writeheader()
    table.writerows(rows)
    path.write_bytes((mark + text.getvalue()).encode())
    return path


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["", "byte order mark"])
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize(
    "columns", [COLUMNS, COLUMNS[::-1], (*COLUMNS[3:], *COLUMNS[:3])]
)
def test_a_table_says_the_same_however_it_was_saved(
    columns: tuple[str, ...], ends: str, mark: str, tmp_path: pathlib.Path
) -> None:
    path = written(tmp_path / "points.csv", columns, ends, mark)
    assert read_points(path) == read_points(POINTS)[:FIRST]


@pytest.mark.parametrize(
    ("heading", "more", "told"),
    [
        (",value", "", "column value is there twice, must have id,device"),
        (
            "",
            ",1",
            "line 2: more cells than columns; put a cell with commas into quotes",
        ),
    ],
)
def test_nothing_is_passed_over_in_silence(
    heading: str, more: str, told: str, tmp_path: pathlib.Path
) -> None:
    path = written(tmp_path / "points.csv", COLUMNS, "\n")
    first, *rest = path.read_text().splitlines()
    lines = [first + heading, *(line + (more or ",1" * bool(heading)) for line in rest)]
    path.write_text("\n".join(lines))
    with pytest.raises(UsageError, match=told):
        read_points(path)


def test_parameters_without_a_number_are_refused(tmp_path: pathlib.Path) -> None:
    path = written(tmp_path / "points.csv", COLUMNS, "\n")
    text = path.read_text()
    assert '""words"": ' in text
    path.write_text(text.replace('""words"": ', '""words"": NaN, ""more"": ', 1))
    with pytest.raises(UsageError, match="params is no JSON .NaN is no number"):
        read_points(path)
