"""What every experiment's command line shares: one-line errors, exit codes, an output folder."""

import argparse
import importlib
import json
import pathlib
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from emu import EmulationError
from experiments.shared.errors import Interrupted, UsageError
from models.errors import ModelError


def whole_number(name: str, least: int) -> Callable[[str], int]:
    """An argparse type: an integer of at least `least`, else a one-line `UsageError`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise UsageError(f"--{name} is {text!r}, must be a whole number") from None
        if value < least:
            raise UsageError(f"--{name} is {value}, must be at least {least}")
        return value

    return parse


def output_folder(path: str | None) -> pathlib.Path | None:
    """Makes the folder that `--out` names and checks that files can be written in it.

    Raises:
      UsageError: it cannot be made or written.
    """
    if path is None:
        return None
    folder = pathlib.Path(path)
    probe = folder / ".write-test"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink()
    except OSError as e:
        raise UsageError(
            f"--out {path}: cannot be written ({e.strerror or e}); name a folder you can write to"
        ) from None
    return folder


def write_json(folder: pathlib.Path, name: str, data: dict[str, Any]) -> pathlib.Path:
    """Writes `name` into an output folder.

    Raises:
      UsageError: the file cannot be written.
    """
    path = folder / name
    try:
        path.write_text(
            json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    except OSError as e:
        raise UsageError(f"{path}: cannot be written ({e.strerror or e})") from None
    return path


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one line like every other error."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


def parser(experiment: str) -> Parser:
    """An argument parser for `python -m experiments.NAME`, whose package tells the question."""
    package = f"experiments.{experiment}"
    question = (importlib.import_module(package).__doc__ or "").splitlines()[0]
    return Parser(prog=f"python -m {package}", description=question)


def run(main: Callable[[], None]) -> None:
    """Runs an experiment's `main`: bad input exits 2 with one line, Ctrl-C exits 130."""
    try:
        main()
    except (UsageError, ModelError, EmulationError) as e:
        print("error: " + " ".join(str(e).split()), file=sys.stderr)
        raise SystemExit(2) from None
    except Interrupted as e:
        print(f"interrupted: {e}", file=sys.stderr)
        raise SystemExit(130) from None
    except KeyboardInterrupt:
        print("interrupted: nothing was finished", file=sys.stderr)
        raise SystemExit(130) from None
