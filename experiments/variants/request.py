"""Which variants the words of a command line ask for."""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from experiments.shared.errors import UsageError
from experiments.shared.own_variant import own_variant
from kernels.attention.protocol import AttentionVariant
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
      in_catalogue: whether it is known by its name.
    """

    name: str
    of: Callable[[Sizes], tuple[AttentionVariant, Sizes]]
    errors_in_one_line: Callable[[], Any] = contextlib.nullcontext
    in_catalogue: bool = False


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
    return Asked(name, lambda sizes: make(name, sizes), in_catalogue=True)


def _of_file(word: str) -> Asked:
    own = own_variant("--file", word)

    def of(sizes: Sizes) -> tuple[AttentionVariant, Sizes]:
        return own.variant(), sizes

    return Asked(own.name, of, own.errors_in_one_line)


__all__ = ["BASE", "Asked", "asked"]
