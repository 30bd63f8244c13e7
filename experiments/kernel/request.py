"""Which kernel and which sizes the words of a command line ask for."""

import dataclasses
import importlib.util
import pathlib
import sys
from typing import Any

from experiments.shared.cli import UsageError
from kernels.trainium.catalogue import TRAINIUM_KERNELS, Entry

PYTHON = ".py"


@dataclasses.dataclass(frozen=True)
class Asked:
    """A kernel, and the sizes and parameters that were given for it."""

    entry: Entry
    given: dict[str, Any]


def asked(words: list[str], like: Asked | None = None) -> Asked:
    """Reads `NAME key=value ...`; NAME is of the catalogue, `FILE.py` or `FILE.py:NAME`.

    Args:
      words: of the command line.
      like: the run whose kernel and values count where these words say nothing.

    Raises:
      UsageError: an unknown kernel or parameter, or a value of the wrong type.
    """
    if words and "=" not in words[0]:
        entry, words = _entry(words[0]), words[1:]
    elif like is not None:
        entry = like.entry
    else:
        raise UsageError(
            f"name a kernel first: {', '.join(TRAINIUM_KERNELS)}, or a file of your own"
        )
    given = {
        k: v for k, v in (like.given if like else {}).items() if k in _parameters(entry)
    }
    return Asked(entry, given | dict(_pair(entry, word) for word in words))


def _entry(name: str) -> Entry:
    path, _, member = name.partition(":")
    if not path.endswith(PYTHON):
        return _one_of(TRAINIUM_KERNELS, name, "no kernel")
    found = _entries(pathlib.Path(path))
    if not member and len(found) == 1:
        return next(iter(found.values()))
    return _one_of(found, member, f"{path}: no kernel")


def _one_of(entries: dict[str, Entry], name: str, complaint: str) -> Entry:
    if name not in entries:
        raise UsageError(f"{complaint} {name!r}; name one of {', '.join(entries)}")
    return entries[name]


def _entries(path: pathlib.Path) -> dict[str, Entry]:
    """The catalogue entries that a Python file makes, by their names."""
    spec = importlib.util.spec_from_file_location(f"kernel_file_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise UsageError(
            f"{path}: no such file; name a Python file with a kernel in it"
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up by its name
    spec.loader.exec_module(module)
    found = {e.name: e for e in vars(module).values() if isinstance(e, Entry)}
    if not found:
        raise UsageError(
            f"{path}: makes no kernels.trainium.catalogue.Entry; give it `KERNEL = entry(...)`"
        )
    return found


def _parameters(entry: Entry) -> dict[str, Any]:
    """Every parameter and a value of its type."""
    return {k: values[0] for k, values in entry.tunable.items()} | entry.sizes


def _pair(entry: Entry, word: str) -> tuple[str, Any]:
    key, _, text = word.partition("=")
    known = _parameters(entry)
    if "=" not in word or key not in known:
        raise UsageError(
            f"{word!r}: {entry.name} takes KEY=VALUE for {', '.join(known)}"
        )
    like = known[key]
    if isinstance(like, str):
        return key, text
    if isinstance(like, bool):
        if text not in ("True", "False"):
            raise UsageError(f"{word!r}: {key} is True or False")
        return key, text == "True"
    if not text.isdecimal() or not int(text):
        raise UsageError(f"{word!r}: {key} is a whole number of at least 1")
    return key, int(text)
