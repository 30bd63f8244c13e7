"""Which kernel and which sizes the words of a command line ask for."""

import contextlib
import dataclasses
import inspect
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from emu import Program
from emu.given import told
from experiments.kernel.own import DTYPES, OwnKernel
from experiments.shared import numbers
from experiments.shared.errors import UsageError
from experiments.shared.pairs import once
from kernels import user_file
from kernels.trainium.catalogue import TRAINIUM_KERNELS, Entry
from kernels.user_file import Reference


@dataclasses.dataclass(frozen=True)
class Request:
    """A kernel, and the sizes and parameters that were given for it.

    Attributes:
      kernel: an entry of the catalogue or of a user's file, or a user's function or `Program`.
      given: by parameter.
      candidates: by parameter, of which `tune` finds the fastest; an entry has its own.
      file: the user's file; None: the kernel is the catalogue's.
    """

    kernel: Entry | OwnKernel
    given: dict[str, Any]
    candidates: dict[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    file: Reference | None = None

    @property
    def entry(self) -> Entry:
        """The kernel as reports and `tune` know kernels."""
        if isinstance(self.kernel, OwnKernel):
            return self.kernel.entry(self.candidates)
        return self.kernel

    def errors_in_one_line(self) -> contextlib.AbstractContextManager[None]:
        """Inside, what the user's code raises is told with its file and line."""
        if self.file is None:
            return contextlib.nullcontext()
        return user_file.errors_in_one_line(self.file)


def request(words: list[str], like: Request | None = None) -> Request:
    """Reads `NAME key=value ...`; NAME is of the catalogue, `FILE.py` or `FILE.py:NAME`.

    Args:
      words: of the command line.
      like: the run whose kernel and values count where these words say nothing.

    Raises:
      UsageError: an unknown kernel or parameter, or a value of the wrong type.
      UserFileError: the file cannot be loaded.
    """
    if words and "=" not in words[0]:
        file = user_file.reference(words[0])
        kernel = (
            _one_of(TRAINIUM_KERNELS, words[0], "no kernel")
            if file is None
            else _own(file)
        )
        words = words[1:]
    elif like is not None:
        kernel, file = like.kernel, like.file
    else:
        raise UsageError(
            f"name a kernel first: {', '.join(TRAINIUM_KERNELS)}, or a file of your own"
        )
    before = like.given if like else {}
    given = {key: value for key, value in before.items() if key in _parameters(kernel)}
    given |= once(_pair(kernel, word) for word in words)
    if isinstance(kernel, OwnKernel):
        kernel.check(given)
    candidates = {
        key: value for key, value in given.items() if isinstance(value, tuple)
    }
    single = {key: value for key, value in given.items() if key not in candidates}
    return Request(kernel, single, candidates, file)


def _one_of(entries: Mapping[str, Entry], name: str, complaint: str) -> Entry:
    if name not in entries:
        raise UsageError(f"{complaint} {name!r}; name one of {', '.join(entries)}")
    return entries[name]


# --- of a user's file ---


def _own(file: Reference) -> Entry | OwnKernel:
    """What the file has by the name given, or the only kernel that it has.

    Entries are known by their kernels' names too, and come before the functions they are made of.
    """
    module = user_file.load(file)
    entries = {
        entry.name: entry for entry in vars(module).values() if isinstance(entry, Entry)
    }
    programs = {
        name: program
        for name, program in vars(module).items()
        if isinstance(program, Program)
    }
    functions = user_file.functions_of(module)
    if file.name:
        return _named(file, module, entries)
    for kind in (entries, programs, functions):
        if len(kind) == 1:
            name, found = next(iter(kind.items()))
            return found if isinstance(found, Entry) else _own_kernel(file, name, found)
        if kind:
            raise UsageError(
                f"{file.text}: which kernel? name {file.text}:KERNEL, one of {', '.join(kind)}"
            )
    raise UsageError(
        f"{file.text}: has no kernel; define a function of arrays, a Program or "
        "`KERNEL = kernels.trainium.catalogue.entry(...)`"
    )


def _named(
    file: Reference, module: ModuleType, entries: Mapping[str, Entry]
) -> Entry | OwnKernel:
    found = entries.get(file.name) or getattr(module, file.name, None)
    if isinstance(found, Entry):
        return found
    if isinstance(found, Program) or callable(found):
        return _own_kernel(file, file.name, found)
    kernels = [*entries, *_kernels_of(module)]
    if found is not None:
        raise UsageError(
            f"{file.text}: {file.name} is of type {type(found).__name__}, must be a function, "
            "a Program or an entry of a catalogue"
        )
    named = f"name one of {', '.join(kernels)}" if kernels else "the file has none"
    raise UsageError(f"{file.path}: no kernel {file.name!r}; {named}")


def _kernels_of(module: ModuleType) -> list[str]:
    programs = [
        name for name, value in vars(module).items() if isinstance(value, Program)
    ]
    return [*programs, *user_file.functions_of(module)]


def _own_kernel(file: Reference, name: str, found: Any) -> OwnKernel:
    shown = f"{file.path.name}:{name}"
    function = found.kernel if isinstance(found, Program) else found
    try:
        inspect.signature(function)
    except (TypeError, ValueError):
        raise UsageError(
            f"{file.text}: the parameters of {name} cannot be read; give a Python function"
        ) from None
    return OwnKernel(shown, function, found if isinstance(found, Program) else None)


# --- key=value ---


def _parameters(kernel: Entry | OwnKernel) -> Mapping[str, Any]:
    """Every parameter, and a value of its type where one is known."""
    if isinstance(kernel, OwnKernel):
        return kernel.parameters
    return {key: values[0] for key, values in kernel.tunable.items()} | kernel.sizes


def _pair(kernel: Entry | OwnKernel, word: str) -> tuple[str, Any]:
    if isinstance(kernel, OwnKernel):
        return kernel.value(word)
    key, equals, text = word.partition("=")
    known = _parameters(kernel)
    if not equals or key not in known:
        raise UsageError(
            f"{told(word)}: {kernel.name} takes KEY=VALUE for {', '.join(known)}"
        )
    like = known[key]
    if key == "dtype" and text not in DTYPES.values():
        allowed = ", ".join(DTYPES.values())
        raise UsageError(f"dtype is {told(text)}, must be one of {allowed}")
    if isinstance(like, str):
        return key, text
    if isinstance(like, bool):
        if text not in ("True", "False"):
            raise UsageError(f"{word!r}: {key} is True or False")
        return key, text == "True"
    try:
        return key, numbers.whole(key, text, 1)
    except ValueError as error:
        raise UsageError(f"{told(word)}: {error}") from None
