"""Which fabric program the words of a command line ask for: of the catalogue, or of a file."""

import dataclasses
import importlib.util
import inspect
import pathlib
import sys
import traceback
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from emu import EmulationError
from emu.datasheet import Device
from emu.wse.fabric.program import FabricProgram
from experiments.shared.cli import UsageError
from kernels.wse.programs.catalogue import FABRIC_PROGRAMS

PYTHON = ".py"
DEVICE = "device"  # a parameter of this name is given the wafer


@dataclasses.dataclass(frozen=True)
class Asked:
    """A function that makes a fabric program, and what was given for its parameters."""

    name: str
    function: Callable[..., Any]
    given: dict[str, int | str]

    @property
    def title(self) -> str:
        """The name and every parameter."""
        values = parameters(self.function) | self.given
        return " ".join([self.name, *(f"{k}={v}" for k, v in values.items())])

    def build(self, device: Device) -> tuple[FabricProgram, Mapping[str, Any] | None]:
        """The program, and its data if it comes with some.

        Raises:
          UsageError: the function raised, or returned something else.
        """
        more = (
            {DEVICE: device}
            if DEVICE in inspect.signature(self.function).parameters
            else {}
        )
        made = guarded(self.name, lambda: self.function(**self.given, **more))
        program, data = (
            made if isinstance(made, tuple) and len(made) == 2 else (made, None)
        )
        if not isinstance(program, FabricProgram) or not isinstance(
            data, Mapping | None
        ):
            raise UsageError(
                f"{self.name}: returned {type(made).__name__}, must return a "
                "FabricProgram, or (program, data by buffer name)"
            )
        return program, data


def asked(words: list[str]) -> Asked:
    """Reads `NAME key=value ...`; NAME is of the catalogue, or `FILE.py:FUNCTION`.

    Raises:
      UsageError: an unknown program or parameter, or a value of the wrong type.
    """
    if "=" in words[0]:
        raise UsageError(
            f"name a program before {words[0]!r}: {', '.join(FABRIC_PROGRAMS)}, or FILE.py:FUNCTION"
        )
    function = _function(words[0])
    given = dict(_pair(words[0], function, word) for word in words[1:])
    missing = [
        k
        for k, p in inspect.signature(function).parameters.items()
        if p.default is p.empty
        and k != DEVICE
        and k not in given
        and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    ]
    if missing:
        raise UsageError(
            f"{words[0]}: give {', '.join(f'{k}=NUMBER' for k in missing)}"
        )
    return Asked(words[0], function, given)


def parameters(function: Callable[..., Any]) -> dict[str, Any]:
    """Every parameter that a command line may give, and its default, or None."""
    found = inspect.signature(function).parameters.items()
    return {
        k: None if p.default is p.empty else p.default for k, p in found if k != DEVICE
    }


def guarded(name: str, call: Callable[[], Any]) -> Any:
    """What a user's code returns; what it raises as one line that names the place."""
    try:
        return call()
    except EmulationError:
        raise
    except (Exception, SystemExit) as e:
        last = traceback.extract_tb(e.__traceback__)[-1]
        file = last.filename
        line = last.lineno
        told = str(e)
        if isinstance(e, SyntaxError):
            file = e.filename or name
            line = e.lineno
            told = e.msg
        at = f"{pathlib.Path(file).name}:{line}"
        raise UsageError(f"{name}: {type(e).__name__}: {told} ({at})") from None


def _function(name: str) -> Callable[..., Any]:
    path, _, member = name.partition(":")
    if not path.endswith(PYTHON):
        if name not in FABRIC_PROGRAMS:
            raise UsageError(
                f"no program {name!r}; name one of {', '.join(FABRIC_PROGRAMS)}, "
                "or FILE.py:FUNCTION"
            )
        return FABRIC_PROGRAMS[name]
    module = _module(pathlib.Path(path))
    found = {
        k: f
        for k, f in vars(module).items()
        if inspect.isfunction(f) and f.__module__ == module.__name__
    }
    if not member and len(found) == 1:
        return next(iter(found.values()))
    if member not in found:
        lacks = f"no function {member!r}" if member else "which function?"
        raise UsageError(
            f"{path}: {lacks}; name {path}:FUNCTION, one of "
            f"{', '.join(found) or 'which it has none'}"
        )
    return found[member]


def _module(path: pathlib.Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"fabric_file_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise UsageError(
            f"{path}: no such file; name a Python file with a function that returns a FabricProgram"
        )
    module = importlib.util.module_from_spec(spec)
    loader = spec.loader
    sys.modules[spec.name] = module  # dataclasses look their module up by its name
    sys.path.append(str(path.parent.resolve()))  # what lies beside it may be imported
    guarded(str(path), lambda: loader.exec_module(module))
    return module


def _pair(name: str, function: Callable[..., Any], word: str) -> tuple[str, int | str]:
    key, equals, text = word.partition("=")
    known = parameters(function)
    anything = any(
        p.kind is p.VAR_KEYWORD for p in inspect.signature(function).parameters.values()
    )
    if not equals or (key not in known and not anything):
        raise UsageError(
            f"{word!r}: {name} takes KEY=VALUE for {', '.join(known) or 'nothing'}"
        )
    if isinstance(known.get(key), str):
        return key, text
    try:
        return key, int(text)
    except ValueError:
        raise UsageError(f"{word!r}: {key} is a whole number") from None


__all__ = ["Asked", "asked", "guarded", "parameters"]
