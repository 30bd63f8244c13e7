"""Files that experiments write."""

import csv
import pathlib
from typing import Any


def write_csv(
    path: pathlib.Path, heading: tuple[str, ...], lines: list[tuple[Any, ...]]
) -> None:
    """Writes rows under a heading."""
    with path.open("w", newline="", encoding="utf-8") as f:
        out = csv.writer(f)
        out.writerow(heading)
        out.writerows(lines)
