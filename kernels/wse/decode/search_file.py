"""What searches of regions have read, in a JSON file: checked as it is read, never run.

A file with one search of two regions, of which each has rows, groups of columns, columns of a
group, estimated cycles and the clock's:

    {"format": 1, "searches": [{
      "inputs": {"context": "8192", ...},
      "readings": [[240, 8, 64, 13014.0, 14487], [256, 8, 64, 13017.0, 14426]]
    }]}
"""

import json
import math
import os
import pathlib
from typing import Any, TypeAlias

from kernels.refusal import refuse

FORMAT = 1
MOST_BYTES = 1 << 24  # more is no file of ours

Inputs: TypeAlias = dict[str, str]
"""What a search depends on, by name."""

Readings: TypeAlias = list[tuple[int, int, int, float, int]]
"""Rows, groups, parts, estimated cycles and the clock's, of each region that was tried."""


def read_file(path: pathlib.Path) -> dict[str, Readings]:
    """The searches of a file by the text of their inputs; none where there is no file.

    Raises:
      LimitExceeded: it cannot be read, or is not of this form.
    """
    return {repr(inputs): readings for inputs, readings in _searches(path)}


def write_file(path: pathlib.Path, inputs: Inputs, readings: Readings) -> None:
    """Adds a search to a file, or puts it in place of one with the same inputs.

    Raises:
      LimitExceeded: it cannot be read or written.
    """
    before = _searches(path)
    if (inputs, readings) in before:
        return
    kept = [each for each in before if each[0] != inputs]
    searches = [
        {"inputs": of, "readings": [list(each) for each in found]}
        for of, found in [*kept, (inputs, readings)]
    ]
    text = json.dumps({"format": FORMAT, "searches": searches}, indent=1)
    # Whole or not at all: another process may read it.
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        beside.write_text(text + "\n", encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        refuse(f"{path}: cannot be written ({error}); name a file in a folder of yours")


def _searches(path: pathlib.Path) -> list[tuple[Inputs, Readings]]:
    remedy = "name another file, or remove it so that it is made anew"
    try:
        if not path.exists():
            return []
        with path.open("rb") as file:
            raw = file.read(MOST_BYTES + 1)
        if len(raw) > MOST_BYTES:
            refuse(f"{path}: more than {MOST_BYTES:,} bytes; {remedy}")
        document = json.loads(raw.decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        refuse(f"{path}: cannot be read as JSON ({error}); {remedy}")
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        refuse(f"{path}: no searches of format {FORMAT}; {remedy}")
    found = document.get("searches")
    if not isinstance(found, list):
        refuse(f"{path}: searches must be a list; {remedy}")
    return [
        _search(each, f"{path}, search {n}", remedy) for n, each in enumerate(found)
    ]


def _search(search: Any, where: str, remedy: str) -> tuple[Inputs, Readings]:
    """One search, of the right types and sizes."""
    inputs = search.get("inputs") if isinstance(search, dict) else None
    if not isinstance(inputs, dict) or not all(
        isinstance(text, str) for text in inputs.values()
    ):
        refuse(f"{where}: inputs must be texts by name; {remedy}")
    readings = search.get("readings")
    if not isinstance(readings, list) or not readings:
        refuse(f"{where}: readings must be a list of at least one; {remedy}")
    return inputs, [_reading(each, where, remedy) for each in readings]


def _reading(each: Any, where: str, remedy: str) -> tuple[int, int, int, float, int]:
    if isinstance(each, list) and len(each) == 5:
        rows, groups, parts, estimated, cycles = each
        whole = all(
            type(n) is int and 0 < n < 1 << 53 for n in (rows, groups, parts, cycles)
        )
        if whole and type(estimated) is float and 0 < estimated < math.inf:
            return rows, groups, parts, estimated, cycles
    refuse(
        f"{where}: a reading is {each!r}, must be rows, groups, parts, estimated cycles and "
        f"cycles, all above 0; {remedy}"
    )


__all__ = ["FORMAT", "Inputs", "Readings", "read_file", "write_file"]
