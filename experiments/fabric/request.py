"""Which fabric program the words of a command line ask for: of the catalogue, or of a file."""

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

from emu.datasheet import Device
from emu.given import told
from emu.wse.fabric.program import FabricProgram
from experiments.shared import numbers
from experiments.shared.errors import UsageError
from experiments.shared.pairs import once
from kernels import user_file
from kernels.user_file import Reference
from kernels.wse.programs.catalogue import FABRIC_PROGRAMS

MOST = 2**53  # a count beyond which JSON would round it
DEVICE = "device"  # a parameter of this name is given the wafer

Data: TypeAlias = Mapping[str, np.ndarray]
"""What buffers hold at the start, by buffer name: `[height, width, elements]`."""


@dataclasses.dataclass(frozen=True)
class Request:
    """A function that makes a fabric program, and what was given for its parameters.

    Attributes:
      name: as it was asked for.
      function: `(**given) -> FabricProgram`, or that and its `Data`.
      given: by parameter.
      file: the user's file that the function is of; None: it is the catalogue's.
    """

    name: str
    function: Callable[..., Any]
    given: dict[str, int | str]
    file: Reference | None = None

    @property
    def title(self) -> str:
        """The name and every parameter."""
        values = parameters(self.function) | self.given
        return " ".join([self.name, *(f"{key}={v}" for key, v in values.items())])

    def errors_in_one_line(self) -> contextlib.AbstractContextManager[None]:
        """Inside, what the user's code raises is told with its file and line."""
        if self.file is None:
            return contextlib.nullcontext()
        return user_file.errors_in_one_line(self.file)

    def build(self, device: Device) -> tuple[FabricProgram, Data | None]:
        """The program, and its data if it comes with some.

        Raises:
          EmulationError: the function raised.
          UsageError: it returned something else.
        """
        takes_device = DEVICE in inspect.signature(self.function).parameters
        wafer = {DEVICE: device} if takes_device else {}
        with self.errors_in_one_line():
            made = self.function(**self.given, **wafer)
        has_data = isinstance(made, tuple) and len(made) == 2
        program, data = made if has_data else (made, None)
        if not isinstance(program, FabricProgram) or not isinstance(
            data, Mapping | None
        ):
            raise UsageError(
                f"{self.name}: returned {type(made).__name__}, must return a "
                "FabricProgram, or (program, data by buffer name)"
            )
        return program, data


def request(words: list[str]) -> Request:
    """Reads `NAME key=value ...`; NAME is of the catalogue, or `FILE.py:FUNCTION`.

    Raises:
      UsageError: an unknown program or parameter, or a value of the wrong type.
      UserFileError: the file cannot be loaded.
    """
    name, *pairs = words
    if "=" in name:
        raise UsageError(
            f"name a program before {name!r}: {', '.join(FABRIC_PROGRAMS)}, or FILE.py:FUNCTION"
        )
    file = user_file.reference(name)
    function = _of_catalogue(name) if file is None else _own(file)
    given = once(_pair(name, function, word) for word in pairs)
    missing = [
        key
        for key, parameter in inspect.signature(function).parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        and key not in (DEVICE, *given)
    ]
    if missing:
        raise UsageError(
            f"{name}: give {', '.join(f'{key}=NUMBER' for key in missing)}"
        )
    return Request(name, function, given, file)


def parameters(function: Callable[..., Any]) -> dict[str, Any]:
    """Every parameter that a command line may give, and its default, or None."""
    return {
        key: None if parameter.default is parameter.empty else parameter.default
        for key, parameter in inspect.signature(function).parameters.items()
        if key != DEVICE
    }


def _of_catalogue(name: str) -> Callable[..., Any]:
    if name not in FABRIC_PROGRAMS:
        raise UsageError(
            f"no program {name!r}; name one of {', '.join(FABRIC_PROGRAMS)}, or FILE.py:FUNCTION"
        )
    return FABRIC_PROGRAMS[name]


def _own(file: Reference) -> Callable[..., Any]:
    """The function that was named, or the only one of the file."""
    found = user_file.functions_of(user_file.load(file))
    if not file.name and len(found) == 1:
        return next(iter(found.values()))
    if file.name not in found:
        lacks = f"no function {file.name!r}" if file.name else "which function?"
        raise UsageError(
            f"{file.path}: {lacks}; name {file.path}:FUNCTION, one of "
            f"{', '.join(found) or 'which it has none'}"
        )
    return found[file.name]


def _pair(name: str, function: Callable[..., Any], word: str) -> tuple[str, int | str]:
    key, equals, text = word.partition("=")
    known = parameters(function)
    takes_any = any(
        parameter.kind is parameter.VAR_KEYWORD
        for parameter in inspect.signature(function).parameters.values()
    )
    if not equals or (key not in known and not takes_any):
        raise UsageError(
            f"{told(word)}: {name} takes KEY=VALUE for {', '.join(known) or 'nothing'}"
        )
    if isinstance(known.get(key), str):
        return key, text
    try:
        return key, numbers.whole(key, text, -MOST, MOST)
    except ValueError as error:
        raise UsageError(f"{told(word)}: {error}") from None
