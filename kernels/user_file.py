"""A user's Python file: `FILE.py:NAME` found, loaded and called, its mistakes told in one line.

Whoever runs code of a user's own, a kernel or a fabric program, loads it here. Whatever that code
raises comes out as a `UserFileError` that names the user's file and line, as in
`mine.py:gated: ZeroDivisionError: division by zero (mine.py:7)`.
"""

import contextlib
import dataclasses
import importlib.util
import inspect
import pathlib
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from emu.errors import EmulationError

PYTHON = ".py"
# How an error of the emulator ends that says where in the kernel it is: `(mine.py:7)`.
PLACE = re.compile(r"\([^()]+:\d+\)$")


class UserFileError(EmulationError):
    """A user's file that cannot be loaded, lacks what was named, or raised."""


@dataclasses.dataclass(frozen=True)
class Reference:
    """What `FILE.py` or `FILE.py:NAME` refers to.

    Attributes:
      path: of the file, `~` expanded.
      name: of what is in the file; empty where none was given.
      text: as the user wrote it.
    """

    path: pathlib.Path
    name: str
    text: str


def reference(text: str) -> Reference | None:
    """Reads `FILE.py` or `FILE.py:NAME`; None for a word that names no Python file."""
    file, _, name = text.rpartition(":")
    if not file.endswith(PYTHON):
        file, name = text, ""
    if not file.endswith(PYTHON):
        return None
    path = pathlib.Path(file)
    # A user whom the system does not know has no home; the path is then taken as it is.
    with contextlib.suppress(RuntimeError):
        path = path.expanduser()
    return Reference(path, name, text)


def load(wanted: Reference) -> ModuleType:
    """Runs the file as a module; what lies beside it may be imported by it.

    Raises:
      UserFileError: there is no such file, or it raised.
    """
    path = wanted.path
    if not path.is_file():
        raise UserFileError(f"{path}: no such file; name a Python file of your own")
    # A name that is no identifier, `my kernel-2.py`, is none of a module either.
    module_name = "user_file_" + re.sub(r"\W", "_", path.stem)
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None and spec.loader is not None  # it ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses look their module up by its name
    folder = str(path.parent.resolve())
    if folder not in sys.path:
        sys.path.append(folder)
    with errors_in_one_line(wanted):
        spec.loader.exec_module(module)
    return module


def functions_of(module: ModuleType) -> dict[str, Callable[..., Any]]:
    """The functions that a file defines itself, by name."""
    return {
        name: value
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__
    }


@contextlib.contextmanager
def errors_in_one_line(wanted: Reference) -> Iterator[None]:
    """Turns whatever the user's code raises inside into an error of one line.

    Raises:
      EmulationError: the emulator's own, with the user's line where it had none.
      UserFileError: anything else.
    """
    try:
        yield
    except EmulationError as error:
        place = _place(error, wanted.path)
        if not place or PLACE.search(str(error)):
            raise
        raise UserFileError(str(error), place) from None
    except SyntaxError as error:
        file = pathlib.Path(error.filename or wanted.path)
        place = f"{file.name}:{error.lineno or 1}"
        raise _one_line(wanted, error, error.msg, place) from None
    except (Exception, SystemExit, GeneratorExit) as error:
        place = _place(error, wanted.path) or wanted.path.name
        # JAX explains itself over many lines, the first of which says what is wrong.
        told = (str(error).strip() or "no message").splitlines()[0]
        raise _one_line(wanted, error, told, place) from None


def _one_line(
    wanted: Reference, error: BaseException, told: str, place: str
) -> UserFileError:
    ends_with_place = told.endswith(f"({place})")
    message = f"{wanted.text}: {type(error).__name__}: {told}"
    return UserFileError(message, "" if ends_with_place else place)


def _place(error: BaseException, path: pathlib.Path) -> str:
    """`file.py:line` of the deepest frame in the user's file or in one beside it, or nothing."""
    folder = path.parent.resolve()
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = pathlib.Path(frame.filename)
        if file.resolve().parent == folder:
            return f"{file.name}:{frame.lineno}"
    return ""


__all__ = [
    "Reference",
    "UserFileError",
    "errors_in_one_line",
    "functions_of",
    "load",
    "reference",
]
