"""Where an experiment's results go: tables to people, figures to programs, files to a folder."""

import csv
import json
import math
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

from rich.console import Console

from emu.early_end import new_file_beside, written_whole
from experiments.shared import interruption
from experiments.shared.errors import UsageError

Figures: TypeAlias = dict[str, Any]
"""An experiment's figures by name, made of what JSON knows; units are in the names."""


class Output:
    """What one run of an experiment prints and writes.

    Attributes:
      folder: that `--out` names; None: no files are written.
      as_json: whether stdout is kept for the figures, as `--json` asks.
    """

    def __init__(self, folder: str | None, as_json: bool):
        """Makes the folder, and checks that files can be written in it.

        Raises:
          UsageError: it cannot be made or written.
        """
        self.folder = None if folder is None else writable_folder(folder)
        self.as_json = as_json
        self._stdout = sys.stdout  # as it is where `--json` keeps it for the figures
        self._figures: Figures = {}
        self._written: list[pathlib.Path] = []
        self._found: Callable[[], str] = lambda: interruption.NOTHING

    def console(self, width: int | None = None) -> Console:
        """For people; `width` is that of a table which no terminal cuts."""
        console = Console()
        if width is None or console.is_terminal:
            return console
        return Console(width=width)

    def figures(self, name: str, figures: Figures) -> None:
        """Takes figures: for `--json`, and for NAME.json in the folder."""
        self._figures[name] = _strict(figures)
        self.file(f"{name}.json", lambda path: path.write_text(_text(figures), "utf-8"))

    def table(
        self, name: str, heading: Iterable[str], rows: Iterable[Sequence[Any]]
    ) -> None:
        """Writes NAME.csv: a heading and rows."""

        def write(path: pathlib.Path) -> None:
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(heading)
                writer.writerows(rows)

        self.file(f"{name}.csv", write)

    def file(self, name: str, write: Callable[[pathlib.Path], object]) -> None:
        """Lets `write` write a file in the folder, if there is one: whole, or not at all.

        Raises:
          UsageError: it cannot be written.
        """
        if self.folder is None:
            return
        path = self.folder / name
        try:
            with written_whole(path) as part:
                write(part)
        except OSError as error:
            reason = error.strerror or error
            raise UsageError(f"{path}: cannot be written ({reason})") from None
        self._written.append(path)

    def finish(self) -> None:
        """Names the files that were written, and prints the figures that `--json` asks for."""
        if self._written:
            names = ", ".join(map(str, self._written))
            print(f"wrote {names}", file=sys.stderr if self.as_json else self._stdout)
        if self.as_json and self._figures:
            documents = list(self._figures.values())
            document = documents[0] if len(documents) == 1 else self._figures
            print(_text(document), end="", file=self._stdout)

    def on_interruption(self, found: Callable[[], str]) -> None:
        """Says what to do on Ctrl-C: `found` shows what was found so far, and returns its sum.

        It is called on a thread of its own while the experiment goes on, and has two seconds.
        """
        self._found = found

    def interrupted(self) -> str:
        """Tells what was found so far; returns the sum of it, for one line."""
        line = self._found()
        self.finish()
        return line


def flat(figures: Figures, inside: str = "") -> Iterator[tuple[str, Any]]:
    """The figures one by one, `("prefill.flops", 3)`, as lines of a table."""
    for name, value in figures.items():
        if isinstance(value, dict):
            yield from flat(value, f"{inside}{name}.")
        else:
            yield f"{inside}{name}", value


def writable_folder(name: str) -> pathlib.Path:
    """The folder, made if need be, in which files can be written.

    Raises:
      UsageError: they cannot.
    """
    if not name:
        raise UsageError("--out is empty; name a folder you can write to")
    folder = pathlib.Path(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with new_file_beside(folder / "probe"):
            pass
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise UsageError(
            f"--out {name}: cannot be written ({reason}); name a folder you can write to"
        ) from None
    return folder


def _text(figures: Figures) -> str:
    text = json.dumps(_strict(figures), indent=1, ensure_ascii=False)
    return text + "\n"


def _strict(value: Any) -> Any:
    """The value without infinities and NaN, which JSON lacks."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _strict(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(inner) for inner in value]
    return value
