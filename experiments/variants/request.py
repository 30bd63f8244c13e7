"""Which variants the words of a command line ask for."""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from experiments.shared.errors import UsageError
from kernels import user_file
from kernels.attention.decorator import attention
from kernels.attention.protocol import AttentionVariant
from kernels.attention.variant import Variant
from kernels.variants import CATALOGUE, Sizes, make

BASE = "full"
"""The variant that all others are compared with."""


@dataclasses.dataclass(frozen=True)
class Asked:
    """A variant that was asked for.

    Attributes:
      name: in tables.
      of: the variant for sizes, and what sizes it is of.
      errors_in_one_line: within it, what a user's code raises is told in one line.
    """

    name: str
    of: Callable[[Sizes], tuple[AttentionVariant, Sizes]]
    errors_in_one_line: Callable[[], Any] = contextlib.nullcontext


def asked(names: Sequence[str], files: Sequence[str]) -> list[Asked]:
    """The variants named, those of the user's files, or the whole catalogue.

    Raises:
      UsageError: a name that the catalogue does not have, or a word that names no file.
      UserFileError: a file that cannot be loaded, or lacks what was named.
    """
    found = [_of_file(word) for word in files]
    if names or not files:
        found += [_of_catalogue(name) for name in (names or CATALOGUE)]
    return found


def _of_catalogue(name: str) -> Asked:
    if name not in CATALOGUE:
        raise UsageError(
            f"no variant {name!r}, must be one of {', '.join(CATALOGUE)}; a function of your own "
            "is --file FILE.py:NAME"
        )
    return Asked(name, lambda sizes: make(name, sizes))


def _of_file(word: str) -> Asked:
    wanted = user_file.reference(word)
    if wanted is None or not wanted.name:
        raise UsageError(f"--file is {word!r}, must be FILE.py:NAME")
    module = user_file.load(wanted)
    found = _named(module, wanted)

    def of(sizes: Sizes) -> tuple[AttentionVariant, Sizes]:
        with user_file.errors_in_one_line(wanted):
            if isinstance(found, AttentionVariant) and not isinstance(found, Variant):
                return found, sizes
            return attention(found, name=wanted.name), sizes

    return Asked(wanted.name, of, lambda: user_file.errors_in_one_line(wanted))


def _named(module: ModuleType, wanted: user_file.Reference) -> Any:
    """The function or the variant that a file has under a name."""
    known = [
        name
        for name, value in vars(module).items()
        # A class that is imported has the methods too.
        if isinstance(value, AttentionVariant) and not isinstance(value, type)
    ]
    known += user_file.functions_of(module)
    if wanted.name not in known:
        raise UsageError(
            f"{wanted.path} has no function {wanted.name!r}, must be one of "
            f"{', '.join(known) or 'those that it defines, and there are none'}"
        )
    return getattr(module, wanted.name)


__all__ = ["BASE", "Asked", "asked"]
